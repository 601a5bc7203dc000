//! What goes to and comes from one other member, counted for metrics. Atomics without order: counting waits for nobody.
//! Not here: connections of nobody yet (their hellos), and of members that ask from outside of a running one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use barque_store_env::{Durations, Histogram, WriteHalf};
use barque_store_state::MemberId;
use bytes::Bytes;

use super::frame::Reader;

#[derive(Debug)]
pub struct Traffic {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    failures: AtomicU64,
    late_heartbeats: AtomicU64,
    /// Connections either way that are open now.
    open: AtomicU64,
    pub round_trips: Histogram,
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic {
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            late_heartbeats: AtomicU64::new(0),
            open: AtomicU64::new(0),
            round_trips: Histogram::of_round_trips(),
        }
    }
}

/// What a member has counted of its traffic with another one, since it knows it.
#[derive(Clone, Debug)]
pub struct PeerTraffic {
    pub member: MemberId,
    /// A connection from or to it is open.
    pub connected: bool,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Connections that could not be made, and messages whose connection broke before they were answered.
    pub failures: u64,
    /// Heartbeats that this member, leading, began more than two intervals after the one before.
    pub late_heartbeats: u64,
    /// From a heartbeat of this member, leading, to its answer.
    pub round_trips: Durations,
}

impl Traffic {
    /// Counts this connection from now on.
    pub fn attach<R, W>(self: &Arc<Self>, read: &mut Reader<R>, write: &mut Counted<W>) {
        self.open.fetch_add(1, Ordering::Relaxed);
        read.traffic = Some(self.clone());
        write.traffic = Some(self.clone());
    }
    pub fn received(&self, bytes: usize) {
        self.received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
    pub fn failed(&self, messages: usize) {
        self.failures.fetch_add(messages as u64, Ordering::Relaxed);
    }
    pub fn late_heartbeat(&self) {
        self.late_heartbeats.fetch_add(1, Ordering::Relaxed);
    }
    pub fn read(&self, member: MemberId) -> PeerTraffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerTraffic {
            member,
            connected: of(&self.open) > 0,
            sent_bytes: of(&self.sent_bytes),
            received_bytes: of(&self.received_bytes),
            failures: of(&self.failures),
            late_heartbeats: of(&self.late_heartbeats),
            round_trips: self.round_trips.read(),
        }
    }
}

/// The sending half of a connection, counted once it is known whose it is.
pub struct Counted<W> {
    half: W,
    traffic: Option<Arc<Traffic>>,
}

impl<W> Counted<W> {
    pub fn new(half: W) -> Self {
        Counted {
            half,
            traffic: None,
        }
    }
}

impl<W: WriteHalf> WriteHalf for Counted<W> {
    async fn write_all(&mut self, data: Bytes) -> io::Result<()> {
        let bytes = data.len() as u64;
        self.half.write_all(data).await?;
        if let Some(traffic) = &self.traffic {
            traffic.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<W> Drop for Counted<W> {
    fn drop(&mut self) {
        if let Some(traffic) = &self.traffic {
            traffic.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

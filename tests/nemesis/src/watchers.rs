//! Watching clients: each holds a stream, loses it or leaves it, and resumes after the last revision it has seen.

use std::sync::Arc;
use std::time::Duration;

use barque_proto::etcdserverpb::watch_client::WatchClient;
use barque_proto::etcdserverpb::watch_request::RequestUnion;
use barque_proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use barque_tests_checkers::{Delivered, Watched};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::chance::Chance;
use crate::clients::{prefix_end, revision};
use crate::history::Row;
use crate::journal::Journal;
use crate::lessees;
use crate::limits::{MESSAGE_BYTES_MAX, STREAM_MESSAGES};
use crate::line::Line;

/// The first revision that a write can have.
pub const FIRST: u64 = 2;

/// What a watcher wants.
#[derive(Clone, Debug)]
pub enum Wanted {
    All,
    Prefix(&'static str),
    Key(&'static str),
}

impl Wanted {
    pub fn matches(&self, row: &Row) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Prefix(prefix) => row.key.starts_with(prefix),
            Wanted::Key(key) => *row.key == **key,
        }
    }

    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            // "\0" to "\0" is everything.
            Wanted::All => (vec![0], vec![0]),
            Wanted::Prefix(prefix) => (prefix.as_bytes().to_vec(), prefix_end(prefix)),
            Wanted::Key(key) => (key.as_bytes().to_vec(), Vec::new()),
        }
    }
}

/// An event's previous row, as it came.
#[derive(Clone, Debug)]
pub struct Previous {
    pub revision: u64,
    pub key: Box<str>,
    pub row: Option<Row>,
}

struct Seen {
    delivered: Vec<Delivered<Row>>,
    previous: Vec<Previous>,
    /// Everything below has been seen; where the next stream begins.
    next: u64,
    events: u64,
    lease_ends: Vec<(i64, u64)>,
}

pub struct Watcher {
    pub name: String,
    pub wanted: Wanted,
    prev_kv: bool,
    journal: Arc<Journal>,
    seed: u64,
    seen: Mutex<Seen>,
}

impl Watcher {
    pub fn new(
        name: &str,
        wanted: Wanted,
        prev_kv: bool,
        seed: u64,
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        Arc::new(Watcher {
            name: name.to_owned(),
            wanted,
            prev_kv,
            journal,
            seed,
            seen: Mutex::new(Seen {
                delivered: Vec::new(),
                previous: Vec::new(),
                next: FIRST,
                events: 0,
                lease_ends: Vec::new(),
            }),
        })
    }

    pub fn next(&self) -> u64 {
        self.seen.lock().next
    }
    pub fn events(&self) -> u64 {
        self.seen.lock().events
    }

    /// All that it was sent. It has nothing afterwards.
    pub fn take(&self, complete_to: u64) -> (Watched<Row>, Vec<Previous>) {
        let mut seen = self.seen.lock();
        let watched = Watched {
            name: self.name.clone(),
            start: FIRST,
            delivered: std::mem::take(&mut seen.delivered),
            complete_to,
        };
        (watched, std::mem::take(&mut seen.previous))
    }

    /// Leases whose keys it saw deleted, and when.
    pub fn lease_ends(&self) -> Vec<(i64, u64)> {
        self.seen.lock().lease_ends.clone()
    }

    /// Watches until the run is over.
    pub async fn run(self: Arc<Self>) {
        let mut chance = Chance::new(self.seed, 0x3a7c);
        let mut line = Line::new(self.journal.clone(), self.seed as usize);
        while let Some(channel) = line.channel().await {
            let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let (requests, stream) = mpsc::channel(STREAM_MESSAGES);
            let (key, range_end) = self.wanted.range();
            let create = WatchCreateRequest {
                key: key.into(),
                range_end: range_end.into(),
                start_revision: i64::try_from(self.next()).expect("revisions fit"),
                prev_kv: self.prev_kv,
                progress_notify: true,
                ..WatchCreateRequest::default()
            };
            let created = requests.try_send(request(RequestUnion::CreateRequest(create)));
            created.expect("the channel is new");
            let opening = client.watch(ReceiverStream::new(stream));
            let opened = tokio::time::timeout(Duration::from_secs(2), opening).await;
            let Ok(Ok(answers)) = opened else {
                line = Line::new(self.journal.clone(), line_seed(&mut chance));
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let mut answers = answers.into_inner();
            let patience = chance.between(Duration::from_millis(300), Duration::from_secs(10));
            let leave = tokio::time::Instant::now() + patience;
            // With no load left there is nothing to resume into; those who wait for the end keep their stream.
            while self.journal.is_calm() || tokio::time::Instant::now() < leave {
                if self.journal.is_stopped() {
                    return;
                }
                let wait = Duration::from_millis(200);
                match tokio::time::timeout(wait, answers.message()).await {
                    Ok(Ok(Some(answer))) => {
                        if !self.heard(answer) {
                            return;
                        }
                        // Some read slowly.
                        if chance.below(2_000) == 0 && !self.journal.is_calm() {
                            let nap = chance.between(Duration::ZERO, Duration::from_secs(1));
                            tokio::time::sleep(nap).await;
                        }
                    }
                    Ok(Ok(None) | Err(_)) => break,
                    // Quiet: ask how far this stream has come.
                    Err(_) => {
                        let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                        if requests.try_send(request(ask)).is_err() {
                            break;
                        }
                    }
                }
            }
            self.journal.told.lock().reconnects += 1;
            line = Line::new(self.journal.clone(), line_seed(&mut chance));
        }
    }

    /// False when there is no point in going on.
    fn heard(&self, answer: WatchResponse) -> bool {
        let at = revision(&answer.header);
        if answer.canceled {
            let (name, why) = (&self.name, &answer.cancel_reason);
            let compacted = answer.compact_revision;
            self.journal.violation(format!(
                "{name} was canceled at revision {at}: {why:?}, compacted {compacted}; it wanted {} on",
                self.next()
            ));
            return false;
        }
        if answer.created {
            return true;
        }
        let mut seen = self.seen.lock();
        if answer.events.is_empty() {
            seen.delivered.push(Delivered::Progress { revision: at });
            seen.next = seen.next.max(at + 1);
            return true;
        }
        seen.events += answer.events.len() as u64;
        let mut rows = Vec::with_capacity(answer.events.len());
        for event in &answer.events {
            match Row::of_event(event) {
                Ok(row) => {
                    if self.prev_kv {
                        match event.prev_kv.as_ref().map(Row::of).transpose() {
                            Ok(previous) => seen.previous.push(Previous {
                                revision: row.modified,
                                key: row.key.clone(),
                                row: previous,
                            }),
                            Err(why) => self.journal.violation(format!("{}: {why}", self.name)),
                        }
                    }
                    if row.value.is_none()
                        && let Some(lease) = lessees::lease_of(&row.key)
                    {
                        seen.lease_ends.push((lease, self.journal.now()));
                    }
                    rows.push(row);
                }
                Err(why) => self.journal.violation(format!("{}: {why}", self.name)),
            }
        }
        for of_one in rows.chunk_by(|a, b| a.modified == b.modified) {
            let revision = of_one[0].modified;
            seen.delivered.push(Delivered::Changes {
                revision,
                changes: of_one.to_vec(),
            });
            seen.next = seen.next.max(revision + 1);
        }
        true
    }
}

fn line_seed(chance: &mut Chance) -> usize {
    chance.below(1 << 20) as usize
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

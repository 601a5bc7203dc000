//! One watch stream on both sides, and what is known of its watches.

use std::collections::BTreeSet;

use barque_proto::etcdserverpb as pb;
use bytes::Bytes;
use prost::Message;

use crate::accepted::Accepted;
use crate::call::{Client, Open, framed};
use crate::servers::Side;

const WATCH: &str = "/etcdserverpb.Watch/Watch";

pub struct Streams {
    pub etcd: Open,
    pub barque: Open,
    /// Creations sent and not yet settled.
    pub creates: usize,
    /// A watch with a negative start was asked for.
    pub negative: bool,
    /// The latest revision that any watch started at.
    pub latest_start: i64,
    /// Watches ended by a compaction, which etcd still has on its books.
    lingering: BTreeSet<i64>,
    /// Cancelations of such whose answer from etcd is not to be compared.
    swept: BTreeSet<i64>,
}

impl Streams {
    /// `Err`: what each side said, when not both gave a stream.
    pub async fn open(etcd: &Client, barque: &Client) -> Result<Self, (String, String)> {
        let told = |opened: Result<Open, String>| match opened {
            Ok(_) => "a stream".to_owned(),
            Err(error) => error,
        };
        match tokio::join!(etcd.open(WATCH), barque.open(WATCH)) {
            (Ok(etcd), Ok(barque)) => Ok(Streams {
                etcd,
                barque,
                creates: 0,
                negative: false,
                latest_start: 0,
                lingering: BTreeSet::new(),
                swept: BTreeSet::new(),
            }),
            (etcd, barque) => Err((told(etcd), told(barque))),
        }
    }

    /// Creations answered and not yet looked at, on both sides.
    pub fn created(&self) -> (usize, usize) {
        let count = |open: &Open| {
            open.count(|message| {
                pb::WatchResponse::decode(message.clone()).is_ok_and(|response| response.created)
            })
        };
        (count(&self.etcd), count(&self.barque))
    }

    /// Whether this answer is known to differ. Notes which watches a compaction ended.
    pub fn accepts(&mut self, message: &Bytes, from: Side) -> Option<Accepted> {
        let response = pb::WatchResponse::decode(message.clone()).ok()?;
        if from == Side::Etcd && response.compact_revision != 0 {
            self.lingering.insert(response.watch_id);
        }
        if from == Side::Etcd
            && response.canceled
            && !response.created
            && response.compact_revision == 0
            && self.swept.remove(&response.watch_id)
        {
            return Some(Accepted::CompactedWatchLingers);
        }
        let progress = response.watch_id == -1
            && !response.created
            && !response.canceled
            && response.events.is_empty();
        let revision = response.header.map_or(0, |header| header.revision);
        (progress && revision < self.latest_start).then_some(Accepted::ProgressBeforeStart)
    }

    /// Cancels what a compaction ended, as client libraries do.
    pub async fn sweep(&mut self) {
        for watch_id in std::mem::take(&mut self.lingering) {
            let cancel = framed(&pb::WatchRequest {
                request_union: Some(pb::watch_request::RequestUnion::CancelRequest(
                    pb::WatchCancelRequest { watch_id },
                )),
            });
            tokio::join!(
                self.etcd.send(cancel.clone(), false),
                self.barque.send(cancel, false)
            );
            self.swept.insert(watch_id);
        }
    }
}

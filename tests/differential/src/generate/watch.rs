//! Watches on a few streams.

use barque_proto::etcdserverpb as pb;
use pb::watch_request::RequestUnion;

use super::Generator;
use crate::limits::STREAMS;
use crate::step::Step;

/// The last stream is kept for watches whose answers are known to differ; it lives only for one of them.
const SHARED: usize = STREAMS - 1;

/// The id of a watch that is never left open.
const LARGE_HISTORY: i64 = 4_242;

impl Generator {
    pub(super) fn watch(&mut self) {
        let stream = self.random.below(SHARED);
        match self.random.below(22) {
            0..10 => self.create(stream),
            10..14 => {
                let watch_id = self.watch_id(stream);
                self.watches[stream].retain(|id| *id != watch_id);
                self.send(
                    stream,
                    RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }),
                );
                self.settle();
            }
            14..18 => {
                self.settle();
                self.send(
                    stream,
                    RequestUnion::ProgressRequest(pb::WatchProgressRequest::default()),
                );
                self.settle();
            }
            18 => {
                self.settle();
                self.queue.push_back(Step::Close { stream });
                self.watches[stream].clear();
                self.auto[stream] = 0;
            }
            19 => self.negative_start(),
            20 => self.large_history(stream),
            _ => self.create(stream),
        }
    }

    /// Waits for the streams, and so ends every race.
    pub(super) fn settle(&mut self) {
        self.settle_with(self.racing, !self.racing);
    }
    fn settle_with(&mut self, replay: bool, exact: bool) {
        self.queue.push_back(Step::Settle { replay, exact });
        self.racing = false;
        self.since_settle = 0;
    }

    fn send(&mut self, stream: usize, request: RequestUnion) {
        self.queue.push_back(Step::Watch {
            stream,
            request: pb::WatchRequest {
                request_union: Some(request),
            },
        });
    }

    fn watch_id(&mut self, stream: usize) -> i64 {
        if self.watches[stream].is_empty() || self.random.once_in(5) {
            // -1 is also the id of "all watches" in progress notifications.
            return self.random.pick(&[0, -5, 99, 7, -1]);
        }
        self.random.pick(&self.watches[stream])
    }

    fn create(&mut self, stream: usize) {
        let (key, range_end) = self.interval(true);
        let start_revision = match self.random.below(8) {
            0..4 => 0,
            4 => self.known.revision + 1 + i64::try_from(self.random.below(5)).unwrap_or(0),
            5 => self
                .random
                .pick(&[1, self.known.compacted.max(0), self.known.compacted + 1]),
            _ => self.revision().max(0),
        };
        let watch_id = if self.random.once_in(3) {
            self.watch_id(stream)
        } else {
            0
        };
        let id = if watch_id == 0 {
            while self.watches[stream].contains(&self.auto[stream]) {
                self.auto[stream] += 1;
            }
            self.auto[stream] += 1;
            self.auto[stream] - 1
        } else {
            watch_id
        };
        if !self.watches[stream].contains(&id) {
            self.watches[stream].push(id);
        }
        // History and live events must not race unless that is wanted: then only the order of events is compared.
        let past = start_revision > 0 && start_revision <= self.known.revision;
        if past {
            self.settle();
        }
        let filters = match self.random.below(8) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            3 => vec![1, 1, 7],
            _ => Vec::new(),
        };
        let create = RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.random.once_in(4),
            filters,
            prev_kv: self.random.once_in(2),
            watch_id,
            fragment: self.random.once_in(4),
        });
        self.send(stream, create);
        if past {
            self.racing = true;
            // One that is below the compaction must be seen to end before its id means anything else.
            if start_revision < self.known.compacted || !self.random.once_in(4) {
                self.settle();
            }
        }
    }

    /// A history of more than one message's size, which is split or not as the watch asked. Nothing else happens meanwhile, so
    /// whole answers are compared.
    fn large_history(&mut self, stream: usize) {
        self.settle();
        let first = self.known.revision + 1;
        let value = vec![self.random.pick(b"abcdefgh"); 900 << 10];
        for key in ["large/1", "large/2", "large/3"] {
            let put = pb::PutRequest {
                key: key.into(),
                value: value.clone().into(),
                ..Default::default()
            };
            self.push("/etcdserverpb.KV/Put", &put);
        }
        // Long gone from the leases' and other watches' point of view when the watch comes.
        self.settle();
        let watch_id = LARGE_HISTORY;
        let create = RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "large/".into(),
            range_end: "large0".into(),
            start_revision: first,
            watch_id,
            fragment: self.random.once_in(2),
            ..Default::default()
        });
        self.send(stream, create);
        self.settle_with(true, true);
        let cancel = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
        self.send(stream, cancel);
        // Nothing orders a request on a stream and one beside it: the watch must be gone before its keys are.
        self.settle();
        let delete = pb::DeleteRangeRequest {
            key: "large/".into(),
            range_end: "large0".into(),
            ..Default::default()
        };
        self.push("/etcdserverpb.KV/DeleteRange", &delete);
        self.settle();
    }

    /// etcd 3.5 and later versions differ here, so it has a stream of its own.
    fn negative_start(&mut self) {
        let stream = SHARED;
        self.settle();
        let create = RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "a".into(),
            start_revision: self.random.pick(&[-1, -2, i64::MIN]),
            ..Default::default()
        });
        self.send(stream, create);
        self.settle();
        self.queue.push_back(Step::Close { stream });
    }
}

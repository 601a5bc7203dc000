//! Both servers, and one step done to both.
//! Promise: everything both said is compared; what is accepted is counted by name, the rest comes back as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb as pb;
use prost::Message;

use crate::accepted::{Accepted, Values, accepted, accepted_whole};
use crate::barrier::caught_up;
use crate::call::{Answer, Open, Sent, framed};
use crate::difference::{Difference, difference, flat, shape, sorted};
use crate::fields::Fields;
use crate::limits::{REPLAY, SETTLE, SETTLE_POLL, STREAMS};
use crate::servers::{Programs, Server, Side};
use crate::step::Step;
use crate::streams::Streams;
use crate::watches::Log;

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";

/// Time for answers that nothing announces (a cancelation's, a progress request's).
const QUIET: Duration = Duration::from_millis(40);

pub struct Pair {
    pub etcd: Server,
    pub barque: Server,
    streams: [Option<Streams>; STREAMS],
    pub accepted: BTreeMap<Accepted, usize>,
    /// The revisions that were compacted.
    compactions: BTreeSet<i64>,
    /// A watch of the past was created that etcd has perhaps not come to yet.
    watches_the_past: bool,
}

impl Pair {
    pub async fn start(programs: &Programs) -> Result<Self, String> {
        let (etcd, barque) = tokio::join!(
            Server::start(Side::Etcd, programs),
            Server::start(Side::Barque, programs)
        );
        Ok(Pair {
            etcd: etcd?,
            barque: barque?,
            streams: Default::default(),
            accepted: BTreeMap::new(),
            compactions: BTreeSet::new(),
            watches_the_past: false,
        })
    }

    /// Does the step. The answer is etcd's, as fields.
    pub async fn step(&mut self, step: &Step) -> (Fields, Option<Difference>) {
        match step {
            Step::Call { path, sent } => {
                if step.compacts().is_some() {
                    self.catch_up().await;
                }
                let (etcd, barque) = self.both(path, sent, sent).await;
                let (etcd, barque) = (flat(path, &etcd), flat(path, &barque));
                let difference = self.compare(step, etcd.clone(), barque);
                let done = etcd.get("grpc-status").is_some_and(|code| code == "0");
                self.compactions.extend(step.compacts().filter(|_| done));
                (etcd, difference)
            }
            Step::LeaseWithChosenId { ttl } => (Fields::new(), self.chosen_lease(step, *ttl).await),
            Step::Watch { stream, request } => {
                (Fields::new(), self.watch(step, *stream, request).await)
            }
            Step::Close { stream } => {
                self.streams[*stream] = None;
                (Fields::new(), None)
            }
            Step::Settle { replay, exact } => {
                (Fields::new(), self.settle(step, *replay, *exact).await)
            }
        }
    }

    /// Whether a watch of the past is overtaken by a compaction must not be a matter of luck.
    async fn catch_up(&mut self) {
        if std::mem::take(&mut self.watches_the_past) {
            caught_up(&self.etcd.client).await;
        }
    }

    async fn both(&self, path: &str, etcd: &Sent, barque: &Sent) -> (Answer, Answer) {
        tokio::join!(
            self.etcd.client.call(path, etcd),
            self.barque.client.call(path, barque)
        )
    }

    async fn chosen_lease(&mut self, step: &Step, ttl: i64) -> Option<Difference> {
        let sent = plain(&pb::LeaseGrantRequest { ttl, id: 0 });
        let (etcd, barque) = self.both(GRANT, &sent, &sent).await;
        let id = |answer: &Answer| {
            let message = answer.messages.first().cloned().unwrap_or_default();
            pb::LeaseGrantResponse::decode(message).map_or(0, |granted| granted.id)
        };
        let (etcd_id, barque_id) = (id(&etcd), id(&barque));
        let (mut etcd, mut barque) = (flat(GRANT, &etcd), flat(GRANT, &barque));
        for (fields, id) in [(&mut etcd, etcd_id), (&mut barque, barque_id)] {
            fields.insert("ID".to_owned(), format!("positive: {}", id > 0));
        }
        let granted = self.compare(step, etcd, barque);
        let revoke = |id| plain(&pb::LeaseRevokeRequest { id });
        let (etcd, barque) = self
            .both(REVOKE, &revoke(etcd_id), &revoke(barque_id))
            .await;
        let revoked = self.compare(step, flat(REVOKE, &etcd), flat(REVOKE, &barque));
        granted.or(revoked)
    }

    async fn watch(
        &mut self,
        step: &Step,
        stream: usize,
        request: &pb::WatchRequest,
    ) -> Option<Difference> {
        if self.streams[stream].is_none() {
            match Streams::open(&self.etcd.client, &self.barque.client).await {
                Ok(opened) => self.streams[stream] = Some(opened),
                Err((etcd, barque)) => {
                    return Some(Difference {
                        step: step.clone(),
                        kind: "a watch stream does not open".to_owned(),
                        etcd,
                        barque,
                    });
                }
            }
        }
        // Nor whether one is ended before it has told any of it.
        if let Some(pb::watch_request::RequestUnion::CancelRequest(_)) = &request.request_union {
            self.catch_up().await;
        }
        let streams = self.streams[stream].as_mut().expect("just opened");
        let before = streams.created();
        let mut creates = false;
        if let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = &request.request_union
        {
            creates = true;
            streams.creates += 1;
            streams.negative |= create.start_revision < 0;
            streams.latest_start = streams.latest_start.max(create.start_revision);
            self.watches_the_past |= create.start_revision > 0;
        }
        let body = framed(request);
        tokio::join!(
            streams.etcd.send(body.clone(), false),
            streams.barque.send(body, false)
        );
        // A watch sees what comes after it was created, so that must not be a matter of luck. One that never comes is told
        // when the streams settle.
        let begun = Instant::now();
        while creates && begun.elapsed() < SETTLE {
            let now = streams.created();
            if now.0 > before.0 && now.1 > before.1 {
                break;
            }
            tokio::time::sleep(SETTLE_POLL / 5).await;
        }
        None
    }

    /// Waits until the watch answers are equal; after [`SETTLE`] they are different.
    async fn settle(&mut self, step: &Step, replay: bool, exact: bool) -> Option<Difference> {
        let begun = Instant::now();
        let least = if replay { REPLAY } else { QUIET };
        let mut logs: Vec<(Log, Log)> = vec![Default::default(); STREAMS];
        if replay {
            self.watches_the_past = false;
            caught_up(&self.etcd.client).await;
        }
        loop {
            let mut different = None;
            for (stream, log) in logs.iter_mut().enumerate() {
                let Some(streams) = &mut self.streams[stream] else {
                    continue;
                };
                for message in streams.etcd.take() {
                    if let Some(reason) = streams.accepts(&message, Side::Etcd) {
                        *self.accepted.entry(reason).or_default() += 1;
                        continue;
                    }
                    log.0.add(&message, exact);
                }
                for message in streams.barque.take() {
                    if streams.accepts(&message, Side::Barque).is_none() {
                        log.1.add(&message, exact);
                    }
                }
                let missing = log.0.created() < streams.creates;
                let mut now = log.0.difference(&log.1);
                if now.is_none() && missing {
                    now = Some((0, "no answer".to_owned(), "no answer".to_owned()));
                }
                if let (Some(etcd), Some(barque)) = (streams.etcd.ended(), streams.barque.ended())
                    && etcd == barque
                {
                    now = None;
                }
                different = different.or(now.map(|what| (stream, what)));
            }
            let waited = begun.elapsed();
            if waited >= least && different.is_none() {
                break;
            }
            let negative = different
                .as_ref()
                .is_some_and(|(stream, _)| self.negative(*stream));
            if waited > SETTLE || (negative && waited >= REPLAY) {
                let (stream, (id, etcd, barque)) = different?;
                if negative {
                    *self
                        .accepted
                        .entry(Accepted::NegativeWatchStart)
                        .or_default() += 1;
                    return None;
                }
                let kind = format!("watch: {} / {}", shape(&etcd), shape(&barque));
                let end = |open: &Open| {
                    open.ended()
                        .map_or(String::new(), |end| format!(" ({end:?})"))
                };
                let streams = self.streams[stream].as_ref()?;
                let difference = Difference {
                    step: step.clone(),
                    kind,
                    etcd: format!("stream {stream} watch {id}: {etcd}{}", end(&streams.etcd)),
                    barque: format!(
                        "stream {stream} watch {id}: {barque}{}",
                        end(&streams.barque)
                    ),
                };
                // They would differ for ever.
                self.streams = Default::default();
                return Some(difference);
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
        for streams in self.streams.iter_mut().flatten() {
            streams.creates = 0;
            streams.sweep().await;
        }
        None
    }

    fn negative(&self, stream: usize) -> bool {
        self.streams[stream].as_ref().is_some_and(|s| s.negative)
    }

    fn compare(&mut self, step: &Step, mut etcd: Fields, mut barque: Fields) -> Option<Difference> {
        if etcd == barque {
            return None;
        }
        if let Some(reason) = accepted_whole(step, &etcd, &barque, &self.compactions) {
            *self.accepted.entry(reason).or_default() += 1;
            return None;
        }
        for (name, list) in [("LeaseLeases", "leases["), ("LeaseTimeToLive", "keys[")] {
            if step.name() == name && sorted(&mut etcd, list) != sorted(&mut barque, list) {
                *self.accepted.entry(Accepted::LeaseOrder).or_default() += 1;
            }
        }
        let paths: BTreeSet<&String> = etcd.keys().chain(barque.keys()).collect();
        let mut differing = Vec::new();
        for path in paths {
            let values = Values {
                etcd: etcd.get(path).map(String::as_str),
                barque: barque.get(path).map(String::as_str),
            };
            if values.etcd == values.barque {
                continue;
            }
            match accepted(step, path, values) {
                Some(reason) => *self.accepted.entry(reason).or_default() += 1,
                None => differing.push(path.clone()),
            }
        }
        if differing.is_empty() {
            return None;
        }
        Some(difference(step, &differing, &etcd, &barque))
    }

    /// Whether both hold the same rows and history; when not, nothing after this would mean anything.
    pub async fn same_state(&mut self) -> bool {
        let everything = plain(&pb::RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            ..Default::default()
        });
        let hash = plain(&pb::HashKvRequest::default());
        for (path, sent) in [
            ("/etcdserverpb.KV/Range", everything),
            ("/etcdserverpb.Maintenance/HashKV", hash),
            (
                "/etcdserverpb.Lease/LeaseLeases",
                plain(&pb::LeaseLeasesRequest::default()),
            ),
        ] {
            let (etcd, barque) = self.both(path, &sent, &sent).await;
            let step = Step::Call {
                path: path.to_owned(),
                sent,
            };
            if self
                .compare(&step, flat(path, &etcd), flat(path, &barque))
                .is_some()
            {
                return false;
            }
        }
        true
    }
}

fn plain(message: &impl Message) -> Sent {
    Sent {
        metadata: Vec::new(),
        body: framed(message),
    }
}

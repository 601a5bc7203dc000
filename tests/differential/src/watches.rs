//! What came on one watch stream, sorted by watch. Between watches nothing promises an order; within one, everything does.

use std::collections::BTreeMap;

use barque_proto::etcdserverpb as pb;
use barque_proto::mvccpb;
use bytes::Bytes;
use prost::Message;

use crate::fields::{described, fields, message};

/// Answers by watch id, in order, as text: what one side said since the last comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    by_watch: BTreeMap<i64, Vec<String>>,
    /// Creations answered, refused ones included.
    created: usize,
}

impl Log {
    /// `exact`: whole answers are compared, with their headers and what events they hold together. Otherwise only the order
    /// of events, because history and live events were racing.
    pub fn add(&mut self, message: &Bytes, exact: bool) {
        let Ok(response) = pb::WatchResponse::decode(message.clone()) else {
            return self.push(0, "not a WatchResponse".to_owned());
        };
        self.created += usize::from(response.created);
        let plain = !response.created && !response.canceled && !response.events.is_empty();
        if plain && !exact {
            for event in &response.events {
                self.push(response.watch_id, event_text(event));
            }
            return;
        }
        let of = crate::fields::message("etcdserverpb.WatchResponse");
        let mut fields = fields(&of, "", message);
        fields.remove("header.cluster_id");
        fields.remove("header.member_id");
        fields.remove("header.raft_term");
        if !exact {
            fields.remove("header.revision");
        }
        self.push(response.watch_id, described(&fields));
    }

    fn push(&mut self, watch: i64, text: String) {
        self.by_watch.entry(watch).or_default().push(text);
    }

    pub fn created(&self) -> usize {
        self.created
    }

    /// What differs: watch, first unequal answer of both.
    pub fn difference(&self, other: &Log) -> Option<(i64, String, String)> {
        let ids = self.by_watch.keys().chain(other.by_watch.keys());
        for id in ids {
            let of = |log: &Log| log.by_watch.get(id).cloned().unwrap_or_default();
            let (a, b) = (of(self), of(other));
            let first = (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i));
            if let Some(i) = first {
                let told = |log: &[String]| match log.get(i) {
                    Some(text) => text.clone(),
                    None => format!("nothing after {i} answers"),
                };
                return Some((*id, told(&a), told(&b)));
            }
        }
        None
    }
}

fn event_text(event: &mvccpb::Event) -> String {
    let of = message("mvccpb.Event");
    described(&fields(&of, "", &event.encode_to_vec().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(exact: bool, responses: &[pb::WatchResponse]) -> Log {
        let mut log = Log::default();
        for response in responses {
            log.add(&response.encode_to_vec().into(), exact);
        }
        log
    }
    fn events(watch_id: i64, keys: &[&'static str]) -> pb::WatchResponse {
        let event = |key: &&'static str| mvccpb::Event {
            kv: Some(mvccpb::KeyValue {
                key: (*key).into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        pb::WatchResponse {
            watch_id,
            events: keys.iter().map(event).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn batches_count_only_where_nothing_raced() {
        let (whole, halves) = (
            [events(1, &["a", "b"])],
            [events(1, &["a"]), events(1, &["b"])],
        );
        assert!(
            log(false, &whole)
                .difference(&log(false, &halves))
                .is_none()
        );
        assert!(log(true, &whole).difference(&log(true, &halves)).is_some());
    }

    #[test]
    fn order_counts_within_a_watch_and_not_between_two() {
        let (one, two) = (events(1, &["a"]), events(2, &["b"]));
        let there = log(true, &[one.clone(), two.clone()]);
        assert!(there.difference(&log(true, &[two, one])).is_none());
        let swapped = log(false, &[events(1, &["b", "a"])]);
        let (id, etcd, barque) = log(false, &[events(1, &["a", "b"])])
            .difference(&swapped)
            .unwrap();
        assert!(id == 1 && etcd.contains("\"a\"") && barque.contains("\"b\""));
    }
}

//! Answers range reads, at the newest revision without touching history.
//! Promise: etcd's order of work: fetch, filter, sort, cut off, strip values; `count` is exact whatever was cut off.

use std::sync::Arc;

use super::store::Store;
use crate::command::{Range, RangeResult, Refusal, SortOrder, SortTarget};
use crate::types::{KeyValue, Revision};

impl Store {
    /// Whether a read at `at` can be answered when the newest revision is `newest`.
    pub fn readable(&self, at: Option<Revision>, newest: Revision) -> Result<(), Refusal> {
        match at {
            None | Some(Revision(0)) => Ok(()),
            Some(at) if at > newest => Err(Refusal::FutureRevision),
            Some(at) if self.compacted.is_some_and(|compacted| at < compacted) => {
                Err(Refusal::Compacted)
            }
            Some(_) => Ok(()),
        }
    }

    /// `newest`: the store's revision, or the one a transaction with changes is about to become.
    pub fn range(&self, r: &Range, newest: Revision) -> Result<RangeResult, Refusal> {
        self.readable(r.revision, newest)?;
        let at = r.revision.filter(|at| *at != Revision(0) && *at != newest);
        let filtered = r.min_mod_revision != 0
            || r.max_mod_revision != 0
            || r.min_create_revision != 0
            || r.max_create_revision != 0;
        // Order None with another target than Key still fetches only the first keys and sorts those. That is etcd's way.
        let in_key_order = r.sort_order == SortOrder::None
            || (r.sort_target == SortTarget::Key && r.sort_order == SortOrder::Ascend);
        let limit = usize::try_from(r.limit).unwrap_or(usize::MAX);
        let fetch = match limit {
            _ if r.count_only => 0,
            0 => usize::MAX,
            _ if !in_key_order || filtered => usize::MAX,
            limit => limit.saturating_add(1),
        };

        let mut count = 0;
        let mut kvs: Vec<Arc<KeyValue>> = Vec::new();
        for (_, history) in self.index.scan(&r.range) {
            match at {
                None => {
                    if let Some(kv) = &history.latest {
                        count += 1;
                        if kvs.len() < fetch {
                            kvs.push(kv.clone());
                        }
                    }
                }
                Some(at) => {
                    if let Some(version) = history.alive_at(at) {
                        count += 1;
                        if kvs.len() < fetch {
                            kvs.push(self.rows[&version.id].kv.clone());
                        }
                    }
                }
            }
        }

        if filtered {
            let within = |revision: Revision, min: u64, max: u64| {
                revision.0 >= min && (max == 0 || revision.0 <= max)
            };
            kvs.retain(|kv| {
                within(kv.mod_revision, r.min_mod_revision, r.max_mod_revision)
                    && within(
                        kv.create_revision,
                        r.min_create_revision,
                        r.max_create_revision,
                    )
            });
        }
        sort(&mut kvs, r.sort_target, r.sort_order);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if r.keys_only {
            for kv in &mut kvs {
                *kv = Arc::new(KeyValue {
                    key: kv.key.clone(),
                    value: bytes::Bytes::new(),
                    ..**kv
                });
            }
        }
        Ok(RangeResult { kvs, more, count })
    }
}

/// `kvs` come in key order. Ties stay in key order, in both directions: etcd's sort promises nothing for them, and does
/// this for short lists.
fn sort(kvs: &mut [Arc<KeyValue>], target: SortTarget, order: SortOrder) {
    let descending = order == SortOrder::Descend;
    let by = |kvs: &mut [Arc<KeyValue>], key: fn(&KeyValue) -> u64| {
        kvs.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            if descending { b.cmp(&a) } else { a.cmp(&b) }
        });
    };
    match target {
        SortTarget::Key if descending => kvs.reverse(),
        SortTarget::Key => {}
        SortTarget::Version => by(kvs, |kv| kv.version),
        SortTarget::Create => by(kvs, |kv| kv.create_revision.0),
        SortTarget::Mod => by(kvs, |kv| kv.mod_revision.0),
        SortTarget::Value => kvs.sort_by(|a, b| {
            if descending {
                b.value.cmp(&a.value)
            } else {
                a.value.cmp(&b.value)
            }
        }),
    }
}

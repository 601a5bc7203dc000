//! Counters of one member since its start, and a reading of everything a metrics page shows.
//! Promise: what replication carries out is counted when it is applied, so every member counts it (as etcd).

use std::sync::atomic::{AtomicU64, Ordering};

use barque_store_consensus::PeerTraffic;
use barque_store_env::{Durations, Env, Histogram};
use barque_store_state::*;

use crate::Store;

/// Atomics without order: each is read alone, by whoever draws a page.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    puts: AtomicU64,
    deletes: AtomicU64,
    /// Transactions of more than one operation (etcd's rule).
    txns: AtomicU64,
    ranges: AtomicU64,
    put_bytes: AtomicU64,
    leases_granted: AtomicU64,
    leases_revoked: AtomicU64,
    leases_renewed: AtomicU64,
    leases_expired: AtomicU64,
    watch_events: AtomicU64,
    leader_changes: AtomicU64,
    slow_applies: AtomicU64,
    pub(crate) integrity_compared: AtomicU64,
    pub(crate) integrity_differing: AtomicU64,
    /// The engine's batches.
    pub(crate) commits: Histogram,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Puts, deletes and ranges of one transaction, those inside inner ones included.
#[derive(Default)]
struct Operations {
    puts: u64,
    deletes: u64,
    ranges: u64,
    put_bytes: u64,
}

impl Operations {
    fn put(&mut self, put: &Put) {
        self.puts += 1;
        self.put_bytes += (put.key.len() + put.value.len()) as u64;
    }

    /// Which branch was taken is told by the results.
    fn txn(&mut self, txn: &Txn, result: &TxnResult) {
        let branch = if result.succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        for (op, result) in branch.iter().zip(&result.results) {
            match (op, result) {
                (TxnOp::Put(put), _) => self.put(put),
                (TxnOp::DeleteRange(_), _) => self.deletes += 1,
                (TxnOp::Range(_), _) => self.ranges += 1,
                (TxnOp::Txn(inner), OpResult::Txn(result)) => self.txn(inner, result),
                (TxnOp::Txn(_), _) => {}
            }
        }
    }
}

impl Counters {
    pub(crate) fn applied(&self, commands: &[Command], applied: &Applied) {
        let mut operations = Operations::default();
        for (command, outcome) in commands.iter().zip(&applied.outcomes) {
            let Ok(answer) = &outcome.result else {
                continue;
            };
            match (command, answer) {
                (Command::Put(put), _) => operations.put(put),
                (Command::DeleteRange(_), _) => operations.deletes += 1,
                (Command::Txn(txn), Answer::Txn(result)) => self.txn(txn, result, &mut operations),
                (Command::LeaseGrant { .. }, _) => add(&self.leases_granted, 1),
                (Command::LeaseRevoke { .. }, _) => add(&self.leases_revoked, 1),
                (_, Answer::LeaseExpired { removed: true }) => {
                    add(&self.leases_expired, 1);
                    add(&self.leases_revoked, 1);
                }
                (_, Answer::LeaseRenewed { ttls_s }) => {
                    add(&self.leases_renewed, ttls_s.iter().flatten().count() as u64);
                }
                _ => {}
            }
        }
        self.count(&operations);
    }

    fn count(&self, operations: &Operations) {
        for (counter, n) in [
            (&self.puts, operations.puts),
            (&self.deletes, operations.deletes),
            (&self.ranges, operations.ranges),
            (&self.put_bytes, operations.put_bytes),
        ] {
            if n > 0 {
                add(counter, n);
            }
        }
    }

    fn txn(&self, txn: &Txn, result: &TxnResult, operations: &mut Operations) {
        let mut own = Operations::default();
        own.txn(txn, result);
        if own.puts + own.deletes + own.ranges > 1 {
            add(&self.txns, 1);
        }
        operations.puts += own.puts;
        operations.deletes += own.deletes;
        operations.ranges += own.ranges;
        operations.put_bytes += own.put_bytes;
    }

    pub(crate) fn range(&self) {
        add(&self.ranges, 1);
    }

    pub(crate) fn read_txn(&self, txn: &Txn, result: &TxnResult) {
        let mut operations = Operations::default();
        self.txn(txn, result, &mut operations);
        self.count(&operations);
    }

    pub(crate) fn events_delivered(&self, events: usize) {
        add(&self.watch_events, events as u64);
    }

    pub(crate) fn leader_changed(&self) {
        add(&self.leader_changes, 1);
    }

    pub(crate) fn slow_apply(&self) {
        add(&self.slow_applies, 1);
    }
}

/// Everything a metrics page shows of a member, as of now. Counters count from the process's start.
#[derive(Clone, Debug)]
pub struct Figures {
    pub puts: u64,
    pub deletes: u64,
    /// Transactions of more than one operation.
    pub txns: u64,
    /// Ranges answered here: reads of this member's clients, and those inside transactions.
    pub ranges: u64,
    /// Bytes of all keys and values that were put.
    pub put_bytes: u64,
    /// Keys that are alive.
    pub keys: u64,
    pub leases_granted: u64,
    pub leases_revoked: u64,
    pub leases_renewed: u64,
    pub leases_expired: u64,
    pub watch_streams: u64,
    pub watchers: u64,
    /// Watchers that read history because they are new or were too slow.
    pub slow_watchers: u64,
    pub watch_events: u64,
    pub leader_changes: u64,
    pub proposals_committed: u64,
    pub proposals_applied: u64,
    /// Commands waiting to be proposed.
    pub proposals_pending: u64,
    pub proposals_failed: u64,
    /// Entries that took more than 100 ms to carry out.
    pub slow_applies: u64,
    /// Rounds of read indexes that took more than 500 ms, and those that failed.
    pub slow_read_indexes: u64,
    pub failed_read_indexes: u64,
    /// The log's fdatasyncs.
    pub log_syncs: Durations,
    /// The engine's batches, each with its own fdatasync.
    pub commits: Durations,
    /// By each other member.
    pub peers: Vec<PeerTraffic>,
    /// Times this member, leading, found a majority of the members' states equal.
    pub integrity_compared: u64,
    /// Members it found to differ, and times no majority could be found.
    pub integrity_differing: u64,
}

impl<E: Env> Store<E> {
    /// Takes the hub's lock for a moment: for pages, not for requests.
    pub fn figures(&self) -> Figures {
        let shared = &self.shared;
        let counters = &shared.machine.counters;
        let view = shared.consensus.view();
        let watches = shared.machine.hub.lock().counts();
        let (slow_read_indexes, failed_read_indexes) = shared.readers.rounds();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            puts: of(&counters.puts),
            deletes: of(&counters.deletes),
            txns: of(&counters.txns),
            ranges: of(&counters.ranges),
            put_bytes: of(&counters.put_bytes),
            keys: shared.machine.state.read().keys(),
            leases_granted: of(&counters.leases_granted),
            leases_revoked: of(&counters.leases_revoked),
            leases_renewed: of(&counters.leases_renewed),
            leases_expired: of(&counters.leases_expired),
            watch_streams: watches.streams as u64,
            watchers: watches.watchers as u64,
            slow_watchers: watches.catching_up as u64,
            watch_events: of(&counters.watch_events),
            leader_changes: of(&counters.leader_changes),
            // Two readings: what was applied in between is committed as well.
            proposals_committed: view.committed.max(view.applied),
            proposals_applied: view.applied,
            proposals_pending: shared.queue.len() as u64,
            proposals_failed: shared.queue.failed(),
            slow_applies: of(&counters.slow_applies),
            slow_read_indexes,
            failed_read_indexes,
            log_syncs: shared.consensus.log_syncs(),
            commits: counters.commits.read(),
            peers: shared.consensus.traffic(),
            integrity_compared: of(&counters.integrity_compared),
            integrity_differing: of(&counters.integrity_differing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Put {
        Put {
            key: key.as_bytes().into(),
            value: "v".into(),
            ..Put::default()
        }
    }
    fn delete(key: &'static str) -> DeleteRange {
        DeleteRange {
            range: KeyRange::point(key.as_bytes().into()),
            prev_kv: false,
        }
    }

    #[test]
    fn operations_are_counted_where_they_were_carried_out() {
        let counters = Counters::default();
        let mut state = State::new();
        let inner = Txn {
            success: vec![TxnOp::Put(put("c"))],
            failure: vec![TxnOp::Put(put("x")), TxnOp::Put(put("y"))],
            ..Txn::default()
        };
        let entry = Entry {
            time: ClusterTime(1),
            commands: vec![
                Command::Put(put("a")),
                Command::Put(put("a")),
                Command::Txn(Txn {
                    success: vec![TxnOp::Put(put("b")), TxnOp::Txn(inner)],
                    ..Txn::default()
                }),
                Command::Txn(Txn {
                    success: vec![TxnOp::DeleteRange(delete("b"))],
                    ..Txn::default()
                }),
                Command::DeleteRange(delete("none")),
                Command::LeaseRevoke { id: LeaseId(9) },
                Command::LeaseGrant {
                    id: LeaseId(9),
                    ttl_s: 5,
                },
            ],
            origins: Vec::new(),
        };
        let applied = state
            .apply(LogIndex(1), &entry, Previous::Told)
            .expect("nothing is read from disk");
        counters.applied(&entry.commands, &applied);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(of(&counters.puts), 4);
        assert_eq!(of(&counters.put_bytes), 8);
        assert_eq!(of(&counters.deletes), 2);
        assert_eq!(of(&counters.txns), 1);
        assert_eq!(of(&counters.leases_granted), 1);
        assert_eq!(of(&counters.leases_revoked), 0);
    }
}

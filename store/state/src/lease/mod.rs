//! Leases: who lives until when, and which keys hang on whom. Owns deadlines and attachments, on cluster time.
//! Promise: a deadline only moves by grant and renewal, to the entry's time + TTL; a lease is reported due in deadline
//! order and never before its deadline.
//! Not here: clocks (times are given), deleting the keys of a lease that ended (`apply` does), the minimum TTL (the front's).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::Refusal;
use crate::digest::{self, Digest};
use crate::limits::LEASE_TTL_MAX_S;
use crate::types::{ClusterTime, LeaseId};

#[derive(Clone, Debug)]
pub struct Lease {
    pub ttl_s: u64,
    pub deadline: ClusterTime,
    /// Sorted: a lease's keys are deleted in this order.
    pub keys: BTreeSet<Bytes>,
}

#[derive(Clone, Debug, Default)]
pub struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    /// Invariant: holds exactly the leases of `leases`, each once, under its deadline.
    deadlines: BTreeSet<(ClusterTime, LeaseId)>,
    /// Over (id, ttl, deadline) of every lease. Attachments follow from the rows and need no digest.
    digest: Digest,
    /// Granted, renewed or gone since the last batch was begun.
    pub(crate) changed: BTreeSet<LeaseId>,
}

fn element(id: LeaseId, lease: &Lease) -> u64 {
    digest::words(&[id.0.cast_unsigned(), lease.ttl_s, lease.deadline.0])
}

fn deadline(now: ClusterTime, ttl_s: u64) -> ClusterTime {
    ClusterTime(now.0.saturating_add(ttl_s.saturating_mul(1000)))
}

impl Lessor {
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }
    pub fn grant(&mut self, id: LeaseId, ttl_s: u64, now: ClusterTime) -> Result<(), Refusal> {
        if id == LeaseId::NONE {
            return Err(Refusal::LeaseNotFound);
        }
        if ttl_s > LEASE_TTL_MAX_S {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.contains(id) {
            return Err(Refusal::LeaseExists);
        }
        let lease = Lease {
            ttl_s,
            deadline: deadline(now, ttl_s),
            keys: BTreeSet::new(),
        };
        self.insert(id, lease);
        self.changed.insert(id);
        Ok(())
    }
    fn insert(&mut self, id: LeaseId, lease: Lease) {
        self.digest.add(element(id, &lease));
        self.deadlines.insert((lease.deadline, id));
        self.leases.insert(id, lease);
    }
    /// As it was persisted; its keys are attached one by one.
    pub fn restore(&mut self, id: LeaseId, ttl_s: u64, deadline: ClusterTime) {
        let keys = BTreeSet::new();
        let lease = Lease {
            ttl_s,
            deadline,
            keys,
        };
        self.insert(id, lease);
    }
    /// The TTL it has again, or `None` where there is no such lease. A lease past its deadline that nobody has ended yet
    /// is renewed: the leader's expiry then loses.
    pub fn renew(&mut self, id: LeaseId, now: ClusterTime) -> Option<u64> {
        let lease = self.leases.get_mut(&id)?;
        self.digest.remove(element(id, lease));
        self.deadlines.remove(&(lease.deadline, id));
        // Never backwards: cluster time is monotone, and this keeps a renewal from shortening a life even if it were not.
        lease.deadline = lease.deadline.max(deadline(now, lease.ttl_s));
        self.deadlines.insert((lease.deadline, id));
        self.digest.add(element(id, lease));
        self.changed.insert(id);
        Some(lease.ttl_s)
    }
    /// Takes the lease away and hands out its keys, sorted.
    pub fn remove(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let lease = self.leases.remove(&id)?;
        self.digest.remove(element(id, &lease));
        self.deadlines.remove(&(lease.deadline, id));
        self.changed.insert(id);
        Some(lease.keys)
    }
    pub fn attach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id)
            && !lease.keys.contains(key)
        {
            lease.keys.insert(key.clone());
        }
    }
    pub fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
    /// The first `limit` leases due at `now`, in deadline order.
    pub fn due(&self, now: ClusterTime, limit: usize) -> Vec<(LeaseId, ClusterTime)> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        due.take(limit).map(|(at, id)| (*id, *at)).collect()
    }
    pub fn next_deadline(&self) -> Option<ClusterTime> {
        self.deadlines.first().map(|(at, _)| *at)
    }
    /// All ids, the soonest to end first.
    pub fn ids(&self) -> Vec<LeaseId> {
        self.deadlines.iter().map(|(_, id)| *id).collect()
    }
    pub fn digest(&self) -> u64 {
        self.digest.value()
    }
    /// Every attachment, for checks against the rows.
    #[cfg(test)]
    pub fn attachments(&self) -> BTreeSet<(Bytes, LeaseId)> {
        assert_eq!(
            self.deadlines.len(),
            self.leases.len(),
            "a lease without exactly one deadline"
        );
        let mut digest = Digest::default();
        let mut all = BTreeSet::new();
        for (id, lease) in &self.leases {
            assert!(
                self.deadlines.contains(&(lease.deadline, *id)),
                "a deadline that is not its lease's"
            );
            digest.add(element(*id, lease));
            all.extend(lease.keys.iter().map(|key| (key.clone(), *id)));
        }
        assert_eq!(digest, self.digest, "the leases' digest drifted");
        all
    }
}

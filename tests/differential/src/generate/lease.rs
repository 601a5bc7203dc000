//! Leases. Those that live through a run last longer than it; short ones are revoked before they could end by themselves.

use barque_proto::etcdserverpb as pb;
use bytes::Bytes;

use super::Generator;
use crate::call::framed;
use crate::step::Step;

impl Generator {
    pub(super) fn lease(&mut self) {
        match self.random.below(12) {
            0..4 => self.grant(),
            4 => self.short_lease(),
            5 | 6 => {
                let id = self.lease_id();
                self.leases.retain(|lease| *lease != id);
                self.push(
                    "/etcdserverpb.Lease/LeaseRevoke",
                    &pb::LeaseRevokeRequest { id },
                );
            }
            7 => {
                let ids: Vec<i64> = (0..1 + self.random.below(3))
                    .map(|_| self.lease_id())
                    .collect();
                let body: Vec<Bytes> = ids
                    .into_iter()
                    .map(|id| framed(&pb::LeaseKeepAliveRequest { id }))
                    .collect();
                self.queue.push_back(Step::raw(
                    "/etcdserverpb.Lease/LeaseKeepAlive",
                    body.concat().into(),
                ));
            }
            8..10 => {
                let request = pb::LeaseTimeToLiveRequest {
                    id: self.lease_id(),
                    keys: self.random.once_in(2),
                };
                self.push("/etcdserverpb.Lease/LeaseTimeToLive", &request);
            }
            10 => self.push(
                "/etcdserverpb.Lease/LeaseLeases",
                &pb::LeaseLeasesRequest::default(),
            ),
            _ => {
                let ttl = self.random.pick(&[1000, 1, 0, -5]);
                self.queue.push_back(Step::LeaseWithChosenId { ttl });
            }
        }
    }

    fn grant(&mut self) {
        let id = match self.random.below(6) {
            // 0 would be chosen by each side for itself.
            0 => Some(self.lease_id()).filter(|id| *id != 0).unwrap_or(1),
            1 => -1 - i64::try_from(self.random.below(100)).unwrap_or(0),
            2 => self.random.pick(&[i64::MIN, i64::MAX]),
            _ => 1 + i64::try_from(self.random.below(1000)).unwrap_or(0),
        };
        let ttl = self
            .random
            .pick(&[1000, 5000, 100_000, 9_000_000_000, 9_000_000_001, i64::MAX]);
        if ttl <= 9_000_000_000 && !self.leases.contains(&id) {
            self.leases.push(id);
        }
        self.push(
            "/etcdserverpb.Lease/LeaseGrant",
            &pb::LeaseGrantRequest { ttl, id },
        );
    }

    /// A TTL that is raised, seen, and over before it is due.
    fn short_lease(&mut self) {
        let id = 5_000 + i64::try_from(self.random.below(1000)).unwrap_or(0);
        let ttl = self.random.pick(&[1, 2, 0, -1, i64::MIN]);
        self.push(
            "/etcdserverpb.Lease/LeaseGrant",
            &pb::LeaseGrantRequest { ttl, id },
        );
        self.push(
            "/etcdserverpb.Lease/LeaseTimeToLive",
            &pb::LeaseTimeToLiveRequest { id, keys: true },
        );
        self.push(
            "/etcdserverpb.Lease/LeaseRevoke",
            &pb::LeaseRevokeRequest { id },
        );
    }

    fn lease_id(&mut self) -> i64 {
        if self.leases.is_empty() || self.random.once_in(6) {
            return self.random.pick(&[0, 4242, -4242, i64::MAX]);
        }
        self.random.pick(&self.leases)
    }
}

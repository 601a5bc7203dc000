//! The store leases that make events go away: one is shared by the events of a minute.
//! Not here: renewing (events are not renewed, an update attaches to a newer lease) and revoking.

use std::time::Duration;

use barque_store_state::LeaseId;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Storage, StorageError};
use crate::limits::{EVENT_LEASE_OBJECTS_MAX, EVENT_LEASE_REUSE, EVENT_TTL};

#[derive(Default)]
pub struct EventLeases {
    current: Mutex<Option<Current>>,
}

struct Current {
    id: LeaseId,
    granted: Instant,
    objects: u32,
}

impl EventLeases {
    /// A lease on which one more event can live its time.
    pub async fn lease(&self, storage: &dyn Storage) -> Result<LeaseId, StorageError> {
        // Held across the grant, so that a burst of events shares one.
        let mut current = self.current.lock().await;
        if let Some(lease) = current.as_mut()
            && lease.granted.elapsed() < EVENT_LEASE_REUSE
            && lease.objects < EVENT_LEASE_OBJECTS_MAX
        {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let ttl: Duration = EVENT_TTL + EVENT_LEASE_REUSE;
        let id = storage.lease_grant(ttl).await?;
        *current = Some(Current {
            id,
            granted: Instant::now(),
            objects: 1,
        });
        Ok(id)
    }

    /// The store does not know the lease any more.
    pub async fn forget(&self, id: LeaseId) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|lease| lease.id == id) {
            *current = None;
        }
    }
}

//! Reading and changing single objects: optimistic reads, one compare-and-write transaction per change.
//! Promise: a verdict that a stale read could have caused (not found, conflict, nothing to do) is never given before
//! it was confirmed by a linearizable read; a write happens only on exactly the state it was decided on.
//! Not here: what a change means (the pipeline decides in a closure).

use std::sync::Arc;

use barque_apiserver_registry::{Resource, resource};
use barque_store_state::{KeyRange, KeyValue, LeaseId, Revision};
use bytes::Bytes;
use serde_json::Value;

use super::leases::EventLeases;
use super::object::Stored;
use super::{
    CompareAndWrite, Consistency, Read, Rows, Storage, StorageError, Write, Written, keys, versions,
};
use crate::limits::{STORE_WRITE_ATTEMPTS_MAX, WRITE_ATTEMPTS_MAX};
use crate::status::{About, ApiError};

/// An object as it was read, for a decision.
#[derive(Clone, Debug)]
pub struct Current {
    pub stored: Stored,
    pub object: Value,
}

/// What a decision wants done.
pub enum Change {
    Put(Value),
    Delete,
    /// Leave it as it is.
    Keep,
}

/// What was done.
pub enum Modified {
    Written(Stored),
    /// The last state, with the revision of the deletion.
    Deleted(Stored),
    Kept(Stored),
}

pub struct Objects {
    storage: Arc<dyn Storage>,
    leases: EventLeases,
}

impl Objects {
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Objects {
            storage,
            leases: EventLeases::default(),
        }
    }

    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    async fn row(
        &self,
        key: &Bytes,
        consistency: Consistency,
    ) -> Result<Option<Arc<KeyValue>>, StorageError> {
        let read = Read {
            range: KeyRange::point(key.clone()),
            limit: 1,
            revision: None,
            consistency,
        };
        let Rows { kvs, .. } = self.storage.read(read).await?;
        Ok(kvs.into_iter().next())
    }

    pub async fn get(
        &self,
        key: &Bytes,
        consistency: Consistency,
    ) -> Result<Option<Stored>, ApiError> {
        let row = self
            .row(key, consistency)
            .await
            .map_err(|error| ApiError::storage(&error))?;
        row.map(|row| stored(&row)).transpose()
    }

    /// Stores a new object. `namespace_check` looks at the namespace the object goes into; the write holds only if
    /// that namespace is still the same then.
    pub async fn create(
        &self,
        resource: &Resource,
        about: About<'_>,
        namespace: Option<&str>,
        object: &Value,
        namespace_check: impl Fn(Option<&Value>) -> Result<(), ApiError>,
        dry_run: bool,
    ) -> Result<Stored, ApiError> {
        let key = keys::object(resource, namespace, about.name);
        let value = versions::encode(object, resource);
        let mut expect = vec![(key.clone(), Revision(0))];
        let namespace_key = namespace.map(namespace_key).transpose()?;
        if let Some(namespace_key) = &namespace_key {
            let row = self
                .checked_namespace(namespace_key, &namespace_check)
                .await?;
            expect.push((namespace_key.clone(), row));
        }
        if dry_run {
            if self.get(&key, Consistency::Linearizable).await?.is_some() {
                return Err(ApiError::already_exists(about));
            }
            return Stored::new(value, Revision(0)).map_err(ApiError::internal);
        }
        for _ in 0..WRITE_ATTEMPTS_MAX {
            match self
                .write(resource, expect.clone(), &key, Some(value.clone()))
                .await?
            {
                Written::Done { revision } => {
                    return Stored::new(value, revision).map_err(ApiError::internal);
                }
                Written::Lost { current } => {
                    if current.first().is_some_and(Option::is_some) {
                        return Err(ApiError::already_exists(about));
                    }
                    if let Some(namespace_key) = &namespace_key {
                        // The namespace changed under us: look at what it is now.
                        let row = self
                            .checked_namespace(namespace_key, &namespace_check)
                            .await?;
                        expect[1].1 = row;
                    }
                }
            }
        }
        Err(ApiError::conflict(
            about,
            "the namespace changes without pause",
        ))
    }

    /// The revision of a namespace that passes the check. A local read may be behind, so only a fresh one refuses.
    async fn checked_namespace(
        &self,
        key: &Bytes,
        check: &impl Fn(Option<&Value>) -> Result<(), ApiError>,
    ) -> Result<Revision, ApiError> {
        let mut consistency = Consistency::Local;
        loop {
            let namespace = self.get(key, consistency).await?;
            match check(namespace.as_ref().map(Stored::decode).as_ref()) {
                Ok(()) => return Ok(namespace.map_or(Revision(0), |row| row.revision())),
                Err(refusal) if consistency == Consistency::Linearizable => return Err(refusal),
                Err(_) => consistency = Consistency::Linearizable,
            }
        }
    }

    /// Reads, lets `decide` choose, writes if nothing came between, and begins again otherwise. A refusal of
    /// `decide` counts only on a fresh read. `None`: there is no such object; `decide` may still not create it.
    pub async fn modify(
        &self,
        resource: &Resource,
        about: About<'_>,
        namespace: Option<&str>,
        dry_run: bool,
        mut decide: impl FnMut(Option<&Current>) -> Result<Change, ApiError>,
    ) -> Result<Modified, ApiError> {
        let key = keys::object(resource, namespace, about.name);
        let mut row = self
            .row(&key, Consistency::Local)
            .await
            .map_err(|error| ApiError::storage(&error))?;
        let mut fresh = false;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let current = row
                .as_ref()
                .map(|row| {
                    let stored = stored(row)?;
                    let object = versions::decode(&stored, resource);
                    Ok::<_, ApiError>(Current { stored, object })
                })
                .transpose()?;
            let verdict = decide(current.as_ref());
            let keeps = match &verdict {
                Err(_) | Ok(Change::Keep) => true,
                Ok(Change::Put(object)) => current.as_ref().is_some_and(|current| {
                    versions::encode(object, resource) == *current.stored.value()
                }),
                Ok(Change::Delete) => false,
            };
            if keeps && !fresh {
                row = self
                    .row(&key, Consistency::Linearizable)
                    .await
                    .map_err(|error| ApiError::storage(&error))?;
                fresh = true;
                let unchanged = match (&row, &current) {
                    (Some(row), Some(current)) => row.mod_revision == current.stored.revision(),
                    (None, None) => true,
                    _ => false,
                };
                if !unchanged {
                    continue;
                }
            }
            let change = verdict?;
            let current = current.ok_or_else(|| ApiError::not_found(about))?;
            if keeps {
                return Ok(Modified::Kept(current.stored));
            }
            let value = match &change {
                Change::Put(object) => Some(versions::encode(object, resource)),
                Change::Delete | Change::Keep => None,
            };
            if dry_run {
                let revision = current.stored.revision();
                return outcome(value, &current, revision);
            }
            let expect = vec![(key.clone(), current.stored.revision())];
            match self.write(resource, expect, &key, value.clone()).await? {
                Written::Done { revision } => return outcome(value, &current, revision),
                Written::Lost { current } => {
                    row = current.into_iter().next().flatten();
                    fresh = true;
                }
            }
        }
        Err(ApiError::modified(about))
    }

    /// Writes for as long as it takes to know what became of it: a leader that died may or may not have carried the
    /// transaction out, and asking again is safe, because it is carried out on exactly one state. If it was, the second
    /// try loses against our own row.
    async fn write(
        &self,
        resource: &Resource,
        expect: Vec<(Bytes, Revision)>,
        key: &Bytes,
        value: Option<Bytes>,
    ) -> Result<Written, ApiError> {
        let lives_on_lease = value.is_some() && resource.kind.kind == "Event";
        let mut unknown = false;
        let mut attempts_left = STORE_WRITE_ATTEMPTS_MAX;
        loop {
            attempts_left -= 1;
            let lease = if lives_on_lease {
                self.leases
                    .lease(self.storage.as_ref())
                    .await
                    .map_err(|error| ApiError::storage(&error))?
            } else {
                LeaseId::NONE
            };
            let write = match &value {
                Some(value) => Write::Put {
                    key: key.clone(),
                    value: value.clone(),
                    lease,
                },
                None => Write::Delete { key: key.clone() },
            };
            let request = CompareAndWrite {
                expect: expect.clone(),
                write,
            };
            match self.storage.write(request).await {
                Err(StorageError::OutcomeUnknown(why)) if attempts_left > 0 => {
                    tracing::debug!(why, key = %String::from_utf8_lossy(key), "asking again");
                    unknown = true;
                }
                // The lease may be gone (a restored store): once more with a new one.
                Err(StorageError::Refused(_)) if lives_on_lease && attempts_left > 0 => {
                    self.leases.forget(lease).await;
                }
                // A write that may have happened is not to be called undone.
                Err(StorageError::NotDone(why)) if unknown => {
                    return Err(ApiError::storage(&StorageError::OutcomeUnknown(why)));
                }
                Ok(Written::Lost { current }) if unknown => {
                    return self.own_or_lost(current, value).await;
                }
                answer => return answer.map_err(|error| ApiError::storage(&error)),
            }
        }
    }

    /// A write lost after one of unknown outcome: to ourselves, if what is there is what we wrote.
    async fn own_or_lost(
        &self,
        current: Vec<Option<Arc<KeyValue>>>,
        value: Option<Bytes>,
    ) -> Result<Written, ApiError> {
        match (current.first().cloned().flatten(), value) {
            (Some(row), Some(value)) if row.value == value => Ok(Written::Done {
                revision: row.mod_revision,
            }),
            // Deleted, by us or by somebody at the same time; a tombstone does not say when.
            (None, None) => {
                let revision = self.storage.revision(Consistency::Local).await;
                let revision = revision.map_err(|error| ApiError::storage(&error))?;
                Ok(Written::Done { revision })
            }
            _ => Ok(Written::Lost { current }),
        }
    }
}

fn outcome(
    value: Option<Bytes>,
    current: &Current,
    revision: Revision,
) -> Result<Modified, ApiError> {
    let deleted = value.is_none();
    let value = value.unwrap_or_else(|| current.stored.value().clone());
    let stored = Stored::new(value, revision).map_err(ApiError::internal)?;
    Ok(if deleted {
        Modified::Deleted(stored)
    } else {
        Modified::Written(stored)
    })
}

fn stored(row: &KeyValue) -> Result<Stored, ApiError> {
    Stored::from_row(row).map_err(|error| {
        tracing::error!(%error, key = %String::from_utf8_lossy(&row.key), "unreadable object");
        ApiError::internal(error)
    })
}

fn namespace_key(namespace: &str) -> Result<Bytes, ApiError> {
    let namespaces = resource("", "v1", "namespaces")
        .ok_or_else(|| ApiError::internal("namespaces are not served"))?;
    Ok(keys::object(namespaces, None, namespace))
}

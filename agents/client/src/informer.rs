//! A live copy of a resource: small views kept up to date by a watch that is opened again whenever it breaks.
//! Promise: readers see complete states only (nothing before the first list is whole); `on_change` hears every difference once, in
//! order, after the copy shows it.
//! Not here: the recovery rules (`core::reflector`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::{Client, Selectors};
use crate::core::backoff::{Backoff, spread};
use crate::core::reflector::{Change, Event, Key, Reflector, Stale};
use crate::error::Error;
use crate::limits::{ABSENT_RESOURCE_DELAY, REWATCH_DELAY_MAX, REWATCH_DELAY_MIN};
use crate::object::HasMeta;
use crate::resource::ResourceId;
use crate::watch::{WatchEvent, WatchEventType};

/// What to keep a copy of.
#[derive(Clone, Debug)]
pub struct InformerConfig {
    pub resource: ResourceId,
    /// Empty: all namespaces.
    pub namespace: String,
    pub selectors: Selectors,
}

impl InformerConfig {
    pub fn all(resource: ResourceId) -> InformerConfig {
        InformerConfig {
            resource,
            namespace: String::new(),
            selectors: Selectors::all(),
        }
    }
}

/// Groups views, e.g. pods by owner.
pub type IndexBy<V> = fn(&V) -> Option<String>;

struct Copy<V> {
    reflector: Reflector<V>,
    index_by: Option<IndexBy<V>>,
    index: BTreeMap<String, BTreeSet<Key>>,
}

impl<V: PartialEq> Copy<V> {
    fn reindex(&mut self, change: &Change<V>) {
        let Some(index_by) = self.index_by else {
            return;
        };
        if let Some(group) = change.before().and_then(|old| index_by(old))
            && let Some(keys) = self.index.get_mut(&group)
        {
            keys.remove(change.key());
            if keys.is_empty() {
                self.index.remove(&group);
            }
        }
        if let Some(group) = change.after().and_then(|new| index_by(new)) {
            self.index
                .entry(group)
                .or_default()
                .insert(change.key().clone());
        }
    }
}

/// The copy, for readers. Clones share it.
pub struct Store<V> {
    copy: Arc<RwLock<Copy<V>>>,
}

impl<V> Clone for Store<V> {
    fn clone(&self) -> Store<V> {
        Store {
            copy: self.copy.clone(),
        }
    }
}

impl<V: PartialEq> Store<V> {
    fn read(&self) -> RwLockReadGuard<'_, Copy<V>> {
        self.copy
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Copy<V>> {
        self.copy
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn get(&self, key: &Key) -> Option<Arc<V>> {
        self.read().reflector.get(key).cloned()
    }

    pub fn all(&self) -> Vec<(Key, Arc<V>)> {
        let copy = self.read();
        copy.reflector
            .iter()
            .map(|(key, view)| (key.clone(), view.clone()))
            .collect()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<(Key, Arc<V>)> {
        let copy = self.read();
        copy.reflector
            .in_namespace(namespace)
            .map(|(key, view)| (key.clone(), view.clone()))
            .collect()
    }

    /// The views of one group of the index.
    pub fn in_group(&self, group: &str) -> Vec<(Key, Arc<V>)> {
        let copy = self.read();
        let keys = copy.index.get(group).into_iter().flatten();
        keys.filter_map(|key| Some((key.clone(), copy.reflector.get(key)?.clone())))
            .collect()
    }

    /// Every change up to this revision shows.
    pub fn revision(&self) -> i64 {
        self.read().reflector.revision()
    }

    pub fn synced(&self) -> bool {
        self.read().reflector.ever_synced()
    }

    pub fn len(&self) -> usize {
        self.read().reflector.len()
    }

    pub fn is_empty(&self) -> bool {
        self.read().reflector.is_empty()
    }
}

/// A running informer; dropping it stops it.
pub struct Informer<V> {
    store: Store<V>,
    synced: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl<V> Drop for Informer<V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<V: PartialEq + Send + Sync + 'static> Informer<V> {
    /// Starts to follow `config`. `project` makes the view of an object, or None for one that does not matter;
    /// `on_change` runs on the informer's task and must not block.
    pub fn start<K>(
        client: &Client,
        config: InformerConfig,
        index_by: Option<IndexBy<V>>,
        project: impl Fn(K) -> Option<V> + Send + Sync + 'static,
        on_change: impl Fn(&Change<V>) + Send + Sync + 'static,
    ) -> Informer<V>
    where
        K: DeserializeOwned + HasMeta + Send + 'static,
    {
        let store = Store {
            copy: Arc::new(RwLock::new(Copy {
                reflector: Reflector::default(),
                index_by,
                index: BTreeMap::new(),
            })),
        };
        let (synced_sender, synced) = watch::channel(false);
        let follower = Follower {
            client: client.clone(),
            config,
            store: store.clone(),
            project,
            on_change,
            synced: synced_sender,
            kind: std::marker::PhantomData::<fn() -> K>,
        };
        Informer {
            store,
            synced,
            task: tokio::spawn(follower.run()),
        }
    }

    pub fn store(&self) -> Store<V> {
        self.store.clone()
    }

    /// Waits until the copy was complete once.
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        // The sender is gone only when the informer is: then nobody waits for it.
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

struct Follower<K, V, P, C> {
    client: Client,
    config: InformerConfig,
    store: Store<V>,
    project: P,
    on_change: C,
    synced: watch::Sender<bool>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K, V, P, C> Follower<K, V, P, C>
where
    K: DeserializeOwned + HasMeta,
    V: PartialEq,
    P: Fn(K) -> Option<V>,
    C: Fn(&Change<V>),
{
    async fn run(self) {
        let mut backoff = Backoff::new(REWATCH_DELAY_MIN, REWATCH_DELAY_MAX);
        loop {
            let before = self.store.revision();
            let error = self.follow().await;
            if self.store.revision() != before {
                backoff.succeed();
            }
            let mut delay = spread(backoff.fail(), rand::random());
            if error.is_expired() {
                tracing::info!(resource = %self.config.resource, "watch revision expired, listing again");
                self.store.write().reflector.expired();
            } else if error.is_not_found() {
                tracing::debug!(resource = %self.config.resource, "not served");
                let changes = {
                    let mut copy = self.store.write();
                    let changes = copy.reflector.absent();
                    changes.iter().for_each(|change| copy.reindex(change));
                    changes
                };
                self.publish(&changes);
                delay = spread(ABSENT_RESOURCE_DELAY, rand::random());
            } else if error.needs_attention() {
                tracing::warn!(resource = %self.config.resource, %error, "cannot watch, trying again");
            } else {
                tracing::debug!(resource = %self.config.resource, %error, "watch broke");
            }
            sleep(delay).await;
        }
    }

    /// Opens one stream and follows it to its end.
    async fn follow(&self) -> Error {
        let from = self.store.read().reflector.resume_from();
        let opened = self
            .client
            .watch(
                self.config.resource,
                &self.config.namespace,
                &self.config.selectors,
                from,
            )
            .await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        self.store.write().reflector.opened();
        loop {
            let events = match stream.next().await {
                Ok(events) => events,
                Err(error) => return error,
            };
            for event in events {
                let Some(event) = self.read(event) else {
                    continue;
                };
                match self.apply(event) {
                    Ok(changes) => self.publish(&changes),
                    Err(stale) => {
                        let detail =
                            format!("list at {} is older than {}", stale.listed, stale.known);
                        return Error::Unreachable { detail };
                    }
                }
            }
        }
    }

    /// The copy and its index change in one step.
    fn apply(&self, event: Event<V>) -> Result<Vec<Change<V>>, Stale> {
        let mut copy = self.store.write();
        let changes = copy.reflector.on(event)?;
        changes.iter().for_each(|change| copy.reindex(change));
        Ok(changes)
    }

    fn publish(&self, changes: &[Change<V>]) {
        for change in changes {
            (self.on_change)(change);
        }
        if self.store.synced() && !*self.synced.borrow() {
            self.synced.send_replace(true);
        }
    }

    fn read(&self, event: WatchEvent) -> Option<Event<V>> {
        let revision = event.revision;
        match event.event_type {
            WatchEventType::Synced => return Some(Event::Synced { revision }),
            WatchEventType::Bookmark => return Some(Event::Bookmark { revision }),
            _ => {}
        }
        let object: K = match serde_json::from_slice(&event.json) {
            Ok(object) => object,
            Err(error) => {
                // One object nobody can read must not stop the agent from seeing all others.
                tracing::warn!(resource = %self.config.resource, %error, "passing over an unreadable object");
                return None;
            }
        };
        let meta = object.meta();
        let key = Key::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        // In the initial state the event's revision may be the list's: the object's own tells whether it is news.
        let own = meta
            .resource_version
            .as_deref()
            .and_then(|version| version.parse().ok());
        let revision = own.unwrap_or(revision);
        if event.event_type == WatchEventType::Deleted {
            return Some(Event::Delete {
                key,
                revision: revision.max(event.revision),
            });
        }
        Some(Event::Upsert {
            key,
            revision,
            view: (self.project)(object),
        })
    }
}

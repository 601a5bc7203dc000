//! List and watch recovery as a state machine: the copy of a resource an agent holds, and from where its stream goes on.
//! Promise: every difference between two states of the copy is reported once, deletions missed during a break included;
//! the copy never goes back in time behind a lagging master. Owns views, not whole objects.
//! Not here: the stream (`informer` feeds its events in), what an event means to an agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::limits::STALE_LISTS_MAX;

/// Namespace (empty for cluster-scoped resources) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What the stream said.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// Added or modified. Without a view: the agent's projection does not want the object, which is as good as deleted.
    Upsert {
        key: Key,
        revision: i64,
        view: Option<V>,
    },
    Delete {
        key: Key,
        revision: i64,
    },
    Synced {
        revision: i64,
    },
    Bookmark {
        revision: i64,
    },
}

/// A difference between two states of the copy.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<V> {
    Added { key: Key, new: Arc<V> },
    Updated { key: Key, old: Arc<V>, new: Arc<V> },
    Deleted { key: Key, old: Arc<V> },
}

impl<V> Change<V> {
    pub fn key(&self) -> &Key {
        match self {
            Change::Added { key, .. }
            | Change::Updated { key, .. }
            | Change::Deleted { key, .. } => key,
        }
    }
    pub fn before(&self) -> Option<&Arc<V>> {
        match self {
            Change::Added { .. } => None,
            Change::Updated { old, .. } | Change::Deleted { old, .. } => Some(old),
        }
    }
    pub fn after(&self) -> Option<&Arc<V>> {
        match self {
            Change::Added { new, .. } | Change::Updated { new, .. } => Some(new),
            Change::Deleted { .. } => None,
        }
    }
}

/// The initial state came from a master that lags behind what is already known: ask again.
#[derive(Debug, PartialEq, Eq)]
pub struct Stale {
    pub listed: i64,
    pub known: i64,
}

#[derive(Debug)]
struct Row<V> {
    revision: i64,
    view: Arc<V>,
}

#[derive(Debug)]
enum Phase<V> {
    /// The initial state is arriving. Invariant: nothing of it shows in `rows` before SYNCED, so that a list that breaks
    /// half-way or turns out stale leaves no trace.
    Listing {
        arriving: BTreeMap<Key, Row<V>>,
    },
    Following,
}

/// The copy of one resource.
#[derive(Debug)]
pub struct Reflector<V> {
    rows: BTreeMap<Key, Row<V>>,
    /// Everything up to here is in `rows`.
    revision: i64,
    phase: Phase<V>,
    ever_synced: bool,
    stale_lists: u32,
}

impl<V> Default for Reflector<V> {
    fn default() -> Reflector<V> {
        Reflector {
            rows: BTreeMap::new(),
            revision: 0,
            phase: Phase::Listing {
                arriving: BTreeMap::new(),
            },
            ever_synced: false,
            stale_lists: 0,
        }
    }
}

impl<V: PartialEq> Reflector<V> {
    /// The revision to open the next stream with; 0 asks for the initial state.
    pub fn resume_from(&self) -> i64 {
        match self.phase {
            Phase::Listing { .. } => 0,
            Phase::Following => self.revision,
        }
    }

    /// A stream was opened at `resume_from()`.
    pub fn opened(&mut self) {
        if let Phase::Listing { arriving } = &mut self.phase {
            arriving.clear();
        }
    }

    /// The revision to resume from is no longer kept: the next stream begins with the initial state.
    pub fn expired(&mut self) {
        self.phase = Phase::Listing {
            arriving: BTreeMap::new(),
        };
    }

    /// The masters do not serve the resource: that is known to be empty.
    pub fn absent(&mut self) -> Vec<Change<V>> {
        self.phase = Phase::Listing {
            arriving: BTreeMap::new(),
        };
        self.ever_synced = true;
        std::mem::take(&mut self.rows)
            .into_iter()
            .map(|(key, row)| Change::Deleted { key, old: row.view })
            .collect()
    }

    /// One event of the stream. After `Stale` the stream must be dropped and another opened.
    pub fn on(&mut self, event: Event<V>) -> Result<Vec<Change<V>>, Stale> {
        match event {
            Event::Upsert {
                key,
                revision,
                view,
            } => Ok(self.upsert(key, revision, view)),
            Event::Delete { key, revision } => Ok(self.upsert(key, revision, None)),
            Event::Synced { revision } => self.synced_at(revision),
            Event::Bookmark { revision } => {
                if let Phase::Following = self.phase {
                    self.revision = self.revision.max(revision);
                }
                Ok(vec![])
            }
        }
    }

    fn upsert(&mut self, key: Key, revision: i64, view: Option<V>) -> Vec<Change<V>> {
        if let Phase::Listing { arriving } = &mut self.phase {
            match view {
                Some(view) => {
                    let view = Arc::new(view);
                    arriving.insert(key, Row { revision, view });
                }
                None => {
                    arriving.remove(&key);
                }
            }
            return vec![];
        }
        self.revision = self.revision.max(revision);
        if self
            .rows
            .get(&key)
            .is_some_and(|row| row.revision >= revision)
        {
            return vec![]; // already seen before the stream broke
        }
        let new = view.map(Arc::new);
        self.replace(key, revision, new).into_iter().collect()
    }

    fn replace(&mut self, key: Key, revision: i64, new: Option<Arc<V>>) -> Option<Change<V>> {
        let Some(new) = new else {
            let row = self.rows.remove(&key)?;
            return Some(Change::Deleted { key, old: row.view });
        };
        let row = Row {
            revision,
            view: new.clone(),
        };
        match self.rows.insert(key.clone(), row) {
            None => Some(Change::Added { key, new }),
            // Views are small: most changes of an object do not show in them.
            Some(old) if old.view == new => None,
            Some(old) => Some(Change::Updated {
                key,
                old: old.view,
                new,
            }),
        }
    }

    fn synced_at(&mut self, revision: i64) -> Result<Vec<Change<V>>, Stale> {
        let Phase::Listing { arriving } = &mut self.phase else {
            return Ok(vec![]);
        };
        if revision < self.revision && self.stale_lists < STALE_LISTS_MAX {
            self.stale_lists += 1;
            arriving.clear();
            return Err(Stale {
                listed: revision,
                known: self.revision,
            });
        }
        let arrived = std::mem::take(arriving);
        let mut changes = vec![];
        let gone: Vec<Key> = self
            .rows
            .keys()
            .filter(|key| !arrived.contains_key(key))
            .cloned()
            .collect();
        for key in gone {
            changes.extend(self.replace(key, revision, None));
        }
        for (key, row) in arrived {
            changes.extend(self.replace(key, row.revision, Some(row.view)));
        }
        self.phase = Phase::Following;
        self.revision = revision;
        self.ever_synced = true;
        self.stale_lists = 0;
        Ok(changes)
    }

    /// Whether the copy was complete at some time. Before that, absence means nothing.
    pub fn ever_synced(&self) -> bool {
        self.ever_synced
    }

    /// Every change up to this revision shows in the copy.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<V>> {
        self.rows.get(key).map(|row| &row.view)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<V>)> {
        self.rows.iter().map(|(key, row)| (key, &row.view))
    }

    /// The objects of one namespace, by name.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<V>)> {
        self.rows
            .range(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(key, row)| (key, &row.view))
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }
    fn put(name: &str, revision: i64, view: i32) -> Event<i32> {
        Event::Upsert {
            key: key(name),
            revision,
            view: Some(view),
        }
    }
    fn contents(reflector: &Reflector<i32>) -> Vec<(String, i32)> {
        reflector
            .iter()
            .map(|(key, view)| (key.name.clone(), **view))
            .collect()
    }
    fn names(changes: &[Change<i32>]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Added { key, .. } => format!("+{}", key.name),
                Change::Updated { key, .. } => format!("~{}", key.name),
                Change::Deleted { key, .. } => format!("-{}", key.name),
            })
            .collect()
    }
    fn synced(rows: &[(&str, i64, i32)], revision: i64) -> Reflector<i32> {
        let mut reflector = Reflector::default();
        reflector.opened();
        for (name, at, view) in rows {
            reflector.on(put(name, *at, *view)).unwrap();
        }
        reflector.on(Event::Synced { revision }).unwrap();
        reflector
    }

    #[test]
    fn nothing_shows_before_the_initial_state_is_complete() {
        let mut reflector = Reflector::default();
        reflector.opened();
        assert!(reflector.on(put("a", 3, 1)).unwrap().is_empty());
        assert!(reflector.is_empty() && !reflector.ever_synced());
        let changes = reflector.on(Event::Synced { revision: 5 }).unwrap();
        assert_eq!(names(&changes), ["+a"]);
        assert_eq!(reflector.resume_from(), 5);
    }

    #[test]
    fn a_list_that_broke_leaves_no_trace() {
        let mut reflector = Reflector::default();
        reflector.opened();
        reflector.on(put("gone", 3, 1)).unwrap();
        assert_eq!(reflector.resume_from(), 0);
        reflector.opened();
        reflector.on(put("a", 4, 1)).unwrap();
        reflector.on(Event::Synced { revision: 5 }).unwrap();
        assert_eq!(contents(&reflector), [("a".to_owned(), 1)]);
    }

    #[test]
    fn a_broken_stream_resumes_where_it_was_and_repeats_are_not_reported() {
        let mut reflector = synced(&[("a", 3, 1)], 5);
        reflector.on(put("a", 6, 2)).unwrap();
        reflector.on(Event::Bookmark { revision: 9 }).unwrap();
        assert_eq!(reflector.resume_from(), 9);
        reflector.opened();
        assert!(reflector.on(put("a", 6, 2)).unwrap().is_empty());
        assert_eq!(names(&reflector.on(put("b", 10, 1)).unwrap()), ["+b"]);
    }

    #[test]
    fn deletions_missed_during_a_break_are_reported_by_the_next_list() {
        let mut reflector = synced(&[("a", 3, 1), ("b", 4, 1), ("c", 5, 1)], 5);
        reflector.expired();
        assert_eq!(reflector.resume_from(), 0);
        reflector.opened();
        reflector.on(put("b", 4, 1)).unwrap();
        reflector.on(put("c", 9, 2)).unwrap();
        let changes = reflector.on(Event::Synced { revision: 10 }).unwrap();
        assert_eq!(names(&changes), ["-a", "~c"]);
    }

    #[test]
    fn a_lagging_master_does_not_turn_back_time_but_a_restored_store_does() {
        let mut reflector = synced(&[("a", 8, 1)], 8);
        for _ in 0..STALE_LISTS_MAX {
            reflector.expired();
            reflector.opened();
            let stale = reflector.on(Event::Synced { revision: 6 });
            assert_eq!(
                stale,
                Err(Stale {
                    listed: 6,
                    known: 8
                })
            );
            assert_eq!(contents(&reflector).len(), 1);
        }
        reflector.opened();
        assert_eq!(
            names(&reflector.on(Event::Synced { revision: 6 }).unwrap()),
            ["-a"]
        );
        assert_eq!(reflector.revision(), 6);
    }

    #[test]
    fn a_change_the_view_does_not_show_is_not_reported() {
        let mut reflector = synced(&[("a", 3, 1)], 5);
        assert!(reflector.on(put("a", 6, 1)).unwrap().is_empty());
        let unwanted = Event::Upsert {
            key: key("a"),
            revision: 7,
            view: None,
        };
        assert_eq!(names(&reflector.on(unwanted).unwrap()), ["-a"]);
        assert_eq!(reflector.revision(), 7);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, i32),
        Delete(u8),
        Break,
        Expire,
        Deliver(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..6, 0..3).prop_map(|(name, view)| Step::Put(name, view)),
            (0u8..6).prop_map(Step::Delete),
            Just(Step::Break),
            Just(Step::Expire),
            (1usize..8).prop_map(Step::Deliver),
        ]
    }

    proptest! {
        // However streams break, the copy ends equal to the source, and replaying the reported changes gives the copy.
        #[test]
        fn the_copy_converges_and_its_changes_add_up(steps in proptest::collection::vec(step(), 1..80)) {
            let mut source: BTreeMap<String, (i64, i32)> = BTreeMap::new();
            let mut history: Vec<Event<i32>> = vec![];
            let mut revision = 1;
            let mut reflector: Reflector<i32> = Reflector::default();
            let mut replayed: BTreeMap<String, i32> = BTreeMap::new();
            let mut stream: Vec<Event<i32>> = vec![];
            let mut cursor = 0;
            let open = |reflector: &mut Reflector<i32>, source: &BTreeMap<String, (i64, i32)>, history: &[Event<i32>], revision: i64| {
                let from = reflector.resume_from();
                reflector.opened();
                if from == 0 {
                    let mut events: Vec<Event<i32>> =
                        source.iter().map(|(name, (at, view))| put(name, *at, *view)).collect();
                    events.push(Event::Synced { revision });
                    (events, history.len())
                } else {
                    let start = history.iter().position(|event| match event {
                        Event::Upsert { revision, .. } | Event::Delete { revision, .. } => *revision > from,
                        _ => false,
                    });
                    (vec![], start.unwrap_or(history.len()))
                }
            };
            (stream, cursor) = { let opened = open(&mut reflector, &source, &history, revision); let _ = (&stream, cursor); opened };
            let all: Vec<Step> = steps.into_iter().chain([Step::Deliver(1_000)]).collect();
            for step in all {
                match step {
                    Step::Put(name, view) => {
                        revision += 1;
                        source.insert(name.to_string(), (revision, view));
                        history.push(put(&name.to_string(), revision, view));
                    }
                    Step::Delete(name) => {
                        if source.remove(&name.to_string()).is_some() {
                            revision += 1;
                            history.push(Event::Delete { key: key(&name.to_string()), revision });
                        }
                    }
                    Step::Break => (stream, cursor) = open(&mut reflector, &source, &history, revision),
                    Step::Expire => {
                        reflector.expired();
                        (stream, cursor) = open(&mut reflector, &source, &history, revision);
                    }
                    Step::Deliver(count) => for _ in 0..count {
                        let event = if stream.is_empty() {
                            let Some(event) = history.get(cursor) else { break };
                            cursor += 1;
                            event.clone()
                        } else {
                            stream.remove(0)
                        };
                        for change in reflector.on(event).unwrap() {
                            match change {
                                Change::Added { key, new } => prop_assert!(replayed.insert(key.name, *new).is_none()),
                                Change::Updated { key, new, .. } => prop_assert!(replayed.insert(key.name, *new).is_some()),
                                Change::Deleted { key, old } => prop_assert_eq!(replayed.remove(&key.name), Some(*old)),
                            }
                        }
                    }
                }
            }
            let copy: BTreeMap<String, i32> = contents(&reflector).into_iter().collect();
            let truth: BTreeMap<String, i32> = source.into_iter().map(|(name, (_, view))| (name, view)).collect();
            prop_assert_eq!(&copy, &truth);
            prop_assert_eq!(&copy, &replayed);
        }
    }
}

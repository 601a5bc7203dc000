//! Objects whose owners are gone go, too: in the background, before their owner (foreground), or not at all (orphaned).
//! Promise: an object is deleted only when every owner it names is known to be gone (looked up, not merely missing from a copy) or waits for it;
//! owners of kinds nobody here knows count as present. Owns the graph of who owns whom.
//! Not here: looking up, deleting (the executor's).

use std::collections::{BTreeMap, BTreeSet};

use barque_agents_client::core::reflector::Key;
use barque_agents_client::{
    KindInfo, PartialObject, Propagation, ResourceId, kind_info, resource_of_kind,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use super::action::{Action, Target, released};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// An object as far as owning is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub target: Target,
    pub owners: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    pub deleting: bool,
}

impl Item {
    pub fn of(resource: ResourceId, object: PartialObject) -> Item {
        Item {
            target: Target::of(resource, &object),
            owners: object.metadata.owner_references.unwrap_or_default(),
            finalizers: object.metadata.finalizers.unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
        }
    }

    fn holds(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|held| held == finalizer)
    }

    /// Whether the garbage collector has anything to think about.
    fn matters(&self) -> bool {
        !self.owners.is_empty() || (self.deleting && (self.holds(FOREGROUND) || self.holds(ORPHAN)))
    }

    fn without(&self, finalizer: &str) -> Action {
        let left: Vec<&String> = self
            .finalizers
            .iter()
            .filter(|held| *held != finalizer)
            .collect();
        Action::Patch {
            target: self.target.clone(),
            subresource: "",
            patch: json!({"metadata": {"finalizers": left}}),
        }
    }
}

/// An owner to be looked up before anything is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    pub uid: String,
    pub resource: ResourceId,
    pub key: Key,
}

/// What follows from a look at an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// These first; then look again.
    pub lookups: Vec<Lookup>,
    pub actions: Vec<Action>,
    /// Items (by uid) to look at because of this one.
    pub look_at: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Graph {
    items: BTreeMap<String, Item>,
    /// Owner uid → uids that name it. Invariant: exactly the owner references of `items`; no empty sets.
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// An object was seen. Answers the uids to look at.
    pub fn seen(&mut self, item: Item) -> Vec<String> {
        let uid = item.target.uid.clone();
        let before = self.items.remove(&uid);
        if let Some(before) = &before {
            self.unlink(&uid, before);
        }
        for owner in &item.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let news = before.is_none_or(|before| {
            (&before.owners, &before.finalizers, before.deleting)
                != (&item.owners, &item.finalizers, item.deleting)
        });
        let matters = news && item.matters();
        self.items.insert(uid.clone(), item);
        if matters { vec![uid] } else { vec![] }
    }

    /// An object is gone. Its dependents are to be looked at, and its owners (they may wait for it).
    pub fn gone(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.items.remove(uid) else {
            return vec![];
        };
        self.unlink(uid, &item);
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        let waiting = item.owners.iter().map(|owner| owner.uid.clone());
        let waiting =
            waiting.filter(|owner| self.items.get(owner).is_some_and(|owner| owner.deleting));
        dependents.chain(waiting.collect::<Vec<_>>()).collect()
    }

    fn unlink(&mut self, uid: &str, item: &Item) {
        for owner in &item.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    fn dependents_of<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Item> + use<'a> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|uid| self.items.get(uid))
    }

    /// Decides about one item. `absent`: owners (by uid) that were looked up and not found.
    pub fn reconcile(&self, uid: &str, absent: &BTreeSet<String>) -> Verdict {
        let Some(item) = self.items.get(uid) else {
            return Verdict::default();
        };
        if item.deleting {
            return self.leave(item);
        }
        let mut verdict = Verdict::default();
        let (mut solid, mut dangling, mut waiting) = (0, vec![], vec![]);
        for owner in &item.owners {
            match self.find_owner(item, owner) {
                Some(found) if found.deleting && found.holds(FOREGROUND) => waiting.push(owner),
                Some(_) => solid += 1,
                None if absent.contains(&owner.uid) => dangling.push(owner),
                None => match lookup(item, owner) {
                    Some(lookup) => verdict.lookups.push(lookup),
                    None => solid += 1, // a kind nobody here knows
                },
            }
        }
        if !verdict.lookups.is_empty() || (dangling.is_empty() && waiting.is_empty()) {
            return verdict;
        }
        if solid > 0 {
            // Somebody else still wants it: it only stops naming the others.
            let gone =
                |owner: &&OwnerReference| !dangling.contains(owner) && !waiting.contains(owner);
            let left: Vec<&OwnerReference> = item.owners.iter().filter(gone).collect();
            verdict.actions.push(Action::Patch {
                target: item.target.clone(),
                subresource: "",
                patch: json!({"metadata": {"ownerReferences": left}}),
            });
            return verdict;
        }
        let propagation = if item.holds(ORPHAN) {
            Propagation::Orphan
        } else if item.holds(FOREGROUND)
            || (!waiting.is_empty() && self.dependents_of(uid).next().is_some())
        {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        verdict.actions.push(Action::Delete {
            target: item.target.clone(),
            exactly: true,
            propagation: Some(propagation),
        });
        verdict
    }

    /// An item on its way out that waits for its dependents to go, or to be let go.
    fn leave(&self, item: &Item) -> Verdict {
        let uid = &item.target.uid;
        let mut verdict = Verdict::default();
        if item.holds(ORPHAN) {
            let release = |dependent: &Item| Action::Patch {
                target: dependent.target.clone(),
                subresource: "",
                patch: json!({"metadata": {"ownerReferences": released(&dependent.owners, uid)}}),
            };
            verdict.actions = self.dependents_of(uid).map(release).collect();
            verdict.actions.push(match verdict.actions.is_empty() {
                true => item.without(ORPHAN),
                false => Action::NotYet,
            });
        } else if item.holds(FOREGROUND) {
            let blocks = |dependent: &&Item| {
                let named = dependent.owners.iter().find(|owner| owner.uid == *uid);
                named.is_some_and(|owner| owner.block_owner_deletion == Some(true))
            };
            if !self.dependents_of(uid).any(|dependent| blocks(&dependent)) {
                verdict.actions.push(item.without(FOREGROUND));
            }
            verdict.look_at = self
                .dependents_of(uid)
                .map(|dependent| dependent.target.uid.clone())
                .collect();
        }
        verdict
    }

    /// The owner, if it is there and may own the item: one of another namespace may not.
    fn find_owner(&self, item: &Item, owner: &OwnerReference) -> Option<&Item> {
        let found = self.items.get(&owner.uid)?;
        let namespace = &found.target.key.namespace;
        (namespace.is_empty() || *namespace == item.target.key.namespace).then_some(found)
    }
}

fn lookup(item: &Item, owner: &OwnerReference) -> Option<Lookup> {
    let KindInfo {
        resource,
        namespaced,
        ..
    } = resource_of_kind(&owner.api_version, &owner.kind)?;
    debug_assert!(kind_info(*resource).is_some());
    let namespace = if *namespaced {
        item.target.key.namespace.as_str()
    } else {
        ""
    };
    Some(Lookup {
        uid: owner.uid.clone(),
        resource: *resource,
        key: Key::new(namespace, &owner.name),
    })
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;

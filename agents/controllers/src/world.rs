//! What the controllers know: informers of all they watch, and which change makes which item be looked at.
//! Not here: deciding, acting.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard};

use barque_agents_client::core::reflector::{Change, Key};
use barque_agents_client::core::selector::matches;
use barque_agents_client::resources::{DEPLOYMENTS, LEASES, NAMESPACES, NODES, PODS, REPLICASETS};
use barque_agents_client::{
    Client, Informer, InformerConfig, KINDS, PartialObject, ResourceId, Selectors, Store, WorkQueue,
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};

use crate::core::action::controller_of;
use crate::core::garbage::{Graph, Item as Owned};
use crate::core::namespace::NamespaceView;
use crate::core::node::NodeView;
use crate::core::pod::PodView;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Deployment(Key),
    ReplicaSet(Key),
    Node(Key),
    Namespace(Key),
    /// An object by uid.
    Garbage(String),
}

pub struct World {
    pub deployments: Store<Deployment>,
    pub sets: Store<ReplicaSet>,
    pub pods: Store<PodView>,
    pub nodes: Store<NodeView>,
    pub leases: Store<Option<Timestamp>>,
    pub namespaces: Store<NamespaceView>,
    pub graph: Arc<Mutex<Graph>>,
    pub owned: Vec<(ResourceId, Store<Owned>)>,
    /// Dropping them would stop feeding the stores.
    _informers: Vec<Box<dyn Any + Send + Sync>>,
}

/// The group of the index an object is found in: its controller's uid, or "nobody's in this namespace".
pub fn group_of(controller: Option<&OwnerReference>, namespace: &str) -> String {
    match controller {
        Some(owner) => owner.uid.clone(),
        None => orphans(namespace),
    }
}

pub fn orphans(namespace: &str) -> String {
    format!("orphans/{namespace}")
}

fn group_of_set(set: &ReplicaSet) -> Option<String> {
    Some(group_of(
        controller_of(&set.metadata),
        set.metadata.namespace.as_deref().unwrap_or_default(),
    ))
}

fn group_of_pod(pod: &PodView) -> Option<String> {
    Some(group_of(pod.controller(), &pod.key.namespace))
}

impl World {
    /// Follows everything, and waits until all copies are whole: absence means nothing before that.
    pub async fn watch(client: &Client, queue: &WorkQueue<Item>) -> World {
        let deployments = follow_deployments(client, queue);
        let sets = follow_sets(client, queue, deployments.store());
        let pods = follow_pods(client, queue, sets.store());
        let changes = queue.clone();
        let nodes = Informer::start(
            client,
            InformerConfig::all(NODES),
            None,
            |node: Node| Some(NodeView::of(node)),
            move |change: &Change<NodeView>| changes.add(Item::Node(change.key().clone())),
        );
        let leases = InformerConfig {
            resource: LEASES,
            namespace: "kube-node-lease".to_owned(),
            selectors: Selectors::all(),
        };
        let renewed = |lease: Lease| {
            Some(
                lease
                    .spec
                    .and_then(|spec| spec.renew_time)
                    .map(|time| time.0),
            )
        };
        // Looked at by period, not by change: there is one renewal per node every ten seconds.
        let leases = Informer::start(client, leases, None, renewed, |_| {});
        let changes = queue.clone();
        let namespaces = Informer::start(
            client,
            InformerConfig::all(NAMESPACES),
            None,
            |namespace: Namespace| Some(NamespaceView::of(namespace)),
            move |change: &Change<NamespaceView>| {
                if change.after().is_some_and(|namespace| namespace.is_ours()) {
                    changes.add(Item::Namespace(change.key().clone()));
                }
            },
        );
        let graph: Arc<Mutex<Graph>> = Arc::default();
        let collected: Vec<ResourceId> = KINDS
            .iter()
            .filter(|kind| kind.collected)
            .map(|kind| kind.resource)
            .collect();
        let owned: Vec<Informer<Owned>> = collected
            .iter()
            .map(|resource| follow_owned(client, queue, *resource, &graph))
            .collect();

        tokio::join!(
            deployments.synced(),
            sets.synced(),
            pods.synced(),
            nodes.synced(),
            leases.synced(),
            namespaces.synced(),
            join_all(owned.iter().map(Informer::synced)),
        );
        World {
            deployments: deployments.store(),
            sets: sets.store(),
            pods: pods.store(),
            nodes: nodes.store(),
            leases: leases.store(),
            namespaces: namespaces.store(),
            graph,
            owned: collected
                .into_iter()
                .zip(owned.iter().map(Informer::store))
                .collect(),
            _informers: vec![
                Box::new(deployments),
                Box::new(sets),
                Box::new(pods),
                Box::new(nodes),
                Box::new(leases),
                Box::new(namespaces),
                Box::new(owned),
            ],
        }
    }

    pub fn graph(&self) -> MutexGuard<'_, Graph> {
        locked(&self.graph)
    }

    /// How far the copies an item is decided on have come.
    pub fn revision(&self, item: &Item, resource: ResourceId) -> Option<i64> {
        if let Item::Garbage(_) = item {
            return self
                .owned
                .iter()
                .find(|(owned, _)| *owned == resource)
                .map(|(_, store)| store.revision());
        }
        match resource {
            DEPLOYMENTS => Some(self.deployments.revision()),
            REPLICASETS => Some(self.sets.revision()),
            PODS => Some(self.pods.revision()),
            NODES => Some(self.nodes.revision()),
            NAMESPACES => Some(self.namespaces.revision()),
            _ => None,
        }
    }
}

fn locked(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    graph
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn follow_deployments(client: &Client, queue: &WorkQueue<Item>) -> Informer<Deployment> {
    let changes = queue.clone();
    Informer::start(
        client,
        InformerConfig::all(DEPLOYMENTS),
        None,
        Some,
        move |change: &Change<Deployment>| {
            changes.add(Item::Deployment(change.key().clone()));
        },
    )
}

fn follow_sets(
    client: &Client,
    queue: &WorkQueue<Item>,
    deployments: Store<Deployment>,
) -> Informer<ReplicaSet> {
    let changes = queue.clone();
    let on_change = move |change: &Change<ReplicaSet>| {
        changes.add(Item::ReplicaSet(change.key().clone()));
        for set in change.before().into_iter().chain(change.after()) {
            let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
            match controller_of(&set.metadata) {
                Some(owner) if owner.kind == "Deployment" => {
                    changes.add(Item::Deployment(Key::new(namespace, &owner.name)));
                }
                Some(_) => {}
                None => {
                    let labels = set.metadata.labels.clone().unwrap_or_default();
                    for (key, deployment) in deployments.in_namespace(namespace) {
                        let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
                        if selects(selector, &labels) {
                            changes.add(Item::Deployment(key));
                        }
                    }
                }
            }
        }
    };
    Informer::start(
        client,
        InformerConfig::all(REPLICASETS),
        Some(group_of_set),
        Some,
        on_change,
    )
}

fn follow_pods(
    client: &Client,
    queue: &WorkQueue<Item>,
    sets: Store<ReplicaSet>,
) -> Informer<PodView> {
    let changes = queue.clone();
    let on_change = move |change: &Change<PodView>| {
        for pod in change.before().into_iter().chain(change.after()) {
            let namespace = &pod.key.namespace;
            match pod.controller() {
                Some(owner) if owner.kind == "ReplicaSet" => {
                    let key = Key::new(namespace, &owner.name);
                    // A deployment that recreates waits for the last of its old pods to be gone.
                    if change.after().is_none()
                        && let Some(set) = sets.get(&key)
                        && let Some(owner) = controller_of(&set.metadata)
                    {
                        changes.add(Item::Deployment(Key::new(namespace, &owner.name)));
                    }
                    changes.add(Item::ReplicaSet(key));
                }
                Some(_) => {}
                None => {
                    for (key, set) in sets.in_namespace(namespace) {
                        let selector = set.spec.as_ref().map(|spec| &spec.selector);
                        if selects(selector, &pod.labels) {
                            changes.add(Item::ReplicaSet(key));
                        }
                    }
                }
            }
        }
    };
    Informer::start(
        client,
        InformerConfig::all(PODS),
        Some(group_of_pod),
        |pod: Pod| Some(PodView::of(pod)),
        on_change,
    )
}

fn selects(
    selector: Option<&LabelSelector>,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    selector.is_some_and(|selector| matches(selector, labels))
}

fn follow_owned(
    client: &Client,
    queue: &WorkQueue<Item>,
    resource: ResourceId,
    graph: &Arc<Mutex<Graph>>,
) -> Informer<Owned> {
    let (changes, graph) = (queue.clone(), graph.clone());
    let on_change = move |change: &Change<Owned>| {
        let mut look_at = vec![];
        {
            let mut graph = locked(&graph);
            let before = change.before().map(|before| &before.target.uid);
            let after = change.after();
            // Deleted and made anew under one name while nobody looked: two changes in one.
            if let Some(gone) =
                before.filter(|uid| after.is_none_or(|after| after.target.uid != **uid))
            {
                look_at.extend(graph.gone(gone));
            }
            if let Some(after) = after {
                look_at.extend(graph.seen((**after).clone()));
            }
        }
        for uid in look_at {
            changes.add(Item::Garbage(uid));
        }
    };
    let project = move |object: PartialObject| Some(Owned::of(resource, object));
    Informer::start(
        client,
        InformerConfig::all(resource),
        None,
        project,
        on_change,
    )
}

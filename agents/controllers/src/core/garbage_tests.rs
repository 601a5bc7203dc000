//! Tables of garbage collection.

use barque_agents_client::resources::{DEPLOYMENTS, PODS, REPLICASETS};
use proptest::prelude::*;

use super::*;

fn owner(kind: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: kind.to_owned(),
        name: uid.to_owned(),
        uid: uid.to_owned(),
        block_owner_deletion: Some(true),
        controller: Some(true),
    }
}

fn item(resource: ResourceId, uid: &str, owners: Vec<OwnerReference>) -> Item {
    Item {
        target: Target {
            resource,
            key: Key::new("ns", uid),
            uid: uid.to_owned(),
            resource_version: "1".to_owned(),
        },
        owners,
        finalizers: vec![],
        deleting: false,
    }
}

fn deleting(item: Item, finalizer: &str) -> Item {
    Item {
        deleting: true,
        finalizers: vec![finalizer.to_owned()],
        ..item
    }
}

/// A deployment d, its set s, the set's pod p.
fn family() -> Graph {
    let mut graph = Graph::default();
    graph.seen(item(DEPLOYMENTS, "d", vec![]));
    graph.seen(item(REPLICASETS, "s", vec![owner("Deployment", "d")]));
    graph.seen(item(PODS, "p", vec![owner("ReplicaSet", "s")]));
    graph
}

fn text(verdict: &Verdict) -> Vec<String> {
    let lookups = verdict
        .lookups
        .iter()
        .map(|lookup| format!("look up {} {}", lookup.resource, lookup.key));
    let actions = verdict.actions.iter().map(|action| match action {
        Action::Delete {
            target,
            propagation,
            exactly: true,
        } => format!("delete {} {:?}", target.uid, propagation.unwrap()),
        Action::Patch { target, patch, .. } => {
            format!("patch {} {}", target.uid, patch["metadata"])
        }
        other => format!("{other:?}"),
    });
    let next = verdict.look_at.iter().map(|uid| format!("look at {uid}"));
    lookups.chain(actions).chain(next).collect()
}

fn look(graph: &Graph, uid: &str, absent: &[&str]) -> Vec<String> {
    let absent = absent.iter().map(|uid| (*uid).to_owned()).collect();
    text(&graph.reconcile(uid, &absent))
}

#[test]
fn in_the_background_dependents_follow_their_owner_once_it_is_known_to_be_gone() {
    let mut graph = family();
    assert!(look(&graph, "s", &[]).is_empty());
    assert_eq!(graph.gone("d"), ["s"]);
    assert_eq!(
        look(&graph, "s", &[]),
        ["look up replicasets.apps ns/d"].map(|text| text.replace("replicasets", "deployments"))
    );
    assert_eq!(look(&graph, "s", &["d"]), ["delete s Background"]);
    assert_eq!(graph.gone("s"), ["p"]);
    assert_eq!(look(&graph, "p", &["s"]), ["delete p Background"]);
}

#[test]
fn in_the_foreground_the_owner_waits_for_its_dependents() {
    let mut graph = family();
    let news = graph.seen(deleting(item(DEPLOYMENTS, "d", vec![]), FOREGROUND));
    assert_eq!(news, ["d"]);
    assert_eq!(look(&graph, "d", &[]), ["look at s"]);
    assert_eq!(
        look(&graph, "s", &[]),
        ["delete s Foreground"],
        "it has a dependent itself"
    );
    graph.seen(deleting(
        item(REPLICASETS, "s", vec![owner("Deployment", "d")]),
        FOREGROUND,
    ));
    assert_eq!(look(&graph, "s", &[]), ["look at p"]);
    assert_eq!(look(&graph, "p", &[]), ["delete p Background"]);
    assert_eq!(graph.gone("p"), ["s"]);
    assert_eq!(look(&graph, "s", &[]), [r#"patch s {"finalizers":[]}"#]);
    assert_eq!(graph.gone("s"), ["d"]);
    assert_eq!(look(&graph, "d", &[]), [r#"patch d {"finalizers":[]}"#]);
}

#[test]
fn orphans_are_let_go_before_the_owner_goes() {
    let mut graph = family();
    graph.seen(deleting(item(DEPLOYMENTS, "d", vec![]), ORPHAN));
    assert_eq!(
        look(&graph, "d", &[]),
        [r#"patch s {"ownerReferences":[]}"#, "NotYet"]
    );
    graph.seen(item(REPLICASETS, "s", vec![]));
    assert_eq!(look(&graph, "d", &[]), [r#"patch d {"finalizers":[]}"#]);
}

#[test]
fn what_somebody_else_still_owns_only_stops_naming_the_gone() {
    let mut graph = family();
    graph.seen(item(REPLICASETS, "s2", vec![]));
    graph.seen(item(
        PODS,
        "p",
        vec![owner("ReplicaSet", "s"), owner("ReplicaSet", "s2")],
    ));
    graph.gone("s");
    let verdict = look(&graph, "p", &["s"]);
    assert_eq!(verdict.len(), 1);
    assert!(
        verdict[0].starts_with("patch p")
            && verdict[0].contains("s2")
            && !verdict[0].contains(r#""uid":"s""#),
        "{verdict:?}"
    );
}

#[test]
fn owners_of_unknown_kinds_and_other_namespaces() {
    let mut graph = Graph::default();
    graph.seen(item(PODS, "p", vec![owner("CustomThing", "c")]));
    assert!(
        look(&graph, "p", &[]).is_empty(),
        "nobody knows whether it is gone"
    );
    let elsewhere = Item {
        target: Target {
            key: Key::new("other", "s"),
            ..item(REPLICASETS, "s", vec![]).target
        },
        ..item(REPLICASETS, "s", vec![])
    };
    graph.seen(elsewhere);
    graph.seen(item(PODS, "q", vec![owner("ReplicaSet", "s")]));
    assert_eq!(
        look(&graph, "q", &[]),
        ["look up replicasets.apps ns/s"],
        "an owner of another namespace owns nothing here"
    );
}

#[test]
fn an_object_made_after_its_owner_went_is_looked_at() {
    let mut graph = Graph::default();
    assert_eq!(
        graph.seen(item(PODS, "p", vec![owner("ReplicaSet", "gone")])),
        ["p"]
    );
    assert!(
        graph
            .seen(Item {
                target: Target {
                    resource_version: "2".to_owned(),
                    ..item(PODS, "p", vec![]).target
                },
                ..item(PODS, "p", vec![owner("ReplicaSet", "gone")])
            })
            .is_empty()
    );
}

proptest! {
    // The graph's links are exactly its items' references, whatever comes and goes.
    #[test]
    fn links_match_references(steps in proptest::collection::vec((0u8..5, proptest::collection::vec(0u8..5, 0..3), any::<bool>()), 1..60)) {
        let mut graph = Graph::default();
        for (uid, owners, gone) in steps {
            if gone {
                graph.gone(&uid.to_string());
            } else {
                let owners = owners.iter().map(|uid| owner("ReplicaSet", &uid.to_string())).collect();
                graph.seen(item(PODS, &uid.to_string(), owners));
            }
            let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (uid, item) in &graph.items {
                for owner in &item.owners {
                    expected.entry(owner.uid.clone()).or_default().insert(uid.clone());
                }
            }
            prop_assert_eq!(&graph.dependents, &expected);
        }
    }
}

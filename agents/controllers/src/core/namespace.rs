//! Emptying a namespace that is being deleted, and letting it go when it is empty.
//! Promise: the namespace goes only after a look that found nothing in it, and nothing can be created in it meanwhile (the API sees to that).

use barque_agents_client::resources::NAMESPACES;
use barque_agents_client::{PartialObject, ResourceId};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;

use super::action::{Action, Target};

/// The finalizer that is this controller's.
const FINALIZER: &str = "kubernetes";

/// A namespace as this controller sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceView {
    pub target: Target,
    pub terminating: bool,
    pub finalizers: Vec<String>,
}

impl NamespaceView {
    pub fn of(namespace: Namespace) -> NamespaceView {
        NamespaceView {
            target: Target::of(NAMESPACES, &namespace),
            terminating: namespace.metadata.deletion_timestamp.is_some(),
            finalizers: namespace
                .spec
                .and_then(|spec| spec.finalizers)
                .unwrap_or_default(),
        }
    }

    /// Whether there is anything to do.
    pub fn is_ours(&self) -> bool {
        self.terminating
            && self
                .finalizers
                .iter()
                .any(|finalizer| finalizer == FINALIZER)
    }
}

/// What a fresh list found, kinds in the order they are to be deleted (owners first, so that nothing is created anew).
pub fn reconcile(
    namespace: &NamespaceView,
    contents: &[(ResourceId, PartialObject)],
) -> Vec<Action> {
    if !namespace.is_ours() {
        return vec![];
    }
    if contents.is_empty() {
        let others: Vec<&String> = namespace
            .finalizers
            .iter()
            .filter(|finalizer| *finalizer != FINALIZER)
            .collect();
        let target = &namespace.target;
        return vec![Action::Replace {
            target: target.clone(),
            subresource: "finalize",
            object: Box::new(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": target.key.name, "uid": target.uid, "resourceVersion": target.resource_version},
                "spec": {"finalizers": others},
            })),
        }];
    }
    let waiting = |object: &PartialObject| object.metadata.deletion_timestamp.is_none();
    let delete = |(resource, object): &(ResourceId, PartialObject)| Action::Delete {
        target: Target::of(*resource, object),
        exactly: false,
        propagation: Some(barque_agents_client::Propagation::Background),
    };
    let mut actions: Vec<Action> = contents
        .iter()
        .filter(|(_, object)| waiting(object))
        .map(delete)
        .collect();
    actions.push(Action::NotYet);
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_agents_client::resources::PODS;

    fn namespace(deleting: bool) -> NamespaceView {
        let mut object = json!({"metadata": {"name": "ns", "uid": "u", "resourceVersion": "5"}, "spec": {"finalizers": ["kubernetes", "x"]}});
        if deleting {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        NamespaceView::of(serde_json::from_value(object).unwrap())
    }
    fn pod(deleting: bool) -> (ResourceId, PartialObject) {
        let mut meta = json!({"name": "p", "namespace": "ns", "uid": "p"});
        if deleting {
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        (
            PODS,
            serde_json::from_value(json!({"metadata": meta})).unwrap(),
        )
    }

    #[test]
    fn emptied_first_then_let_go() {
        assert!(reconcile(&namespace(false), &[pod(false)]).is_empty());
        let actions = reconcile(&namespace(true), &[pod(false), pod(true)]);
        assert!(matches!(
            actions.as_slice(),
            [Action::Delete { .. }, Action::NotYet]
        ));
        assert_eq!(reconcile(&namespace(true), &[pod(true)]), [Action::NotYet]);
        let actions = reconcile(&namespace(true), &[]);
        let [
            Action::Replace {
                subresource: "finalize",
                object,
                ..
            },
        ] = actions.as_slice()
        else {
            panic!("not let go: {actions:?}");
        };
        assert_eq!(object["spec"]["finalizers"], json!(["x"]));
    }
}

//! Whether a request may go on. [`authorize`] is the only door to an [`Authorized`] request.

use crate::{Attributes, Group, User, policy};

/// A request the authorizer let through. The fields are private: [`authorize`] is the only door.
#[derive(Debug)]
pub struct Authorized<R> {
    request: R,
    user: User,
}

impl<R> Authorized<R> {
    pub fn user(&self) -> &User {
        &self.user
    }
    pub fn request(&self) -> &R {
        &self.request
    }
    pub fn into_parts(self) -> (User, R) {
        (self.user, self.request)
    }
}

/// A refusal, with the words Kubernetes uses for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    /// `User "u" cannot VERB resource "r" in API group "g" …`; the Status puts the object's name before it.
    pub message: String,
}

pub fn authorize<R>(
    user: User,
    attributes: &Attributes,
    request: R,
) -> Result<Authorized<R>, Denied> {
    if user.is_in(Group::Masters) || policy::allows(&user, attributes) {
        Ok(Authorized { request, user })
    } else {
        Err(Denied {
            message: denial(&user, attributes),
        })
    }
}

fn denial(user: &User, attributes: &Attributes) -> String {
    let who = format!("User {:?} cannot {}", user.name, attributes.verb);
    if !attributes.is_resource() {
        return format!("{who} path {:?}", attributes.path);
    }
    let what = format!(
        "{who} resource {:?} in API group {:?}",
        attributes.resource_path(),
        attributes.group
    );
    if attributes.namespace.is_empty() {
        format!("{what} at the cluster scope")
    } else {
        format!("{what} in the namespace {:?}", attributes.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, group: &str) -> User {
        User::from_subject(name, vec![group.to_owned()]).unwrap()
    }
    fn asks(verb: &str, resource: &str, namespace: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            ..Attributes::default()
        }
    }
    fn allowed(user: &User, attributes: &Attributes) -> bool {
        authorize(user.clone(), attributes, ()).is_ok()
    }

    #[test]
    fn masters_may_do_everything() {
        let admin = user("admin", "system:masters");
        assert!(allowed(&admin, &asks("deletecollection", "secrets", "x")));
    }

    #[test]
    fn a_stranger_is_told_what_it_cannot_do() {
        let jane = user("jane", "devs");
        let denied = authorize(jane.clone(), &asks("list", "pods", "default"), ()).unwrap_err();
        assert_eq!(
            denied.message,
            r#"User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        let denied = authorize(jane.clone(), &asks("update", "nodes/status", ""), ()).unwrap_err();
        assert_eq!(
            denied.message,
            r#"User "jane" cannot update resource "nodes/status" in API group "" at the cluster scope"#
        );
        let path = Attributes {
            verb: "get".to_owned(),
            path: "/metrics".to_owned(),
            ..Attributes::default()
        };
        let denied = authorize(jane.clone(), &path, ()).unwrap_err();
        assert_eq!(denied.message, r#"User "jane" cannot get path "/metrics""#);
        let discovery = Attributes {
            path: "/apis/apps/v1".to_owned(),
            ..path
        };
        assert!(allowed(&jane, &discovery), "everyone may discover");
    }

    #[test]
    fn the_scheduler_binds_but_does_not_scale() {
        let scheduler = user("system:kube-scheduler", "system:anything");
        assert!(allowed(
            &scheduler,
            &asks("create", "pods/binding", "default")
        ));
        assert!(allowed(&scheduler, &asks("watch", "nodes", "")));
        let mut scale = asks("update", "deployments/scale", "default");
        scale.group = "apps".to_owned();
        assert!(!allowed(&scheduler, &scale));
    }

    #[test]
    fn a_kubelet_sees_its_own_pods_only() {
        let kubelet = user("system:node:n1", "system:nodes");
        let mut list = asks("list", "pods", "");
        assert!(!allowed(&kubelet, &list), "all pods of all nodes");
        list.field_terms = vec![("spec.nodeName".to_owned(), "n2".to_owned())];
        assert!(!allowed(&kubelet, &list), "another node's pods");
        list.field_terms = vec![("spec.nodeName".to_owned(), "n1".to_owned())];
        assert!(allowed(&kubelet, &list));
        assert!(allowed(&kubelet, &asks("patch", "pods/status", "default")));
        assert!(!allowed(
            &kubelet,
            &asks("create", "pods/binding", "default")
        ));
    }

    #[test]
    fn a_kubelet_writes_its_own_node_and_lease_only() {
        let kubelet = user("system:node:n1", "system:nodes");
        let named = |attributes: Attributes, name: &str| Attributes {
            name: name.to_owned(),
            ..attributes
        };
        assert!(allowed(
            &kubelet,
            &named(asks("patch", "nodes/status", ""), "n1")
        ));
        assert!(!allowed(
            &kubelet,
            &named(asks("patch", "nodes/status", ""), "n2")
        ));
        let mut lease = named(asks("update", "leases", "kube-node-lease"), "n1");
        lease.group = "coordination.k8s.io".to_owned();
        assert!(allowed(&kubelet, &lease));
        assert!(!allowed(&kubelet, &named(lease.clone(), "n2")));
        lease.namespace = "kube-system".to_owned();
        assert!(
            !allowed(&kubelet, &lease),
            "leader election is not a node's"
        );
    }
}

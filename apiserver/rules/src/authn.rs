//! Who is asking. An identity is the subject of a client certificate that the cluster's authority signed: the common
//! name is the user, the organizations are its groups.
//! Not here: checking the signature and the validity times; the listener has done both before a [`User`] exists.

/// The groups the fixed policies know by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// May do everything.
    Masters,
    /// Kubelets.
    Nodes,
    /// Everyone with a valid certificate.
    Authenticated,
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Group::Masters => "system:masters",
            Group::Nodes => "system:nodes",
            Group::Authenticated => "system:authenticated",
        }
    }
}

const NODE_USER_PREFIX: &str = "system:node:";

/// An authenticated requester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    /// The user a certificate subject names; `None` where it has no common name, as Kubernetes.
    pub fn from_subject(common_name: &str, organizations: Vec<String>) -> Option<User> {
        if common_name.is_empty() {
            return None;
        }
        let mut groups = organizations;
        let everyone = Group::Authenticated.name();
        if !groups.iter().any(|group| group == everyone) {
            groups.push(everyone.to_owned());
        }
        Some(User {
            name: common_name.to_owned(),
            groups,
        })
    }

    pub fn is_in(&self, group: Group) -> bool {
        self.groups.iter().any(|name| name == group.name())
    }

    /// The node this user is the kubelet of. Name and group must agree, as the Node authorizer demands.
    pub fn node_name(&self) -> Option<&str> {
        let node = self.name.strip_prefix(NODE_USER_PREFIX)?;
        (!node.is_empty() && self.is_in(Group::Nodes)).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_without_a_name_is_nobody() {
        assert_eq!(
            User::from_subject("", vec!["system:masters".to_owned()]),
            None
        );
    }

    #[test]
    fn a_node_needs_both_the_name_and_the_group() {
        let in_group = |groups: &[&str]| {
            User::from_subject(
                "system:node:n1",
                groups.iter().map(|g| (*g).to_owned()).collect(),
            )
        };
        assert_eq!(in_group(&["system:nodes"]).unwrap().node_name(), Some("n1"));
        assert_eq!(in_group(&[]).unwrap().node_name(), None);
        let other = User::from_subject("n1", vec!["system:nodes".to_owned()]).unwrap();
        assert_eq!(other.node_name(), None);
    }
}

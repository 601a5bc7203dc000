//! What a request asks for, in the words authorization speaks.

/// One request, as the authorizer sees it. A resource request names a resource; the others name a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// get, list, watch, create, update, patch, delete, deletecollection; the lower-case method for paths.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// Plural name; empty for a path request.
    pub resource: String,
    pub subresource: String,
    /// Empty for cluster-scoped resources and lists over all namespaces.
    pub namespace: String,
    /// Empty where the path names no object. A list narrowed by `metadata.name=X` names X.
    pub name: String,
    /// The whole path; only for requests that name no resource.
    pub path: String,
    /// Terms `field=value` that every answered object is certain to satisfy.
    pub field_terms: Vec<(String, String)>,
}

impl Attributes {
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// `deployments` or `deployments/scale`.
    pub fn resource_path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Whether the request changes something.
    pub fn mutates(&self) -> bool {
        !matches!(
            self.verb.as_str(),
            "get" | "list" | "watch" | "head" | "options"
        )
    }

    pub(crate) fn has_field_term(&self, field: &str, value: &str) -> bool {
        self.field_terms
            .iter()
            .any(|(f, v)| f == field && v == value)
    }
}

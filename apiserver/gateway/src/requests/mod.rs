//! What a client asked for: its path, query, headers and body turned into a [`Call`], the same for REST and gRPC.
//! Not here: whether it may (rules), what it means (pipeline).

pub mod body;
pub mod negotiate;
pub mod options;
pub mod path;
pub mod selector;

use barque_apiserver_registry::Resource;
use barque_apiserver_rules::Attributes;
use barque_apiserver_schema::Subresource;
use bytes::Bytes;

use crate::status::{About, ApiError};
use body::RequestBody;
use options::Options;
use path::ResourcePath;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
    pub fn mutates(self) -> bool {
        !matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// A request for a resource, before anything but its words was looked at.
pub struct ResourceRequest {
    pub verb: Verb,
    pub path: ResourcePath,
    pub options: Options,
    pub content_type: Option<String>,
    pub body: RequestBody,
}

impl ResourceRequest {
    /// What the authorizer judges.
    pub fn attributes(&self) -> Attributes {
        let path = &self.path;
        let terms = selector::equality_terms(&self.options.field_selector);
        let named = terms
            .iter()
            .find(|(field, _)| field == "metadata.name")
            .map(|(_, name)| name.clone());
        let name = path.name.clone().or(match self.verb {
            Verb::List | Verb::Watch | Verb::DeleteCollection => named,
            _ => None,
        });
        Attributes {
            verb: self.verb.name().to_owned(),
            group: path.group.clone(),
            version: path.version.clone(),
            resource: path.resource.clone(),
            subresource: path.subresource.clone().unwrap_or_default(),
            namespace: path.namespace.clone().unwrap_or_default(),
            name: name.unwrap_or_default(),
            path: String::new(),
            field_terms: terms,
        }
    }
}

/// A request for a resource that exists, with a verb that it knows.
pub struct Call {
    pub attributes: Attributes,
    pub verb: Verb,
    pub resource: &'static Resource,
    pub subresource: Option<&'static Subresource>,
    /// `None`: a cluster-scoped resource, or all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub options: Options,
    pub content_type: Option<String>,
    pub body: Bytes,
}

impl Call {
    /// Finds what the path names, then reads the body: bytes that nobody would look at are not waited for.
    pub async fn resolve(
        request: ResourceRequest,
        attributes: Attributes,
    ) -> Result<Call, ApiError> {
        let ResourceRequest {
            verb,
            path,
            options,
            content_type,
            body,
        } = request;
        let resource =
            barque_apiserver_registry::resource(&path.group, &path.version, &path.resource)
                .ok_or_else(ApiError::no_such_path)?;
        let kind = resource.kind;
        // A namespace object's own path looks as if it lay in itself.
        let namespace = path.namespace.filter(|_| kind.namespaced);
        if kind.namespaced && namespace.is_none() {
            let over_all = matches!(verb, Verb::List | Verb::Watch) && path.name.is_none();
            if !over_all {
                return Err(ApiError::no_such_path());
            }
        }
        let about = About::new(kind, path.name.as_deref().unwrap_or_default());
        let subresource = match &path.subresource {
            None => None,
            Some(name) => Some(
                kind.subresources
                    .iter()
                    .find(|sub| sub.name == name)
                    .ok_or_else(ApiError::no_such_path)?,
            ),
        };
        let verbs = subresource.map_or(kind.verbs, |sub| sub.verbs);
        if !verbs.contains(&verb.name()) {
            return Err(ApiError::method_not_allowed());
        }
        if verb == Verb::Create && path.name.is_some() && subresource.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        if path.name.is_none() && matches!(verb, Verb::Update | Verb::Patch) {
            return Err(ApiError::method_not_allowed());
        }
        if verb == Verb::Watch && subresource.is_some() {
            return Err(ApiError::method_not_supported(about, "watch"));
        }
        let body = if verb.mutates() {
            body.read().await?
        } else {
            Bytes::new()
        };
        Ok(Call {
            attributes,
            verb,
            resource,
            subresource,
            namespace,
            name: path.name,
            options,
            content_type,
            body,
        })
    }

    pub fn about(&self) -> About<'_> {
        About::new(self.resource.kind, self.name.as_deref().unwrap_or_default())
    }

    /// The object's name; paths without one were refused in [`Call::resolve`].
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
    pub fn subresource_name(&self) -> Option<&'static str> {
        self.subresource.map(|sub| sub.name)
    }
}

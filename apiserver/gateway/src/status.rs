//! Every refusal a client can get, as Kubernetes' `Status` object says it: clients match code, reason and text.
//! Not here: when to refuse.

use barque_apiserver_registry::FieldError;
use barque_apiserver_rules::admission::Refused;
use barque_apiserver_schema::Kind;
use serde_json::{Map, Value, json};

use crate::storage::StorageError;

/// One reason among several; a client can tell which field is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// A `Status` with `status: Failure`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Boxed: a refusal travels through every `Result` of the gateway.
    pub details: Option<Box<Details>>,
    /// Set where an expired list can go on from here, at a newer revision.
    pub continue_token: Option<String>,
}

/// What a refusal is about: `deployments.apps "web"`.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub group: &'a str,
    /// The plural; with subresource where Kubernetes names one (`pods/binding`).
    pub resource: &'a str,
    pub name: &'a str,
}

impl<'a> About<'a> {
    pub fn new(kind: &'a Kind, name: &'a str) -> Self {
        About {
            group: kind.group,
            resource: kind.plural,
            name,
        }
    }
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
    fn details(&self) -> Details {
        Details {
            name: self.name.to_owned(),
            group: self.group.to_owned(),
            kind: self.resource.to_owned(),
            ..Details::default()
        }
    }
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            code,
            reason,
            message: message.into(),
            details: None,
            continue_token: None,
        }
    }
    fn with(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    pub fn forbidden(about: About<'_>, why: &str) -> Self {
        let message = match (about.resource, about.name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", about.qualified()),
            (_, name) => format!("{} {name:?} is forbidden: {why}", about.qualified()),
        };
        Self::new(403, "Forbidden", message).with(about.details())
    }
    /// What clients print for a path nobody serves.
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with(Details::default())
    }
    pub fn not_found(about: About<'_>) -> Self {
        let message = format!("{} {:?} not found", about.qualified(), about.name);
        Self::new(404, "NotFound", message).with(about.details())
    }
    pub fn method_not_supported(about: About<'_>, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind {:?}",
            about.qualified()
        );
        Self::new(405, "MethodNotAllowed", message).with(about.details())
    }
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with(Details::default())
    }
    pub fn not_acceptable() -> Self {
        Self::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/vnd.kubernetes.protobuf",
        )
    }
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }
    pub fn already_exists(about: About<'_>) -> Self {
        let message = format!("{} {:?} already exists", about.qualified(), about.name);
        Self::new(409, "AlreadyExists", message).with(about.details())
    }
    pub fn conflict(about: About<'_>, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: {why}",
            about.qualified(),
            about.name
        );
        Self::new(409, "Conflict", message).with(about.details())
    }
    /// Somebody else wrote first.
    pub fn modified(about: About<'_>) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }
    pub fn body_too_large() -> Self {
        Self::too_large(format!(
            "Request entity too large: limit is {}",
            crate::limits::BODY_BYTES_MAX
        ))
    }
    /// `kind`: the object's kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let qualified = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let lines: Vec<&str> = errors.iter().map(|error| error.detail.as_str()).collect();
        let what = match lines.as_slice() {
            [] => String::new(),
            [one] => format!(": {one}"),
            many => format!(": [{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.reason,
                message: error
                    .detail
                    .strip_prefix(&format!("{}: ", error.field))
                    .unwrap_or(&error.detail)
                    .to_owned(),
                field: error.field.clone(),
            })
            .collect();
        Self::new(
            422,
            "Invalid",
            format!("{qualified} {name:?} is invalid{what}"),
        )
        .with(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        })
    }
    /// A JSON patch that does not fit the object.
    pub fn patch_rejected(why: &str) -> Self {
        Self::new(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
        .with(Details {
            causes: vec![Cause {
                reason: "UnexpectedServerResponse",
                message: why.to_owned(),
                field: String::new(),
            }],
            ..Details::default()
        })
    }
    pub fn too_many_requests() -> Self {
        Self::new(
            429,
            "TooManyRequests",
            "Too many requests, please try again later.",
        )
        .with(Details {
            retry_after_seconds: 1,
            ..Details::default()
        })
    }
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {why}");
        Self::new(500, "InternalError", message).with(Details {
            causes: vec![Cause {
                message: why.to_string(),
                ..Cause::default()
            }],
            ..Details::default()
        })
    }
    /// Nothing was done; asking again, here or elsewhere, is safe.
    pub fn unavailable(why: &str) -> Self {
        Self::new(503, "ServiceUnavailable", why).with(Details {
            retry_after_seconds: 1,
            ..Details::default()
        })
    }
    /// The outcome is unknown.
    pub fn timeout(why: &str) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {why}")).with(Details::default())
    }
    /// A revision this member has not seen.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        Self::new(504, "Timeout", format!("Timeout: {message}")).with(Details {
            causes: vec![Cause {
                reason: "ResourceVersionTooLarge",
                message: "Too large resource version".to_owned(),
                field: String::new(),
            }],
            retry_after_seconds: 1,
            ..Details::default()
        })
    }
    /// An admission refusal about an object.
    pub fn refused(about: About<'_>, refused: &Refused) -> Self {
        match refused {
            Refused::NamespaceMissing(namespace) => Self::not_found(About {
                group: "",
                resource: "namespaces",
                name: namespace,
            }),
            Refused::NamespaceTerminating(namespace) => {
                let mut error = Self::forbidden(about, &refused.to_string());
                if let Some(details) = &mut error.details {
                    details.causes.push(Cause {
                        reason: "NamespaceTerminating",
                        message: format!("namespace {namespace} is being terminated"),
                        field: "metadata.namespace".to_owned(),
                    });
                }
                error
            }
            Refused::Forbidden(why) => Self::forbidden(about, why),
        }
    }
    pub fn storage(error: &StorageError) -> Self {
        match error {
            StorageError::Compacted { asked, oldest } => Self::too_old(asked.0, oldest.0),
            StorageError::FutureRevision { asked, current } => {
                Self::too_large_resource_version(asked.0, current.0)
            }
            StorageError::Overloaded => Self::too_many_requests(),
            StorageError::NotDone(why) => Self::unavailable(why),
            StorageError::OutcomeUnknown(why) => Self::timeout(why),
            StorageError::Corrupt(_) | StorageError::Refused(_) => Self::internal(error),
        }
    }

    pub fn retry_after_seconds(&self) -> Option<u32> {
        let seconds = self.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then_some(seconds)
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".to_owned(), token.as_str().into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status["code"] = self.code.into();
        status
    }
}

impl Details {
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                out.insert(key.to_owned(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            out.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            out.insert(
                "retryAfterSeconds".to_owned(),
                self.retry_after_seconds.into(),
            );
        }
        Value::Object(out)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in [
            ("reason", self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ] {
            if !text.is_empty() {
                out.insert(key.to_owned(), text.into());
            }
        }
        Value::Object(out)
    }
}

/// The `Status` of a deletion that is complete, or of a binding.
pub fn success(details: Option<&Details>, code: Option<u16>) -> Value {
    let mut status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        status["details"] = details.to_value();
    }
    if let Some(code) = code {
        status["code"] = code.into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: About<'static> = About {
        group: "apps",
        resource: "deployments",
        name: "web",
    };

    #[test]
    fn texts_are_kubernetes_own() {
        assert_eq!(
            ApiError::modified(WEB).message,
            "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your changes to the latest version and try again"
        );
        assert_eq!(
            ApiError::not_found(WEB).to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "deployments.apps \"web\" not found", "reason": "NotFound",
            "details": {"name": "web", "group": "apps", "kind": "deployments"}, "code": 404})
        );
    }

    #[test]
    fn several_field_errors_stand_in_brackets() {
        let error = |field: &str| FieldError {
            field: field.to_owned(),
            reason: "FieldValueRequired",
            detail: format!("{field}: Required value"),
        };
        let status = ApiError::invalid(
            "apps",
            "Deployment",
            "web",
            &[error("spec.selector"), error("spec.template")],
        );
        assert_eq!(
            status.message,
            "Deployment.apps \"web\" is invalid: [spec.selector: Required value, spec.template: Required value]"
        );
        let causes = status.details.unwrap().causes;
        assert_eq!(causes[0].message, "Required value");
        assert_eq!(causes[1].field, "spec.template");
    }
}

//! The options of a request: what Kubernetes calls List-, Get-, Create-, Update-, Patch- and DeleteOptions, from the query.

use std::time::Duration;

use barque_apiserver_registry::FieldError;

use crate::status::ApiError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionMatch {
    #[default]
    Unset,
    NotOlderThan,
    Exact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// What a Table row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub label_selector: String,
    pub field_selector: String,
    pub watch: bool,
    pub allow_watch_bookmarks: bool,
    pub send_initial_events: Option<bool>,
    /// As the client wrote it; "" is not set.
    pub resource_version: String,
    pub version_match: VersionMatch,
    pub timeout: Option<Duration>,
    /// 0: none.
    pub limit: u64,
    pub continue_token: String,
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    pub include_object: IncludeObject,
    pub grace_period_seconds: Option<i64>,
    pub propagation_policy: Option<String>,
    pub orphan_dependents: Option<bool>,
}

impl Options {
    pub fn from_query(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let mut options = Options::default();
        for (key, value) in pairs {
            match key.as_str() {
                "labelSelector" => options.label_selector.clone_from(value),
                "fieldSelector" => options.field_selector.clone_from(value),
                "watch" => options.watch = boolean(value),
                "allowWatchBookmarks" => options.allow_watch_bookmarks = boolean(value),
                "sendInitialEvents" => options.send_initial_events = Some(boolean(value)),
                "resourceVersion" => options.resource_version.clone_from(value),
                "resourceVersionMatch" => options.version_match = version_match(value)?,
                "timeoutSeconds" => {
                    let seconds = u64::try_from(integer(value)?).unwrap_or(0);
                    options.timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
                }
                "limit" => options.limit = u64::try_from(integer(value)?).unwrap_or(0),
                "continue" => options.continue_token.clone_from(value),
                "dryRun" => options.dry_run = dry_run(value)?,
                "fieldValidation" => options.field_validation = field_validation(value)?,
                "includeObject" => options.include_object = include_object(value)?,
                "gracePeriodSeconds" => options.grace_period_seconds = Some(integer(value)?),
                "propagationPolicy" => options.propagation_policy = Some(value.clone()),
                "orphanDependents" => options.orphan_dependents = Some(boolean(value)),
                _ => {}
            }
        }
        Ok(options)
    }

    /// The resourceVersion as a number; 0 and unset are both 0.
    pub fn revision(&self) -> Result<u64, ApiError> {
        if self.resource_version.is_empty() {
            return Ok(0);
        }
        self.resource_version
            .parse()
            .map_err(|_| bad_resource_version(&self.resource_version))
    }

    /// The rules on resourceVersionMatch and sendInitialEvents; each is a 422 of its own kind of options.
    pub fn check_version_match(&self) -> Result<(), ApiError> {
        let mut errors = Vec::new();
        let mut forbid = |field: &str, why: &str| {
            errors.push(field_error(field, "FieldValueForbidden", "Forbidden", why))
        };
        if self.send_initial_events.is_some() {
            if !self.watch {
                forbid(
                    "sendInitialEvents",
                    "sendInitialEvents is forbidden for list",
                );
            } else if self.version_match != VersionMatch::NotOlderThan {
                forbid(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
        } else if self.version_match != VersionMatch::Unset {
            if self.watch {
                forbid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if self.resource_version.is_empty() {
                forbid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if !self.continue_token.is_empty() {
                forbid(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if self.version_match == VersionMatch::Exact && self.resource_version == "0" {
                forbid(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors))
        }
    }
}

pub fn bad_resource_version(text: &str) -> ApiError {
    ApiError::bad_request(format!(
        "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
    ))
}

/// Any value but `0` and `false` is true, as in kube-apiserver (`watch`, `watch=`, `watch=True`).
fn boolean(text: &str) -> bool {
    !(text == "0" || text.eq_ignore_ascii_case("false"))
}

fn integer(text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    })
}

fn field_error(field: &str, reason: &'static str, what: &str, why: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        reason,
        detail: format!("{field}: {what}: {why}"),
    }
}

fn not_supported(kind: &str, field: &str, value: &str, supported: &[&str]) -> ApiError {
    let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
    let error = FieldError {
        field: field.to_owned(),
        reason: "FieldValueNotSupported",
        detail: format!(
            "{field}: Unsupported value: {value:?}: supported values: {}",
            list.join(", ")
        ),
    };
    ApiError::invalid("meta.k8s.io", kind, "", &[error])
}

fn version_match(text: &str) -> Result<VersionMatch, ApiError> {
    match text {
        "" => Ok(VersionMatch::Unset),
        "NotOlderThan" => Ok(VersionMatch::NotOlderThan),
        "Exact" => Ok(VersionMatch::Exact),
        other => Err(not_supported(
            "ListOptions",
            "resourceVersionMatch",
            other,
            &["", "Exact", "NotOlderThan"],
        )),
    }
}

/// `dryRun=All`, from a query or from DeleteOptions.
pub fn dry_run(text: &str) -> Result<bool, ApiError> {
    match text {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(not_supported("CreateOptions", "dryRun", other, &["All"])),
    }
}

fn field_validation(text: &str) -> Result<FieldValidation, ApiError> {
    match text {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Ignore" => Ok(FieldValidation::Ignore),
        "Strict" => Ok(FieldValidation::Strict),
        other => Err(not_supported(
            "CreateOptions",
            "fieldValidation",
            other,
            &["Ignore", "Strict", "Warn"],
        )),
    }
}

fn include_object(text: &str) -> Result<IncludeObject, ApiError> {
    match text {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(ApiError::bad_request(format!(
            "unrecognized includeObject value: {other:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::path::query_pairs;

    fn options(query: &str) -> Result<Options, ApiError> {
        Options::from_query(&query_pairs(query))
    }

    #[test]
    fn booleans_are_generous() {
        assert!(options("watch=True").unwrap().watch);
        assert!(options("watch").unwrap().watch);
        assert!(!options("watch=0").unwrap().watch);
        assert!(!options("watch=False").unwrap().watch);
    }

    #[test]
    fn wrong_values_are_told() {
        assert_eq!(options("limit=x").unwrap_err().code, 400);
        assert_eq!(options("dryRun=Some").unwrap_err().code, 422);
        let message = options("fieldValidation=No").unwrap_err().message;
        assert!(message.contains("Unsupported value: \"No\""), "{message}");
        let mismatch = options("resourceVersionMatch=Exact").unwrap();
        assert_eq!(mismatch.check_version_match().unwrap_err().code, 422);
        assert!(
            options("resourceVersionMatch=Exact&resourceVersion=5")
                .unwrap()
                .check_version_match()
                .is_ok()
        );
        assert!(options("resourceVersion=abc").unwrap().revision().is_err());
    }
}

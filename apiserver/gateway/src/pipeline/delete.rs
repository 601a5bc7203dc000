//! delete and deletecollection: at once, or marked and left to finalizers, a kubelet's grace or a controller.

use barque_apiserver_registry::FieldError;
use barque_apiserver_rules::{User, admission};
use barque_apiserver_schema::Kind;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::answer::{Answer, Content, Item, List};
use super::read::Scope;
use super::subresources::is_gone;
use super::write::{held, last_state, uid_conflict};
use super::{Pipeline, is_namespace, metadata, time_text};
use crate::requests::Call;
use crate::requests::body;
use crate::requests::options;
use crate::status::{self, About, ApiError, Details};
use crate::storage::{Change, Current, Modified, versions};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Kinds whose deletion answers with the object instead of a Status, as in kube-apiserver.
const ANSWERED_WITH_OBJECT: &[&str] = &[
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "Service",
    "ServiceAccount",
];

/// What happens to dependents; the garbage collector acts on the finalizer this leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    /// Finalizers stay as they are.
    Unset,
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, Debug)]
struct DeleteOptions {
    grace_seconds: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    propagation: Propagation,
    /// The old `orphanDependents: false`: answered with 202 where the object stays for a while.
    waits_for_dependents: bool,
    dry_run: bool,
}

impl DeleteOptions {
    /// From the body, or where it has none from the query.
    fn of(call: &Call) -> Result<Self, ApiError> {
        let body = body::decode_delete_options(call.content_type.as_deref(), &call.body)?;
        let text = |pointer: &str| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let query = &call.options;
        let mut dry_run = query.dry_run;
        for wanted in body
            .get("dryRun")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            dry_run |= options::dry_run(wanted.as_str().unwrap_or_default())?;
        }
        let policy = text("/propagationPolicy").or(query.propagation_policy.clone());
        let orphan = body
            .get("orphanDependents")
            .and_then(Value::as_bool)
            .or(query.orphan_dependents);
        let grace_seconds = body
            .get("gracePeriodSeconds")
            .and_then(Value::as_i64)
            .or(query.grace_period_seconds);
        Ok(DeleteOptions {
            grace_seconds,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation: propagation(policy.as_deref(), orphan)?,
            waits_for_dependents: orphan == Some(false),
            dry_run,
        })
    }
}

fn propagation(policy: Option<&str>, orphan: Option<bool>) -> Result<Propagation, ApiError> {
    let invalid = |detail: String, reason| {
        let error = FieldError {
            field: "propagationPolicy".to_owned(),
            reason,
            detail: format!("propagationPolicy: {detail}"),
        };
        ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error])
    };
    match (policy, orphan) {
        (Some(policy), Some(_)) => Err(invalid(
            format!(
                "Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set"
            ),
            "FieldValueInvalid",
        )),
        (None, None) => Ok(Propagation::Unset),
        (None, Some(true)) | (Some("Orphan"), None) => Ok(Propagation::Orphan),
        (None, Some(false)) | (Some("Background"), None) => Ok(Propagation::Background),
        (Some("Foreground"), None) => Ok(Propagation::Foreground),
        (Some(other), None) => Err(invalid(
            format!(
                "Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            ),
            "FieldValueNotSupported",
        )),
    }
}

impl Pipeline {
    pub(super) async fn delete(&self, user: &User, call: &Call) -> Result<Answer, ApiError> {
        let options = DeleteOptions::of(call)?;
        let modified = self
            .delete_one(
                user,
                call,
                call.about(),
                call.namespace.as_deref(),
                &options,
            )
            .await?;
        let gone = is_gone(&modified);
        let stored = last_state(modified);
        let kind = call.resource.kind;
        let mut answer = if gone && !ANSWERED_WITH_OBJECT.contains(&kind.kind) {
            let object = versions::decode(&stored, call.resource);
            let details = deleted_details(kind, &object);
            let success = status::success(Some(&details), None);
            Answer::object(call.resource, Item::Value(success))
        } else {
            Answer::object(call.resource, Item::of(stored, call.resource))
        };
        if !gone && options.waits_for_dependents {
            answer.code = 202;
        }
        Ok(answer)
    }

    pub(super) async fn delete_collection(
        &self,
        user: &User,
        call: &Call,
    ) -> Result<Answer, ApiError> {
        let options = DeleteOptions::of(call)?;
        let list = self.list_page(call, &Scope::of(call)?).await?;
        let mut items = Vec::with_capacity(list.items.len());
        for item in list.items {
            let object = item.value();
            let about = About::new(call.resource.kind, metadata(&object, "name"));
            let namespace = Some(metadata(&object, "namespace")).filter(|name| !name.is_empty());
            match self
                .delete_one(user, call, about, namespace, &options)
                .await
            {
                Ok(modified) => items.push(Item::of(last_state(modified), call.resource)),
                // Somebody else was faster.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let list = List {
            items,
            revision: list.revision,
            continue_token: list.continue_token,
            remaining: list.remaining,
        };
        Ok(Answer {
            resource: call.resource,
            code: 200,
            warnings: Vec::new(),
            content: Content::List(list),
        })
    }

    async fn delete_one(
        &self,
        user: &User,
        call: &Call,
        about: About<'_>,
        namespace: Option<&str>,
        options: &DeleteOptions,
    ) -> Result<Modified, ApiError> {
        if is_namespace(call.resource) {
            admission::namespace_deletable(about.name)
                .map_err(|refused| ApiError::refused(about, &refused))?;
        }
        let now = (self.clock)();
        self.objects
            .modify(
                call.resource,
                about,
                namespace,
                options.dry_run,
                |current| {
                    let current = current.ok_or_else(|| ApiError::not_found(about))?;
                    admission::node_restriction(user, &call.attributes, &current.object)
                        .map_err(|refused| ApiError::refused(about, &refused))?;
                    check_preconditions(about, options, current)?;
                    decide(call, about, options, &current.object, now)
                },
            )
            .await
    }
}

fn deleted_details(kind: &Kind, object: &Value) -> Details {
    Details {
        name: metadata(object, "name").to_owned(),
        group: kind.group.to_owned(),
        kind: kind.plural.to_owned(),
        uid: metadata(object, "uid").to_owned(),
        ..Details::default()
    }
}

fn check_preconditions(
    about: About<'_>,
    options: &DeleteOptions,
    current: &Current,
) -> Result<(), ApiError> {
    let uid = metadata(&current.object, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Err(uid_conflict(about, wanted, uid));
    }
    let version = current.stored.revision().0.to_string();
    match &options.resource_version {
        Some(wanted) if *wanted != version => Err(ApiError::conflict(
            about,
            &format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
            ),
        )),
        _ => Ok(()),
    }
}

/// What a deletion does to an object as it is now.
fn decide(
    call: &Call,
    about: About<'_>,
    options: &DeleteOptions,
    object: &Value,
    now: Timestamp,
) -> Result<Change, ApiError> {
    let mut new = object.clone();
    set_propagation(&mut new, options.propagation);
    let grace = call
        .resource
        .strategy
        .delete_grace(object, options.grace_seconds)
        .max(0);
    let held = held(call.resource, &new);
    if metadata(object, "deletionTimestamp").is_empty() {
        if grace == 0 && !held {
            return Ok(Change::Delete);
        }
        mark(&mut new, now, grace);
        if is_namespace(call.resource) {
            new["status"]["phase"] = "Terminating".into();
        }
        return Ok(Change::Put(new));
    }
    // Already on its way: a second deletion can only make it sooner.
    let current_grace = object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if options.grace_seconds.is_some() && grace < current_grace {
        if grace == 0 && !held {
            return Ok(Change::Delete);
        }
        sooner(&mut new, current_grace, grace);
        return Ok(Change::Put(new));
    }
    if current_grace == 0 && !held {
        return Ok(Change::Delete);
    }
    if is_namespace(call.resource) {
        return Err(ApiError::conflict(
            about,
            "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace will automatically be purged by the system.",
        ));
    }
    Ok(Change::Put(new))
}

fn metadata_of(object: &mut Value) -> &mut Map<String, Value> {
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata
        .as_object_mut()
        .expect("metadata was made an object above")
}

/// Sets the end of an object; it is a change of what is wanted, so the generation moves where there is one.
fn mark(object: &mut Value, now: Timestamp, grace: i64) {
    let metadata = metadata_of(object);
    let end = now + SignedDuration::from_secs(grace);
    metadata.insert("deletionTimestamp".to_owned(), time_text(end).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    let generation = metadata
        .get("generation")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if generation > 0 {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
}

/// Moves the end of an object forward.
fn sooner(object: &mut Value, from: i64, to: i64) {
    let metadata = metadata_of(object);
    let end = metadata
        .get("deletionTimestamp")
        .and_then(Value::as_str)
        .and_then(|text| text.parse::<Timestamp>().ok());
    if let Some(end) = end {
        let end = end + SignedDuration::from_secs(to - from);
        metadata.insert("deletionTimestamp".to_owned(), time_text(end).into());
    }
    metadata.insert("deletionGracePeriodSeconds".to_owned(), to.into());
}

fn set_propagation(object: &mut Value, propagation: Propagation) {
    if propagation == Propagation::Unset {
        return;
    }
    let mut finalizers = admission::finalizers(object);
    finalizers.retain(|name| name != FOREGROUND && name != ORPHAN);
    match propagation {
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
        Propagation::Background | Propagation::Unset => {}
    }
    let metadata = metadata_of(object);
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn propagation_leaves_its_finalizer() {
        let mut object = json!({"metadata": {"finalizers": ["mine", "orphan"]}});
        set_propagation(&mut object, Propagation::Foreground);
        assert_eq!(
            object["metadata"]["finalizers"],
            json!(["mine", "foregroundDeletion"])
        );
        set_propagation(&mut object, Propagation::Background);
        assert_eq!(object["metadata"]["finalizers"], json!(["mine"]));
        let mut bare = json!({"metadata": {"finalizers": ["orphan"]}});
        set_propagation(&mut bare, Propagation::Background);
        assert_eq!(bare, json!({"metadata": {}}));
        assert_eq!(
            propagation(Some("Orphan"), Some(true)).unwrap_err().code,
            422
        );
        assert_eq!(propagation(Some("Sideways"), None).unwrap_err().code, 422);
    }

    #[test]
    fn the_end_moves_only_forward() {
        let mut pod = json!({"metadata": {"generation": 2}});
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        mark(&mut pod, now, 30);
        assert_eq!(
            pod["metadata"],
            json!({"generation": 3, "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30})
        );
        sooner(&mut pod, 30, 5);
        assert_eq!(pod["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
    }
}

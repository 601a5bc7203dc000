//! create, update and patch: admission, validation, registry, storage, in this order, repeated when somebody else
//! wrote first.

use barque_apiserver_registry::{FieldError, Resource};
use barque_apiserver_rules::{User, admission};
use barque_apiserver_schema as schema;
use serde_json::Value;

use super::answer::{Answer, Item};
use super::read::object_revision;
use super::{Pipeline, check, is_namespace, metadata};
use crate::limits::GENERATE_NAME_ATTEMPTS_MAX;
use crate::patch::{ParsedPatch, PatchType};
use crate::requests::Call;
use crate::requests::body::{self, Decoded};
use crate::status::{About, ApiError};
use crate::storage::object::Stored;
use crate::storage::{Change, Current, Modified};

impl Pipeline {
    pub(super) async fn create(&self, user: &User, call: &Call) -> Result<Answer, ApiError> {
        let kind = call.resource.kind;
        let Decoded { object, warnings } = body::decode(
            kind,
            call.content_type.as_deref(),
            &call.body,
            call.options.field_validation,
        )?;
        let stored = self.create_object(user, call, object).await?;
        Ok(
            Answer::object(call.resource, Item::of(stored, call.resource))
                .created()
                .with_warnings(warnings),
        )
    }

    async fn create_object(
        &self,
        user: &User,
        call: &Call,
        mut object: Value,
    ) -> Result<Stored, ApiError> {
        let kind = call.resource.kind;
        same_namespace(call, &object)?;
        let named = !metadata(&object, "name").is_empty();
        if !named && metadata(&object, "generateName").is_empty() {
            let error = FieldError {
                field: "metadata.name".to_owned(),
                reason: "FieldValueRequired",
                detail: "metadata.name: Required value: name or generateName is required"
                    .to_owned(),
            };
            return Err(ApiError::invalid(kind.group, kind.kind, "", &[error]));
        }
        if !metadata(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        schema::apply_defaults(kind, &mut object);
        call.resource.strategy.prepare_for_create(&mut object);

        for attempt in 1.. {
            let mut object = object.clone();
            let uid = uuid::Uuid::new_v4().to_string();
            admission::stamp_new(
                &mut object,
                &admission::Identity {
                    uid: &uid,
                    now: &self.now(),
                    namespace: call.namespace.as_deref(),
                    random: rand::random(),
                },
            );
            let name = metadata(&object, "name").to_owned();
            let about = About::new(kind, &name);
            admission::node_restriction(user, &call.attributes, &object)
                .map_err(|refused| ApiError::refused(about, &refused))?;
            check(kind, &name, &call.resource.strategy.validate(&object))?;
            let alive = |namespace: Option<&Value>| {
                let wanted = call.namespace.as_deref().unwrap_or_default();
                admission::namespace_alive(wanted, namespace)
                    .map_err(|refused| ApiError::refused(about, &refused))
            };
            let created = self
                .objects
                .create(
                    call.resource,
                    about,
                    call.namespace.as_deref(),
                    &object,
                    alive,
                    call.options.dry_run,
                )
                .await;
            match created {
                Err(error)
                    if !named
                        && error.reason == "AlreadyExists"
                        && attempt < GENERATE_NAME_ATTEMPTS_MAX => {}
                other => return other,
            }
        }
        unreachable!("the last attempt returns")
    }

    pub(super) async fn update(&self, user: &User, call: &Call) -> Result<Answer, ApiError> {
        let kind = call.resource.kind;
        let Decoded { object, warnings } = body::decode(
            kind,
            call.content_type.as_deref(),
            &call.body,
            call.options.field_validation,
        )?;
        same_name(call, &object)?;
        same_namespace(call, &object)?;
        let strategy = call.resource.strategy;
        let modified = self
            .objects
            .modify(
                call.resource,
                call.about(),
                call.namespace.as_deref(),
                call.options.dry_run,
                |current| {
                    let current = current.ok_or_else(|| ApiError::not_found(call.about()))?;
                    check_version(
                        call,
                        &object,
                        current,
                        strategy.allow_unconditional_update(),
                    )?;
                    changed(user, call, object.clone(), current)
                },
            )
            .await;
        match modified {
            Err(error)
                if error.code == 404
                    && call.subresource.is_none()
                    && strategy.allow_create_on_update() =>
            {
                let stored = self.create_object(user, call, object).await?;
                let item = Item::of(stored, call.resource);
                Ok(Answer::object(call.resource, item)
                    .created()
                    .with_warnings(warnings))
            }
            other => {
                let item = Item::of(last_state(other?), call.resource);
                Ok(Answer::object(call.resource, item).with_warnings(warnings))
            }
        }
    }

    pub(super) async fn patch(&self, user: &User, call: &Call) -> Result<Answer, ApiError> {
        let kind = call.resource.kind;
        let patch_type = PatchType::from_content_type(call.content_type.as_deref())?;
        let patch = ParsedPatch::parse(patch_type, &call.body)?;
        let mut warnings = Vec::new();
        let modified = self
            .objects
            .modify(
                call.resource,
                call.about(),
                call.namespace.as_deref(),
                call.options.dry_run,
                |current| {
                    let current = current.ok_or_else(|| ApiError::not_found(call.about()))?;
                    let patched = patch.apply(Some(kind), &current.object)?;
                    same_kind(call, &patched)?;
                    same_name(call, &patched)?;
                    same_namespace(call, &patched)?;
                    let raw = serde_json::to_vec(&patched).map_err(ApiError::internal)?;
                    let refuse = |why: &str| {
                        let shown = String::from_utf8_lossy(&call.body);
                        let error = FieldError {
                            field: "patch".to_owned(),
                            reason: "FieldValueInvalid",
                            detail: format!("patch: Invalid value: {:?}: {why}", shown),
                        };
                        ApiError::invalid("", "", "", &[error])
                    };
                    let accepted =
                        body::accept(kind, patched, &raw, call.options.field_validation, refuse)?;
                    warnings = accepted.warnings;
                    // A patch that names no version is for whatever is there.
                    check_version(call, &accepted.object, current, true)?;
                    changed(user, call, accepted.object, current)
                },
            )
            .await?;
        let item = Item::of(last_state(modified), call.resource);
        Ok(Answer::object(call.resource, item).with_warnings(warnings))
    }
}

/// The new state of an object that is updated, through the object itself or its status.
fn changed(
    user: &User,
    call: &Call,
    mut new: Value,
    current: &Current,
) -> Result<Change, ApiError> {
    let old = &current.object;
    let kind = call.resource.kind;
    let strategy = call.resource.strategy;
    admission::node_restriction(user, &call.attributes, old)
        .map_err(|refused| ApiError::refused(call.about(), &refused))?;
    admission::keep_identity(&mut new, old);
    schema::apply_defaults(kind, &mut new);
    let errors = if call.subresource.is_some() {
        strategy.prepare_for_status_update(&mut new, old);
        strategy.validate_status_update(&new, old)
    } else {
        strategy.prepare_for_update(&mut new, old);
        let mut errors = finalizer_errors(&new, old);
        errors.extend(strategy.validate_update(&new, old));
        errors
    };
    check(kind, call.name(), &errors)?;
    Ok(put_or_finish(call.resource, new))
}

fn finalizer_errors(new: &Value, old: &Value) -> Vec<FieldError> {
    let added = admission::finalizers_added_while_deleting(new, old);
    if added.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
    vec![FieldError {
        field: "metadata.finalizers".to_owned(),
        reason: "FieldValueForbidden",
        detail: format!(
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        ),
    }]
}

/// An object that waits for its end and that nothing holds any more is removed by the update that let go of it.
pub(super) fn put_or_finish(resource: &Resource, new: Value) -> Change {
    let deleting = !metadata(&new, "deletionTimestamp").is_empty();
    let grace = new
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if deleting && grace == 0 && !held(resource, &new) {
        Change::Delete
    } else {
        Change::Put(new)
    }
}

/// Finalizers keep an object; a namespace has some of its own in spec.
pub(super) fn held(resource: &Resource, object: &Value) -> bool {
    let namespace_finalizers = object
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    !admission::finalizers(object).is_empty() || (is_namespace(resource) && namespace_finalizers)
}

/// The resourceVersion and uid a client decided on must still be the object's.
pub(super) fn check_version(
    call: &Call,
    object: &Value,
    current: &Current,
    unconditional: bool,
) -> Result<(), ApiError> {
    let uid = metadata(object, "uid");
    let current_uid = metadata(&current.object, "uid");
    if !uid.is_empty() && uid != current_uid {
        return Err(uid_conflict(call.about(), uid, current_uid));
    }
    match object_revision(metadata(object, "resourceVersion"), call.about())? {
        Some(revision) if revision != current.stored.revision() => {
            Err(ApiError::modified(call.about()))
        }
        None if !unconditional => {
            let kind = call.resource.kind;
            let error = FieldError {
                field: "metadata.resourceVersion".to_owned(),
                reason: "FieldValueInvalid",
                detail:
                    "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
                        .to_owned(),
            };
            Err(ApiError::invalid(
                kind.group,
                kind.kind,
                call.name(),
                &[error],
            ))
        }
        _ => Ok(()),
    }
}

pub(super) fn uid_conflict(about: About<'_>, wanted: &str, found: &str) -> ApiError {
    ApiError::conflict(
        about,
        &format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"),
    )
}

fn same_name(call: &Call, object: &Value) -> Result<(), ApiError> {
    let name = metadata(object, "name");
    if name == call.name() {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({})",
        call.name()
    )))
}

fn same_namespace(call: &Call, object: &Value) -> Result<(), ApiError> {
    let namespace = metadata(object, "namespace");
    if namespace.is_empty() || Some(namespace) == call.namespace.as_deref() {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// A patch may not turn an object into something else.
fn same_kind(call: &Call, object: &Value) -> Result<(), ApiError> {
    let kind = call.resource.kind;
    let found = |field: &str| object.get(field).and_then(Value::as_str);
    if found("kind") == Some(kind.kind) && found("apiVersion") == Some(&kind.api_version()) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the patched object is not a {} of {} any more",
        kind.kind,
        kind.api_version()
    )))
}

pub(super) fn last_state(modified: Modified) -> Stored {
    match modified {
        Modified::Written(stored) | Modified::Deleted(stored) | Modified::Kept(stored) => stored,
    }
}

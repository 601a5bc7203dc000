//! The subresources that are not just another view of the object: scale, binding, a namespace's finalize.

use barque_apiserver_registry::{binding, scale};
use barque_apiserver_rules::{User, admission};
use barque_apiserver_schema as schema;
use jiff::Timestamp;
use serde_json::Value;

use super::answer::{Answer, Item};
use super::read::object_revision;
use super::write::{check_version, last_state, put_or_finish, uid_conflict};
use super::{Pipeline, check, metadata};
use crate::patch::{ParsedPatch, PatchType};
use crate::requests::Call;
use crate::requests::body;
use crate::status::{self, About, ApiError};
use crate::storage::{Change, Consistency, Current, Modified, keys, versions};

impl Pipeline {
    pub(super) async fn get_scale(&self, call: &Call) -> Result<Answer, ApiError> {
        let key = keys::object(call.resource, call.namespace.as_deref(), call.name());
        let stored = self
            .objects
            .get(&key, Consistency::Linearizable)
            .await?
            .ok_or_else(|| ApiError::not_found(call.about()))?;
        let object = versions::decode(&stored, call.resource);
        Ok(Answer::object(
            call.resource,
            Item::Value(scale::get(&object)),
        ))
    }

    pub(super) async fn update_scale(&self, call: &Call) -> Result<Answer, ApiError> {
        let wanted = body::decode_loose(
            "autoscaling/v1",
            "Scale",
            call.content_type.as_deref(),
            &call.body,
        )?;
        let name = metadata(&wanted, "name");
        if name != call.name() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name()
            )));
        }
        self.scale(call, |_| Ok(wanted.clone())).await
    }

    pub(super) async fn patch_scale(&self, call: &Call) -> Result<Answer, ApiError> {
        let patch_type = PatchType::from_content_type(call.content_type.as_deref())?;
        let patch = ParsedPatch::parse(patch_type, &call.body)?;
        let kind = schema::by_kind("autoscaling", "v1", "Scale");
        self.scale(call, |current| patch.apply(kind, current)).await
    }

    async fn scale(
        &self,
        call: &Call,
        wanted: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Answer, ApiError> {
        let modified = self
            .objects
            .modify(
                call.resource,
                call.about(),
                call.namespace.as_deref(),
                call.options.dry_run,
                |current| {
                    let current = current.ok_or_else(|| ApiError::not_found(call.about()))?;
                    let wanted = wanted(&scale::get(&current.object))?;
                    check_version(call, &wanted, current, true)?;
                    rescaled(call, &wanted, current)
                },
            )
            .await?;
        let object = versions::decode(&last_state(modified), call.resource);
        Ok(Answer::object(
            call.resource,
            Item::Value(scale::get(&object)),
        ))
    }

    /// Puts a pod on a node: the scheduler's one write.
    pub(super) async fn bind(&self, user: &User, call: &Call) -> Result<Answer, ApiError> {
        let wanted = body::decode_loose("v1", "Binding", call.content_type.as_deref(), &call.body)?;
        let about = About {
            group: "",
            resource: "pods/binding",
            name: call.name(),
        };
        let name = metadata(&wanted, "name");
        if !name.is_empty() && name != call.name() {
            return Err(ApiError::bad_request(
                "name in URL does not match name in Binding object",
            ));
        }
        let now = (self.clock)();
        self.objects
            .modify(
                call.resource,
                call.about(),
                call.namespace.as_deref(),
                call.options.dry_run,
                |current| {
                    let current = current.ok_or_else(|| ApiError::not_found(call.about()))?;
                    admission::node_restriction(user, &call.attributes, &current.object)
                        .map_err(|refused| ApiError::refused(about, &refused))?;
                    bound(about, &wanted, current, now)
                },
            )
            .await?;
        let success = Item::Value(status::success(None, Some(201)));
        Ok(Answer::object(call.resource, success).created())
    }

    /// The namespace controller says that everything in a namespace is gone.
    pub(super) async fn finalize(&self, call: &Call) -> Result<Answer, ApiError> {
        let decoded = body::decode(
            call.resource.kind,
            call.content_type.as_deref(),
            &call.body,
            call.options.field_validation,
        )?;
        let name = metadata(&decoded.object, "name");
        if !name.is_empty() && name != call.name() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name()
            )));
        }
        let modified = self
            .objects
            .modify(
                call.resource,
                call.about(),
                None,
                call.options.dry_run,
                |current| {
                    let current = current.ok_or_else(|| ApiError::not_found(call.about()))?;
                    check_version(call, &decoded.object, current, true)?;
                    let mut new = current.object.clone();
                    new["spec"] = decoded.object.get("spec").cloned().unwrap_or_default();
                    Ok(put_or_finish(call.resource, new))
                },
            )
            .await?;
        let item = Item::of(last_state(modified), call.resource);
        Ok(Answer::object(call.resource, item).with_warnings(decoded.warnings))
    }
}

fn rescaled(call: &Call, wanted: &Value, current: &Current) -> Result<Change, ApiError> {
    let kind = call.resource.kind;
    let strategy = call.resource.strategy;
    let mut new = current.object.clone();
    scale::apply(&mut new, wanted)
        .map_err(|error| ApiError::invalid("autoscaling", "Scale", call.name(), &[error]))?;
    strategy.prepare_for_update(&mut new, &current.object);
    check(
        kind,
        call.name(),
        &strategy.validate_update(&new, &current.object),
    )?;
    Ok(Change::Put(new))
}

fn bound(
    about: About<'_>,
    wanted: &Value,
    current: &Current,
    now: Timestamp,
) -> Result<Change, ApiError> {
    let (uid, current_uid) = (metadata(wanted, "uid"), metadata(&current.object, "uid"));
    if !uid.is_empty() && uid != current_uid {
        return Err(uid_conflict(about, uid, current_uid));
    }
    let revision = object_revision(metadata(wanted, "resourceVersion"), about)?;
    if revision.is_some_and(|revision| revision != current.stored.revision()) {
        return Err(ApiError::modified(about));
    }
    let mut pod = current.object.clone();
    binding::apply_at(&mut pod, wanted, now).map_err(|error| match error {
        binding::BindingError::Conflict(why) => ApiError::conflict(about, &why),
        binding::BindingError::Invalid(why) => ApiError::bad_request(why),
    })?;
    Ok(Change::Put(pod))
}

/// Whether a modification took the object away.
pub(super) fn is_gone(modified: &Modified) -> bool {
    matches!(modified, Modified::Deleted(_))
}

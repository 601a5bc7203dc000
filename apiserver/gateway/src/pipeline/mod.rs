//! The way of every request, REST and gRPC alike. The order is one list ([`Pipeline::handle`]):
//!
//! ```text
//! authn          who is asking; everything below may trust the name
//! flow_control   after authn, so that one user cannot spend another's share
//! authz          before decode, so that a refused body is never parsed
//! decode         the last stage that sees bytes
//! admission      on objects only: changes, then checks, so that checks see what is stored
//! validation     after admission, so that what was changed is checked too
//! registry       what create and update of this resource may touch
//! storage        one transaction, on exactly the state that was checked
//! ```
//! The last four run inside the verb's own function, because an optimistic write repeats them.

pub mod answer;
mod delete;
mod flow;
mod read;
mod subresources;
mod write;

use std::sync::Arc;

use barque_apiserver_registry::{FieldError, Resource};
use barque_apiserver_rules::{Attributes, Authorized, User, authorize};
use barque_apiserver_schema::Kind;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use crate::limits::REQUEST_TIMEOUT;
use crate::requests::{Call, ResourceRequest, Verb};
use crate::status::{About, ApiError};
use crate::storage::{Objects, Storage};
use answer::Answer;
use flow::FlowControl;
pub(crate) use flow::Permit;
pub(crate) use read::after as next_key;

/// Tells the time; tests have their own.
pub type Clock = fn() -> Timestamp;

pub struct Pipeline {
    objects: Objects,
    flow: FlowControl,
    clock: Clock,
    /// Turns true once: watches end then, so that clients go to another master.
    stopping: watch::Receiver<bool>,
}

impl Pipeline {
    pub fn new(storage: Arc<dyn Storage>, clock: Clock, stopping: watch::Receiver<bool>) -> Self {
        Pipeline {
            objects: Objects::new(storage),
            flow: FlowControl::default(),
            clock,
            stopping,
        }
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// `user`: whom the listener's certificate check found, if anybody.
    pub async fn handle(
        &self,
        user: Option<&User>,
        request: ResourceRequest,
    ) -> Result<Answer, ApiError> {
        // authn
        let user = user.ok_or_else(ApiError::unauthorized)?.clone();
        // flow control: held until the answer is ready, for a watch until it ends
        let permit = self.flow.enter(&user, request.verb)?;
        // authz
        let attributes = request.attributes();
        let authorized = authorize(user, &attributes, request)
            .map_err(|denied| forbidden(&attributes, &denied.message))?;
        let is_watch = authorized.request().verb == Verb::Watch;
        let work = self.decode_and_run(authorized, attributes);
        if is_watch {
            let mut answer = work.await?;
            answer.hold(permit);
            return Ok(answer);
        }
        tokio::time::timeout(REQUEST_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| {
                Err(ApiError::timeout(
                    "request did not complete within the allotted timeout",
                ))
            })
    }

    /// Lets a request for a path that names no resource through, or not.
    pub fn admit_path(
        &self,
        user: Option<&User>,
        verb: &str,
        path: &str,
    ) -> Result<Permit, ApiError> {
        let user = user.ok_or_else(ApiError::unauthorized)?.clone();
        let permit = self.flow.enter(&user, Verb::Get)?;
        let attributes = Attributes {
            verb: verb.to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        authorize(user, &attributes, ())
            .map_err(|denied| forbidden(&attributes, &denied.message))?;
        Ok(permit)
    }

    async fn decode_and_run(
        &self,
        authorized: Authorized<ResourceRequest>,
        attributes: Attributes,
    ) -> Result<Answer, ApiError> {
        let (user, request) = authorized.into_parts();
        let call = Call::resolve(request, attributes).await?;
        match (call.verb, call.subresource_name()) {
            (Verb::Get, None | Some("status")) => self.get(&user, &call).await,
            (Verb::Get, Some("scale")) => self.get_scale(&call).await,
            (Verb::List, _) => self.list(&call).await,
            (Verb::Watch, _) => self.watch(&call).await,
            (Verb::Create, None) => self.create(&user, &call).await,
            (Verb::Create, Some("binding")) => self.bind(&user, &call).await,
            (Verb::Update, None | Some("status")) => self.update(&user, &call).await,
            (Verb::Update, Some("scale")) => self.update_scale(&call).await,
            (Verb::Update, Some("finalize")) => self.finalize(&call).await,
            (Verb::Patch, None | Some("status")) => self.patch(&user, &call).await,
            (Verb::Patch, Some("scale")) => self.patch_scale(&call).await,
            (Verb::Delete, None) => self.delete(&user, &call).await,
            (Verb::DeleteCollection, None) => self.delete_collection(&user, &call).await,
            // The schema lists a subresource this pipeline has no code for.
            _ => Err(ApiError::no_such_path()),
        }
    }

    /// RFC 3339 in whole seconds, as Kubernetes' Time.
    fn now(&self) -> String {
        time_text((self.clock)())
    }
}

pub(crate) fn time_text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn forbidden(attributes: &Attributes, why: &str) -> ApiError {
    let about = About {
        group: &attributes.group,
        resource: &attributes.resource,
        name: &attributes.name,
    };
    ApiError::forbidden(about, why)
}

/// 422 for an object of a kind, or nothing.
fn check(kind: &Kind, name: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(kind.group, kind.kind, name, errors))
}

/// A text inside metadata, "" where it is not set.
fn metadata<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field)?.as_str())
        .unwrap_or_default()
}

fn is_namespace(resource: &Resource) -> bool {
    resource.kind.group.is_empty() && resource.kind.kind == "Namespace"
}

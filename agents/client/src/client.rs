//! The calls of the agents' protocol, typed. Promise: every call ends within its deadline; reads are repeated on another master when
//! one fails, writes are not (they may have happened), unless nothing was sent.
//! Not here: watches (`watch`), what to do about a refusal.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use barque_proto::objects as wire;
use barque_proto::objects::objects_client::ObjectsClient;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use crate::config::{ClientConfig, Timeouts};
use crate::core::reflector::Key;
use crate::endpoints::{Connection, Endpoints};
use crate::error::{Error, Verdict, judge};
use crate::limits::MESSAGE_BYTES_MAX;
use crate::resource::ResourceId;
use crate::watch::WatchStream;

/// Selectors in the API's own notation; empty selects all.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    pub labels: String,
    pub fields: String,
}

impl Selectors {
    pub fn all() -> Selectors {
        Selectors::default()
    }
    pub fn fields(fields: &str) -> Selectors {
        Selectors {
            labels: String::new(),
            fields: fields.to_owned(),
        }
    }
}

/// A list and the revision it was taken at.
#[derive(Clone, Debug)]
pub struct List<K> {
    pub revision: i64,
    pub items: Vec<K>,
}

/// What happens to the objects a deleted object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How to delete. `uid` and `resource_version` make it a conflict to hit another object, or a changed one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
}

impl DeleteOptions {
    fn to_json(&self) -> Bytes {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if self.uid.is_some() || self.resource_version.is_some() {
            let mut preconditions = json!({});
            if let Some(uid) = &self.uid {
                preconditions["uid"] = uid.as_str().into();
            }
            if let Some(version) = &self.resource_version {
                preconditions["resourceVersion"] = version.as_str().into();
            }
            options["preconditions"] = preconditions;
        }
        if let Some(seconds) = self.grace_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            options["propagationPolicy"] = format!("{propagation:?}").into();
        }
        options.to_string().into()
    }
}

/// May the call be sent again when its fate is unknown?
#[derive(Clone, Copy, PartialEq)]
enum Repeat {
    Safe,
    Never,
}

/// A client of all masters; cheap to clone, all clones share one connection.
#[derive(Clone)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    timeouts: Timeouts,
}

impl Client {
    /// Checks the configuration; connects on first use. Must run inside a tokio runtime.
    pub fn new(config: &ClientConfig) -> Result<Client, Error> {
        Ok(Client {
            endpoints: Arc::new(Endpoints::new(config)?),
            timeouts: config.timeouts.clone(),
        })
    }

    /// The same client with another deadline per call.
    pub fn with_call_timeout(&self, call: Duration) -> Client {
        let mut client = self.clone();
        client.timeouts.call = call;
        // At least two masters get their turn.
        client.timeouts.attempt = client.timeouts.attempt.min(call / 2);
        client
    }

    pub async fn get<K: DeserializeOwned>(
        &self,
        resource: ResourceId,
        namespace: &str,
        name: &str,
    ) -> Result<K, Error> {
        let request = wire::GetRequest {
            resource: resource.to_wire(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let object = self
            .call(Repeat::Safe, |mut client| {
                let request = request.clone();
                async move { client.get(request).await }
            })
            .await?;
        decode(&object.json)
    }

    /// An empty namespace lists all of them.
    pub async fn list<K: DeserializeOwned>(
        &self,
        resource: ResourceId,
        namespace: &str,
        selectors: &Selectors,
    ) -> Result<List<K>, Error> {
        let request = wire::ListRequest {
            resource: resource.to_wire(),
            namespace: namespace.to_owned(),
            label_selector: selectors.labels.clone(),
            field_selector: selectors.fields.clone(),
        };
        let list = self
            .call(Repeat::Safe, |mut client| {
                let request = request.clone();
                async move { client.list(request).await }
            })
            .await?;
        let items = list.items.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(List {
            revision: list.resource_version,
            items,
        })
    }

    pub async fn create<K: DeserializeOwned>(
        &self,
        resource: ResourceId,
        namespace: &str,
        object: &impl Serialize,
    ) -> Result<K, Error> {
        self.create_at(resource, &Key::new(namespace, ""), "", object)
            .await
    }

    /// Creates through a subresource: `pods/NAME/binding`.
    pub async fn create_sub<K: DeserializeOwned>(
        &self,
        resource: ResourceId,
        key: &Key,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<K, Error> {
        self.create_at(resource, key, subresource, object).await
    }

    async fn create_at<K: DeserializeOwned>(
        &self,
        resource: ResourceId,
        key: &Key,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<K, Error> {
        let request = wire::CreateRequest {
            resource: resource.to_wire(),
            namespace: key.namespace.clone(),
            json: encode(object)?,
            subresource: subresource.to_owned(),
            name: key.name.clone(),
        };
        let object = self
            .call(Repeat::Never, |mut client| {
                let request = request.clone();
                async move { client.create(request).await }
            })
            .await?;
        decode(&object.json)
    }

    /// Replaces the object, or only what `subresource` ("" or e.g. "status") covers. `object` carries the resourceVersion it was
    /// decided on.
    pub async fn update<K: DeserializeOwned>(
        &self,
        resource: ResourceId,
        key: &Key,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<K, Error> {
        let request = wire::UpdateRequest {
            resource: resource.to_wire(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            subresource: subresource.to_owned(),
            json: encode(object)?,
        };
        let object = self
            .call(Repeat::Never, |mut client| {
                let request = request.clone();
                async move { client.update(request).await }
            })
            .await?;
        decode(&object.json)
    }

    /// Applies a JSON merge patch (RFC 7386).
    pub async fn patch<K: DeserializeOwned>(
        &self,
        resource: ResourceId,
        key: &Key,
        subresource: &str,
        patch: &Value,
    ) -> Result<K, Error> {
        let request = wire::PatchRequest {
            resource: resource.to_wire(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            subresource: subresource.to_owned(),
            patch_type: "application/merge-patch+json".to_owned(),
            patch: encode(patch)?,
        };
        let object = self
            .call(Repeat::Never, |mut client| {
                let request = request.clone();
                async move { client.patch(request).await }
            })
            .await?;
        decode(&object.json)
    }

    /// Deletes. Answers what the API does: the object while it is still there, else a `Status`.
    pub async fn delete(
        &self,
        resource: ResourceId,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<Value, Error> {
        let request = wire::DeleteRequest {
            resource: resource.to_wire(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            options_json: options.to_json(),
        };
        let object = self
            .call(Repeat::Never, |mut client| {
                let request = request.clone();
                async move { client.delete(request).await }
            })
            .await?;
        decode(&object.json)
    }

    /// Opens a watch. From revision 0 it begins with the initial state.
    pub async fn watch(
        &self,
        resource: ResourceId,
        namespace: &str,
        selectors: &Selectors,
        revision: i64,
    ) -> Result<WatchStream, Error> {
        let request = wire::WatchRequest {
            resource: resource.to_wire(),
            namespace: namespace.to_owned(),
            label_selector: selectors.labels.clone(),
            field_selector: selectors.fields.clone(),
            resource_version: revision,
        };
        let epochs = self.endpoints.epochs();
        let connection = self.endpoints.connection().await?;
        let mut client = stub(&connection);
        let answer = timeout(self.timeouts.call, client.watch(request)).await;
        let stream = match answer {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(self.judge(&connection, &status)),
            Err(_) => return Err(self.silent(&connection, self.timeouts.call)),
        };
        Ok(WatchStream::new(
            stream,
            self.clone(),
            connection,
            epochs,
            self.timeouts.watch_idle,
        ))
    }

    async fn call<T, F, Answer>(&self, repeat: Repeat, send: F) -> Result<T, Error>
    where
        F: Fn(ObjectsClient<Channel>) -> Answer,
        Answer: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let deadline = Instant::now() + self.timeouts.call;
        // One try per master and one more: the first may have been a connection that broke while nobody looked.
        let mut tries = self.endpoints.count() + 1;
        loop {
            tries -= 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let connection = match timeout(left, self.endpoints.connection()).await {
                Ok(connection) => connection?,
                Err(_) => {
                    return Err(Error::Unreachable {
                        detail: format!("no connection within {:?}", self.timeouts.call),
                    });
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = match repeat {
                Repeat::Safe if tries > 0 => left.min(self.timeouts.attempt),
                _ => left,
            };
            let error = match timeout(patience, send(stub(&connection))).await {
                Ok(Ok(response)) => {
                    self.endpoints.worked(connection.epoch);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => self.judge(&connection, &status),
                Err(_) => self.silent(&connection, patience),
            };
            let again = repeat == Repeat::Safe && tries > 0 && Instant::now() < deadline;
            if !(again && matches!(error, Error::Lost { .. })) {
                return Err(error);
            }
        }
    }

    /// Reads a refusal; a master that failed is left.
    pub(crate) fn judge(&self, connection: &Connection, status: &tonic::Status) -> Error {
        match judge(status) {
            Verdict::Answer(api) => {
                self.endpoints.worked(connection.epoch);
                Error::Api(api)
            }
            Verdict::MasterFailed(detail) => self.lost(connection, detail),
        }
    }

    fn silent(&self, connection: &Connection, waited: Duration) -> Error {
        self.lost(connection, format!("no answer within {waited:?}"))
    }

    pub(crate) fn lost(&self, connection: &Connection, detail: String) -> Error {
        tracing::debug!(endpoint = connection.endpoint, detail, "leaving master");
        self.endpoints.failed(connection.epoch);
        Error::Lost {
            endpoint: connection.endpoint.clone(),
            detail,
        }
    }
}

fn stub(connection: &Connection) -> ObjectsClient<Channel> {
    ObjectsClient::new(connection.channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn decode<K: DeserializeOwned>(json: &Bytes) -> Result<K, Error> {
    serde_json::from_slice(json).map_err(Error::Decode)
}

fn encode(object: &impl Serialize) -> Result<Bytes, Error> {
    Ok(serde_json::to_vec(object).map_err(Error::Encode)?.into())
}

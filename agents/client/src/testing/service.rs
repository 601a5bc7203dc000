//! One master: the gRPC service over the shared map, and its faults.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use barque_proto::objects as wire;
use barque_proto::objects::objects_server::{Objects, ObjectsServer};
use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

use super::store::{Address, Cluster, Happening, Part, Refusal, merge};
use crate::client::Client;
use crate::config::{ClientConfig, Timeouts};
use crate::error::STATUS_TRAILER;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Health {
    Well,
    /// Answers nothing, keeps its connections.
    Hung,
    /// Refuses everything, as a master without quorum.
    Unready,
    Dead,
}

/// A running master. Dropping it kills it.
pub struct Master {
    address: SocketAddr,
    health: watch::Sender<Health>,
    /// Raised to break all open streams.
    breaks: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Master {
    pub async fn start(cluster: &Cluster) -> Master {
        Master::start_with(cluster, None).await
    }

    /// With `tls` as (identity, client authority), clients must show a certificate.
    pub async fn start_with(
        cluster: &Cluster,
        tls: Option<(Identity, tonic::transport::Certificate)>,
    ) -> Master {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let (health, _) = watch::channel(Health::Well);
        let (breaks, _) = watch::channel(0);
        let service = Service {
            cluster: cluster.clone(),
            health: health.subscribe(),
            breaks: breaks.subscribe(),
        };
        let mut server = Server::builder();
        if let Some((identity, authority)) = tls {
            let config = ServerTlsConfig::new()
                .identity(identity)
                .client_ca_root(authority);
            server = server.tls_config(config).expect("test certificates");
        }
        let server = server
            .add_service(ObjectsServer::new(service).max_decoding_message_size(64 << 20))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move {
            let _ = server.await;
        });
        Master {
            address,
            health,
            breaks,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends the process, as far as anybody can tell.
    pub fn kill(&self) {
        self.health.send_replace(Health::Dead);
        self.task.abort();
    }

    pub fn hang(&self) {
        self.health.send_replace(Health::Hung);
    }

    pub fn lose_quorum(&self) {
        self.health.send_replace(Health::Unready);
    }

    pub fn recover(&self) {
        self.health.send_replace(Health::Well);
    }

    pub fn break_streams(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client of these masters with deadlines short enough for tests.
pub fn connect(masters: &[&Master]) -> Client {
    let timeouts = Timeouts {
        connect: Duration::from_millis(500),
        call: Duration::from_secs(3),
        attempt: Duration::from_millis(500),
        keepalive_interval: Duration::from_millis(500),
        keepalive_timeout: Duration::from_millis(500),
        watch_idle: Duration::from_secs(30),
    };
    connect_with(
        masters.iter().map(|master| master.url()).collect(),
        timeouts,
    )
}

pub fn connect_with(endpoints: Vec<String>, timeouts: Timeouts) -> Client {
    let config = ClientConfig {
        endpoints,
        tls: None,
        user_agent: "test".to_owned(),
        timeouts,
    };
    Client::new(&config).expect("test endpoints")
}

#[derive(Clone)]
struct Service {
    cluster: Cluster,
    health: watch::Receiver<Health>,
    breaks: watch::Receiver<u64>,
}

type Answer<T> = Result<Response<T>, Status>;

fn status(refusal: Refusal) -> Status {
    let Refusal(code, reason, message) = refusal;
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
        "details": if message.contains("being terminated") { json!({"causes": [{"reason": "NamespaceTerminating"}]}) } else { json!({}) }});
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(
        STATUS_TRAILER,
        MetadataValue::from_bytes(body.to_string().as_bytes()),
    );
    let grpc = match (code, reason) {
        (404, _) => Code::NotFound,
        (409, "AlreadyExists") => Code::AlreadyExists,
        (409, _) => Code::Aborted,
        (410, _) => Code::OutOfRange,
        (403, _) => Code::PermissionDenied,
        _ => Code::InvalidArgument,
    };
    Status::with_metadata(grpc, message, metadata)
}

fn parse(json: &Bytes) -> Result<Value, Status> {
    if json.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(json)
        .map_err(|error| status(Refusal(400, "BadRequest", error.to_string())))
}

fn address(resource: &Option<wire::Resource>, namespace: &str, name: &str) -> Address {
    let resource = resource.clone().unwrap_or_default();
    (
        format!("{}/{}", resource.group, resource.resource),
        namespace.to_owned(),
        name.to_owned(),
    )
}

fn object(value: &Value) -> Answer<wire::Object> {
    Ok(Response::new(wire::Object {
        json: value.to_string().into(),
    }))
}

/// Equality terms only, which is all the agents use.
fn selected(object: &Value, labels: &str, fields: &str) -> bool {
    let terms = |text: &str| -> Vec<(String, String, bool)> {
        text.split(',')
            .filter(|term| !term.is_empty())
            .map(|term| match term.split_once("!=") {
                Some((key, value)) => (key.to_owned(), value.to_owned(), false),
                None => {
                    let (key, value) = term.split_once('=').unwrap_or((term, ""));
                    (
                        key.to_owned(),
                        value.trim_start_matches('=').to_owned(),
                        true,
                    )
                }
            })
            .collect()
    };
    let by_label = terms(labels).iter().all(|(key, value, equal)| {
        (object["metadata"]["labels"][key]
            .as_str()
            .unwrap_or_default()
            == value)
            == *equal
    });
    by_label
        && terms(fields).iter().all(|(path, value, equal)| {
            let found = path.split('.').fold(object, |at, part| &at[part]);
            (found.as_str().unwrap_or_default() == value) == *equal
        })
}

impl Service {
    async fn gate(&self) -> Result<(), Status> {
        let health = *self.health.borrow();
        match health {
            Health::Well => Ok(()),
            Health::Hung => std::future::pending().await,
            Health::Unready => Err(Status::unavailable("no quorum")),
            Health::Dead => Err(Status::unavailable("dead")),
        }
    }

    /// Loses the answer of a write that was done, when told to.
    fn answer(&self, done: Result<Value, Refusal>) -> Answer<wire::Object> {
        let value = done.map_err(status)?;
        let mut store = self.cluster.lock();
        if store.faults.lose_answers > 0 {
            store.faults.lose_answers -= 1;
            return Err(Status::unavailable("the answer got lost"));
        }
        drop(store);
        object(&value)
    }
}

#[tonic::async_trait]
impl Objects for Service {
    async fn get(&self, request: Request<wire::GetRequest>) -> Answer<wire::Object> {
        self.gate().await?;
        let request = request.into_inner();
        let address = address(&request.resource, &request.namespace, &request.name);
        let store = self.cluster.lock();
        store.check_served(&address.0).map_err(status)?;
        object(&store.find(&address).map_err(status)?)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        self.gate().await?;
        let request = request.into_inner();
        let (resource, ..) = address(&request.resource, "", "");
        let store = self.cluster.lock();
        store.check_served(&resource).map_err(status)?;
        let wanted = |(at, object): &(&Address, &Value)| {
            at.0 == resource
                && (request.namespace.is_empty() || at.1 == request.namespace)
                && selected(object, &request.label_selector, &request.field_selector)
        };
        let items = store
            .objects
            .iter()
            .filter(wanted)
            .map(|(_, object)| object.to_string().into());
        Ok(Response::new(wire::ListResponse {
            resource_version: store.revision,
            items: items.collect(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        self.gate().await?;
        let request = request.into_inner();
        let (resource, ..) = address(&request.resource, "", "");
        let mut cursor = request.resource_version;
        let mut first = vec![];
        {
            let store = self.cluster.lock();
            store.check_served(&resource).map_err(status)?;
            if cursor > 0 && cursor < store.compacted {
                return Err(status(Refusal(
                    410,
                    "Expired",
                    "too old resource version".to_owned(),
                )));
            }
            if cursor == 0 {
                for (at, object) in &store.objects {
                    if at.0 == resource
                        && (request.namespace.is_empty() || at.1 == request.namespace)
                        && selected(object, &request.label_selector, &request.field_selector)
                    {
                        first.push(event(
                            wire::watch_event::Type::Added,
                            store.revision,
                            object,
                        ));
                    }
                }
                cursor = store.revision;
                first.push(event(wire::watch_event::Type::Synced, cursor, &Value::Null));
            }
        }
        let (sender, receiver) = mpsc::channel(16);
        let mut service = self.clone();
        let mut revisions = self.cluster.revisions.subscribe();
        service.breaks.mark_unchanged();
        tokio::spawn(async move {
            let mut events = first;
            loop {
                if !events.is_empty()
                    && sender
                        .send(Ok(wire::WatchResponse { events }))
                        .await
                        .is_err()
                {
                    return;
                }
                events = {
                    let store = service.cluster.lock();
                    let news: Vec<Happening> = store
                        .history
                        .iter()
                        .filter(|happening| happening.revision > cursor)
                        .cloned()
                        .collect();
                    cursor = store.revision;
                    news.iter()
                        .filter_map(|news| translate(news, &resource, &request))
                        .collect()
                };
                if !events.is_empty() {
                    continue;
                }
                let broken = tokio::select! {
                    _ = revisions.changed() => false,
                    _ = service.breaks.changed() => true,
                    _ = service.health.wait_for(|health| *health == Health::Dead) => return,
                    () = sender.closed() => return,
                };
                if broken {
                    let _ = sender.send(Err(Status::unavailable("stream broken"))).await;
                    return;
                }
                if *service.health.borrow() == Health::Hung {
                    let _ = service
                        .health
                        .wait_for(|health| *health != Health::Hung)
                        .await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn create(&self, request: Request<wire::CreateRequest>) -> Answer<wire::Object> {
        self.gate().await?;
        let request = request.into_inner();
        let body = parse(&request.json)?;
        let at = address(&request.resource, &request.namespace, &request.name);
        let done = self.cluster.write(|store| {
            store.check_served(&at.0)?;
            match request.subresource.as_str() {
                "" => store.create(&at.0, &at.1, body),
                "binding" => store.bind(&at, &body),
                other => Err(Refusal(404, "NotFound", format!("no subresource {other}"))),
            }
        });
        self.answer(done)
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Answer<wire::Object> {
        self.gate().await?;
        let request = request.into_inner();
        let body = parse(&request.json)?;
        let at = address(&request.resource, &request.namespace, &request.name);
        let done = self.cluster.write(|store| {
            store.trip()?;
            match request.subresource.as_str() {
                "" => store.put(&at, body, Part::Main),
                "status" => store.put(&at, body, Part::Status),
                "finalize" => store.finalize(&at, &body),
                other => Err(Refusal(404, "NotFound", format!("no subresource {other}"))),
            }
        });
        self.answer(done)
    }

    async fn patch(&self, request: Request<wire::PatchRequest>) -> Answer<wire::Object> {
        self.gate().await?;
        let request = request.into_inner();
        let patch = parse(&request.patch)?;
        if request.patch_type != "application/merge-patch+json" {
            return Err(status(Refusal(
                415,
                "UnsupportedMediaType",
                request.patch_type,
            )));
        }
        let at = address(&request.resource, &request.namespace, &request.name);
        let done = self.cluster.write(|store| {
            store.trip()?;
            let mut object = store.find(&at)?;
            merge(&mut object, &patch);
            let part = if request.subresource == "status" {
                Part::Status
            } else {
                Part::Main
            };
            store.put(&at, object, part)
        });
        self.answer(done)
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Answer<wire::Object> {
        self.gate().await?;
        let request = request.into_inner();
        let options = parse(&request.options_json)?;
        let at = address(&request.resource, &request.namespace, &request.name);
        let done = self.cluster.write(|store| {
            store.trip()?;
            store.delete(&at, &options)
        });
        self.answer(done)
    }
}

fn event(kind: wire::watch_event::Type, revision: i64, object: &Value) -> wire::WatchEvent {
    wire::WatchEvent {
        r#type: kind.into(),
        resource_version: revision,
        json: match object {
            Value::Null => Bytes::new(),
            object => object.to_string().into(),
        },
    }
}

/// What a change means to a watcher with selectors.
fn translate(
    news: &Happening,
    resource: &str,
    request: &wire::WatchRequest,
) -> Option<wire::WatchEvent> {
    if news.address.0 != resource
        || !(request.namespace.is_empty() || news.address.1 == request.namespace)
    {
        return None;
    }
    let matching =
        |object: &&Value| selected(object, &request.label_selector, &request.field_selector);
    let old = news.old.as_ref().filter(matching);
    let new = news.new.as_ref().filter(matching);
    let (kind, object) = match (old, new) {
        (None, Some(new)) => (wire::watch_event::Type::Added, new),
        (Some(_), Some(new)) => (wire::watch_event::Type::Modified, new),
        (Some(old), None) => (wire::watch_event::Type::Deleted, old),
        (None, None) => return None,
    };
    Some(event(kind, news.revision, object))
}

//! The agents' service: the same requests as REST, through the same pipeline, in gRPC's words.
//! Promise: an error carries the Status object REST would have answered, in the trailer `barque-status-bin`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use barque_apiserver_rules::User;
use barque_proto::objects::objects_server::{Objects, ObjectsServer};
use barque_proto::objects::{
    CreateRequest, DeleteRequest, GetRequest, ListRequest, ListResponse, Object, PatchRequest,
    Resource, UpdateRequest, WatchEvent, WatchRequest, WatchResponse, watch_event,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use crate::limits::{AGENT_BOOKMARK_INTERVAL, BODY_BYTES_MAX};
use crate::pipeline::Pipeline;
use crate::pipeline::answer::{Answer, Content, Item};
use crate::requests::body::RequestBody;
use crate::requests::options::Options;
use crate::requests::path::ResourcePath;
use crate::requests::{ResourceRequest, Verb};
use crate::status::ApiError;
use crate::watch::{Change, ObjectEvent, ObjectWatch};

/// Trailer with the Status of a failed call.
const STATUS_TRAILER: &str = "barque-status-bin";
/// Events of one message stop here, well below the 4 MiB a gRPC client takes by default: the next event may be large.
const MESSAGE_BYTES: usize = 512 * 1024;
/// Room for the message around an object of the largest size.
const MESSAGE_OVERHEAD: usize = 64 * 1024;
/// An agent's watch lasts as long as its connection; the end is only there so that there is one.
const WATCH_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// Whom the connection's certificate names, if it is valid. The listener puts it into each request's extensions.
#[derive(Clone, Debug)]
pub struct Peer(pub Option<User>);

pub struct ObjectsService {
    pipeline: Arc<Pipeline>,
}

pub fn server(pipeline: Arc<Pipeline>) -> ObjectsServer<ObjectsService> {
    ObjectsServer::new(ObjectsService { pipeline })
        .max_decoding_message_size(BODY_BYTES_MAX + MESSAGE_OVERHEAD)
}

/// The parts a gRPC request shares with a REST one.
struct Wanted {
    verb: Verb,
    resource: Option<Resource>,
    namespace: String,
    name: String,
    subresource: String,
    options: Options,
    content_type: String,
    body: Bytes,
}

impl Wanted {
    fn new(verb: Verb, resource: Option<Resource>, namespace: String, name: String) -> Self {
        Wanted {
            verb,
            resource,
            namespace,
            name,
            subresource: String::new(),
            options: Options::default(),
            content_type: "application/json".to_owned(),
            body: Bytes::new(),
        }
    }

    fn request(self) -> ResourceRequest {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let resource = self.resource.unwrap_or_default();
        let name = some(self.name);
        // A namespace's own path names it twice, as in REST.
        let own_namespace = resource.group.is_empty() && resource.resource == "namespaces";
        let namespace = some(self.namespace).or(name.clone().filter(|_| own_namespace));
        ResourceRequest {
            verb: self.verb,
            path: ResourcePath {
                group: resource.group,
                version: resource.version,
                resource: resource.resource,
                subresource: some(self.subresource),
                namespace,
                name,
                watch: false,
            },
            options: self.options,
            content_type: Some(self.content_type),
            body: RequestBody::Bytes(self.body),
        }
    }
}

impl ObjectsService {
    async fn handle(&self, peer: Option<Peer>, wanted: Wanted) -> Result<Answer, Status> {
        let user = peer.and_then(|peer| peer.0);
        self.pipeline
            .handle(user.as_ref(), wanted.request())
            .await
            .map_err(|error| status(&error))
    }

    async fn one(&self, peer: Option<Peer>, wanted: Wanted) -> Result<Response<Object>, Status> {
        let answer = self.handle(peer, wanted).await?;
        match answer.content {
            Content::Object(item) => Ok(Response::new(Object { json: json(&item) })),
            Content::List(_) | Content::Watch(_) => {
                Err(Status::internal("the request was answered with a list"))
            }
        }
    }
}

fn json(item: &Item) -> Bytes {
    let mut bytes = Vec::new();
    item.write_json(&mut bytes);
    bytes.into()
}

fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().cloned()
}

#[tonic::async_trait]
impl Objects for ObjectsService {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Object>, Status> {
        let peer = peer(&request);
        let GetRequest {
            resource,
            namespace,
            name,
        } = request.into_inner();
        self.one(
            peer,
            Wanted::new(Verb::Get, resource, namespace, named(name)?),
        )
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let mut wanted = Wanted::new(
            Verb::List,
            request.resource,
            request.namespace,
            String::new(),
        );
        wanted.options.label_selector = request.label_selector;
        wanted.options.field_selector = request.field_selector;
        match self.handle(peer, wanted).await?.content {
            Content::List(list) => Ok(Response::new(ListResponse {
                resource_version: i64::try_from(list.revision).unwrap_or(i64::MAX),
                items: list.items.iter().map(json).collect(),
            })),
            Content::Object(_) | Content::Watch(_) => {
                Err(Status::internal("a list was not answered with one"))
            }
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let mut wanted = Wanted::new(
            Verb::Watch,
            request.resource,
            request.namespace,
            String::new(),
        );
        wanted.options.watch = true;
        wanted.options.timeout = Some(WATCH_TIMEOUT);
        wanted.options.label_selector = request.label_selector;
        wanted.options.field_selector = request.field_selector;
        if request.resource_version > 0 {
            wanted.options.resource_version = request.resource_version.to_string();
        }
        match self.handle(peer, wanted).await?.content {
            Content::Watch(mut watch) => {
                watch.set_bookmarks(AGENT_BOOKMARK_INTERVAL);
                watch.say_when_complete();
                Ok(Response::new(messages(*watch)))
            }
            Content::Object(_) | Content::List(_) => {
                Err(Status::internal("a watch was not answered with one"))
            }
        }
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Object>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let mut wanted = Wanted::new(
            Verb::Create,
            request.resource,
            request.namespace,
            request.name,
        );
        wanted.subresource = request.subresource;
        wanted.body = request.json;
        self.one(peer, wanted).await
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<Object>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let mut wanted = Wanted::new(
            Verb::Update,
            request.resource,
            request.namespace,
            named(request.name)?,
        );
        wanted.subresource = request.subresource;
        wanted.body = request.json;
        self.one(peer, wanted).await
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<Object>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let mut wanted = Wanted::new(
            Verb::Patch,
            request.resource,
            request.namespace,
            named(request.name)?,
        );
        wanted.subresource = request.subresource;
        wanted.content_type = request.patch_type;
        wanted.body = request.patch;
        self.one(peer, wanted).await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<Object>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let mut wanted = Wanted::new(
            Verb::Delete,
            request.resource,
            request.namespace,
            named(request.name)?,
        );
        wanted.body = request.options_json;
        self.one(peer, wanted).await
    }
}

/// An empty name would silently mean the whole collection.
fn named(name: String) -> Result<String, Status> {
    if name.is_empty() {
        return Err(status(&ApiError::bad_request("name must be provided")));
    }
    Ok(name)
}

/// The watch as messages; pulled, so nothing waits here for a slow agent.
fn messages(
    watch: ObjectWatch,
) -> Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>> {
    let batches = stream::unfold(watch, |mut watch| async move {
        let events = watch.next().await?;
        Some((stream::iter(batched(&events)), watch))
    });
    Box::pin(batches.flatten())
}

fn batched(events: &[ObjectEvent]) -> Vec<Result<WatchResponse, Status>> {
    let mut out = Vec::new();
    let mut message = WatchResponse::default();
    let mut bytes = 0;
    for event in events {
        match wire_event(event) {
            Ok(event) => {
                bytes += event.json.len();
                message.events.push(event);
            }
            Err(error) => {
                if !message.events.is_empty() {
                    out.push(Ok(std::mem::take(&mut message)));
                }
                out.push(Err(error));
                return out;
            }
        }
        if bytes >= MESSAGE_BYTES {
            out.push(Ok(std::mem::take(&mut message)));
            bytes = 0;
        }
    }
    if !message.events.is_empty() {
        out.push(Ok(message));
    }
    out
}

fn wire_event(event: &ObjectEvent) -> Result<WatchEvent, Status> {
    use watch_event::Type;
    let (kind, revision, json) = match event {
        ObjectEvent::Object {
            change,
            item,
            revision,
        } => {
            let kind = match change {
                Change::Added => Type::Added,
                Change::Modified => Type::Modified,
                Change::Deleted => Type::Deleted,
            };
            (kind, revision, json(item))
        }
        ObjectEvent::Bookmark {
            revision,
            initial_complete,
        } => {
            let kind = if *initial_complete {
                Type::Synced
            } else {
                Type::Bookmark
            };
            (kind, revision, Bytes::new())
        }
        ObjectEvent::Error(error) => return Err(status(error)),
    };
    Ok(WatchEvent {
        r#type: kind.into(),
        resource_version: i64::try_from(revision.0).unwrap_or(i64::MAX),
        json,
    })
}

fn status(error: &ApiError) -> Status {
    let code = match error.code {
        400 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 406 | 415 => Code::Unimplemented,
        409 if error.reason == "AlreadyExists" => Code::AlreadyExists,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, &error.message);
    let json = error.to_value().to_string();
    status
        .metadata_mut()
        .insert_bin(STATUS_TRAILER, MetadataValue::from_bytes(json.as_bytes()));
    status
}

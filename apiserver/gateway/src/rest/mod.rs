//! The REST front: an HTTP request becomes a call or a path, an answer becomes bytes.
//! Not here: sockets and certificates (listener), everything a request means (pipeline).

mod response;
mod watch_lines;

use std::sync::Arc;

use barque_apiserver_rules::User;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::discovery::Discovery;
use crate::pipeline::Pipeline;
use crate::requests::body::{BodyError, RequestBody};
use crate::requests::negotiate::Output;
use crate::requests::options::Options;
use crate::requests::path::{self, ResourcePath, Target};
use crate::requests::{ResourceRequest, Verb};
use crate::status::ApiError;

pub type Body = UnsyncBoxBody<Bytes, BodyError>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub struct Rest {
    pipeline: Arc<Pipeline>,
    discovery: Discovery,
}

impl Rest {
    pub fn new(pipeline: Arc<Pipeline>, discovery: Discovery) -> Self {
        Rest {
            pipeline,
            discovery,
        }
    }

    /// Answers one request. `user`: whom the connection's certificate names, if it is valid.
    pub async fn serve(&self, user: Option<&User>, request: Request<Body>) -> Response<Body> {
        let answer = match path::parse(request.uri().path()) {
            Target::Resource(path) => self.resource(user, path, request).await,
            Target::Path(path) => self.path(user, &path, request.into_parts().0).await,
        };
        let mut response = answer.unwrap_or_else(|error| response::failure(&error));
        let audit_id = uuid::Uuid::new_v4().to_string();
        let headers = response.headers_mut();
        if let Ok(value) = audit_id.parse() {
            headers.insert("audit-id", value);
        }
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(header::HeaderValue::from_static("no-cache, private"));
        response
    }

    async fn resource(
        &self,
        user: Option<&User>,
        path: ResourcePath,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        // Without a name nobody learns even whether the request was well formed.
        if user.is_none() {
            return Err(ApiError::unauthorized());
        }
        let (parts, body) = request.into_parts();
        let pairs = path::query_pairs(parts.uri.query().unwrap_or_default());
        let options = Options::from_query(&pairs)?;
        let output = Output::choose(text_header(&parts.headers, header::ACCEPT))?;
        let verb = verb(&parts.method, &path, &options)?;
        let include = options.include_object;
        let request = ResourceRequest {
            verb,
            path,
            options: Options {
                watch: verb == Verb::Watch,
                ..options
            },
            content_type: text_header(&parts.headers, header::CONTENT_TYPE).map(str::to_owned),
            body: RequestBody::Stream(body),
        };
        let answer = self.pipeline.handle(user, request).await?;
        response::answer(answer, output, include, self.pipeline.clock())
    }

    async fn path(
        &self,
        user: Option<&User>,
        path: &str,
        request: Parts,
    ) -> Result<Response<Body>, ApiError> {
        let verb = request.method.as_str().to_ascii_lowercase();
        let _permit = self.pipeline.admit_path(user, &verb, path)?;
        self.discovery
            .serve(path, &request, self.pipeline.objects())
            .await
    }
}

/// What a method means on a path.
fn verb(method: &Method, path: &ResourcePath, options: &Options) -> Result<Verb, ApiError> {
    let named = path.name.is_some();
    Ok(match *method {
        Method::GET | Method::HEAD
            if path.watch || (options.watch && path.subresource.is_none()) =>
        {
            Verb::Watch
        }
        Method::GET | Method::HEAD if named => Verb::Get,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if named => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return Err(ApiError::method_not_allowed()),
    })
}

pub(crate) fn text_header(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

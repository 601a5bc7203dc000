//! What is served, told to clients: discovery (per group and aggregated), OpenAPI, version, health.
//! Promise: everything comes from the schema's and the registry's tables; the documents are made once.

mod documents;
mod health;
mod openapi_v2;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, header};
use serde_json::{Value, json};

use crate::rest::{Body, full, text_header};
use crate::status::ApiError;
use crate::storage::Objects;
use documents::{Document, Documents};
pub use health::Readiness;

/// Of Kubernetes, which clients choose their behaviour by.
const MAJOR: &str = "1";
const MINOR: &str = "33";
const GIT_VERSION: &str = "v1.33.0";

pub struct Discovery {
    documents: Documents,
    readiness: Readiness,
}

impl Discovery {
    /// `address`: what clients are told the server's address is, `host:port`.
    pub fn new(address: &str, readiness: Readiness) -> Self {
        Discovery {
            documents: Documents::new(address),
            readiness,
        }
    }

    pub async fn serve(
        &self,
        path: &str,
        request: &Parts,
        objects: &Objects,
    ) -> Result<Response<Body>, ApiError> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed());
        }
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            ["version"] => Ok(json_response(&version())),
            ["healthz" | "livez" | "readyz", ..] => {
                let query = request.uri.query().unwrap_or_default();
                Ok(self.readiness.serve(&segments, query, objects).await)
            }
            ["openapi", "v2"] => {
                let accept = text_header(&request.headers, header::ACCEPT).unwrap_or_default();
                // Asked for with an `@` that no media type parser takes, and answered with a dot, as kube-apiserver does.
                Ok(if accept.contains("proto-openapi.spec.v2") {
                    typed(
                        openapi_v2::document(GIT_VERSION).into(),
                        HeaderValue::from_static(
                            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                        ),
                    )
                } else {
                    json_response(&json!({
                        "swagger": "2.0", "info": {"title": "Kubernetes", "version": GIT_VERSION}, "paths": {},
                    }))
                })
            }
            ["openapi", "v3", rest @ ..] => self
                .documents
                .openapi(&rest.join("/"))
                .map(|document| conditional(document, request))
                .ok_or_else(ApiError::no_such_path),
            _ => {
                let accept = text_header(&request.headers, header::ACCEPT).unwrap_or_default();
                self.documents
                    .discovery(&segments, accept)
                    .map(|document| conditional(document, request))
                    .ok_or_else(ApiError::no_such_path)
            }
        }
    }
}

fn version() -> Value {
    json!({
        "major": MAJOR, "minor": MINOR, "gitVersion": GIT_VERSION,
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn json_response(value: &Value) -> Response<Body> {
    typed(
        Bytes::from(value.to_string()),
        HeaderValue::from_static("application/json"),
    )
}

fn typed(body: Bytes, content_type: HeaderValue) -> Response<Body> {
    let mut response = Response::new(full(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// A document with its ETag; 304 where the client has it already.
fn conditional(document: &Document, request: &Parts) -> Response<Body> {
    let known = text_header(&request.headers, header::IF_NONE_MATCH)
        .is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == document.etag));
    let mut response = if known {
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        response
    } else {
        typed(document.body.clone(), document.content_type.clone())
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

//! The gateway without sockets: HTTP requests in, responses out, on the real state machine in memory.

mod bad_input;
mod deletion;
mod leader_loss;
mod lists;
mod objects;
mod permissions;
mod shapes;
mod watches;

use std::sync::Arc;

use barque_apiserver_rules::User;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::discovery::{Discovery, Readiness};
use crate::housekeeping;
use crate::pipeline::Pipeline;
use crate::rest::{Body, Rest, full};
use crate::storage::Storage;
use crate::storage::memory::Memory;

pub struct World<S = Memory> {
    rest: Rest,
    pub storage: Arc<S>,
    pub stop: watch::Sender<bool>,
}

pub struct Reply {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
    #[track_caller]
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
    /// The Status of a refusal: code, reason and message.
    #[track_caller]
    pub fn refused(&self, code: u16, reason: &str) -> String {
        let status = self.expect(code);
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], code);
        assert_eq!(status["reason"], reason, "{status}");
        status["message"].as_str().unwrap().to_owned()
    }
}

pub fn user(name: &str, group: &str) -> User {
    User::from_subject(name, vec![group.to_owned()]).unwrap()
}
pub fn admin() -> User {
    user("admin", "system:masters")
}

/// The time in every test.
fn clock() -> jiff::Timestamp {
    jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_800_000_000)
}

impl World {
    pub async fn new() -> World {
        Self::on(Arc::new(Memory::new())).await
    }

    /// On a storage that may misbehave.
    pub async fn on<S: Storage>(storage: Arc<S>) -> World<S> {
        let (stop, stopping) = watch::channel(false);
        let pipeline = Arc::new(Pipeline::new(storage.clone(), clock, stopping));
        housekeeping::bootstrap(&pipeline).await;
        let (_, bootstrapped) = watch::channel(true);
        let discovery = Discovery::new("127.0.0.1:6443", Readiness { bootstrapped });
        World {
            rest: Rest::new(pipeline, discovery),
            storage,
            stop,
        }
    }
}

impl<S> World<S> {
    pub async fn raw(
        &self,
        user: Option<&User>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.rest
            .serve(user, request.body(full(body)).unwrap())
            .await
    }

    pub async fn send(
        &self,
        user: Option<&User>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (parts, body) = self
            .raw(user, method, path, headers, body)
            .await
            .into_parts();
        Reply {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Some(&admin()), "GET", path, &[], "").await
    }
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Some(&admin()), "POST", path, &[], body.to_string())
            .await
    }
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Some(&admin()), "PUT", path, &[], body.to_string())
            .await
    }
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Reply {
        let content_type = format!("application/{kind}+json");
        let headers = [("content-type", content_type.as_str())];
        self.send(Some(&admin()), "PATCH", path, &headers, body.to_string())
            .await
    }
    pub async fn delete(&self, path: &str, options: &Value) -> Reply {
        self.send(Some(&admin()), "DELETE", path, &[], options.to_string())
            .await
    }
}

pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn config_map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": value}})
}
pub fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}})
}
pub fn deployment(name: &str, replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}}})
}
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

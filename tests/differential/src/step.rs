//! What is done to both sides, one after the other. Plain data: a run is a list of steps, and any part of the list is one too.

use barque_proto::etcdserverpb as pb;
use bytes::Bytes;
use prost::Message;

use crate::call::{Sent, framed, unframed};
use crate::fields::{described, fields, method, shown};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A call whose request is all said at once (unary, or a stream of requests that ends).
    Call { path: String, sent: Sent },
    /// A lease whose id the server chooses, taken back at once by the id that each side chose.
    LeaseWithChosenId { ttl: i64 },
    /// A message on one of the open watch streams, which is opened by it.
    Watch {
        stream: usize,
        request: pb::WatchRequest,
    },
    /// Ends the stream with all its watches.
    Close { stream: usize },
    /// Waits until both sides' watch answers are equal. `replay`: some watch may be reading history.
    /// `exact`: whole answers are compared, with their headers and what events they hold together; not where history races with
    /// live events.
    Settle { replay: bool, exact: bool },
}

impl Step {
    pub fn call(path: &str, request: &impl Message) -> Step {
        Step::raw(path, framed(request))
    }
    pub fn raw(path: &str, body: Bytes) -> Step {
        Step::Call {
            path: path.to_owned(),
            sent: Sent {
                metadata: Vec::new(),
                body,
            },
        }
    }
    pub fn with_metadata(mut self, name: &str, value: &[u8]) -> Step {
        if let Step::Call { sent, .. } = &mut self {
            sent.metadata.push((name.to_owned(), value.to_vec()));
        }
        self
    }
    /// The revision a compaction asks for.
    pub fn compacts(&self) -> Option<i64> {
        let Step::Call { path, sent } = self else {
            return None;
        };
        let message = unframed(sent.body.clone())?.pop()?;
        let request = pb::CompactionRequest::decode(message).ok()?;
        (path == "/etcdserverpb.KV/Compact").then_some(request.revision)
    }
    /// The method's name, or what kind of step it is.
    pub fn name(&self) -> &str {
        match self {
            Step::Call { path, .. } => path.rsplit('/').next().unwrap_or(path),
            Step::LeaseWithChosenId { .. } => "LeaseGrant",
            Step::Watch { .. } => "Watch",
            Step::Close { .. } => "Close",
            Step::Settle { .. } => "Settle",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Call { path, sent } => {
                write!(f, "{path}")?;
                match (unframed(sent.body.clone()), method(path)) {
                    (Some(messages), Some(method)) => {
                        for message in messages {
                            write!(f, " {}", described(&fields(&method.input, "", &message)))?;
                        }
                    }
                    _ => write!(f, " body {}", shown(&sent.body))?,
                }
                for (name, value) in &sent.metadata {
                    write!(f, " with {name}: {}", shown(value))?;
                }
                Ok(())
            }
            Step::LeaseWithChosenId { ttl } => {
                write!(f, "a lease of {ttl} s with a chosen id, and its end")
            }
            Step::Watch { stream, request } => {
                let input = method("/etcdserverpb.Watch/Watch").map(|m| m.input);
                let bytes = request.encode_to_vec().into();
                let told = input.map(|input| described(&fields(&input, "", &bytes)));
                write!(f, "watch stream {stream} {}", told.unwrap_or_default())
            }
            Step::Close { stream } => write!(f, "close watch stream {stream}"),
            Step::Settle { replay, exact } => {
                write!(f, "settle (replay: {replay}, exact: {exact})")
            }
        }
    }
}

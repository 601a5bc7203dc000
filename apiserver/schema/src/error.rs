//! What can be wrong with bytes or objects a client sent. Every text here may be shown to the client.

use thiserror::Error;

/// A protobuf body that is not what its envelope says.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoEnvelope,
    #[error("unable to decode protobuf body: {0}")]
    Malformed(String),
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
    #[error("content encoding or content type of the envelope is not supported: {0}")]
    Unsupported(String),
}

/// An object that has no protobuf form.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
    #[error("{path}: {problem}")]
    WrongType { path: String, problem: String },
}

/// A strategic merge patch that cannot be applied.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    #[error("{0}")]
    Invalid(String),
}

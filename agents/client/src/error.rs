//! What can go wrong with a call, as an agent needs to tell it apart.

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use thiserror::Error;
use tonic::Code;

/// The trailer that carries the `metav1.Status` JSON of a refusal.
pub(crate) const STATUS_TRAILER: &str = "barque-status-bin";

/// Why the API refused, by `Status.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotFound,
    AlreadyExists,
    Conflict,
    Expired,
    Invalid,
    Forbidden,
    Unauthorized,
    BadRequest,
    TooManyRequests,
    /// The namespace is being deleted: nothing may be created in it.
    NamespaceTerminating,
    Other,
}

/// A refusal of the API: an answer, not an accident.
#[derive(Clone, Debug, Error)]
#[error("{message} ({code} {reason_text})")]
pub struct ApiError {
    pub code: u16,
    pub reason: Reason,
    pub reason_text: String,
    pub message: String,
}

/// Why a call has no result.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No master could be reached; nothing was sent.
    #[error("no master can be reached ({detail})")]
    Unreachable { detail: String },
    /// A master was lost or did not answer in time. A write may or may not have happened.
    #[error("lost master {endpoint} in the middle of the call ({detail})")]
    Lost { endpoint: String, detail: String },
    #[error("an answer of the API cannot be read")]
    Decode(#[source] serde_json::Error),
    #[error("an object cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
}

impl Error {
    /// The API's reason, if the API answered.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Error::Api(api) => Some(api.reason),
            _ => None,
        }
    }
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }
    pub fn is_conflict(&self) -> bool {
        self.reason() == Some(Reason::Conflict)
    }
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some(Reason::AlreadyExists)
    }
    pub fn is_expired(&self) -> bool {
        self.reason() == Some(Reason::Expired)
    }
    /// Whether people should hear of it: the API refused for a reason that trying again will not cure (rights, validation), as opposed to
    /// races, restarts and lost masters, which are everyday business.
    pub fn needs_attention(&self) -> bool {
        use Reason::*;
        match self {
            Error::Api(api) => !matches!(
                api.reason,
                NotFound
                    | AlreadyExists
                    | Conflict
                    | Expired
                    | TooManyRequests
                    | NamespaceTerminating
            ),
            Error::Encode(_) | Error::Decode(_) | Error::Config(_) => true,
            Error::Unreachable { .. } | Error::Lost { .. } => false,
        }
    }
    /// Whether a write that failed so may have happened all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Error::Lost { .. } | Error::Decode(_))
    }
}

/// What a failed call says: about the request (an answer), or about the master.
pub(crate) enum Verdict {
    Answer(ApiError),
    MasterFailed(String),
}

/// Reads a gRPC status. A master without quorum answers `Unavailable` or 503/504: that is about the master.
pub(crate) fn judge(status: &tonic::Status) -> Verdict {
    if let Some(api) = trailer(status) {
        return match api.code {
            500.. => Verdict::MasterFailed(api.to_string()),
            _ => Verdict::Answer(api),
        };
    }
    let (code, reason) = match status.code() {
        Code::NotFound => (404, Reason::NotFound),
        Code::AlreadyExists => (409, Reason::AlreadyExists),
        Code::Aborted => (409, Reason::Conflict),
        Code::OutOfRange => (410, Reason::Expired),
        Code::InvalidArgument => (400, Reason::BadRequest),
        Code::FailedPrecondition => (422, Reason::Invalid),
        Code::PermissionDenied => (403, Reason::Forbidden),
        Code::Unauthenticated => (401, Reason::Unauthorized),
        Code::ResourceExhausted => (429, Reason::TooManyRequests),
        Code::Unimplemented => (404, Reason::NotFound),
        _ => {
            let mut detail = format!("{:?}: {}", status.code(), status.message());
            let mut cause = std::error::Error::source(status);
            while let Some(error) = cause {
                detail.push_str(&format!(": {error}"));
                cause = error.source();
            }
            return Verdict::MasterFailed(detail);
        }
    };
    Verdict::Answer(ApiError {
        code,
        reason,
        reason_text: format!("{reason:?}"),
        message: status.message().to_owned(),
    })
}

fn trailer(status: &tonic::Status) -> Option<ApiError> {
    let bytes: Bytes = status.metadata().get_bin(STATUS_TRAILER)?.to_bytes().ok()?;
    let body: Status = serde_json::from_slice(&bytes).ok()?;
    let causes = body
        .details
        .as_ref()
        .and_then(|d| d.causes.as_ref())
        .map(Vec::as_slice)
        .unwrap_or_default();
    let terminating = causes
        .iter()
        .any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"));
    let text = body.reason.unwrap_or_default();
    let reason = match text.as_str() {
        "NotFound" => Reason::NotFound,
        "AlreadyExists" => Reason::AlreadyExists,
        "Conflict" => Reason::Conflict,
        "Expired" | "Gone" => Reason::Expired,
        "Invalid" => Reason::Invalid,
        "Forbidden" if terminating => Reason::NamespaceTerminating,
        "Forbidden" => Reason::Forbidden,
        "Unauthorized" => Reason::Unauthorized,
        "BadRequest" => Reason::BadRequest,
        "TooManyRequests" => Reason::TooManyRequests,
        _ => Reason::Other,
    };
    Some(ApiError {
        code: body
            .code
            .and_then(|code| u16::try_from(code).ok())
            .unwrap_or(500),
        reason,
        reason_text: text,
        message: body.message.unwrap_or_default(),
    })
}

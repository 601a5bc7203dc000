//! A gRPC status: how a call ended. Owns the code numbers and the encoding in trailers.
use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

/// gRPC's status codes; the numbers are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// In the order of their numbers.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// As grpc-go's metrics spell it.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

impl Status {
    pub const OK: Status = Status {
        code: Code::Ok,
        message: Cow::Borrowed(""),
    };

    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Status {
            code,
            message: message.into(),
        }
    }
    pub fn unimplemented(message: impl Into<Cow<'static, str>>) -> Self {
        Status::new(Code::Unimplemented, message)
    }
    /// What grpc-go answers to a path nobody serves; clients of etcd only look at the code.
    pub fn unknown_method(path: &str) -> Self {
        match path.strip_prefix('/').and_then(|p| p.rsplit_once('/')) {
            Some((service, method)) => {
                Status::unimplemented(format!("unknown method {method} for service {service}"))
            }
            None => Status::unimplemented(format!("malformed method name: {path:?}")),
        }
    }

    /// The same where no method of the service is served.
    pub fn unknown_service(path: &str) -> Self {
        match path.strip_prefix('/').and_then(|p| p.rsplit_once('/')) {
            Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
            None => Status::unknown_method(path),
        }
    }

    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as u16));
        if !self.message.is_empty()
            && let Ok(message) = HeaderValue::from_bytes(&percent_encoded(&self.message))
        {
            headers.insert(GRPC_MESSAGE, message);
        }
    }
}

/// gRPC's encoding of `grpc-message`: printable ASCII but `%` as it is, every other byte as `%XX`.
fn percent_encoded(text: &str) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.extend([
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded_byte_by_byte() {
        assert_eq!(
            percent_encoded("100% \u{e4}\n"),
            b"100%25 %C3%A4%0A".to_vec()
        );
    }

    #[test]
    fn every_code_stands_at_its_number() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
        }
    }

    #[test]
    fn an_unknown_path_names_service_and_method() {
        assert_eq!(
            Status::unknown_method("/a.B/C").message,
            "unknown method C for service a.B"
        );
        assert_eq!(
            Status::unknown_service("/a.B/C").message,
            "unknown service a.B"
        );
        assert_eq!(
            Status::unknown_method("nonsense").message,
            "malformed method name: \"nonsense\""
        );
    }
}

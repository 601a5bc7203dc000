//! Request bodies: read up to the limit, then JSON or protobuf turned into an object of the kind the path names.
//! Promise: what comes out has that kind and apiVersion, fields of the right types and no unknown ones.
//! Not here: defaults, validation of meaning.

use barque_apiserver_schema::{self as schema, Kind};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::Value;

use super::negotiate::media_type;
use super::options::FieldValidation;
use crate::limits::{BODY_BYTES_MAX, BODY_DISCARDED_MAX};
use crate::status::ApiError;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub String);

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";

/// A body that may not have arrived yet.
pub enum RequestBody {
    Stream(UnsyncBoxBody<Bytes, BodyError>),
    Bytes(Bytes),
}

impl RequestBody {
    /// Reads all of it.
    pub async fn read(self) -> Result<Bytes, ApiError> {
        let stream = match self {
            RequestBody::Bytes(bytes) if bytes.len() > BODY_BYTES_MAX => {
                return Err(ApiError::body_too_large());
            }
            RequestBody::Bytes(bytes) => return Ok(bytes),
            RequestBody::Stream(stream) => stream,
        };
        collect(stream).await
    }
}

/// Reads the body into one piece. What is too large is read on and dropped, up to a bound: a client that reads no
/// answer before it has sent everything would otherwise see a broken stream instead of the refusal.
async fn collect(mut stream: UnsyncBoxBody<Bytes, BodyError>) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = stream.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("unable to read the body of the request: {error}"))
        })?;
        let Ok(data) = frame.into_data() else {
            continue; // trailers
        };
        seen += data.len();
        if seen > BODY_DISCARDED_MAX {
            break;
        }
        if seen <= BODY_BYTES_MAX {
            body.extend_from_slice(&data);
        } else {
            body = BytesMut::new();
        }
    }
    if seen > BODY_BYTES_MAX {
        return Err(ApiError::body_too_large());
    }
    Ok(body.freeze())
}

/// An object from a body, and the warnings the client is owed.
#[derive(Debug)]
pub struct Decoded {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// Decodes a body as an object of `kind`.
pub fn decode(
    kind: &Kind,
    content_type: Option<&str>,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let (object, is_json) = parse(kind.kind, content_type, body)?;
    let object = with_kind(kind.kind, &kind.api_version(), object)?;
    let raw: &[u8] = if is_json { body } else { &[] };
    accept(kind, object, raw, validation, |why| {
        cannot_be_handled(kind.kind, kind.version, kind.kind, why)
    })
}

/// Decodes the body of a subresource whose type is not the parent's (Scale, Binding, …): no field checks.
pub fn decode_loose(
    api_version: &str,
    kind: &str,
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<Value, ApiError> {
    let (object, _) = parse(kind, content_type, body)?;
    with_kind(kind, api_version, object)
}

/// Decodes optional DeleteOptions: an empty body is none, and kind and apiVersion may be missing or of any group.
pub fn decode_delete_options(content_type: Option<&str>, body: &Bytes) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let (object, _) = parse("DeleteOptions", content_type, body)?;
    match object.get("kind").and_then(Value::as_str) {
        None | Some("" | "DeleteOptions") => Ok(object),
        Some(other) => Err(ApiError::bad_request(format!(
            "decoded object cannot be converted to DeleteOptions: {other}"
        ))),
    }
}

/// Checks an object that is about to become `kind`: types, then unknown and duplicate fields as `validation` says,
/// which are dropped in any case. `raw`: its JSON, empty where there is none (protobuf has no unknown names).
pub fn accept(
    kind: &Kind,
    mut object: Value,
    raw: &[u8],
    validation: FieldValidation,
    refuse: impl Fn(&str) -> ApiError,
) -> Result<Decoded, ApiError> {
    if let Some(problem) = schema::type_errors(kind, &object) {
        return Err(refuse(&problem));
    }
    let mut warnings = Vec::new();
    if validation != FieldValidation::Ignore && !raw.is_empty() {
        let unknown = schema::unknown_fields(kind, raw);
        if validation == FieldValidation::Strict && !unknown.is_empty() {
            return Err(refuse(&format!(
                "strict decoding error: {}",
                unknown.join(", ")
            )));
        }
        warnings = unknown;
    }
    schema::drop_unknown(kind, &mut object);
    Ok(Decoded { object, warnings })
}

pub fn cannot_be_handled(kind: &str, version: &str, expected: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {expected}: {why}"
    ))
}

fn parse(
    expected: &str,
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<(Value, bool), ApiError> {
    let unrecognized = |why: String| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {expected}): {why} ({})",
            summary(body)
        ))
    };
    // kubectl scale sends no content type at all.
    match content_type.map(media_type) {
        None | Some("" | JSON) => {
            let object: Value = serde_json::from_slice(body).map_err(|error| {
                let why = json_problem(body, &error);
                unrecognized(format!(
                    "couldn't get version/kind; json parse error: {why}"
                ))
            })?;
            if !object.is_object() {
                return Err(unrecognized(format!(
                    "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                    go_type(&object)
                )));
            }
            Ok((object, true))
        }
        Some(PROTOBUF) => {
            let object =
                schema::decode_protobuf(body).map_err(|error| unrecognized(error.to_string()))?;
            Ok((object, false))
        }
        Some(_) => Err(ApiError::unsupported_media_type(&[JSON, PROTOBUF])),
    }
}

/// Fills in a missing kind and apiVersion, refuses other ones.
fn with_kind(kind: &str, api_version: &str, mut object: Value) -> Result<Value, ApiError> {
    let text = |object: &Value, field: &str| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let found = (text(&object, "apiVersion"), text(&object, "kind"));
    if !found.1.is_empty() && found.1 != kind {
        let version = if found.0.is_empty() {
            api_version
        } else {
            &found.0
        };
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        let why = if schema::by_kind(group, version, &found.1).is_some() {
            format!(
                "converting ({version}.{}) to ({kind}): unknown conversion",
                found.1
            )
        } else {
            format!(
                "no kind {:?} is registered for version {:?}",
                found.1, found.0
            )
        };
        return Err(cannot_be_handled(&found.1, version, kind, &why));
    }
    if !found.0.is_empty() && found.0 != api_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({api_version})",
            found.0
        )));
    }
    object["kind"] = kind.into();
    object["apiVersion"] = api_version.into();
    Ok(object)
}

/// The beginning of a body, as Kubernetes shows it: text where it looks like JSON, else hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let start = &body[..body.len().min(SHOWN)];
    let more = if body.len() > SHOWN { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => {
            let hex: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// serde_json's complaint in the words of Go's decoder, which people recognise and tests match.
pub fn json_problem(body: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let place = [
        (
            "key must be a string",
            "looking for beginning of object key string",
        ),
        ("trailing comma", "looking for beginning of value"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("expected `:`", "after object key"),
        ("trailing characters", "after top-level value"),
        ("expected value", "looking for beginning of value"),
        ("expected ident", "in literal"),
        ("control character", "in string literal"),
        ("invalid escape", "in string escape code"),
        ("invalid number", "in numeric literal"),
    ]
    .iter()
    .find(|(theirs, _)| text.starts_with(theirs))
    .map(|(_, place)| *place);
    match (place, offending(body, error)) {
        (Some(place), Some(c)) => format!("invalid character {c:?} {place}"),
        _ => text,
    }
}

/// The character serde_json stopped at.
fn offending(body: &[u8], error: &serde_json::Error) -> Option<char> {
    let line_start = if error.line() <= 1 {
        0
    } else {
        let mut newlines = body.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        newlines.nth(error.line() - 2)?.0 + 1
    };
    let at = line_start + error.column().saturating_sub(1);
    String::from_utf8_lossy(body.get(at..body.len().min(at + 4))?)
        .chars()
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> &'static Kind {
        schema::by_kind("", "v1", "Pod").unwrap()
    }
    fn refusal(content_type: Option<&str>, body: &'static [u8]) -> ApiError {
        decode(
            pod(),
            content_type,
            &Bytes::from_static(body),
            FieldValidation::Warn,
        )
        .unwrap_err()
    }

    #[test]
    fn malformed_bodies_are_400_in_kubernetes_words() {
        assert_eq!(
            refusal(None, b"{\"a\": x}").message,
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value ({\"a\": x})"
        );
        assert_eq!(
            refusal(Some("application/json"), b"{\"kind\"").message,
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"kind\")"
        );
        let protobuf = refusal(Some("application/vnd.kubernetes.protobuf"), b"abc");
        assert_eq!(protobuf.code, 400);
        assert_eq!(
            protobuf.message,
            "the object provided is unrecognized (must be of type Pod): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (616263)"
        );
        assert_eq!(refusal(None, b"").code, 400);
        assert_eq!(refusal(None, b"[]").code, 400);
        assert_eq!(refusal(Some("application/yaml"), b"a: b").code, 415);
    }

    #[test]
    fn another_kind_is_refused_a_missing_one_is_filled_in() {
        let other = refusal(None, br#"{"kind":"Service","apiVersion":"v1"}"#);
        assert_eq!(
            other.message,
            "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (Pod): unknown conversion"
        );
        let version = refusal(None, br#"{"kind":"Pod","apiVersion":"v2"}"#);
        assert_eq!(
            version.message,
            "the API version in the data (v2) does not match the expected API version (v1)"
        );
        let body = Bytes::from_static(br#"{"metadata":{"name":"a"}}"#);
        let decoded = decode(pod(), None, &body, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object["kind"], "Pod");
        assert_eq!(decoded.object["apiVersion"], "v1");
    }
}

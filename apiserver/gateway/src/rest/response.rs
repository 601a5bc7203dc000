//! Answers and refusals as HTTP responses.

use barque_apiserver_registry::Resource;
use barque_apiserver_schema as schema;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::watch_lines;
use super::{Body, full};
use crate::pipeline::Clock;
use crate::pipeline::answer::{Answer, Content, Item, List};
use crate::requests::negotiate::{Format, Output, Shape};
use crate::requests::options::IncludeObject;
use crate::status::ApiError;
use crate::table;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf");

pub fn failure(error: &ApiError) -> Response<Body> {
    let body = error.to_value().to_string() + "\n";
    let mut response = with_type(error.code, JSON, full(body));
    if let Some(seconds) = error.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

pub fn with_type(code: u16, content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

pub fn answer(
    answer: Answer,
    output: Output,
    include: IncludeObject,
    clock: Clock,
) -> Result<Response<Body>, ApiError> {
    let Answer {
        resource,
        code,
        warnings,
        content,
    } = answer;
    let mut response = match content {
        Content::Object(item) => object(resource, code, &item, output, include, clock)?,
        Content::List(page) => list(resource, &page, output, include, clock)?,
        Content::Watch(watch) => {
            // No client asks for a protobuf watch without also taking JSON.
            if output.format == Format::Protobuf {
                return Err(ApiError::not_acceptable());
            }
            let body = watch_lines::body(*watch, output.shape, include, clock);
            with_type(code, JSON, body)
        }
    };
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

fn object(
    resource: &Resource,
    code: u16,
    item: &Item,
    output: Output,
    include: IncludeObject,
    clock: Clock,
) -> Result<Response<Body>, ApiError> {
    // A Status (of a deletion, of a binding) or a Scale is what it is, whatever shape was asked for.
    let is_resource = match item {
        Item::Stored(_) => true,
        Item::Value(value) => value.get("kind").and_then(Value::as_str) == Some(resource.kind.kind),
    };
    let shaped = match output.shape {
        Shape::Table(version) if is_resource => {
            let object = item.value();
            let metadata = json!({"resourceVersion": object.pointer("/metadata/resourceVersion")});
            Some(table::table(
                resource,
                version,
                &[object],
                metadata,
                include,
                true,
                clock(),
            ))
        }
        Shape::Metadata(version) if is_resource => {
            Some(table::metadata_only(&item.value(), version))
        }
        _ => None,
    };
    if let Some(shaped) = shaped {
        return Ok(with_type(code, JSON, full(shaped.to_string() + "\n")));
    }
    if output.format == Format::Protobuf {
        return protobuf(code, &item.value());
    }
    let mut bytes = Vec::new();
    item.write_json(&mut bytes);
    bytes.push(b'\n');
    Ok(with_type(code, JSON, full(bytes)))
}

fn protobuf(code: u16, value: &Value) -> Result<Response<Body>, ApiError> {
    let bytes = schema::encode_protobuf(value).map_err(ApiError::internal)?;
    Ok(with_type(code, PROTOBUF, full(bytes)))
}

fn list_metadata(list: &List) -> Value {
    let mut metadata = Map::new();
    metadata.insert(
        "resourceVersion".to_owned(),
        list.revision.to_string().into(),
    );
    if let Some(token) = &list.continue_token {
        metadata.insert("continue".to_owned(), token.as_str().into());
    }
    if let Some(remaining) = list.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    Value::Object(metadata)
}

fn list(
    resource: &Resource,
    list: &List,
    output: Output,
    include: IncludeObject,
    clock: Clock,
) -> Result<Response<Body>, ApiError> {
    let metadata = list_metadata(list);
    let values = || -> Vec<Value> { list.items.iter().map(Item::value).collect() };
    let shaped = match output.shape {
        Shape::Table(version) => Some(table::table(
            resource,
            version,
            &values(),
            metadata.clone(),
            include,
            true,
            clock(),
        )),
        Shape::Metadata(version) => {
            let items: Vec<Value> = values()
                .iter()
                .map(|object| table::metadata_only(object, version))
                .collect();
            Some(json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata, "items": items,
            }))
        }
        Shape::Object => None,
    };
    if let Some(shaped) = shaped {
        return Ok(with_type(200, JSON, full(shaped.to_string() + "\n")));
    }
    let kind = resource.kind;
    let envelope =
        json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata});
    if output.format == Format::Protobuf {
        let mut whole = envelope;
        whole["items"] = Value::Array(values());
        return protobuf(200, &whole);
    }
    let mut bytes = envelope.to_string().into_bytes();
    bytes.pop();
    bytes.extend_from_slice(b",\"items\":[");
    for (at, item) in list.items.iter().enumerate() {
        if at > 0 {
            bytes.push(b',');
        }
        item.write_json(&mut bytes);
    }
    bytes.extend_from_slice(b"]}\n");
    Ok(with_type(200, JSON, full(bytes)))
}

//! What the client wants to read: JSON or protobuf, the object itself, a Table or only metadata.

use crate::status::ApiError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Protobuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Object,
    /// meta.k8s.io `v1` or `v1beta1`.
    Table(&'static str),
    /// PartialObjectMetadata, for lists PartialObjectMetadataList.
    Metadata(&'static str),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub format: Format,
    pub shape: Shape,
}

impl Output {
    /// Chooses among the clauses of an Accept header. JSON wins wherever it is offered: every client that asks for
    /// protobuf also takes JSON, and JSON is what the store holds.
    pub fn choose(accept: Option<&str>) -> Result<Output, ApiError> {
        let Some(accept) = accept.map(str::trim).filter(|accept| !accept.is_empty()) else {
            return Ok(Output::default());
        };
        let offers: Vec<Output> = accept.split(',').filter_map(offer).collect();
        offers
            .iter()
            .find(|output| output.format == Format::Json)
            .or(offers.first())
            .copied()
            .ok_or_else(ApiError::not_acceptable)
    }
}

/// One clause of an Accept header, if it can be served.
fn offer(clause: &str) -> Option<Output> {
    let mut parts = clause.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/vnd.kubernetes.protobuf" => Format::Protobuf,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for parameter in parts {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    let version = match version {
        "v1beta1" => "v1beta1",
        _ => "v1",
    };
    let shape = match (kind, group) {
        ("", _) => Shape::Object,
        // Tables have no protobuf form.
        ("Table", "meta.k8s.io") if format == Format::Json => Shape::Table(version),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io")
            if format == Format::Json =>
        {
            Shape::Metadata(version)
        }
        _ => return None,
    };
    Some(Output { format, shape })
}

/// The value of a media type without its parameters.
pub fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &str) -> Output {
        Output::choose(Some(accept)).unwrap()
    }

    #[test]
    fn what_clients_really_send() {
        assert_eq!(Output::choose(None).unwrap(), Output::default());
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(chosen(table).shape, Shape::Table("v1"));
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(chosen(protobuf), Output::default());
        let collector = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(chosen(collector).shape, Shape::Metadata("v1"));
        assert_eq!(
            chosen("application/vnd.kubernetes.protobuf").format,
            Format::Protobuf
        );
        assert_eq!(Output::choose(Some("text/html")).unwrap_err().code, 406);
        assert_eq!(chosen("text/html, */*;q=0.8"), Output::default());
    }
}

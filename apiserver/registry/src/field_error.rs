//! One wrong field, in Kubernetes' words. The gateway turns a list of them into a 422 Status.
//! Promise: texts are what Kubernetes prints, Go's way of showing values included.

use serde_json::Value;

/// `detail` is the whole line as Kubernetes prints it, beginning with the field path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: String,
    /// FieldValueInvalid, FieldValueRequired, FieldValueForbidden, FieldValueNotSupported, FieldValueDuplicate, FieldValueTooLong.
    pub reason: &'static str,
    pub detail: String,
}

impl FieldError {
    fn new(field: &str, reason: &'static str, body: String) -> Self {
        FieldError {
            field: field.to_owned(),
            reason,
            detail: format!("{field}: {body}"),
        }
    }

    pub fn required(field: &str, why: &str) -> Self {
        Self::new(
            field,
            "FieldValueRequired",
            with_reason("Required value".to_owned(), why),
        )
    }

    /// `shown` is the value as Go prints it; see `quoted`, `shown`.
    pub fn invalid(field: &str, shown: &str, why: &str) -> Self {
        Self::new(
            field,
            "FieldValueInvalid",
            with_reason(format!("Invalid value: {shown}"), why),
        )
    }

    pub fn forbidden(field: &str, why: &str) -> Self {
        Self::new(
            field,
            "FieldValueForbidden",
            with_reason("Forbidden".to_owned(), why),
        )
    }

    pub fn duplicate(field: &str, shown: &str) -> Self {
        Self::new(
            field,
            "FieldValueDuplicate",
            format!("Duplicate value: {shown}"),
        )
    }

    pub fn not_found(field: &str, shown: &str) -> Self {
        Self::new(field, "FieldValueNotFound", format!("Not found: {shown}"))
    }

    pub fn not_supported(field: &str, shown: &str, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| quoted(value)).collect();
        let why = format!("supported values: {}", supported.join(", "));
        Self::new(
            field,
            "FieldValueNotSupported",
            with_reason(format!("Unsupported value: {shown}"), &why),
        )
    }

    pub fn too_long(field: &str, bytes_max: usize) -> Self {
        let why = format!("may not be more than {bytes_max} bytes");
        Self::new(
            field,
            "FieldValueTooLong",
            with_reason("Too long".to_owned(), &why),
        )
    }
}

fn with_reason(text: String, why: &str) -> String {
    if why.is_empty() {
        text
    } else {
        format!("{text}: {why}")
    }
}

/// A string in Go's quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A scalar as Go prints it; null where there is none.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// `map[string]string{"a":"1"}`, keys sorted.
pub fn shown_map(value: &Value) -> String {
    let Some(entries) = value.as_object() else {
        return "map[string]string(nil)".to_owned();
    };
    let mut sorted: Vec<(&String, &Value)> = entries.iter().collect();
    sorted.sort_by_key(|(key, _)| key.as_str());
    let parts: Vec<String> = sorted
        .iter()
        .map(|(key, value)| {
            format!(
                "{}:{}",
                quoted(key),
                quoted(value.as_str().unwrap_or_default())
            )
        })
        .collect();
    format!("map[string]string{{{}}}", parts.join(", "))
}

/// An int-or-string as Go prints the struct.
pub fn shown_int_or_string(value: &Value) -> String {
    match value {
        Value::String(text) => format!(
            "intstr.IntOrString{{Type:1, IntVal:0, StrVal:{}}}",
            quoted(text)
        ),
        other => {
            format!(
                "intstr.IntOrString{{Type:0, IntVal:{}, StrVal:\"\"}}",
                other.as_i64().unwrap_or_default()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_read_as_kubernetes_writes_them() {
        assert_eq!(
            FieldError::required("spec.selector", "").detail,
            "spec.selector: Required value"
        );
        assert_eq!(
            FieldError::invalid("metadata.name", &quoted("A"), "no capitals").detail,
            "metadata.name: Invalid value: \"A\": no capitals"
        );
        assert_eq!(
            FieldError::not_supported("spec.dnsPolicy", &quoted("x"), &["Default", "None"]).detail,
            "spec.dnsPolicy: Unsupported value: \"x\": supported values: \"Default\", \"None\""
        );
        assert_eq!(
            shown_map(&json!({"b": "2", "a": "1"})),
            "map[string]string{\"a\":\"1\", \"b\":\"2\"}"
        );
    }
}

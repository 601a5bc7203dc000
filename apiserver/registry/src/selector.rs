//! Label selectors as they stand in objects: matchLabels and matchExpressions.
//! Not here: selectors in query strings (the gateway parses those).

use serde_json::Value;

use crate::access::{entries, list, text};
use crate::field_error::{FieldError, quoted, shown_map};
use crate::meta::invalid_each;
use crate::names;

/// Problems of a selector at `path`.
pub fn validate(selector: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in entries(selector, "/matchLabels") {
        let at = format!("{path}.matchLabels");
        let value = value.as_str().unwrap_or_default();
        errors.extend(invalid_each(&at, key, names::qualified_name(key)));
        errors.extend(invalid_each(&at, value, names::label_value(value)));
    }
    for (index, requirement) in list(selector, "/matchExpressions").iter().enumerate() {
        let at = format!("{path}.matchExpressions[{index}]");
        let values = list(requirement, "/values");
        let operator = text(requirement, "/operator");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&format!("{at}.values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&format!("{at}.values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(
                &format!("{at}.operator"),
                &quoted(operator),
                "not a valid selector operator",
            )),
        }
        let key = text(requirement, "/key");
        errors.extend(invalid_each(
            &format!("{at}.key"),
            key,
            names::qualified_name(key),
        ));
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.extend(invalid_each(
                &format!("{at}.values[{index}]"),
                value,
                names::label_value(value),
            ));
        }
    }
    errors
}

/// Whether every requirement has a meaning.
pub fn is_valid(selector: &Value) -> bool {
    list(selector, "/matchExpressions")
        .iter()
        .all(|requirement| {
            let values = list(requirement, "/values").len();
            match text(requirement, "/operator") {
                "In" | "NotIn" => values > 0,
                "Exists" | "DoesNotExist" => values == 0,
                _ => false,
            }
        })
}

pub fn is_empty(selector: &Value) -> bool {
    entries(selector, "/matchLabels").is_empty() && list(selector, "/matchExpressions").is_empty()
}

/// Whether `labels` satisfy the selector; an empty selector matches everything.
pub fn matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let by_label = entries(selector, "/matchLabels")
        .iter()
        .all(|(key, value)| label(key) == value.as_str());
    by_label
        && list(selector, "/matchExpressions")
            .iter()
            .all(|requirement| {
                let found = label(text(requirement, "/key"));
                let named = |value: &str| {
                    list(requirement, "/values")
                        .iter()
                        .any(|one| one.as_str() == Some(value))
                };
                match text(requirement, "/operator") {
                    "In" => found.is_some_and(named),
                    "NotIn" => !found.is_some_and(named),
                    "Exists" => found.is_some(),
                    "DoesNotExist" => found.is_none(),
                    _ => false,
                }
            })
}

/// `app=web,tier in (a,b)`, sorted by key: how tables and Scale show a selector.
pub fn format(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = entries(selector, "/matchLabels")
        .iter()
        .map(|(key, value)| {
            (
                (*key).clone(),
                format!("{key}={}", value.as_str().unwrap_or_default()),
            )
        })
        .collect();
    for requirement in list(selector, "/matchExpressions") {
        let key = text(requirement, "/key");
        let mut values: Vec<&str> = list(requirement, "/values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let shown = match text(requirement, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort_by(|left, right| left.0.cmp(&right.0));
    parts
        .into_iter()
        .map(|(_, shown)| shown)
        .collect::<Vec<_>>()
        .join(",")
}

/// The struct as Go prints it.
pub fn shown(selector: &Value) -> String {
    let labels = match selector.get("matchLabels") {
        Some(labels) => shown_map(labels),
        None => "map[string]string(nil)".to_owned(),
    };
    let expressions = list(selector, "/matchExpressions");
    let expressions = if expressions.is_empty() {
        "[]v1.LabelSelectorRequirement(nil)".to_owned()
    } else {
        let parts: Vec<String> = expressions
            .iter()
            .map(|requirement| {
                let values: Vec<String> = list(requirement, "/values")
                    .iter()
                    .map(|value| quoted(value.as_str().unwrap_or_default()))
                    .collect();
                let values = match values.is_empty() {
                    true => "[]string(nil)".to_owned(),
                    false => format!("[]string{{{}}}", values.join(", ")),
                };
                format!(
                    "v1.LabelSelectorRequirement{{Key:{}, Operator:{}, Values:{values}}}",
                    quoted(text(requirement, "/key")),
                    quoted(text(requirement, "/operator"))
                )
            })
            .collect();
        format!("[]v1.LabelSelectorRequirement{{{}}}", parts.join(", "))
    };
    format!("v1.LabelSelector{{MatchLabels:{labels}, MatchExpressions:{expressions}}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn matching_and_printing() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"}]});
        assert!(matches(&selector, &json!({"app": "web", "tier": "a"})));
        assert!(!matches(&selector, &json!({"app": "web", "tier": "c"})));
        assert!(!matches(
            &selector,
            &json!({"app": "web", "tier": "a", "old": ""})
        ));
        assert!(matches(&json!({}), &json!({})));
        assert_eq!(format(&selector), "app=web,!old,tier in (a,b)");
        assert_eq!(validate(&selector, "spec.selector"), Vec::new());
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "In"}]});
        assert_eq!(
            validate(&bad, "s")[0].detail,
            "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
        );
    }
}

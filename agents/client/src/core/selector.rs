//! Label selectors on objects an agent holds. Same meaning as the masters'.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

/// Whether a selector matches. An empty selector matches everything; an operator nobody knows matches nothing.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| {
                let values = requirement.values.as_deref().unwrap_or_default();
                requirement_holds(&requirement.key, &requirement.operator, values, labels)
            })
}

/// One requirement of a label selector or a node selector.
pub fn requirement_holds(key: &str, operator: &str, values: &[String], labels: &Labels) -> bool {
    let value = labels.get(key);
    let integer = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => match (integer(value), integer(values.first())) {
            (Some(have), Some(bound)) if operator == "Gt" => have > bound,
            (Some(have), Some(bound)) => have < bound,
            _ => false,
        },
        _ => false,
    }
}

/// Whether a selector selects by anything at all.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators() {
        let labels: Labels = [("app", "web"), ("cores", "8")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let cases: &[(&str, &str, &[&str], bool)] = &[
            ("app", "In", &["web", "db"], true),
            ("app", "In", &["db"], false),
            ("tier", "In", &["web"], false),
            ("app", "NotIn", &["web"], false),
            ("tier", "NotIn", &["web"], true),
            ("app", "Exists", &[], true),
            ("app", "DoesNotExist", &[], false),
            ("cores", "Gt", &["4"], true),
            ("cores", "Lt", &["4"], false),
            ("app", "Gt", &["4"], false),
            ("app", "Matches", &["web"], false),
        ];
        for (key, operator, values, expected) in cases {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            assert_eq!(
                requirement_holds(key, operator, &values, &labels),
                *expected,
                "{key} {operator}"
            );
        }
    }
}

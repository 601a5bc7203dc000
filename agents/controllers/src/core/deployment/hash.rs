//! Whether two pod templates are the same, and the name part that stands for a template.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

use super::HASH_LABEL;

/// The template without the hash label and without anything that says nothing (null, empty), fields by name.
fn meaning(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(HASH_LABEL);
    }
    pruned(serde_json::to_value(template).unwrap_or_default())
}

fn pruned(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields
                .into_iter()
                .map(|(name, value)| (name, pruned(value)))
                .collect();
            fields.retain(|(_, value)| !says_nothing(value));
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(fields.into_iter().collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(pruned).collect()),
        other => other,
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

pub fn same_template(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    meaning(one) == meaning(other)
}

/// Eight to ten characters that stand for the template, without vowels so that they spell nothing.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = meaning(template).to_string();
    if collisions > 0 {
        text.push_str(&collisions.to_string());
    }
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.to_string()
        .bytes()
        .map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str, labels: Value) -> PodTemplateSpec {
        let value = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_hash_label_and_empty_fields_do_not_count() {
        let plain = template("a", json!({"app": "web"}));
        let labelled = template("a", json!({"app": "web", "pod-template-hash": "x"}));
        let mut with_empty = plain.clone();
        with_empty.spec.as_mut().unwrap().security_context = Some(Default::default());
        assert!(same_template(&plain, &labelled) && same_template(&plain, &with_empty));
        assert!(!same_template(
            &plain,
            &template("b", json!({"app": "web"}))
        ));
        assert_eq!(template_hash(&plain, 0), template_hash(&labelled, 0));
        assert_ne!(template_hash(&plain, 0), template_hash(&plain, 1));
        let hash = template_hash(&plain, 0);
        assert!(
            hash.len() <= 10
                && hash
                    .bytes()
                    .all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte)),
            "{hash}"
        );
    }
}

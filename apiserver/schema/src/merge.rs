//! Strategic merge patch: a merge patch that knows from the table which lists are keyed, and takes orders ("directives").
//! Promise: the result is a new object; the same inputs that Kubernetes merges give the same output, order included.
//! Not here: building patches (clients do), applying defaults to the result.
//!
//! Directives: `$patch: replace|delete|merge` in an object or list element, `$retainKeys`, `$setElementOrder/LIST`,
//! `$deleteFromPrimitiveList/LIST`.

use serde_json::{Map, Value};

use crate::error::PatchError;
use crate::kinds::Kind;
use crate::normal::DEPTH_MAX;
use crate::table::{Field, Merge, Message, Shape, Type, table};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `original`.
pub fn strategic_merge(kind: &Kind, original: &Value, patch: &Value) -> Result<Value, PatchError> {
    let message = table().root(&kind.api_version(), kind.kind);
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(PatchError::Invalid(
            "invalid JSON document: a patch and its target must be objects".to_owned(),
        ));
    };
    merge_object(original.clone(), patch.clone(), message, 0).map(Value::Object)
}

fn invalid(text: impl Into<String>) -> PatchError {
    PatchError::Invalid(text.into())
}

/// What the table says of one key of an object.
struct Entry {
    merge: Merge,
    /// Type of the value, or of the list's elements.
    message: Option<&'static Message>,
}

fn lookup(message: Option<&Message>, key: &str) -> Entry {
    let field: Option<&'static Field> = message.and_then(|message| message.field(key));
    let inner = field.and_then(|field| match (field.ty, field.shape) {
        (Type::Message(id), Shape::One | Shape::List) => Some(table().message(id)),
        _ => None,
    });
    Entry {
        merge: field.map(|field| field.merge).unwrap_or_default(),
        message: inner,
    }
}

fn merge_object(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    message: Option<&Message>,
    depth: usize,
) -> Result<Map<String, Value>, PatchError> {
    if depth > DEPTH_MAX {
        return Err(invalid("the patch is nested too deeply"));
    }
    if let Some(directive) = patch.shift_remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(&directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, message, depth)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.shift_remove(&key);
            continue;
        }
        let entry = lookup(message, &key);
        let merged = match (original.get_mut(&key).map(Value::take), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !entry.merge.replace => Some(
                Value::Object(merge_object(old, new, entry.message, depth + 1)?),
            ),
            (Some(Value::Array(old)), Value::Array(new)) if entry.merge.merge => {
                Some(Value::Array(merge_list(old, new, &entry, depth)?))
            }
            (Some(Value::Array(_)), Value::Array(new)) => Some(Value::Array(new)),
            (_, new) => as_new(new),
        };
        match merged {
            Some(value) => {
                original.insert(key, value);
            }
            None => {
                original.shift_remove(&key);
            }
        }
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, patch: &Map<String, Value>) -> PatchError {
    let name = directive
        .as_str()
        .map_or_else(|| directive.to_string(), str::to_owned);
    let mut map = patch.clone();
    map.insert(PATCH.to_owned(), directive.clone());
    invalid(format!(
        "unknown patch type: {name} in map: {}",
        Value::Object(map)
    ))
}

/// `$retainKeys` names every key that may stay; whatever the patch sets must be among them.
fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), PatchError> {
    const MALFORMED: &str = "invalid patch format of retainKeys";
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let keys: Vec<String> = keys
        .as_array()
        .ok_or_else(|| invalid(MALFORMED))?
        .iter()
        .filter_map(|key| key.as_str().map(str::to_owned))
        .collect();
    let stray = patch.iter().any(|(key, value)| {
        !value.is_null()
            && !key.starts_with(SET_ORDER)
            && !key.starts_with(DELETE_PRIMITIVES)
            && !keys.contains(key)
    });
    if stray {
        return Err(invalid(MALFORMED));
    }
    original.retain(|key, _| keys.contains(key));
    Ok(())
}

/// Merges the lists that come with `$setElementOrder/LIST` and puts them in that order.
fn ordered_lists(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    message: Option<&Message>,
    depth: usize,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(SET_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let order = patch.shift_remove(&directive);
        let Some(Value::Array(order)) = order else {
            return Err(invalid(format!("{directive} must be a list")));
        };
        let list = directive.trim_start_matches(SET_ORDER);
        let entry = lookup(message, list);
        let old = optional_list(original.get(list), list)?;
        let new = optional_list(patch.shift_remove(list).as_ref(), list)?;
        let key = entry.merge.key;
        check_order(new.as_deref().unwrap_or_default(), &order, key)?;
        let live = live_order(
            old.as_deref().unwrap_or_default(),
            new.as_deref().unwrap_or_default(),
            key,
        );
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(as_new).collect(),
            (Some(old), Some(new)) if entry.merge.merge => merge_list(old, new, &entry, depth)?,
            (Some(_), Some(new)) => new,
        };
        original.insert(
            list.to_owned(),
            Value::Array(in_order(merged, &order, &live, key)),
        );
    }
    Ok(())
}

/// The order the live list counts for. Kubernetes deletes in place, and the first new items take the freed slots before
/// the order is looked at; clients have come to see that order, so it is kept.
fn live_order(old: &[Value], new: &[Value], key: Option<&str>) -> Vec<Value> {
    let doomed = |item: &Value| {
        new.iter().any(|change| {
            change.get(PATCH) == Some(&Value::from("delete")) && same_item(change, item, key)
        })
    };
    let mut live: Vec<Value> = old.iter().filter(|item| !doomed(item)).cloned().collect();
    let added = new.iter().filter(|item| {
        item.get(PATCH).is_none() && !old.iter().any(|one| same_item(one, item, key))
    });
    let freed = old.len() - live.len();
    live.extend(added.take(freed).cloned());
    live
}

fn optional_list(value: Option<&Value>, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(_) => Err(invalid(format!("{name} is expected to be a list"))),
    }
}

/// Items the patch adds or changes must appear in the order, in the same sequence.
fn check_order(new: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut at = 0;
    for item in new.iter().filter(|item| item.get(PATCH).is_none()) {
        match order[at..]
            .iter()
            .position(|wanted| same_item(wanted, item, key))
        {
            Some(step) => at += step + 1,
            None => {
                return Err(invalid(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    Value::Array(new.to_vec()),
                    Value::Array(order.to_vec())
                )));
            }
        }
    }
    Ok(())
}

fn merge_list(
    old: Vec<Value>,
    new: Vec<Value>,
    entry: &Entry,
    depth: usize,
) -> Result<Vec<Value>, PatchError> {
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let objects = old
        .iter()
        .chain(&new)
        .filter(|item| item.is_object())
        .count();
    if objects != 0 && objects != old.len() + new.len() {
        return Err(invalid("list element types are not identical"));
    }
    if objects == 0 {
        let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
        for item in old.iter().chain(&new) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(in_order(merged, &new, &old, None));
    }
    let Some(key) = entry.merge.key else {
        let name = entry.message.map(Message::short_name).unwrap_or_default();
        return Err(invalid(format!(
            "cannot merge lists without merge key for {name}"
        )));
    };
    let (old, new) = list_directives(old, new, key)?;
    let live = old.clone();
    let mut merged = old;
    for item in &new {
        let Value::Object(change) = item else {
            continue;
        };
        if !change.contains_key(key) {
            return Err(no_merge_key(item, key));
        }
        match merged
            .iter_mut()
            .find(|candidate| same_item(candidate, item, Some(key)))
        {
            Some(found) => {
                if let Value::Object(object) = found.take() {
                    *found = Value::Object(merge_object(
                        object,
                        change.clone(),
                        entry.message,
                        depth + 1,
                    )?);
                }
            }
            None => merged.extend(as_new(item.clone())),
        }
    }
    Ok(in_order(merged, &new, &live, Some(key)))
}

/// Carries out `$patch` in list elements; returns the old list after deletions and the elements left to merge.
fn list_directives(
    mut old: Vec<Value>,
    new: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replace = false;
    for item in new {
        match item.get(PATCH).map(Value::as_str) {
            None => plain.push(item),
            Some(Some("delete")) => {
                if item.get(key).is_none() {
                    return Err(no_merge_key(&item, key));
                }
                old.retain(|candidate| !same_item(candidate, &item, Some(key)));
            }
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => {
                return Err(invalid(
                    "merging lists cannot yet be specified in the patch",
                ));
            }
            Some(_) => {
                let map = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(&item[PATCH], &map));
            }
        }
    }
    Ok(if replace {
        (plain, Vec::new())
    } else {
        (old, plain)
    })
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    invalid(format!(
        "map: {item} does not contain declared merge key: {key}"
    ))
}

fn delete_primitives(
    original: &mut Map<String, Value>,
    list: &str,
    value: &Value,
) -> Result<(), PatchError> {
    let doomed = value
        .as_array()
        .ok_or_else(|| invalid(format!("{DELETE_PRIMITIVES}{list} must be a list")))?;
    if let Some(Value::Array(items)) = original.get_mut(list) {
        items.retain(|item| !doomed.contains(item));
    }
    Ok(())
}

/// A value the original does not have: directives and nulls are dropped; an object that is itself an order vanishes.
fn as_new(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(PATCH) => None,
        Value::Object(fields) => Some(Value::Object(
            fields
                .into_iter()
                .filter(|(key, value)| {
                    !value.is_null()
                        && key != RETAIN_KEYS
                        && !key.starts_with(SET_ORDER)
                        && !key.starts_with(DELETE_PRIMITIVES)
                })
                .filter_map(|(key, value)| as_new(value).map(|value| (key, value)))
                .collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(as_new).collect())),
        other => Some(other),
    }
}

/// Merge keys are compared by their text: 80 and "80" name the same element.
fn same_item(left: &Value, right: &Value, key: Option<&str>) -> bool {
    match key {
        None => left == right,
        Some(key) => match (left.get(key), right.get(key)) {
            (Some(Value::String(left)), Some(Value::String(right))) => left == right,
            (Some(left), Some(right)) => {
                let text = |value: &Value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                };
                text(left) == text(right)
            }
            _ => false,
        },
    }
}

/// Items named in `order` in that order, the others in their live order; where both live side by side, the live order
/// decides which comes first.
fn in_order(items: Vec<Value>, order: &[Value], live: &[Value], key: Option<&str>) -> Vec<Value> {
    let rank =
        |list: &[Value], item: &Value| list.iter().position(|wanted| same_item(wanted, item, key));
    let (mut named, mut others): (Vec<_>, Vec<_>) = items
        .into_iter()
        .partition(|item| rank(order, item).is_some());
    named.sort_by_key(|item| rank(order, item));
    others.sort_by_key(|item| rank(live, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let at = rank(live, &item);
        while let (Some(at), Some(other)) = (at, others.peek()) {
            match rank(live, other) {
                Some(before) if before < at => out.extend(others.next()),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(others);
    out
}

#[cfg(test)]
mod tests;

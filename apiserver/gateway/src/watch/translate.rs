//! A change of a row as an event about an object, seen through a selection.

use barque_apiserver_registry::Resource;
use barque_store_state::{Event, EventKind, KeyValue, Revision};

use super::{Change, ObjectEvent};
use crate::pipeline::answer::Item;
use crate::requests::selector::Selection;
use crate::status::ApiError;
use crate::storage::object::Stored;

pub fn matches(selection: &Selection, item: &Item, resource: &Resource) -> bool {
    selection.is_everything() || selection.matches(&item.value(), resource)
}

/// `None`: it matched neither before nor after.
pub fn event(
    event: &Event,
    selection: &Selection,
    resource: &'static Resource,
) -> Result<Option<ObjectEvent>, ApiError> {
    let revision = event.kv.mod_revision;
    let as_of = |row: &KeyValue, revision: Revision| {
        Stored::new(row.value.clone(), revision)
            .map(|stored| Item::of(stored, resource))
            .map_err(ApiError::internal)
    };
    let created = event.kind == EventKind::Put && event.kv.create_revision == revision;
    let before = match &event.prev {
        // What it was, under the revision at which it ceased to be: what a DELETED event shows.
        Some(row) if !created => {
            let needed = event.kind == EventKind::Delete || !selection.is_everything();
            if needed {
                let item = as_of(row, revision)?;
                matches(selection, &item, resource).then_some(item)
            } else {
                None
            }
        }
        None if !created && (event.kind == EventKind::Delete || !selection.is_everything()) => {
            // Compaction took the row before: whether it matched cannot be known any more.
            return Err(ApiError::too_old(revision.0, revision.0));
        }
        _ => None,
    };
    let after = match event.kind {
        EventKind::Delete => None,
        EventKind::Put => {
            let item = as_of(&event.kv, revision)?;
            matches(selection, &item, resource).then_some(item)
        }
    };
    let existed = if selection.is_everything() {
        !created
    } else {
        before.is_some()
    };
    let (change, item) = match (before, after) {
        (_, Some(item)) if existed => (Change::Modified, item),
        (_, Some(item)) => (Change::Added, item),
        (Some(item), None) => (Change::Deleted, item),
        (None, None) => return Ok(None),
    };
    Ok(Some(ObjectEvent::Object {
        change,
        item,
        revision,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::object::encode;
    use barque_store_state::KeyValue;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn pods() -> &'static Resource {
        barque_apiserver_registry::resource("", "v1", "pods").unwrap()
    }
    fn row(node: &str, create: u64, modified: u64) -> Arc<KeyValue> {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "labels": {"on": node}}});
        Arc::new(KeyValue {
            value: encode(&pod),
            create_revision: Revision(create),
            mod_revision: Revision(modified),
            ..KeyValue::default()
        })
    }
    fn tombstone(revision: u64) -> Arc<KeyValue> {
        Arc::new(KeyValue {
            mod_revision: Revision(revision),
            ..KeyValue::default()
        })
    }
    fn seen(
        kind: EventKind,
        prev: Option<Arc<KeyValue>>,
        kv: Arc<KeyValue>,
        selector: &str,
    ) -> Option<(Change, Value)> {
        let selection = Selection::parse(selector, "", pods()).unwrap();
        let change = Event { kind, kv, prev };
        match event(&change, &selection, pods()).unwrap() {
            Some(ObjectEvent::Object { change, item, .. }) => Some((change, item.value())),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn objects_enter_and_leave_a_selection() {
        let put = |prev, kv| seen(EventKind::Put, prev, kv, "on=n1");
        assert_eq!(put(None, row("n1", 5, 5)).unwrap().0, Change::Added);
        assert!(put(None, row("n2", 5, 5)).is_none());
        assert_eq!(
            put(Some(row("n2", 5, 5)), row("n1", 5, 6)).unwrap().0,
            Change::Added
        );
        assert_eq!(
            put(Some(row("n1", 5, 5)), row("n1", 5, 6)).unwrap().0,
            Change::Modified
        );
        let (change, object) = put(Some(row("n1", 5, 5)), row("n2", 5, 6)).unwrap();
        assert_eq!(change, Change::Deleted);
        assert_eq!(
            object["metadata"]["labels"]["on"], "n1",
            "the state that matched"
        );
        assert_eq!(
            object["metadata"]["resourceVersion"], "6",
            "the revision it left at"
        );
    }

    #[test]
    fn deletions_carry_the_revision_of_the_deletion() {
        for selector in ["", "on=n1"] {
            let (change, object) = seen(
                EventKind::Delete,
                Some(row("n1", 5, 7)),
                tombstone(9),
                selector,
            )
            .unwrap();
            assert_eq!(change, Change::Deleted);
            assert_eq!(object["metadata"]["resourceVersion"], "9");
        }
        assert!(
            seen(
                EventKind::Delete,
                Some(row("n2", 5, 7)),
                tombstone(9),
                "on=n1"
            )
            .is_none()
        );
    }

    #[test]
    fn lost_history_ends_the_watch() {
        let selection = Selection::parse("on=n1", "", pods()).unwrap();
        let change = Event {
            kind: EventKind::Put,
            kv: row("n1", 5, 9),
            prev: None,
        };
        assert_eq!(event(&change, &selection, pods()).unwrap_err().code, 410);
    }
}

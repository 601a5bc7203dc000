//! A watch as REST streams it: one JSON line per event, flushed as soon as it is there.

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};

use super::Body;
use crate::pipeline::Clock;
use crate::pipeline::answer::Item;
use crate::requests::body::BodyError;
use crate::requests::negotiate::Shape;
use crate::requests::options::IncludeObject;
use crate::table;
use crate::watch::{Change, ObjectEvent, ObjectWatch};

struct Lines {
    watch: ObjectWatch,
    shape: Shape,
    include: IncludeObject,
    clock: Clock,
    /// A table's columns are sent once.
    columns_sent: bool,
}

/// The stream is pulled: the next events are fetched when the client has taken the last ones.
pub fn body(watch: ObjectWatch, shape: Shape, include: IncludeObject, clock: Clock) -> Body {
    let lines = Lines {
        watch,
        shape,
        include,
        clock,
        columns_sent: false,
    };
    let stream = stream::unfold(lines, |mut lines| async move {
        let events = lines.watch.next().await?;
        let mut bytes = Vec::new();
        for event in events {
            lines.write(&event, &mut bytes);
        }
        Some((Ok::<_, BodyError>(Frame::data(Bytes::from(bytes))), lines))
    });
    StreamBody::new(stream).boxed_unsync()
}

impl Lines {
    fn write(&mut self, event: &ObjectEvent, out: &mut Vec<u8>) {
        let (kind, object) = match event {
            ObjectEvent::Object { change, item, .. } => {
                let kind = match change {
                    Change::Added => "ADDED",
                    Change::Modified => "MODIFIED",
                    Change::Deleted => "DELETED",
                };
                (kind, self.shaped(item))
            }
            ObjectEvent::Bookmark {
                revision,
                initial_complete,
            } => (
                "BOOKMARK",
                Item::Value(self.bookmark(revision.0, *initial_complete)),
            ),
            ObjectEvent::Error(error) => ("ERROR", Item::Value(error.to_value())),
        };
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        object.write_json(out);
        out.extend_from_slice(b"}\n");
    }

    fn shaped(&mut self, item: &Item) -> Item {
        match self.shape {
            Shape::Object => item.clone(),
            Shape::Metadata(version) => Item::Value(table::metadata_only(&item.value(), version)),
            Shape::Table(version) => {
                let object = item.value();
                let metadata =
                    json!({"resourceVersion": object.pointer("/metadata/resourceVersion")});
                let with_columns = !std::mem::replace(&mut self.columns_sent, true);
                Item::Value(table::table(
                    self.watch.resource(),
                    version,
                    &[object],
                    metadata,
                    self.include,
                    with_columns,
                    (self.clock)(),
                ))
            }
        }
    }

    fn bookmark(&self, revision: u64, initial_complete: bool) -> Value {
        let kind = self.watch.resource().kind;
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_complete {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.shape {
            Shape::Metadata(version) => json!({
                "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
            }),
            _ => json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata}),
        }
    }
}

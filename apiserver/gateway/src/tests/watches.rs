//! Watches over REST: order, resumption, selections, bookmarks and ends.

use std::time::Duration;

use super::*;
use barque_store_state::Revision;

/// An open watch, line by line.
struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }
    /// Type, name and resourceVersion of the next event.
    async fn brief(&mut self) -> (String, String, u64) {
        let event = tokio::time::timeout(Duration::from_secs(5), self.next())
            .await
            .expect("an event in time")
            .expect("an event");
        (
            text(&event, "/type").to_owned(),
            text(&event, "/object/metadata/name").to_owned(),
            text(&event, "/object/metadata/resourceVersion")
                .parse()
                .unwrap(),
        )
    }
}

impl World {
    async fn watch(&self, path: &str) -> Lines {
        let response = self.raw(Some(&admin()), "GET", path, &[], "").await;
        assert_eq!(response.status(), 200);
        Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

fn event(kind: &str, name: &str, revision: u64) -> (String, String, u64) {
    (kind.to_owned(), name.to_owned(), revision)
}
fn revision(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().unwrap()
}

#[tokio::test]
async fn changes_come_in_order_and_resume() {
    let world = World::new().await;
    let a = revision(
        &world
            .post(CONFIG_MAPS, &config_map("a", "1"))
            .await
            .expect(201),
    );
    let mut watch = world.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(
        watch.brief().await,
        event("ADDED", "a", a),
        "what exists comes first"
    );
    let b = revision(
        &world
            .post(CONFIG_MAPS, &config_map("b", "1"))
            .await
            .expect(201),
    );
    let merge = json!({"data": {"k": "2"}});
    let a2 = revision(
        &world
            .patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", &merge)
            .await
            .expect(200),
    );
    world
        .delete(&format!("{CONFIG_MAPS}/b"), &json!({}))
        .await
        .expect(200);
    assert_eq!(watch.brief().await, event("ADDED", "b", b));
    assert_eq!(watch.brief().await, event("MODIFIED", "a", a2));
    assert_eq!(
        watch.brief().await,
        event("DELETED", "b", a2 + 1),
        "under the revision of the deletion"
    );

    let mut resumed = world
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={b}"))
        .await;
    assert_eq!(resumed.brief().await, event("MODIFIED", "a", a2));
    assert_eq!(resumed.brief().await, event("DELETED", "b", a2 + 1));
}

#[tokio::test]
async fn selections_are_entered_and_left() {
    let world = World::new().await;
    let mut watch = world
        .watch(&format!(
            "{PODS}?watch=true&labelSelector=app%3Dweb&fieldSelector=spec.nodeName%3Dn1"
        ))
        .await;
    let created = world.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    world
        .post(&format!("{PODS}/p/binding"), &binding)
        .await
        .expect(201);
    let at = revision(&created);
    assert_eq!(
        watch.brief().await,
        event("ADDED", "p", at + 1),
        "once it matches"
    );
    let relabel = json!({"metadata": {"labels": {"app": "db"}}});
    world
        .patch(&format!("{PODS}/p"), "merge-patch", &relabel)
        .await
        .expect(200);
    let left = watch.next().await.unwrap();
    assert_eq!(text(&left, "/type"), "DELETED");
    assert_eq!(
        text(&left, "/object/metadata/labels/app"),
        "web",
        "the last state that matched"
    );
    assert_eq!(
        revision(&left["object"]),
        at + 2,
        "at the revision it ceased to"
    );
}

#[tokio::test]
async fn one_object_is_watched_by_name() {
    let world = World::new().await;
    let mut watch = world
        .watch(&format!(
            "{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion=0"
        ))
        .await;
    world
        .post(CONFIG_MAPS, &config_map("a", "1"))
        .await
        .expect(201);
    let b = revision(
        &world
            .post(CONFIG_MAPS, &config_map("b", "1"))
            .await
            .expect(201),
    );
    assert_eq!(watch.brief().await, event("ADDED", "b", b));
}

#[tokio::test]
async fn compacted_history_is_410() {
    let world = World::new().await;
    let a = revision(
        &world
            .post(CONFIG_MAPS, &config_map("a", "1"))
            .await
            .expect(201),
    );
    for value in ["2", "3", "4"] {
        world
            .patch(
                &format!("{CONFIG_MAPS}/a"),
                "merge-patch",
                &json!({"data": {"k": value}}),
            )
            .await
            .expect(200);
    }
    crate::storage::Storage::compact(world.storage.as_ref(), Revision(a + 3))
        .await
        .unwrap();
    let reply = world
        .get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={a}"))
        .await;
    assert!(
        reply
            .refused(410, "Expired")
            .starts_with(&format!("too old resource version: {a} ("))
    );
}

#[tokio::test(start_paused = true)]
async fn bookmarks_and_the_end_of_time() {
    let world = World::new().await;
    let a = revision(
        &world
            .post(CONFIG_MAPS, &config_map("a", "1"))
            .await
            .expect(201),
    );
    let mut watch = world
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={a}&allowWatchBookmarks=true&timeoutSeconds=90"))
        .await;
    let elsewhere = revision(&world.post(PODS, &pod("p")).await.expect(201));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(text(&bookmark, "/type"), "BOOKMARK");
    assert_eq!(text(&bookmark, "/object/kind"), "ConfigMap");
    assert_eq!(
        revision(&bookmark["object"]),
        elsewhere,
        "it moves with the whole store"
    );
    assert_eq!(
        text(&watch.next().await.unwrap(), "/type"),
        "BOOKMARK",
        "one more shortly before the end"
    );
    assert_eq!(watch.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_says_when_it_is_complete() {
    let world = World::new().await;
    let a = revision(
        &world
            .post(CONFIG_MAPS, &config_map("a", "1"))
            .await
            .expect(201),
    );
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = world.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(watch.brief().await, event("ADDED", "a", a));
    let complete = watch.next().await.unwrap();
    assert_eq!(text(&complete, "/type"), "BOOKMARK");
    assert_eq!(
        complete["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert!(revision(&complete["object"]) >= a);
    let wrong = world
        .get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true"))
        .await;
    wrong.refused(422, "Invalid");
}

#[tokio::test]
async fn watches_end_when_the_gateway_stops() {
    let world = World::new().await;
    let mut watch = world.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    world.stop.send_replace(true);
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn tables_are_watched_too() {
    let world = World::new().await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let response = world
        .raw(
            Some(&admin()),
            "GET",
            &format!("{PODS}?watch=true"),
            &accept,
            "",
        )
        .await;
    let mut watch = Lines {
        body: response.into_body(),
        buffer: Vec::new(),
    };
    for name in ["p", "q"] {
        world.post(PODS, &pod(name)).await.expect(201);
    }
    let first = watch.next().await.unwrap();
    assert_eq!(
        (
            text(&first, "/object/kind"),
            text(&first, "/object/rows/0/cells/0")
        ),
        ("Table", "p")
    );
    assert!(
        !first["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let second = watch.next().await.unwrap();
    assert_eq!(
        second["object"]["columnDefinitions"],
        json!([]),
        "once is enough"
    );
}

//! Lists: selectors, pages, and how new they are.

use super::*;
use barque_store_state::Revision;

async fn many(world: &World, count: usize) {
    for at in 0..count {
        let mut object = config_map(&format!("c{at:03}"), "v");
        object["metadata"]["labels"] = json!({"parity": if at % 2 == 0 { "even" } else { "odd" }});
        world.post(CONFIG_MAPS, &object).await.expect(201);
    }
}
fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| text(item, "/metadata/name"))
        .collect()
}

#[tokio::test]
async fn pages_show_one_revision() {
    let world = World::new().await;
    many(&world, 7).await;
    let first = world
        .get(&format!("{CONFIG_MAPS}?limit=3"))
        .await
        .expect(200);
    assert_eq!(text(&first, "/kind"), "ConfigMapList");
    assert_eq!(names(&first), ["c000", "c001", "c002"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    world
        .delete(&format!("{CONFIG_MAPS}/c004"), &json!({}))
        .await
        .expect(200);
    world
        .post(CONFIG_MAPS, &config_map("c0035", "new"))
        .await
        .expect(201);
    let next = |list: &Value| {
        format!(
            "{CONFIG_MAPS}?limit=3&continue={}",
            text(list, "/metadata/continue")
        )
    };
    let second = world.get(&next(&first)).await.expect(200);
    assert_eq!(
        names(&second),
        ["c003", "c004", "c005"],
        "as of the first page"
    );
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let third = world.get(&next(&second)).await.expect(200);
    assert_eq!(names(&third), ["c006"]);
    assert!(third["metadata"].get("continue").is_none());

    // Once the revision is gone the token says so, and how to go on all the same.
    let now = world.get(CONFIG_MAPS).await.expect(200);
    let revision: u64 = text(&now, "/metadata/resourceVersion").parse().unwrap();
    crate::storage::Storage::compact(world.storage.as_ref(), Revision(revision))
        .await
        .unwrap();
    let expired = world.get(&next(&first)).await;
    assert!(
        expired
            .refused(410, "Expired")
            .starts_with("The provided continue parameter is too old")
    );
    let onward = world.get(&next(&expired.json())).await.expect(200);
    assert_eq!(names(&onward), ["c003", "c0035", "c005"]);
}

#[tokio::test]
async fn selectors_choose_and_still_fill_pages() {
    let world = World::new().await;
    many(&world, 9).await;
    let odd = world
        .get(&format!("{CONFIG_MAPS}?labelSelector=parity%3Dodd"))
        .await
        .expect(200);
    assert_eq!(names(&odd), ["c001", "c003", "c005", "c007"]);
    let page = world
        .get(&format!("{CONFIG_MAPS}?labelSelector=parity%3Dodd&limit=3"))
        .await
        .expect(200);
    assert_eq!(names(&page), ["c001", "c003", "c005"]);
    assert!(page["metadata"].get("remainingItemCount").is_none());
    let rest = world
        .get(&format!(
            "{CONFIG_MAPS}?labelSelector=parity%3Dodd&limit=3&continue={}",
            text(&page, "/metadata/continue")
        ))
        .await
        .expect(200);
    assert_eq!(names(&rest), ["c007"]);
    let one = world
        .get("/api/v1/configmaps?fieldSelector=metadata.name%3Dc002")
        .await
        .expect(200);
    assert_eq!(names(&one), ["c002"]);
    let not = world
        .get(&format!(
            "{CONFIG_MAPS}?labelSelector=parity+notin+(odd)&fieldSelector=metadata.name!%3Dc000"
        ))
        .await
        .expect(200);
    assert_eq!(names(&not), ["c002", "c004", "c006", "c008"]);
    let elsewhere = world
        .get("/api/v1/namespaces/kube-system/configmaps")
        .await
        .expect(200);
    assert_eq!(elsewhere["items"], json!([]));
}

#[tokio::test]
async fn lists_longer_than_a_store_page_are_whole() {
    let world = World::new().await;
    let count = crate::limits::LIST_PAGE_ROWS as usize + 3;
    many(&world, count).await;
    let all = world.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(names(&all).len(), count);
    let page = world
        .get(&format!("{CONFIG_MAPS}?limit={}", count - 1))
        .await
        .expect(200);
    assert_eq!(names(&page).len(), count - 1);
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
}

#[tokio::test(start_paused = true)]
async fn versions_are_waited_for_or_gone() {
    let world = World::new().await;
    let old = world
        .post(CONFIG_MAPS, &config_map("a", "1"))
        .await
        .expect(201);
    let version = text(&old, "/metadata/resourceVersion");
    world
        .patch(
            &format!("{CONFIG_MAPS}/a"),
            "merge-patch",
            &json!({"data": {"k": "2"}}),
        )
        .await
        .expect(200);
    let at = |query: String| format!("{CONFIG_MAPS}?{query}");
    let exact = world
        .get(&at(format!(
            "resourceVersion={version}&resourceVersionMatch=Exact"
        )))
        .await
        .expect(200);
    assert_eq!(text(&exact, "/items/0/data/k"), "1");
    assert_eq!(text(&exact, "/metadata/resourceVersion"), version);
    let newer = world
        .get(&at(format!(
            "resourceVersion={version}&resourceVersionMatch=NotOlderThan"
        )))
        .await
        .expect(200);
    assert_eq!(text(&newer, "/items/0/data/k"), "2");
    assert_eq!(
        text(
            &world
                .get(&at("resourceVersion=0".to_owned()))
                .await
                .expect(200),
            "/items/0/data/k"
        ),
        "2"
    );
    let future = world.get(&at("resourceVersion=999999".to_owned())).await;
    let message = future.refused(504, "Timeout");
    assert!(
        message.contains("Too large resource version: 999999, current: "),
        "{message}"
    );
    assert_eq!(
        future.json()["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    let revision: u64 = text(&newer, "/metadata/resourceVersion").parse().unwrap();
    crate::storage::Storage::compact(world.storage.as_ref(), Revision(revision))
        .await
        .unwrap();
    world
        .get(&at(format!(
            "resourceVersion={version}&resourceVersionMatch=Exact"
        )))
        .await
        .refused(410, "Expired");
}

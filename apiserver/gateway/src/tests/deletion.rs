//! Deletion: at once, with grace, held by finalizers, of a whole namespace.

use super::*;

#[tokio::test]
async fn a_plain_object_is_gone_at_once() {
    let world = World::new().await;
    let created = world
        .post(CONFIG_MAPS, &config_map("a", "1"))
        .await
        .expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert!(
        world
            .delete(&path, &wrong)
            .await
            .refused(409, "Conflict")
            .contains("UID in precondition: other")
    );
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    world.delete(&path, &stale).await.refused(409, "Conflict");
    let done = world
        .delete(&path, &json!({"propagationPolicy": "Background"}))
        .await
        .expect(200);
    assert_eq!(
        done,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}})
    );
    assert_eq!(
        world
            .delete(&path, &json!({}))
            .await
            .refused(404, "NotFound"),
        "configmaps \"a\" not found"
    );
}

#[tokio::test]
async fn a_bound_pod_gets_its_grace() {
    let world = World::new().await;
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    bound["spec"]["terminationGracePeriodSeconds"] = 20.into();
    world.post(PODS, &bound).await.expect(201);
    let path = format!("{PODS}/p");
    let dying = world.delete(&path, &json!({})).await.expect(200);
    assert_eq!(
        text(&dying, "/metadata/deletionTimestamp"),
        "2027-01-15T08:00:20Z"
    );
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 20);
    let again = world
        .delete(&path, &json!({"gracePeriodSeconds": 60}))
        .await
        .expect(200);
    assert_eq!(
        again["metadata"], dying["metadata"],
        "a second deletion cannot make it later"
    );
    let sooner = world
        .delete(&path, &json!({"gracePeriodSeconds": 5}))
        .await
        .expect(200);
    assert_eq!(
        text(&sooner, "/metadata/deletionTimestamp"),
        "2027-01-15T08:00:05Z"
    );
    let last = world
        .delete(&path, &json!({"gracePeriodSeconds": 0}))
        .await
        .expect(200);
    assert_eq!(text(&last, "/kind"), "Pod");
    world.get(&path).await.refused(404, "NotFound");

    world.post(PODS, &pod("unbound")).await.expect(201);
    world
        .delete(&format!("{PODS}/unbound"), &json!({}))
        .await
        .expect(200);
    world
        .get(&format!("{PODS}/unbound"))
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let world = World::new().await;
    let mut object = deployment("web", 1);
    object["metadata"]["finalizers"] = json!(["example.com/mine"]);
    world.post(DEPLOYMENTS, &object).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let dying = world
        .delete(&path, &json!({"propagationPolicy": "Foreground"}))
        .await
        .expect(200);
    assert_eq!(
        dying["metadata"]["finalizers"],
        json!(["example.com/mine", "foregroundDeletion"])
    );
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 0);
    let more = json!({"metadata": {"finalizers": ["example.com/mine", "example.com/late"]}});
    let message = world
        .patch(&path, "merge-patch", &more)
        .await
        .refused(422, "Invalid");
    assert!(
        message.contains("no new finalizers can be added if the object is being deleted"),
        "{message}"
    );
    let fewer = json!({"metadata": {"finalizers": ["foregroundDeletion"]}});
    world.patch(&path, "merge-patch", &fewer).await.expect(200);
    let none = json!({"metadata": {"finalizers": null}});
    world.patch(&path, "merge-patch", &none).await.expect(200);
    world.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn a_namespace_goes_when_its_content_is_gone() {
    let world = World::new().await;
    world
        .post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}}))
        .await
        .expect(201);
    let inside = "/api/v1/namespaces/x/configmaps";
    world.post(inside, &config_map("a", "1")).await.expect(201);
    let dying = world
        .delete("/api/v1/namespaces/x", &json!({}))
        .await
        .expect(200);
    assert_eq!(text(&dying, "/status/phase"), "Terminating");
    assert_eq!(dying["spec"]["finalizers"], json!(["kubernetes"]));
    let late = world.post(inside, &config_map("b", "1")).await;
    let message = late.refused(403, "Forbidden");
    assert_eq!(
        message,
        "configmaps \"b\" is forbidden: unable to create new content in namespace x because it is being terminated"
    );
    assert_eq!(
        late.json()["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    world
        .delete("/api/v1/namespaces/x", &json!({}))
        .await
        .refused(409, "Conflict");
    world
        .delete(&format!("{inside}/a"), &json!({}))
        .await
        .expect(200);
    let mut finished = world.get("/api/v1/namespaces/x").await.expect(200);
    finished["spec"]["finalizers"] = json!([]);
    world
        .put("/api/v1/namespaces/x/finalize", &finished)
        .await
        .expect(200);
    world
        .get("/api/v1/namespaces/x")
        .await
        .refused(404, "NotFound");
    let message = world
        .delete("/api/v1/namespaces/default", &json!({}))
        .await
        .refused(403, "Forbidden");
    assert_eq!(
        message,
        "namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        let mut object = config_map(name, "1");
        object["metadata"]["labels"] = json!({"keep": (name == "b").to_string()});
        world.post(CONFIG_MAPS, &object).await.expect(201);
    }
    let deleted = world
        .delete(
            &format!("{CONFIG_MAPS}?labelSelector=keep%3Dfalse"),
            &json!({}),
        )
        .await
        .expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = world.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(text(&left, "/items/0/metadata/name"), "b");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

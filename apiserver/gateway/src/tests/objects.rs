//! One object's life: create, read, update, patch, and what happens when two do it at once.

use super::*;

#[tokio::test]
async fn what_is_created_is_read_back_with_an_identity() {
    let world = World::new().await;
    let created = world
        .post(DEPLOYMENTS, &deployment("web", 3))
        .await
        .expect(201);
    assert_eq!(created["kind"], "Deployment");
    assert_eq!(text(&created, "/metadata/uid").len(), 36);
    assert_eq!(
        text(&created, "/metadata/creationTimestamp"),
        "2027-01-15T08:00:00Z"
    );
    assert_eq!(text(&created, "/metadata/namespace"), "default");
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(
        created["spec"]["strategy"]["type"], "RollingUpdate",
        "defaults are applied"
    );
    let read = world.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    assert_eq!(read, created);
    let again = world.post(DEPLOYMENTS, &deployment("web", 3)).await;
    assert_eq!(
        again.refused(409, "AlreadyExists"),
        "deployments.apps \"web\" already exists"
    );
    assert!(again.headers.contains_key("audit-id"));
}

#[tokio::test]
async fn the_namespace_must_be_there() {
    let world = World::new().await;
    let reply = world
        .post("/api/v1/namespaces/gone/configmaps", &config_map("a", "1"))
        .await;
    assert_eq!(
        reply.refused(404, "NotFound"),
        "namespaces \"gone\" not found"
    );
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = world
            .get(&format!("/api/v1/namespaces/{name}"))
            .await
            .expect(200);
        assert_eq!(text(&namespace, "/status/phase"), "Active");
    }
}

#[tokio::test]
async fn names_are_generated() {
    let world = World::new().await;
    let mut pod = pod("");
    pod["metadata"] = json!({"generateName": "web-"});
    let first = world.post(PODS, &pod).await.expect(201);
    let second = world.post(PODS, &pod).await.expect(201);
    let name = text(&first, "/metadata/name");
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_ne!(name, text(&second, "/metadata/name"));
    pod["metadata"] = json!({});
    let message = world.post(PODS, &pod).await.refused(422, "Invalid");
    assert_eq!(
        message,
        "Pod \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
}

#[tokio::test]
async fn a_stale_update_is_a_conflict() {
    let world = World::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let first = world
        .post(DEPLOYMENTS, &deployment("web", 1))
        .await
        .expect(201);
    let mut newer = first.clone();
    newer["spec"]["replicas"] = 2.into();
    let second = world.put(&path, &newer).await.expect(200);
    assert_eq!(second["metadata"]["generation"], 2);
    let mut stale = first.clone();
    stale["spec"]["replicas"] = 9.into();
    let message = world.put(&path, &stale).await.refused(409, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // Without a version it is for whatever is there; with another uid it is not for this object.
    stale["metadata"]["resourceVersion"] = "".into();
    assert_eq!(
        world.put(&path, &stale).await.expect(200)["spec"]["replicas"],
        9
    );
    stale["metadata"]["uid"] = "other".into();
    assert!(
        world
            .put(&path, &stale)
            .await
            .refused(409, "Conflict")
            .contains("Precondition failed: UID")
    );
    stale["metadata"]["uid"] = "".into();
    stale["metadata"]["resourceVersion"] = "abc".into();
    world.put(&path, &stale).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let world = World::new().await;
    let created = world
        .post(CONFIG_MAPS, &config_map("a", "1"))
        .await
        .expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let same = world.put(&path, &created).await.expect(200);
    assert_eq!(
        same["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    let patched = world
        .patch(&path, "merge-patch", &json!({"data": {"k": "1"}}))
        .await
        .expect(200);
    assert_eq!(patched, same);
}

#[tokio::test]
async fn main_and_status_do_not_touch_each_other() {
    let world = World::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let mut object = world
        .post(DEPLOYMENTS, &deployment("web", 1))
        .await
        .expect(201);
    object["status"] = json!({"replicas": 7});
    object["spec"]["replicas"] = 2.into();
    let updated = world.put(&path, &object).await.expect(200);
    assert_ne!(
        updated["status"]["replicas"], 7,
        "status is not written through the object"
    );
    let mut status = updated.clone();
    status["status"] = json!({"replicas": 5, "observedGeneration": 2});
    status["spec"]["replicas"] = 100.into();
    let updated = world
        .put(&format!("{path}/status"), &status)
        .await
        .expect(200);
    assert_eq!(updated["status"]["replicas"], 5);
    assert_eq!(
        updated["spec"]["replicas"], 2,
        "spec is not written through status"
    );
    assert_eq!(updated["metadata"]["generation"], 2);
}

#[tokio::test]
async fn three_kinds_of_patches() {
    let world = World::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    world
        .post(DEPLOYMENTS, &deployment("web", 1))
        .await
        .expect(201);
    let merge = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 2}});
    let object = world.patch(&path, "merge-patch", &merge).await.expect(200);
    assert_eq!(
        (
            &object["metadata"]["labels"]["a"],
            &object["spec"]["replicas"]
        ),
        (&json!("b"), &json!(2))
    );
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "nginx:2"}, {"name": "d", "image": "x"}]}}}});
    let object = world
        .patch(&path, "strategic-merge-patch", &strategic)
        .await
        .expect(200);
    let containers = object["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 2);
    let image =
        |name: &str| containers.iter().find(|c| c["name"] == name).unwrap()["image"].clone();
    assert_eq!(image("c"), "nginx:2", "containers merge by name");
    let json_patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    let object = world
        .patch(&path, "json-patch", &json_patch)
        .await
        .expect(200);
    assert_eq!(object["spec"]["replicas"], 3);

    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 4}});
    world
        .patch(&path, "merge-patch", &stale)
        .await
        .refused(409, "Conflict");
    let renamed = json!({"metadata": {"name": "other"}});
    world
        .patch(&path, "merge-patch", &renamed)
        .await
        .refused(400, "BadRequest");
    world
        .patch(&format!("{DEPLOYMENTS}/gone"), "merge-patch", &json!({}))
        .await
        .refused(404, "NotFound");
    world
        .patch(&path, "apply-patch", &json!({}))
        .await
        .refused(415, "UnsupportedMediaType");
    let test = json!([{"op": "test", "path": "/spec/replicas", "value": 1}]);
    world
        .patch(&path, "json-patch", &test)
        .await
        .refused(422, "Invalid");
}

#[tokio::test]
async fn scale_is_a_view_of_the_object() {
    let world = World::new().await;
    world
        .post(DEPLOYMENTS, &deployment("web", 1))
        .await
        .expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = world.get(&path).await.expect(200);
    assert_eq!(
        (text(&scale, "/kind"), &scale["spec"]["replicas"]),
        ("Scale", &json!(1))
    );
    let scaled = world
        .patch(&path, "merge-patch", &json!({"spec": {"replicas": 4}}))
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 4);
    let mut put = scaled.clone();
    put["spec"]["replicas"] = 5.into();
    world.put(&path, &put).await.expect(200);
    put["spec"]["replicas"] = 6.into();
    world.put(&path, &put).await.refused(409, "Conflict");
    let deployment = world.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    assert_eq!(deployment["spec"]["replicas"], 5);
    assert_eq!(deployment["metadata"]["generation"], 3);
    world
        .patch(&path, "merge-patch", &json!({"spec": {"replicas": -1}}))
        .await
        .refused(422, "Invalid");
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let world = World::new().await;
    world.post(PODS, &pod("p")).await.expect(201);
    let binding = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    let path = format!("{PODS}/p/binding");
    let done = world.post(&path, &binding("n1")).await.expect(201);
    assert_eq!(
        (text(&done, "/kind"), text(&done, "/status")),
        ("Status", "Success")
    );
    let bound = world.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(text(&bound, "/spec/nodeName"), "n1");
    assert_eq!(text(&bound, "/status/conditions/0/type"), "PodScheduled");
    let message = world
        .post(&path, &binding("n2"))
        .await
        .refused(409, "Conflict");
    assert!(
        message.starts_with("Operation cannot be fulfilled on pods/binding \"p\": "),
        "{message}"
    );
    world
        .post(&format!("{PODS}/gone/binding"), &binding("n1"))
        .await
        .expect(400);
}

#[tokio::test]
async fn a_bound_pod_says_since_when_it_is_scheduled() {
    let world = World::new().await;
    world.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    world
        .post(&format!("{PODS}/p/binding"), &binding)
        .await
        .expect(201);
    let bound = world.get(&format!("{PODS}/p")).await.expect(200);
    let scheduled = &bound["status"]["conditions"][0];
    assert_eq!(scheduled["type"], "PodScheduled");
    assert!(scheduled["lastTransitionTime"].is_string(), "{scheduled}");
}

#[tokio::test]
async fn dry_runs_leave_no_trace() {
    let world = World::new().await;
    let created = world
        .post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", "1"))
        .await
        .expect(201);
    assert_eq!(text(&created, "/metadata/name"), "a");
    world
        .get(&format!("{CONFIG_MAPS}/a"))
        .await
        .refused(404, "NotFound");
    let before = world
        .post(CONFIG_MAPS, &config_map("a", "1"))
        .await
        .expect(201);
    world
        .post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", "2"))
        .await
        .refused(409, "AlreadyExists");
    let patched = world
        .patch(
            &format!("{CONFIG_MAPS}/a?dryRun=All"),
            "merge-patch",
            &json!({"data": {"k": "2"}}),
        )
        .await
        .expect(200);
    assert_eq!(patched["data"]["k"], "2");
    world
        .delete(&format!("{CONFIG_MAPS}/a"), &json!({"dryRun": ["All"]}))
        .await
        .expect(200);
    assert_eq!(
        world.get(&format!("{CONFIG_MAPS}/a")).await.expect(200),
        before
    );
}

#[tokio::test]
async fn a_lease_may_be_created_by_putting_it() {
    let world = World::new().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler";
    let lease = json!({"metadata": {"name": "kube-scheduler"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}});
    world.put(path, &lease).await.expect(201);
    let cm = world
        .put(&format!("{CONFIG_MAPS}/a"), &config_map("a", "1"))
        .await;
    assert_eq!(cm.refused(404, "NotFound"), "configmaps \"a\" not found");
}

#[tokio::test]
async fn events_live_under_both_their_names_and_on_a_lease() {
    let world = World::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "m", "type": "Normal", "source": {"component": "kubelet"}});
    world
        .post("/api/v1/namespaces/default/events", &event)
        .await
        .expect(201);
    let other = world
        .get("/apis/events.k8s.io/v1/namespaces/default/events/e")
        .await
        .expect(200);
    assert_eq!(text(&other, "/apiVersion"), "events.k8s.io/v1");
    assert_eq!(
        (text(&other, "/note"), text(&other, "/regarding/name")),
        ("m", "p")
    );
    let key = bytes::Bytes::from_static(b"/registry/events/default/e");
    let read = crate::storage::Read {
        range: barque_store_state::KeyRange::point(key),
        limit: 0,
        revision: None,
        consistency: crate::storage::Consistency::Local,
    };
    let rows = crate::storage::Storage::read(world.storage.as_ref(), read)
        .await
        .unwrap();
    assert_ne!(rows.kvs[0].lease, barque_store_state::LeaseId::NONE);
}

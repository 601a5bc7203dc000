//! Who gets in, and how far.

use super::*;

#[tokio::test]
async fn nobody_without_a_certificate_gets_anywhere() {
    let world = World::new().await;
    for path in [
        PODS,
        "/version",
        "/api",
        "/livez",
        "/openapi/v3",
        "/nowhere",
        "/api/v1/pods?limit=x",
    ] {
        let reply = world.send(None, "GET", path, &[], "").await;
        assert_eq!(reply.refused(401, "Unauthorized"), "Unauthorized", "{path}");
    }
}

#[tokio::test]
async fn refusals_have_kubernetes_words() {
    let world = World::new().await;
    let jane = user("jane", "devs");
    let reply = world
        .send(Some(&jane), "GET", &format!("{DEPLOYMENTS}/web"), &[], "")
        .await;
    assert_eq!(
        reply.refused(403, "Forbidden"),
        "deployments.apps \"web\" is forbidden: User \"jane\" cannot get resource \"deployments\" in API group \"apps\" in the namespace \"default\""
    );
    let reply = world
        .send(Some(&jane), "GET", "/api/v1/nodes", &[], "")
        .await;
    assert_eq!(
        reply.refused(403, "Forbidden"),
        "nodes is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
    );
    let reply = world.send(Some(&jane), "GET", "/metrics", &[], "").await;
    assert_eq!(
        reply.refused(403, "Forbidden"),
        "forbidden: User \"jane\" cannot get path \"/metrics\""
    );
    assert_eq!(
        world
            .send(Some(&jane), "GET", "/version", &[], "")
            .await
            .expect(200)["minor"],
        "33"
    );
    // A body that would be refused is not even looked at.
    let reply = world.send(Some(&jane), "POST", PODS, &[], "not json").await;
    reply.refused(403, "Forbidden");
}

#[tokio::test]
async fn a_kubelet_reaches_its_own_things_only() {
    let world = World::new().await;
    let kubelet = user("system:node:n1", "system:nodes");
    let me = Some(&kubelet);
    let node = |name: &str| json!({"metadata": {"name": name}}).to_string();
    assert_eq!(
        world
            .send(me, "POST", "/api/v1/nodes", &[], node("n1"))
            .await
            .code,
        201
    );
    world
        .send(me, "POST", "/api/v1/nodes", &[], node("n2"))
        .await
        .refused(403, "Forbidden");
    let lease = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}}).to_string()
    };
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(
        world.send(me, "POST", leases, &[], lease("n1")).await.code,
        201
    );
    world
        .send(me, "POST", leases, &[], lease("n2"))
        .await
        .refused(403, "Forbidden");

    for (name, node) in [("mine", "n1"), ("theirs", "n2")] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        world.post(PODS, &pod).await.expect(201);
    }
    let merge = [("content-type", "application/merge-patch+json")];
    let running = json!({"status": {"phase": "Running"}}).to_string();
    let mine = world
        .send(
            me,
            "PATCH",
            &format!("{PODS}/mine/status"),
            &merge,
            running.clone(),
        )
        .await;
    assert_eq!(text(&mine.expect(200), "/status/phase"), "Running");
    world
        .send(
            me,
            "PATCH",
            &format!("{PODS}/theirs/status"),
            &merge,
            running,
        )
        .await
        .refused(403, "Forbidden");
    world
        .send(me, "GET", &format!("{PODS}/theirs"), &[], "")
        .await
        .refused(403, "Forbidden");
    world
        .send(me, "DELETE", &format!("{PODS}/theirs"), &[], "")
        .await
        .refused(403, "Forbidden");
    world
        .send(me, "GET", "/api/v1/pods", &[], "")
        .await
        .refused(403, "Forbidden");
    let list = world
        .send(
            me,
            "GET",
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
            &[],
            "",
        )
        .await
        .expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

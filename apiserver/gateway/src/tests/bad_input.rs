//! Requests that make no sense: each is told so in Kubernetes' words, and nothing changes.

use super::*;
use crate::limits::BODY_BYTES_MAX;

#[tokio::test]
async fn unknown_paths_and_kinds_are_404() {
    let world = World::new().await;
    for path in [
        "/api/v1/namespaces/default/gadgets",
        "/apis/nobody.example/v1/things",
        "/nowhere",
        "/api/v1/pods/a",
        "/api/v1/namespaces/default/pods/a/dance",
    ] {
        let message = world.get(path).await.refused(404, "NotFound");
        assert_eq!(
            message, "the server could not find the requested resource",
            "{path}"
        );
    }
    world
        .send(Some(&admin()), "PUT", CONFIG_MAPS, &[], "{}")
        .await
        .refused(405, "MethodNotAllowed");
    world
        .delete("/api/v1/namespaces", &json!({}))
        .await
        .refused(405, "MethodNotAllowed");
    world
        .send(Some(&admin()), "BREW", CONFIG_MAPS, &[], "{}")
        .await
        .refused(405, "MethodNotAllowed");
}

#[tokio::test]
async fn oversized_bodies_are_413() {
    let world = World::new().await;
    let huge = "x".repeat(BODY_BYTES_MAX + 1);
    let reply = world
        .send(Some(&admin()), "POST", CONFIG_MAPS, &[], huge)
        .await;
    assert_eq!(
        reply.refused(413, "RequestEntityTooLarge"),
        "Request entity too large: limit is 3145728"
    );
}

#[tokio::test]
async fn malformed_bodies_are_400() {
    let world = World::new().await;
    let reply = world
        .send(Some(&admin()), "POST", PODS, &[], "{\"kind\": Pod}")
        .await;
    assert_eq!(
        reply.refused(400, "BadRequest"),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'P' looking for beginning of value ({\"kind\": Pod})"
    );
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    world
        .send(
            Some(&admin()),
            "POST",
            PODS,
            &protobuf,
            &b"k8s\0\xff\xff"[..],
        )
        .await
        .refused(400, "BadRequest");
    world
        .send(Some(&admin()), "POST", PODS, &protobuf, "{}")
        .await
        .refused(400, "BadRequest");
    world
        .send(
            Some(&admin()),
            "POST",
            PODS,
            &[("content-type", "text/plain")],
            "{}",
        )
        .await
        .refused(415, "UnsupportedMediaType");
    let mut other = pod("p");
    other["kind"] = "Service".into();
    assert!(
        world
            .post(PODS, &other)
            .await
            .refused(400, "BadRequest")
            .contains("cannot be handled as a Pod")
    );
    let mut elsewhere = pod("p");
    elsewhere["metadata"]["namespace"] = "other".into();
    assert_eq!(
        world
            .post(PODS, &elsewhere)
            .await
            .refused(400, "BadRequest"),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    world
        .get(&format!("{PODS}/p"))
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn wrong_types_and_unknown_fields() {
    let world = World::new().await;
    let mut wrong = deployment("web", 1);
    wrong["spec"]["replicas"] = "three".into();
    let message = world
        .post(DEPLOYMENTS, &wrong)
        .await
        .refused(400, "BadRequest");
    assert!(message.starts_with("Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string"), "{message}");

    let mut unknown = deployment("web", 1);
    unknown["spec"]["replica"] = 3.into();
    let strict = world
        .post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), &unknown)
        .await;
    assert_eq!(
        strict.refused(400, "BadRequest"),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replica\""
    );
    let ignored = world
        .post(
            &format!("{DEPLOYMENTS}?fieldValidation=Ignore&dryRun=All"),
            &unknown,
        )
        .await;
    assert!(!ignored.headers.contains_key("warning"));
    let warned = world
        .post(&format!("{DEPLOYMENTS}?fieldValidation=Warn"), &unknown)
        .await;
    assert_eq!(
        warned.headers["warning"],
        "299 - \"unknown field \\\"spec.replica\\\"\""
    );
    let stored = warned.expect(201);
    assert!(
        stored["spec"].get("replica").is_none(),
        "unknown fields are not stored"
    );

    let patch = json!({"spec": {"replica": 1}});
    world
        .patch(
            &format!("{DEPLOYMENTS}/web?fieldValidation=Strict"),
            "strategic-merge-patch",
            &patch,
        )
        .await
        .refused(422, "Invalid");
    let invalid = json!({"spec": {"replicas": -1}});
    let message = world
        .patch(&format!("{DEPLOYMENTS}/web"), "merge-patch", &invalid)
        .await
        .refused(422, "Invalid");
    assert_eq!(
        message,
        "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    );
}

#[tokio::test]
async fn nonsense_options_are_told() {
    let world = World::new().await;
    let bad = |query: &'static str| format!("{PODS}?{query}");
    world
        .get(&bad("labelSelector=a%3D%3D%3Db"))
        .await
        .refused(400, "BadRequest");
    assert_eq!(
        world
            .get(&bad("fieldSelector=spec.shoes%3D1"))
            .await
            .refused(400, "BadRequest"),
        "field label not supported: spec.shoes"
    );
    world
        .get(&bad("resourceVersion=x"))
        .await
        .refused(400, "BadRequest");
    world
        .get(&bad("continue=x"))
        .await
        .refused(400, "BadRequest");
    world
        .get(&bad("resourceVersionMatch=Exact"))
        .await
        .refused(422, "Invalid");
    world
        .get(&bad("limit=many"))
        .await
        .refused(400, "BadRequest");
    world
        .post(&bad("dryRun=Maybe"), &pod("p"))
        .await
        .refused(422, "Invalid");
    let html = world
        .send(Some(&admin()), "GET", PODS, &[("accept", "text/html")], "")
        .await;
    html.refused(406, "NotAcceptable");
}

//! The same objects as tables, metadata only, protobuf; and what discovery says.

use super::*;

const TABLE: (&str, &str) = (
    "accept",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
);

#[tokio::test]
async fn tables_are_printed_by_the_server() {
    let world = World::new().await;
    world
        .post(DEPLOYMENTS, &deployment("web", 3))
        .await
        .expect(201);
    let table = world
        .send(Some(&admin()), "GET", DEPLOYMENTS, &[TABLE], "")
        .await
        .expect(200);
    assert_eq!(text(&table, "/kind"), "Table");
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        &columns[..5],
        ["Name", "Ready", "Up-to-date", "Available", "Age"]
    );
    assert_eq!(table["rows"][0]["cells"][0], "web");
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap().len(),
        columns.len()
    );
    assert_eq!(text(&table, "/rows/0/object/kind"), "PartialObjectMetadata");
    let whole = world
        .send(
            Some(&admin()),
            "GET",
            &format!("{DEPLOYMENTS}?includeObject=Object"),
            &[TABLE],
            "",
        )
        .await
        .expect(200);
    assert_eq!(text(&whole, "/rows/0/object/kind"), "Deployment");
    let one = world
        .send(
            Some(&admin()),
            "GET",
            &format!("{DEPLOYMENTS}/web"),
            &[TABLE],
            "",
        )
        .await
        .expect(200);
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn metadata_only() {
    let world = World::new().await;
    world
        .post(CONFIG_MAPS, &config_map("a", "1"))
        .await
        .expect(201);
    let accept = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    )];
    let list = world
        .send(Some(&admin()), "GET", CONFIG_MAPS, &accept, "")
        .await
        .expect(200);
    assert_eq!(text(&list, "/kind"), "PartialObjectMetadataList");
    assert_eq!(text(&list, "/items/0/kind"), "PartialObjectMetadata");
    assert!(list["items"][0].get("data").is_none());
}

#[tokio::test]
async fn protobuf_in_and_out() {
    let world = World::new().await;
    let mut object = config_map("a", "1");
    object["kind"] = "ConfigMap".into();
    object["apiVersion"] = "v1".into();
    let bytes = barque_apiserver_schema::encode_protobuf(&object).unwrap();
    let headers = [
        ("content-type", "application/vnd.kubernetes.protobuf"),
        ("accept", "application/vnd.kubernetes.protobuf"),
    ];
    let reply = world
        .send(Some(&admin()), "POST", CONFIG_MAPS, &headers, bytes)
        .await;
    assert_eq!((reply.code, &reply.body[..4]), (201, &b"k8s\0"[..]));
    let created = barque_apiserver_schema::decode_protobuf(&reply.body).unwrap();
    assert_eq!(
        (
            text(&created, "/data/k"),
            text(&created, "/metadata/namespace")
        ),
        ("1", "default")
    );
    let list = world
        .send(Some(&admin()), "GET", CONFIG_MAPS, &headers[1..], "")
        .await;
    let list = barque_apiserver_schema::decode_protobuf(&list.body).unwrap();
    assert_eq!(text(&list, "/items/0/metadata/name"), "a");
}

#[tokio::test]
async fn stored_bytes_and_decoded_objects_are_the_same() {
    let world = World::new().await;
    world
        .post(DEPLOYMENTS, &deployment("web", 3))
        .await
        .expect(201);
    world.post(PODS, &pod("p")).await.expect(201);
    for path in [
        format!("{DEPLOYMENTS}/web"),
        format!("{PODS}/p"),
        "/api/v1/namespaces/default".to_owned(),
    ] {
        let reply = world.get(&path).await;
        let mut again = serde_json::to_vec(&reply.json()).unwrap();
        again.push(b'\n');
        assert_eq!(reply.body, again, "{path}");
    }
}

#[tokio::test]
async fn discovery_is_cached_by_its_tag() {
    let world = World::new().await;
    let first = world.get("/apis").await;
    assert_eq!(text(&first.expect(200), "/kind"), "APIGroupList");
    let tag = first.headers["etag"].to_str().unwrap();
    let again = world
        .send(
            Some(&admin()),
            "GET",
            "/apis",
            &[("if-none-match", tag)],
            "",
        )
        .await;
    assert_eq!((again.code, again.body.len()), (304, 0));
    let root = world.get("/openapi/v3").await.expect(200);
    let url = root["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let document = world.get(url).await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(
        String::from_utf8_lossy(&world.get("/readyz").await.body),
        "ok"
    );
    let verbose = world.get("/livez?verbose").await;
    assert_eq!(
        String::from_utf8_lossy(&verbose.body),
        "[+]ping ok\nlivez check passed\n"
    );
}

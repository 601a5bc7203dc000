//! Through real sockets: TLS with client certificates, HTTP/1.1 and HTTP/2, REST and gRPC on one port.

#[path = "support/certs.rs"]
mod certs;

use std::sync::Arc;

use barque_apiserver_gateway::storage::memory::Memory;
use barque_apiserver_gateway::{Config, Gateway, Handle, Pem, StartError};
use barque_proto::objects::objects_client::ObjectsClient;
use barque_proto::objects::{
    CreateRequest, DeleteRequest, GetRequest, Resource, WatchRequest, watch_event::Type,
};
use bytes::Bytes;
use certs::{Authority, Pair};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

struct World {
    authority: Authority,
    handle: Handle,
}

fn config(authority: &Authority, listen: &str) -> Config {
    let server = authority.server();
    Config {
        listen: listen.to_owned(),
        server_cert: Pem::Bytes(server.cert.into_bytes()),
        server_key: Pem::Bytes(server.key.into_bytes()),
        client_ca: Pem::Bytes(authority.pem.clone().into_bytes()),
        advertise: None,
    }
}

async fn world() -> World {
    let authority = Authority::new("cluster");
    let handle = Gateway::start(config(&authority, "127.0.0.1:0"), Arc::new(Memory::new()))
        .await
        .unwrap();
    handle.ready().await;
    World { authority, handle }
}

impl World {
    /// One GET; the status code and body.
    async fn get(&self, pair: Option<&Pair>, protocol: &str, path: &str) -> (u16, Value) {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let certificate = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                // Always shows this certificate, also to a server that names other authorities.
                let provider = rustls::crypto::aws_lc_rs::default_provider();
                let key = provider.key_provider.load_private_key(key).unwrap();
                let certified = rustls::sign::CertifiedKey::new(vec![certificate], key);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                    certified,
                )))
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tcp = TcpStream::connect(self.handle.addr()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        let request = http::Request::get(format!("https://localhost{path}"))
            .header("host", "localhost")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = if protocol == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap())
    }

    async fn agent(&self, pair: Option<&Pair>) -> ObjectsClient<Channel> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority.pem))
            .domain_name("localhost");
        if let Some(pair) = pair {
            tls = tls.identity(Identity::from_pem(&pair.cert, &pair.key));
        }
        let url = format!("https://{}", self.handle.addr());
        let endpoint = Channel::from_shared(url).unwrap().tls_config(tls).unwrap();
        ObjectsClient::new(endpoint.connect().await.unwrap())
    }
}

fn config_maps() -> Option<Resource> {
    Some(Resource {
        group: String::new(),
        version: "v1".to_owned(),
        resource: "configmaps".to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_decide_who_gets_in() {
    let world = world().await;
    let admin = world.authority.client("admin", "system:masters");
    let forged = Authority::new("cluster").client("admin", "system:masters");
    let nameless = world.authority.client("", "system:masters");
    for protocol in ["h2", "http/1.1"] {
        let (code, version) = world.get(Some(&admin), protocol, "/version").await;
        assert_eq!((code, &version["minor"]), (200, &json!("33")));
        for stranger in [None, Some(&forged), Some(&nameless)] {
            let (code, status) = world.get(stranger, protocol, "/api/v1/namespaces").await;
            assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));
        }
    }
    world.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_share_the_port_and_the_rules() {
    let world = world().await;
    let controller = world
        .authority
        .client("system:kube-controller-manager", "system:controllers");
    let mut agent = world.agent(Some(&controller)).await;
    let watch = WatchRequest {
        resource: config_maps(),
        label_selector: "app=web".to_owned(),
        ..WatchRequest::default()
    };
    let mut events = agent.watch(watch).await.unwrap().into_inner();
    let synced = events.message().await.unwrap().unwrap().events;
    assert_eq!(synced.len(), 1);
    assert_eq!(synced[0].r#type(), Type::Synced);

    for (name, app) in [("other", "db"), ("a", "web")] {
        let object = json!({"metadata": {"name": name, "labels": {"app": app}}});
        let created = agent
            .create(CreateRequest {
                resource: config_maps(),
                namespace: "default".to_owned(),
                json: object.to_string().into(),
                ..CreateRequest::default()
            })
            .await
            .unwrap()
            .into_inner();
        let created: Value = serde_json::from_slice(&created.json).unwrap();
        assert_eq!(created["metadata"]["name"], name);
    }
    let added = events.message().await.unwrap().unwrap().events;
    assert_eq!((added.len(), added[0].r#type()), (1, Type::Added));
    assert!(added[0].resource_version > synced[0].resource_version);
    let delete = DeleteRequest {
        resource: config_maps(),
        namespace: "default".to_owned(),
        name: "a".to_owned(),
        ..DeleteRequest::default()
    };
    agent.delete(delete).await.unwrap();
    let deleted = events.message().await.unwrap().unwrap().events;
    assert_eq!(deleted[0].r#type(), Type::Deleted);
    let last: Value = serde_json::from_slice(&deleted[0].json).unwrap();
    assert_eq!(
        last["metadata"]["resourceVersion"],
        deleted[0].resource_version.to_string()
    );

    // Resumed after the first event, the rest comes again and nothing else.
    let resume = WatchRequest {
        resource: config_maps(),
        label_selector: "app=web".to_owned(),
        resource_version: added[0].resource_version,
        ..WatchRequest::default()
    };
    let mut resumed = agent.watch(resume).await.unwrap().into_inner();
    let first = resumed.message().await.unwrap().unwrap().events;
    assert_eq!(first[0].r#type(), Type::Deleted);

    let get = |name: &str| GetRequest {
        resource: config_maps(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
    };
    let missing = agent.get(get("a")).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    let trailer = missing.metadata().get_bin("barque-status-bin").unwrap();
    let status: Value = serde_json::from_slice(&trailer.to_bytes().unwrap()).unwrap();
    assert_eq!(status["message"], "configmaps \"a\" not found");

    let node = world.authority.client("system:node:n1", "system:nodes");
    let denied = world
        .agent(Some(&node))
        .await
        .get(get("other"))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), tonic::Code::PermissionDenied);
    let nobody = world.agent(None).await.get(get("other")).await.unwrap_err();
    assert_eq!(nobody.code(), tonic::Code::Unauthenticated);

    // Open watches do not hold a shutdown up.
    world.handle.shutdown().await;
    assert!(matches!(resumed.message().await, Ok(None) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_bad_certificates_are_told() {
    let world = world().await;
    let taken = world.handle.addr().to_string();
    let error = Gateway::start(config(&world.authority, &taken), Arc::new(Memory::new()))
        .await
        .err()
        .unwrap();
    assert_eq!(error.to_string(), format!("cannot listen on {taken}"));
    let mut wrong = config(&world.authority, "127.0.0.1:0");
    wrong.client_ca = Pem::Bytes(b"nothing".to_vec());
    let error = Gateway::start(wrong, Arc::new(Memory::new())).await.err();
    assert!(matches!(error, Some(StartError::Tls { .. })), "{error:?}");
    world.handle.shutdown().await;
}

//! A gateway on a store in memory, for trying clients by hand:
//! `cargo run -p barque-apiserver-gateway --example serve -- /tmp/kubeconfig 6443`, then `kubectl --kubeconfig …`.

#[path = "../tests/support/certs.rs"]
mod certs;

use std::sync::Arc;

use barque_apiserver_gateway::storage::memory::Memory;
use barque_apiserver_gateway::{Config, Gateway, Pem};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let kubeconfig = arguments.next().unwrap_or_else(|| "kubeconfig".to_owned());
    let port = arguments.next().unwrap_or_else(|| "0".to_owned());
    let authority = certs::Authority::new("cluster");
    let server = authority.server();
    let config = Config {
        listen: format!("127.0.0.1:{port}"),
        server_cert: Pem::Bytes(server.cert.into_bytes()),
        server_key: Pem::Bytes(server.key.into_bytes()),
        client_ca: Pem::Bytes(authority.pem.clone().into_bytes()),
        advertise: None,
    };
    let handle = Gateway::start(config, Arc::new(Memory::new())).await?;
    handle.ready().await;
    let admin = authority.client("admin", "system:masters");
    let stranger = certs::Authority::new("other").client("admin", "system:masters");
    let user = |name: &str, pair: &certs::Pair| {
        json!({"name": name, "user": {
            "client-certificate-data": STANDARD.encode(&pair.cert), "client-key-data": STANDARD.encode(&pair.key)}})
    };
    let node = authority.client("system:node:n1", "system:nodes");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}", handle.addr()), "certificate-authority-data": STANDARD.encode(&authority.pem)}}],
        "users": [user("admin", &admin), user("stranger", &stranger), user("node", &node), json!({"name": "nobody", "user": {}})],
        "contexts": [json!({"name": "c", "context": {"cluster": "c", "user": "admin"}})],
    });
    std::fs::write(&kubeconfig, text.to_string())?;
    println!("https://{}  KUBECONFIG={kubeconfig}", handle.addr());
    tokio::signal::ctrl_c().await?;
    handle.shutdown().await;
    Ok(())
}

//! The administrator's kubeconfig: one context per master, the first one current. Written as JSON, which every YAML reader takes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// What a kubeconfig needs of one master.
pub struct Server {
    pub name: String,
    pub url: String,
}

pub fn render(
    servers: &[Server],
    ca_pem: &str,
    client_cert_pem: &str,
    client_key_pem: &str,
) -> String {
    let clusters: Vec<_> = servers
        .iter()
        .map(|s| json!({"name": s.name, "cluster": {"server": s.url, "certificate-authority-data": STANDARD.encode(ca_pem)}}))
        .collect();
    let contexts: Vec<_> = servers
        .iter()
        .map(|s| json!({"name": s.name, "context": {"cluster": s.name, "user": "admin"}}))
        .collect();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": clusters,
        "contexts": contexts,
        "current-context": servers.first().map(|s| s.name.clone()),
        "users": [{"name": "admin", "user": {
            "client-certificate-data": STANDARD.encode(client_cert_pem),
            "client-key-data": STANDARD.encode(client_key_pem),
        }}],
    });
    format!("{config:#}\n")
}

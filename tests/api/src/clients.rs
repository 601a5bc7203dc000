//! gRPC clients of a cluster of `barque up`: the objects service of a gateway, and etcd's API of a member.

use std::path::Path;
use std::time::Duration;

use barque_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use barque_proto::etcdserverpb::watch_client::WatchClient;
use barque_proto::objects::Resource;
use barque_proto::objects::objects_client::ObjectsClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{Cluster, text};

fn channel(url: &str, ca: &Path, cert: &Path, key: &Path) -> Channel {
    // Several tests of one process may come here; the first one's installation counts.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let read = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(ca)))
        .identity(Identity::from_pem(read(cert), read(key)));
    Endpoint::from_shared(url.to_owned())
        .and_then(|e| e.connect_timeout(Duration::from_secs(2)).tls_config(tls))
        .expect("a valid endpoint")
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .connect_lazy()
}

impl Cluster {
    fn url(&self, master: &str, which: &str) -> String {
        let status = self.status();
        let row = status["masters"]
            .as_array()
            .expect("masters")
            .iter()
            .find(|m| m["name"] == master)
            .expect("that master")
            .clone();
        text(&row[which])
    }

    /// The gateway of that master, as the administrator.
    pub fn objects(&self, master: &str) -> ObjectsClient<Channel> {
        let pki = self.dir().join("pki");
        let url = self.url(master, "kubernetes");
        ObjectsClient::new(channel(
            &url,
            &pki.join("cluster-ca.crt"),
            &pki.join("admin.crt"),
            &pki.join("admin.key"),
        ))
        .max_decoding_message_size(256 << 20)
    }

    fn etcd(&self, master: &str) -> Channel {
        let pki = self.dir().join("pki/store");
        channel(
            &self.url(master, "etcd"),
            &pki.join("store-ca.crt"),
            &pki.join("client.crt"),
            &pki.join("client.key"),
        )
    }

    pub fn etcd_watch(&self, master: &str) -> WatchClient<Channel> {
        WatchClient::new(self.etcd(master)).max_decoding_message_size(256 << 20)
    }

    pub fn etcd_maintenance(&self, master: &str) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.etcd(master))
    }
}

pub fn resource(group: &str, version: &str, resource: &str) -> Resource {
    Resource {
        group: group.into(),
        version: version.into(),
        resource: resource.into(),
    }
}

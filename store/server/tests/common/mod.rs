//! One member of the store with its etcd front on a free port, and clients for it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a client of the edge"
)]
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use barque_proto::etcdserverpb as pb;
use barque_store_env::real::{RealDisk, RealEnv, RealNet};
use barque_store_node::{Config as StoreConfig, SpaceRules, Store};
use barque_store_server::{Config, EtcdFront, Handle};
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;
use tonic::transport::Channel;

pub struct Server {
    pub store: Store<RealEnv>,
    pub url: String,
    handle: Handle,
    _dir: TempDir,
}

/// Small, so that a test can reach it.
pub const MAX_REQUEST_BYTES: usize = 100_000;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A member of a cluster of `members`, of which only this one runs.
pub async fn start(members: usize) -> Server {
    start_with(members, SpaceRules::default()).await
}

pub async fn start_with(members: usize, space: SpaceRules) -> Server {
    let peers: Vec<u16> = (0..members).map(|_| free_port()).collect();
    start_member(0, &peers, space).await
}

/// All members of a cluster of `members`. It may have no leader yet.
pub async fn start_all(members: usize) -> Vec<Server> {
    let peers: Vec<u16> = (0..members).map(|_| free_port()).collect();
    let mut servers = Vec::new();
    for n in 0..members {
        servers.push(start_member(n, &peers, SpaceRules::default()).await);
    }
    servers
}

async fn start_member(n: usize, peers: &[u16], space: SpaceRules) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let initial_cluster: BTreeMap<_, _> = peers
        .iter()
        .enumerate()
        .map(|(i, port)| (format!("m{i}"), vec![format!("http://127.0.0.1:{port}")]))
        .collect();
    let election = Duration::from_millis(500);
    let store = Store::<RealEnv>::start(
        StoreConfig {
            name: format!("m{n}"),
            data_dir: dir.path().join("data"),
            cluster_token: "test".to_owned(),
            listen_peer: format!("127.0.0.1:{}", peers[n]),
            advertise_client_urls: vec!["http://127.0.0.1:1".to_owned()],
            initial_cluster,
            heartbeat: Duration::from_millis(50),
            election,
            progress_interval: Duration::from_millis(200),
            space,
            guards: barque_store_consensus::Guards::default(),
            engine: Default::default(),
            value_cache_bytes: 1 << 20,
            ..Default::default()
        },
        RealDisk,
        RealNet::plain(),
    )
    .await
    .unwrap();
    let config = Config {
        listen: vec!["http://127.0.0.1:0".to_owned()],
        max_request_bytes: MAX_REQUEST_BYTES,
        election,
        cores: 2,
        ..Config::default()
    };
    let handle = EtcdFront::start(config, store.clone()).unwrap();
    Server {
        url: handle.addresses()[0].clone(),
        store,
        handle,
        _dir: dir,
    }
}

impl Server {
    pub async fn channel(&self) -> Channel {
        Channel::from_shared(self.url.clone())
            .unwrap()
            .connect()
            .await
            .unwrap()
    }
    pub async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }
    pub async fn stop(self) {
        self.handle.shutdown().await;
        self.store.shutdown().await;
    }
}

pub fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}
pub fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}
pub fn prefix(key: &str) -> pb::RangeRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    pb::RangeRequest {
        range_end: end.into(),
        ..get(key)
    }
}

pub fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

pub fn grant() -> pb::LeaseGrantRequest {
    pb::LeaseGrantRequest { ttl: 60, id: 0 }
}

pub async fn maintenance(server: &Server) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(server.channel().await)
}

/// The whole answer to a plain HTTP request, head included.
pub async fn http(url: &str, request_line: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

/// Code and text of a refusal.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(
    result: Result<tonic::Response<T>, tonic::Status>,
) -> (i32, String) {
    let status = result.unwrap_err();
    (status.code() as i32, status.message().to_owned())
}

//! What a newer version wrote stops this one loudly, before it serves anything: each file's format, an entry, a version of the
//! cluster. (Peers: `store/consensus`; each format's other damages: where the format is.)
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may look at files and use real time"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use barque_store_env::Env;
use barque_store_env::real::{RealDisk, RealEnv, RealNet};
use barque_store_node::{Config, Store};
use barque_store_state::*;
use barque_store_wal::{Options, Record, Wal};
use bytes::Bytes;

fn config(dir: &Path) -> Config {
    Config {
        name: "one".into(),
        data_dir: dir.into(),
        cluster_token: "test".into(),
        listen_peer: "127.0.0.1:0".into(),
        advertise_client_urls: vec!["http://127.0.0.1:2379".into()],
        initial_cluster: [("one".to_owned(), vec!["http://127.0.0.1:2380".to_owned()])].into(),
        value_cache_bytes: 1 << 20,
        ..Default::default()
    }
}

/// A member's directory with a key in it.
async fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::<RealEnv>::start(config(dir.path()), RealDisk, RealNet::plain())
        .await
        .expect("it starts");
    let put = Command::Put(Put {
        key: "k".into(),
        ..Put::default()
    });
    let deadline = RealEnv::now() + Duration::from_secs(10);
    store.propose(put, deadline).await.expect("acknowledged");
    store.shutdown().await;
    dir
}

/// Why the directory is refused: at the start, or by the end of the member that had to read it.
async fn refusal(dir: &Path) -> String {
    match Store::<RealEnv>::start(config(dir), RealDisk, RealNet::plain()).await {
        Err(error) => error.to_string(),
        Ok(store) => RealEnv::timeout(Duration::from_secs(20), store.failed())
            .await
            .expect("it must not go on"),
    }
}

/// The files whose header begins with this.
fn files(dir: &Path, magic: &[u8]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(magic)))
        .collect()
}

/// Logs and row segments have headers of one shape: checksum at 8, format and oldest reader at 12, over 64 bytes.
fn of_the_future(path: &Path) {
    let mut bytes = std::fs::read(path).expect("readable");
    bytes[12..16].copy_from_slice(&[9, 0, 9, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..8]), &bytes[12..64]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_log_of_a_newer_format() {
    let dir = directory().await;
    for path in files(&dir.path().join("member/wal"), b"BARQUEWL") {
        of_the_future(&path);
    }
    let why = refusal(dir.path()).await;
    assert!(
        why.contains("written by a newer version (format 9"),
        "{why}"
    );
    assert!(why.contains(".wal"), "{why}");
}

#[tokio::test]
async fn rows_of_a_newer_format() {
    let dir = directory().await;
    let rows = dir.path().join("member/rows");
    let found = files(&rows, b"BARQUE");
    assert!(!found.is_empty());
    for path in &found {
        of_the_future(path);
    }
    let why = refusal(dir.path()).await;
    assert!(
        why.contains("written by a newer version (format 9"),
        "{why}"
    );
    assert!(why.contains("rows"), "{why}");
}

#[tokio::test]
async fn an_identity_of_a_newer_format() {
    let dir = directory().await;
    let path = dir.path().join("member/identity");
    let text = std::fs::read_to_string(&path).expect("readable");
    std::fs::write(
        &path,
        text.replace("barque-identity 3", "barque-identity 4"),
    )
    .expect("written");
    let why = refusal(dir.path()).await;
    assert!(
        why.contains("identity was written by a newer version"),
        "{why}"
    );
}

/// Puts a committed entry behind those in the log.
async fn append(dir: &Path, entry: Bytes) {
    let wal_dir = dir.join("member/wal");
    let (wal, recovered) = Wal::<RealEnv>::open(RealDisk, &wal_dir, Options::default())
        .await
        .expect("it opens");
    let (index, term) = match recovered.entries.last() {
        Some(last) => (last.index + 1, last.term),
        None => {
            let (index, term) = recovered.purged.expect("the log was used");
            (index + 1, term)
        }
    };
    // As `store/consensus` records an entry with commands: field 2, the state's bytes.
    let length = u8::try_from(entry.len()).expect("a short entry");
    assert!(length < 128);
    let payload = [&[0x12, length], &entry[..]].concat().into();
    let number = wal.append(vec![
        Record::Entry {
            index,
            term,
            payload,
        },
        Record::Committed { index, term },
    ]);
    wal.durable(number).await.expect("written");
    wal.close().await;
}

#[tokio::test]
async fn an_entry_for_a_newer_reader() {
    let dir = directory().await;
    let mut entry = wire::encode_entry(&Entry {
        time: ClusterTime(1),
        commands: vec![Command::LeaseRevoke { id: LeaseId(1) }],
        origins: Vec::new(),
    })
    .to_vec();
    entry[1..3].copy_from_slice(&(wire::READER + 1).to_le_bytes());
    append(dir.path(), entry.into()).await;
    let why = refusal(dir.path()).await;
    assert!(
        why.contains("needs a reader of version 2 or newer"),
        "{why}"
    );
    assert!(why.contains("must be upgraded"), "{why}");
}

#[tokio::test]
async fn an_entry_of_a_newer_format() {
    let dir = directory().await;
    let mut entry = wire::encode_entry(&Entry {
        time: ClusterTime(1),
        commands: Vec::new(),
        origins: Vec::new(),
    })
    .to_vec();
    entry[0] = wire::FORMAT + 1;
    append(dir.path(), entry.into()).await;
    let why = refusal(dir.path()).await;
    assert!(why.contains("written in format 2"), "{why}");
}

#[tokio::test]
async fn a_cluster_that_works_in_a_newer_version() {
    let dir = directory().await;
    let newer = ClusterVersion {
        minor: ClusterVersion::NEWEST.minor + 1,
        ..ClusterVersion::NEWEST
    };
    let entry = wire::encode_entry(&Entry {
        time: ClusterTime(1),
        commands: vec![Command::ClusterVersionSet(newer)],
        origins: Vec::new(),
    });
    append(dir.path(), entry).await;
    let why = refusal(dir.path()).await;
    assert!(why.contains("the cluster works in version 3.8"), "{why}");
    assert!(why.contains("must be upgraded"), "{why}");
}

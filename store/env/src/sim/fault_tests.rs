//! What the finer faults promise: which operation fails, which file hangs, what a flipped bit hits, what each end of a
//! connection knows.

use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::tests::{ping, serve_echo};
use super::*;
use crate::{Conn, Disk, File, Net, Open, ReadHalf, WriteHalf};

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const MS: Duration = Duration::from_millis(1);

async fn file(path: &str, bytes: &'static [u8]) -> SimFile {
    let d = disk(N1);
    let path = Path::new(path);
    let dir = path.parent().unwrap();
    d.create_dir_all(dir).await.unwrap();
    let file = d.open(path, Open::CreateNew).await.unwrap();
    file.write_sync(0, Bytes::from_static(bytes)).await.unwrap();
    for dir in dir.ancestors() {
        d.sync_dir(dir).await.unwrap();
    }
    file
}

fn plant(on: DiskOp) {
    fail_disk(
        N1,
        Some(DiskFault {
            on,
            after: 0,
            error: io::ErrorKind::Other,
        }),
    );
}

#[test]
fn a_fault_hits_its_own_kind_and_is_counted() {
    run(1, async {
        let f = file("/d/a", b"a").await;
        let d = disk(N1);
        let dir = Path::new("/d");
        plant(DiskOp::SyncDir);
        f.sync_data().await.unwrap();
        assert!(d.sync_dir(dir).await.is_err());
        plant(DiskOp::Sync);
        assert!(f.sync_data().await.is_err());
        assert!(d.sync_dir(dir).await.is_err());
        plant(DiskOp::Rename);
        let (a, b) = (Path::new("/d/a"), Path::new("/d/b"));
        assert!(d.exists(a).await.unwrap());
        assert!(d.rename(a, b).await.is_err());
        assert!(d.exists(a).await.unwrap());
        assert_eq!(disk_failures(N1), 4);
        fail_disk(N1, None);
        d.rename(a, b).await.unwrap();
        assert_eq!(disk_failures(N1), 4);
    });
}

#[test]
fn a_failed_write_leaves_some_of_itself() {
    let left: Vec<usize> = (0..40)
        .map(|seed| {
            run(seed, async {
                let f = file("/d/a", b"").await;
                plant(DiskOp::Write);
                let data = Bytes::from_static(&[7; 1000]);
                assert!(f.write_at(0, data).await.is_err());
                fail_disk(N1, None);
                let bytes = f.read_at(0, 1000).await.unwrap();
                assert!(bytes.iter().all(|b| *b == 7));
                bytes.len()
            })
        })
        .collect();
    assert!(left.iter().any(|n| *n < 300) && left.iter().any(|n| *n > 700));
}

#[test]
fn one_directory_hangs_and_the_other_does_not() {
    run(1, async {
        let log = file("/m/wal/a", b"a").await;
        let rows = file("/m/rows/a", b"a").await;
        hang_files(N1, "/wal/", Duration::from_secs(3));
        let begun = elapsed();
        rows.sync_data().await.unwrap();
        assert!(elapsed() - begun < 100 * MS);
        log.sync_data().await.unwrap();
        assert!(elapsed() - begun >= Duration::from_secs(3));
    });
}

#[test]
fn a_flipped_bit_is_one_bit_of_the_right_file_and_stays() {
    run(5, async {
        let other = file("/m/wal/a", &[1; 2000]).await;
        let f = file("/m/rows/a", &[2; 2000]).await;
        assert_eq!(flip_bit(N1, "/nothing/"), None);
        let (path, offset) = flip_bit(N1, "/rows/").expect("it has synced bytes");
        assert_eq!(path, Path::new("/m/rows/a"));
        let bytes = f.read_at(0, 2000).await.unwrap();
        let changed: Vec<usize> = (0..2000).filter(|at| bytes[*at] != 2).collect();
        assert_eq!(changed, [offset as usize]);
        assert_eq!((bytes[offset as usize] ^ 2).count_ones(), 1);
        assert_eq!(other.read_at(0, 2000).await.unwrap(), vec![1; 2000]);
        power_off(N1);
        power_on(N1);
        let again = disk(N1).open(Path::new("/m/rows/a"), Open::Read).await;
        let again = again.unwrap().read_at(0, 2000).await.unwrap();
        assert_eq!(again, bytes);
    });
}

#[test]
fn a_wiped_disk_is_empty() {
    run(1, async {
        drop(file("/m/a", b"a").await);
        kill(N1);
        wipe_disk(N1);
        assert!(!disk(N1).exists(Path::new("/m")).await.unwrap());
    });
}

#[test]
fn a_slow_link_carries_so_many_bytes_a_second() {
    run(1, async {
        set_link(
            N2,
            N1,
            Link {
                rate: 100_000,
                ..Link::default()
            },
        );
        serve_echo(N1).await;
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        let begun = elapsed();
        w.write_all(Bytes::from(vec![1; 200_000])).await.unwrap();
        let mut got = BytesMut::new();
        while got.len() < 200_000 {
            r.read(&mut got).await.unwrap();
        }
        let took = elapsed() - begun;
        assert!(took > 1_900 * MS && took < 2_500 * MS, "{took:?}");
    });
}

#[test]
fn a_black_connection_is_silent_and_a_new_one_works() {
    run(1, async {
        serve_echo(N1).await;
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        ping(&mut r, &mut w, b"hello").await.unwrap();
        blacken_connections(N1, N2);
        w.write_all(Bytes::from_static(b"lost")).await.unwrap();
        let mut buf = BytesMut::new();
        heal_all();
        let silence = SimEnv::timeout(Duration::from_secs(60), r.read(&mut buf)).await;
        assert!(silence.is_err(), "{silence:?}");
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        ping(&mut r, &mut w, b"hello").await.unwrap();
    });
}

#[test]
fn the_other_end_of_a_half_open_connection_learns_of_it_when_it_sends() {
    run(1, async {
        serve_echo(N1).await;
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        ping(&mut r, &mut w, b"hello").await.unwrap();
        forget_connections(N1, N2);
        let mut buf = BytesMut::new();
        let silence = SimEnv::timeout(Duration::from_secs(60), r.read(&mut buf)).await;
        assert!(silence.is_err(), "{silence:?}");
        w.write_all(Bytes::from_static(b"anybody?")).await.unwrap();
        let reset = SimEnv::timeout(100 * MS, r.read(&mut buf)).await;
        assert!(matches!(reset, Ok(Err(_))), "{reset:?}");
    });
}

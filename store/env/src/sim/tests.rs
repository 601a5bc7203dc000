//! What the simulated world promises.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{Conn, Disk, File, Killed, Listener, Net, Open, ReadHalf, WriteHalf};

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const MS: Duration = Duration::from_millis(1);

pub(super) async fn serve_echo(node: NodeId) {
    let mut listener = net(node).listen("0.0.0.0:7").await.unwrap();
    spawn_on(node, "accept", async move {
        while let Ok(conn) = listener.accept().await {
            let (mut r, mut w) = conn.split();
            SimEnv::spawn("echo", async move {
                let mut buf = BytesMut::new();
                while r.read(&mut buf).await? > 0 {
                    w.write_all(buf.split().freeze()).await?;
                }
                io::Result::Ok(())
            });
        }
    });
}

async fn read_exact(r: &mut SimRead, len: usize) -> io::Result<BytesMut> {
    let mut buf = BytesMut::new();
    while buf.len() < len {
        if r.read(&mut buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buf)
}

pub(super) async fn ping(r: &mut SimRead, w: &mut SimWrite, data: &'static [u8]) -> io::Result<()> {
    w.write_all(Bytes::from_static(data)).await?;
    assert_eq!(read_exact(r, data.len()).await?, data);
    Ok(())
}

#[test]
fn a_disk_tells_the_room_it_was_given() {
    run(1, async {
        let ask = || async { disk(N1).space(Path::new("/")).await.unwrap() };
        assert!(ask().await.free > 1 << 30);
        let little = crate::Space { free: 5, total: 9 };
        set_disk_space(N1, Some(little));
        assert_eq!(ask().await, little);
        assert!(disk(N2).space(Path::new("/")).await.unwrap().free > 5);
        set_disk_space(N1, None);
        assert!(ask().await.free > 5);
    });
}

/// A little of everything.
async fn medley() -> u64 {
    serve_echo(N1).await;
    let sum = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for i in 0..8u64 {
        let sum = sum.clone();
        tasks.push(spawn_on(N2, "client", async move {
            let path = format!("/f{i}");
            let file = disk(N2)
                .open(Path::new(&path), Open::CreateNew)
                .await
                .unwrap();
            let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
            for round in 0..10 {
                SimEnv::sleep(Duration::from_micros(SimEnv::random() % 500)).await;
                ping(&mut r, &mut w, b"hello").await.unwrap();
                file.write_sync(round * 5, Bytes::from_static(b"hello"))
                    .await
                    .unwrap();
                // Depends on the order in which the clients come by.
                let old = sum.load(Ordering::Relaxed);
                sum.store(old.wrapping_mul(31) + i, Ordering::Relaxed);
            }
        }));
    }
    sleep(2 * MS).await;
    kill(NodeId(3));
    for task in tasks {
        task.await.unwrap();
    }
    sum.load(Ordering::Relaxed)
}

#[test]
fn a_seed_is_a_run() {
    let once = |seed| {
        run(seed, async {
            (medley().await, trace_hash(), polls(), elapsed())
        })
    };
    let again = std::thread::spawn(move || once(1)).join().unwrap();
    assert_eq!(once(1), again);
    assert_eq!(once(1), again);
    assert_ne!(once(2).1, again.1);
    assert_ne!(once(2).0, again.0);
}

#[test]
fn time_is_virtual_and_clocks_have_their_own_rate() {
    run(1, async {
        set_clock(N1, Duration::from_secs(500), 100_000);
        let slept = spawn_on(N1, "sleeper", async {
            let before = SimEnv::now();
            SimEnv::sleep(Duration::from_secs(3_300)).await;
            SimEnv::now().saturating_since(before)
        });
        let slept = slept.await.unwrap();
        // A clock that runs 10 % fast is through its 55 minutes after 50.
        assert!(slept >= Duration::from_secs(3_300) && slept < Duration::from_secs(3_301));
        let real = elapsed();
        assert!(real > Duration::from_secs(2_999) && real < Duration::from_secs(3_001));
        assert_eq!(clock(N1), Instant(500_000_000_000) + real + real / 10);
        assert_eq!(virtual_time(N1, clock(N1)), real);
    });
}

#[test]
fn a_killed_machine_runs_nothing_not_even_from_destructors() {
    struct Last(Arc<AtomicU64>);
    impl Drop for Last {
        fn drop(&mut self) {
            let count = self.0.clone();
            let _now = SimEnv::now();
            SimEnv::spawn(
                "undead",
                async move { count.fetch_add(100, Ordering::Relaxed) },
            );
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    run(1, async {
        let count = Arc::new(AtomicU64::new(0));
        let last = Last(count.clone());
        let task = spawn_on(N1, "victim", async move {
            let _last = last;
            std::future::pending::<()>().await;
        });
        sleep(MS).await;
        kill(N1);
        assert!(matches!(task.await, Err(Killed)));
        sleep(MS).await;
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert_eq!(spawn_on(N1, "reborn", async { 5 }).await.unwrap(), 5);
    });
}

#[test]
fn a_paused_machine_stands_still_while_time_goes_on() {
    run(1, async {
        let ticks = Arc::new(AtomicU64::new(0));
        let counter = ticks.clone();
        spawn_on(N1, "ticker", async move {
            loop {
                SimEnv::sleep(MS).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        sleep(10 * MS).await;
        let before = ticks.load(Ordering::Relaxed);
        assert!(before > 5);
        pause(N1, 50 * MS);
        sleep(49 * MS).await;
        assert_eq!(ticks.load(Ordering::Relaxed), before);
        sleep(10 * MS).await;
        assert!(ticks.load(Ordering::Relaxed) > before + 3);
    });
}

#[test]
fn aborted_tasks_end() {
    run(1, async {
        let task = spawn_on(N1, "forever", std::future::pending::<()>());
        sleep(MS).await;
        task.abort();
        assert!(task.await.is_err());
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn waiting_for_nothing_is_reported() {
    run(1, std::future::pending::<()>());
}

#[test]
fn kill_keeps_what_was_written_and_power_loss_what_was_synced() {
    let (mut whole, mut torn) = (0, 0);
    for seed in 0..60 {
        run(seed, async {
            let path = Path::new("/log");
            let file = disk(N1).open(path, Open::CreateNew).await.unwrap();
            disk(N1).sync_dir(Path::new("/")).await.unwrap();
            file.write_sync(0, Bytes::from(vec![1; 4_096]))
                .await
                .unwrap();
            file.write_at(4_096, Bytes::from(vec![2; 4_096]))
                .await
                .unwrap();
            kill(N1);
            assert!(file.read_at(0, 1).await.is_err(), "a dead process's handle");
            let file = disk(N1).open(path, Open::ReadWrite).await.unwrap();
            let all = file.read_at(0, 9_999).await.unwrap();
            assert_eq!(all.len(), 8_192);
            assert_eq!(all[4_096..], vec![2; 4_096]);
            drop(file);

            power_off(N1);
            assert!(!is_powered(N1));
            power_on(N1);
            let file = disk(N1).open(path, Open::Read).await.unwrap();
            let all = file.read_at(0, 9_999).await.unwrap();
            assert_eq!(all[..4_096], vec![1; 4_096], "what was synced");
            if all.len() == 8_192 && all[4_096..].iter().all(|b| *b == 2) {
                whole += 1;
            } else {
                torn += 1;
            }
        });
    }
    assert!(whole > 5 && torn > 20, "{whole} whole, {torn} torn");
}

#[test]
fn a_crash_cuts_operations_under_way() {
    let (mut none, mut part, mut all) = (0, 0, 0);
    for seed in 0..120 {
        run(seed, async {
            let path = Path::new("/log");
            let file = disk(N1).open(path, Open::CreateNew).await.unwrap();
            let write = spawn_on(N1, "writer", async move {
                file.write_sync(0, Bytes::from(vec![1; 1_000])).await
            });
            sleep(Duration::from_micros(seed % 20)).await;
            kill(N1);
            assert!(write.await.is_err(), "killed before its sync was done");
            let file = disk(N1).open(path, Open::Read).await.unwrap();
            match file.len().await.unwrap() {
                0 => none += 1,
                1_000 => all += 1,
                _ => part += 1,
            }
        });
    }
    assert!(none > 0 && part > 0 && all > 0, "{none} {part} {all}");
}

#[test]
fn an_operation_outlives_its_caller_and_keeps_its_place() {
    run(1, async {
        let file = disk(N1).open(Path::new("/f"), Open::CreateNew).await;
        let file = file.unwrap();
        {
            let mut first = Box::pin(file.write_at(0, Bytes::from_static(b"first")));
            assert!(futures::poll!(first.as_mut()).is_pending());
        }
        file.write_at(0, Bytes::from_static(b"2nd")).await.unwrap();
        assert_eq!(file.read_at(0, 9).await.unwrap(), "2ndst");
    });
}

#[test]
fn stalls_errors_and_locks() {
    run(1, async {
        let (d, root) = (disk(N1), Path::new("/"));
        let file = d.open(Path::new("/f"), Open::CreateNew).await.unwrap();
        let before = elapsed();
        stall_disk(N1, 700 * MS);
        file.write_sync(0, Bytes::from_static(b"x")).await.unwrap();
        assert!(elapsed() - before >= 700 * MS);

        fail_disk(
            N1,
            Some(DiskFault {
                on: DiskOp::Sync,
                after: 1,
                error: io::ErrorKind::StorageFull,
            }),
        );
        d.sync_dir(root).await.unwrap();
        let failed = file.write_sync(0, Bytes::from_static(b"y")).await;
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        fail_disk(N1, None);
        file.sync_data().await.unwrap();

        let read = d.open(Path::new("/f"), Open::Read).await.unwrap();
        assert!(read.set_len(0).await.is_err());

        let lock = Path::new("/LOCK");
        let held = d.lock(lock).await.unwrap();
        let second = d.lock(lock).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        let held = d.lock(lock).await.unwrap();
        kill(N1);
        let again = d.lock(lock).await.unwrap();
        drop(held); // of the dead process: not the new holder's
        assert!(d.lock(lock).await.is_err());
        drop(again);
    });
}

#[test]
fn a_reader_sees_writes_outlives_the_name_and_dies_with_the_process() {
    run(1, async {
        let (d, path) = (disk(N1), Path::new("/f"));
        let none = d.reader(path).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        let file = d.open(path, Open::CreateNew).await.unwrap();
        let reader = d.reader(path).unwrap();
        file.write_at(0, Bytes::from_static(b"hello"))
            .await
            .unwrap();
        let mut buf = [0; 4];
        reader.read_exact_at(1, &mut buf).unwrap();
        assert_eq!(&buf, b"ello");
        let short = reader.read_exact_at(2, &mut buf).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);

        let fault = DiskFault {
            on: DiskOp::Read,
            after: 0,
            error: io::ErrorKind::StorageFull,
        };
        fail_disk(N1, Some(fault));
        let failed = reader.read_exact_at(0, &mut buf).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        fail_disk(N1, None);

        d.remove(path).await.unwrap();
        drop(file);
        reader.read_exact_at(0, &mut buf).unwrap();
        assert_eq!(&buf, b"hell");
        kill(N1);
        assert!(reader.read_exact_at(0, &mut buf).is_err());
        assert_eq!(d.native_path(path), None);
    });
}

#[test]
fn bytes_arrive_in_order_whatever_the_pieces() {
    for seed in 0..20 {
        run(seed, async {
            set_default_link(Link {
                delay: (Duration::ZERO, 5 * MS),
                loss: 0.05,
                ..Link::default()
            });
            let mut listener = net(N1).listen("n1:0").await.unwrap();
            let addr = listener.local_addr();
            let sent: Bytes = (0..700_000u32).map(|i| (i % 251) as u8).collect();
            let data = sent.clone();
            let writer = spawn_on(N2, "writer", async move {
                let (_r, mut w) = net(N2).connect(&addr).await?.split();
                w.write_all(data).await
            });
            let (mut r, _w) = listener.accept().await.unwrap().split();
            // The writer is held back once nobody reads.
            sleep(Duration::from_secs(5)).await;
            let mut got = BytesMut::new();
            assert!(r.read(&mut got).await.unwrap() < 300_000);
            while r.read(&mut got).await.unwrap() > 0 {}
            assert!(got == sent);
            writer.await.unwrap().unwrap();
        });
    }
}

#[test]
fn a_partition_holds_bytes_until_it_heals() {
    run(1, async {
        serve_echo(N1).await;
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        ping(&mut r, &mut w, b"one").await.unwrap();
        partition(N1, N2);
        w.write_all(Bytes::from_static(b"two")).await.unwrap();
        let mut buf = BytesMut::new();
        let silence = SimEnv::timeout(Duration::from_secs(9), r.read(&mut buf)).await;
        assert!(silence.is_err());
        let refused = SimEnv::timeout(Duration::from_secs(9), net(N2).connect("n1:7")).await;
        assert!(refused.is_err(), "no handshake through a partition");
        heal(N1, N2);
        assert_eq!(read_exact(&mut r, 3).await.unwrap(), b"two"[..]);
    });
}

#[test]
fn one_way_partitions_block_one_way() {
    run(1, async {
        let mut listener = net(N1).listen("n1:9").await.unwrap();
        let client = net(N2).connect("n1:9").await.unwrap();
        let (mut r1, mut w1) = listener.accept().await.unwrap().split();
        let (mut r2, mut w2) = client.split();
        partition_one_way(N2, N1);
        w1.write_all(Bytes::from_static(b"down")).await.unwrap();
        assert_eq!(read_exact(&mut r2, 4).await.unwrap(), b"down"[..]);
        w2.write_all(Bytes::from_static(b"up")).await.unwrap();
        let mut buf = BytesMut::new();
        let up = SimEnv::timeout(Duration::from_secs(5), r1.read(&mut buf)).await;
        assert!(up.is_err());
        heal_all();
        assert_eq!(read_exact(&mut r1, 2).await.unwrap(), b"up"[..]);
    });
}

#[test]
fn a_killed_peer_breaks_the_connection_and_a_powerless_one_does_not() {
    run(1, async {
        serve_echo(N1).await;
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        ping(&mut r, &mut w, b"one").await.unwrap();
        let before = elapsed();
        kill(N1);
        let mut buf = BytesMut::new();
        let end = r.read(&mut buf).await;
        assert!(matches!(end, Ok(0)) || end.is_err());
        assert!(elapsed() - before < 10 * MS, "its kernel says so at once");
        w.write_all(Bytes::from_static(b"x")).await.unwrap();
        sleep(10 * MS).await;
        assert!(w.write_all(Bytes::from_static(b"y")).await.is_err());
        let refused = net(N2).connect("n1:7").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        serve_echo(N1).await;
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        ping(&mut r, &mut w, b"two").await.unwrap();
        power_off(N1);
        w.write_all(Bytes::from_static(b"lost")).await.unwrap();
        let silence = SimEnv::timeout(Duration::from_secs(60), r.read(&mut buf)).await;
        assert!(
            silence.is_err(),
            "nothing is heard of a machine without power"
        );
        power_on(N1);
        let end = SimEnv::timeout(Duration::from_secs(10), r.read(&mut buf)).await;
        assert!(
            end.unwrap().is_err(),
            "the new kernel knows no such connection"
        );
    });
}

#[test]
fn listeners_hold_their_port_until_they_go() {
    run(1, async {
        let first = net(N1).listen("n1:5").await.unwrap();
        let second = net(N1).listen("0.0.0.0:5").await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        let other = net(N1).listen("n2:5").await.unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::AddrNotAvailable);
        // A connection nobody accepted is reset when the listener goes.
        let (mut r, mut w) = net(N2).connect("n1:5").await.unwrap().split();
        drop(first);
        let _ = w.write_all(Bytes::from_static(b"x")).await;
        let mut buf = BytesMut::new();
        let end = r.read(&mut buf).await;
        assert!(matches!(end, Ok(0)) || end.is_err());
        net(N1).listen("n1:5").await.unwrap();
        assert!(net(N1).connect("example.org:1").await.is_err());
    });
}

#[test]
fn broken_connections_and_losing_links_fail_loudly() {
    run(1, async {
        serve_echo(N1).await;
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        break_connections(N1, N2);
        assert!(w.write_all(Bytes::from_static(b"x")).await.is_err());
        let mut buf = BytesMut::new();
        assert!(r.read(&mut buf).await.is_err());

        set_link(
            N2,
            N1,
            Link {
                reset: 1.0,
                ..Link::default()
            },
        );
        let (mut r, mut w) = net(N2).connect("n1:7").await.unwrap().split();
        assert!(ping(&mut r, &mut w, b"x").await.is_err());
    });
}

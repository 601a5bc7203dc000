//! A member that the log does not reach any more is sent the state: under load, over cuts, kills and power losses, on
//! simulated machines. Sizes are small, so that a few hundred writes are more than the log keeps.

mod common;

use std::time::Duration;

use barque_store_env::sim::{self, NodeId};
use barque_store_env::{Disk, File, Open};
use barque_store_node::{Config, ImageRules, Store};
use common::cluster::Cluster;
use common::{MS, S, in_member, on, simulated, try_start};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// About a second for the state these tests send.
const SLOW: ImageRules = ImageRules {
    log_kept_min: 20 << 10,
    log_kept_max: 20 << 10,
    log_kept_hard: 1 << 20,
    piece_bytes: 2 << 10,
    bytes_per_second: 100 << 10,
};

fn config(node: NodeId, images: ImageRules) -> Config {
    Config {
        images,
        ..simulated(node, &NODES, "images")
    }
}

async fn cluster(images: ImageRules) -> Cluster {
    Cluster::new(&NODES, 20 * S, move |node| config(node, images)).await
}

impl Cluster {
    /// All three have applied everything and are equal; fails after a minute.
    async fn equal(&self) {
        let mut seen = Vec::new();
        for _ in 0..6_000 {
            seen = self
                .members
                .iter()
                .zip(NODES)
                .map(|(s, node)| sim::enter(node, || s.as_ref().map(Store::whole_hash)))
                .collect();
            if seen.iter().all(|hash| hash.is_some() && *hash == seen[0]) {
                return;
            }
            sim::sleep(MS * 10).await;
        }
        panic!("the members do not come to the same: {seen:?}");
    }

    /// A follower that was down while the log moved on, and is down still.
    async fn left_behind(&mut self) -> usize {
        self.write(60).await;
        let leader = self.leader().await;
        let away = (leader + 1) % 3;
        self.kill(away);
        self.write(500).await;
        // The last batch is persisted, and the log purged.
        sim::sleep(MS * 500).await;
        away
    }
}

/// The file's text, as the machine sees it.
async fn text(at: usize, name: &'static str) -> Option<String> {
    let node = NODES[at];
    let read = async move {
        let file = sim::disk(node).open(&in_member(name), Open::Read).await;
        let bytes = file.ok()?.read_at(0, 4096).await.ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    sim::spawn_on(node, "look", read).await.ok().flatten()
}

/// Bytes of the rows in the directory that a state is received in.
async fn received(at: usize, dir: &'static str) -> u64 {
    let node = NODES[at];
    let look = async move {
        let (disk, dir) = (sim::disk(node), in_member(dir));
        let mut bytes = 0;
        for name in disk.list(&dir).await.unwrap_or_default() {
            if name.ends_with(".seg")
                && let Ok(file) = disk.open(&dir.join(name), Open::Read).await
            {
                bytes += file.len().await.unwrap_or(0);
            }
        }
        bytes
    };
    sim::spawn_on(node, "look", look).await.unwrap_or(0)
}

const INSTALLED: &str = "rows.current";
const STAGING: &str = "rows.staging";

/// Waits until so many bytes are received, and sees that it never has fewer than `least`; how many it has.
async fn until_received(at: usize, least: u64, bytes: u64) -> u64 {
    for _ in 0..20_000 {
        let now = received(at, "rows-2").await;
        assert!(now >= least, "begun again: {now} of {least}");
        if now >= bytes {
            return now;
        }
        sim::sleep(MS).await;
    }
    panic!("nothing is received");
}

#[test]
fn a_follower_that_was_away_is_sent_the_state_under_load() {
    for seed in 1..=4 {
        sim::run(seed, async {
            let mut cluster = cluster(SLOW).await;
            let away = cluster.left_behind().await;
            assert_eq!(text(away, INSTALLED).await, None);
            cluster.boot(away).await;
            cluster.write(300).await;
            cluster.equal().await;
            assert!(text(away, INSTALLED).await.is_some(), "it took the state");
            assert_eq!(text(away, STAGING).await, None, "and cleared up");
            // And once more, the other way round: back to the first directory; everybody restarts in between.
            cluster.kill(away);
            cluster.write(400).await;
            for at in (0..3).filter(|at| *at != away) {
                cluster.kill(at);
                cluster.boot(at).await;
            }
            cluster.write(50).await;
            cluster.boot(away).await;
            cluster.write(100).await;
            cluster.equal().await;
            let current = text(away, INSTALLED).await.expect("it is there");
            assert!(current.contains("\nrows\n"), "{current}");
            for at in 0..3 {
                cluster.cut_power(at);
                cluster.boot(at).await;
            }
            cluster.write(10).await;
            cluster.equal().await;
        });
    }
}

#[test]
fn a_transfer_goes_on_where_it_was_after_cuts_and_a_restart_of_the_receiver() {
    for seed in 1..=4 {
        sim::run(seed, async {
            let mut cluster = cluster(SLOW).await;
            let away = cluster.left_behind().await;
            let leader = cluster.leader().await;
            cluster.boot(away).await;
            let mut has = until_received(away, 0, 20 << 10).await;
            let offer = text(away, STAGING).await.expect("it is being received");
            for cut in 0..3 {
                if cut < 2 {
                    sim::break_connections(NODES[away], NODES[leader]);
                } else {
                    cluster.kill(away);
                    cluster.boot(away).await;
                }
                has = until_received(away, has, has + (9 << 10)).await;
                assert_eq!(text(away, STAGING).await.as_ref(), Some(&offer));
            }
            cluster.write(20).await;
            cluster.equal().await;
            assert!(text(away, INSTALLED).await.is_some());
        });
    }
}

/// The second offer was once taken for one that was begun, and received until the disk was full.
#[test]
fn a_state_that_does_not_fit_is_not_begun_and_comes_once_there_is_room() {
    sim::run(1, async {
        let mut cluster = cluster(SLOW).await;
        let away = cluster.left_behind().await;
        // As much as is kept free in any case, and no room for the state on top of it.
        let space = barque_store_env::Space {
            free: (128 << 20) + 100,
            total: 2 << 30,
        };
        sim::set_disk_space(NODES[away], Some(space));
        cluster.boot(away).await;
        for _ in 0..100 {
            sim::sleep(MS * 50).await;
            assert_eq!(received(away, "rows-2").await, 0);
        }
        assert_eq!(text(away, INSTALLED).await, None);
        sim::set_disk_space(NODES[away], None);
        cluster.equal().await;
        assert!(text(away, INSTALLED).await.is_some());
    });
}

/// It lay there for good, as large as the present one.
#[test]
fn a_state_that_was_received_in_vain_is_taken_away() {
    sim::run(1, async {
        let mut cluster = cluster(SLOW).await;
        cluster.write(60).await;
        let away = (cluster.leader().await + 1) % 3;
        cluster.kill(away);
        // A transfer of a state that the member has gone past by its log.
        let lines = "barque-rows 1\nrows-2 0000000000000001 1 5\n";
        let checksum = crc32c::crc32c(lines.as_bytes());
        let label = format!("{lines}checksum {checksum:08x}\n");
        let node = NODES[away];
        let written = on(node, async move {
            let (disk, path) = (sim::disk(node), in_member(STAGING));
            let file = disk.open(&path, Open::CreateNew).await?;
            file.write_sync(0, label.into_bytes().into()).await?;
            disk.sync_dir(&in_member("")).await
        });
        written.await.expect("written");
        cluster.boot(away).await;
        cluster.equal().await;
        sim::sleep(S * 11).await;
        assert_eq!(text(away, STAGING).await, None);
        cluster.write(20).await;
        cluster.equal().await;
    });
}

/// The room was looked at first: a member whose disk such a state had filled did not start again.
#[test]
fn a_half_received_state_makes_room_before_a_start_is_refused_for_too_little() {
    sim::run(1, async {
        let mut cluster = cluster(SLOW).await;
        let away = cluster.left_behind().await;
        let node = NODES[away];
        cluster.boot(away).await;
        until_received(away, 0, 20 << 10).await;
        cluster.kill(away);
        // The simulated disk stays as full, whatever is removed.
        let full = barque_store_env::Space {
            free: 1 << 20,
            total: 2 << 30,
        };
        sim::set_disk_space(node, Some(full));
        let started = try_start(node, (cluster.config)(node)).await;
        let refused = started.expect("nobody kills it").err();
        let why = refused.expect("it is refused").to_string();
        assert!(why.contains("too little room"), "{why}");
        assert_eq!(received(away, "rows-2").await, 0);
        assert_eq!(text(away, STAGING).await, None);
        sim::set_disk_space(node, None);
        cluster.boot(away).await;
        cluster.equal().await;
        assert!(text(away, INSTALLED).await.is_some());
    });
}

/// It took away what it held for left over, and was refused for the lock of the rows only after that.
#[test]
fn a_second_process_on_a_directory_is_refused_before_it_takes_anything_away() {
    sim::run(1, async {
        let mut cluster = cluster(SLOW).await;
        cluster.write(20).await;
        let node = NODES[0];
        let is_there = || {
            let looked = async move { sim::disk(node).exists(&in_member("rows-2/begun")).await };
            on(node, looked)
        };
        // As where the first one is about to receive a state.
        let made = async move {
            let (disk, dir) = (sim::disk(node), in_member("rows-2"));
            disk.create_dir_all(&dir).await.expect("made");
            let file = disk.open(&dir.join("begun"), Open::CreateNew).await;
            file.expect("made").sync_data().await.expect("synced");
        };
        on(node, made).await;
        let started = try_start(node, (cluster.config)(node)).await;
        let refused = started.expect("nobody kills it").err();
        let why = refused.expect("it is refused").to_string();
        assert!(why.contains("another process uses it"), "{why}");
        assert!(is_there().await.expect("it is told"));
        cluster.write(20).await;
        cluster.equal().await;
        // Nobody's, it goes at the next start.
        cluster.kill(0);
        cluster.boot(0).await;
        assert!(!is_there().await.expect("it is told"));
        cluster.equal().await;
    });
}

/// What it had of the state took it longer to open than the sender was ready to wait, each time anew.
#[test]
fn a_receiver_whose_disk_is_slow_is_waited_for() {
    sim::run(1, async {
        let mut cluster = cluster(SLOW).await;
        let away = cluster.left_behind().await;
        let normal = sim::DiskProfile::default();
        let slow = sim::DiskProfile {
            sync: (MS * 2_200, MS * 2_500),
            ..normal
        };
        sim::set_disk(NODES[away], slow);
        cluster.boot(away).await;
        let begun = sim::elapsed();
        while text(away, INSTALLED).await.is_none() {
            assert!(sim::elapsed() - begun < 300 * S, "it never has all of it");
            sim::sleep(MS * 50).await;
        }
        sim::set_disk(NODES[away], normal);
        cluster.equal().await;
    });
}

#[test]
fn another_leader_sends_its_own_state_when_the_sender_dies() {
    for seed in 1..=4 {
        sim::run(seed, async {
            let mut cluster = cluster(SLOW).await;
            let away = cluster.left_behind().await;
            let leader = cluster.leader().await;
            cluster.boot(away).await;
            until_received(away, 0, 20 << 10).await;
            let first = text(away, STAGING).await.expect("it is being received");
            cluster.kill(leader);
            // Two of three are left, and one of them is far behind: it cannot lead, but it votes.
            cluster.write(5).await;
            cluster.boot(leader).await;
            cluster.write(100).await;
            cluster.equal().await;
            assert!(text(away, INSTALLED).await.is_some());
            assert_ne!(text(away, STAGING).await, Some(first));
        });
    }
}

/// Cuts the receiver's power so long after it was started, or lets it be; when the state was seen installed.
async fn cut_at(cut: Option<Duration>) -> Option<Duration> {
    let quick = ImageRules {
        bytes_per_second: 4 << 20,
        ..SLOW
    };
    let mut cluster = cluster(quick).await;
    let away = cluster.left_behind().await;
    let begun = sim::elapsed();
    cluster.boot(away).await;
    let mut installed = None;
    while sim::elapsed() - begun < cut.unwrap_or(Duration::from_secs(20)) {
        // The same looks in every run, so that up to the cut all are the same.
        sim::sleep(Duration::from_micros(100)).await;
        if text(away, INSTALLED).await.is_some() {
            installed.get_or_insert(sim::elapsed() - begun);
            if cut.is_none() {
                break;
            }
        }
    }
    if cut.is_some() {
        cluster.cut_power(away);
        // What the disk kept.
        let there = text(away, INSTALLED).await.is_some();
        installed = there.then(|| sim::elapsed() - begun);
        cluster.boot(away).await;
    }
    cluster.write(20).await;
    cluster.equal().await;
    // What it came back with lasts.
    cluster.cut_power(away);
    cluster.boot(away).await;
    cluster.write(5).await;
    cluster.equal().await;
    installed
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_state_or_the_new_one() {
    let seed = 5;
    let installed = sim::run(seed, cut_at(None)).expect("it is installed");
    let step = installed / 16;
    for n in 1..=17 {
        sim::run(seed, cut_at(Some(step * n)));
    }
    // Around the exchange itself, finely.
    let exchange = installed.saturating_sub(MS * 12);
    let (mut old, mut new) = (0, 0);
    for n in 0..40 {
        match sim::run(seed, cut_at(Some(exchange + MS * n / 2))) {
            None => old += 1,
            Some(_) => new += 1,
        }
    }
    assert!(old > 3 && new > 3, "{old} before, {new} after the exchange");
}

#[test]
fn a_slow_follower_does_not_keep_the_log() {
    let tight = ImageRules {
        log_kept_min: 4 << 10,
        log_kept_max: 4 << 10,
        log_kept_hard: 4 << 10,
        bytes_per_second: 10 << 20,
        ..SLOW
    };
    for seed in 1..=3 {
        sim::run(seed, async move {
            let mut cluster = cluster(tight).await;
            cluster.write(60).await;
            let slow = (cluster.leader().await + 1) % 3;
            // Each sync takes a while: it answers in time, so that no stream of it ends by itself, and is always behind by
            // more than the log may keep.
            let normal = sim::DiskProfile::default();
            sim::set_disk(
                NODES[slow],
                sim::DiskProfile {
                    sync: (MS * 200, MS * 250),
                    ..normal
                },
            );
            let mut given = false;
            for _ in 0..40 {
                cluster.write(50).await;
                given |=
                    text(slow, STAGING).await.is_some() || text(slow, INSTALLED).await.is_some();
                if given {
                    break;
                }
            }
            assert!(given, "it is given the state instead of the log");
            sim::set_disk(NODES[slow], normal);
            cluster.write(20).await;
            cluster.equal().await;
        });
    }
}

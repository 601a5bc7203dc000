//! The guards of replication, purging and of the states that are sent instead of the log (6, 8, 10, 11), each with its scene
//! as in `guards.rs`.

use std::time::Duration;

use barque_store_consensus::{Guards, ImageRules};
use barque_store_env::sim::{self, Link, NodeId};
use barque_tests_sim::scene::{ELECTION, Scene, never, shows};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Nothing is kept of the log but what is not persisted; a state of some kilobytes is sent in seconds.
const NOTHING_KEPT: ImageRules = ImageRules {
    log_kept_min: 0,
    log_kept_max: 0,
    log_kept_hard: 16 << 10,
    piece_bytes: 1_000,
    bytes_per_second: 4 << 10,
};

/// About a second for the states that are sent here.
const SLOW: ImageRules = ImageRules {
    log_kept_min: 20 << 10,
    log_kept_max: 20 << 10,
    log_kept_hard: 1 << 20,
    piece_bytes: 2 << 10,
    bytes_per_second: 100 << 10,
};

/// A follower is cut off while so much is written that its connection is full. Its append stream ends, the ones that are begun
/// after it get no further than one chunk, and the log is purged beyond that. Then the connection takes more all the same, and
/// whoever still pumps into it reads on where the log no longer is.
async fn a_pump_reads_what_was_purged(guards: Guards) -> bool {
    let scene = Scene::with(3, guards, |config| config.images = NOTHING_KEPT).await;
    let leader = scene.leader().await;
    let [cut, _]: [_; 2] = scene.others(leader);
    sim::partition(leader, cut);
    // Nothing is persisted, and so nothing purged, until some streams have been tried that carried a chunk each.
    sim::hang_files(leader, "/rows", 5 * S);
    // More than a chunk. Whatever is committed later would tell the pump that there is nothing to send.
    for n in 0..400 {
        assert!(scene.put(leader, &format!("fill/{n}"), 8 << 10, S).await);
    }
    // The first stream ends after twice the election timeout without an answer.
    sim::sleep(6 * S).await;
    sim::heal_all();
    sim::sleep(6 * S).await;
    scene.has_failed(leader).await
}

/// Two lines of defence: each of the two is enough.
#[test]
fn guard_6_no_stream_reads_purged_entries_and_no_such_read_ends_the_leader() {
    shows(
        &["pump-tied", "purged-reads-empty"],
        a_pump_reads_what_was_purged,
    );
    never(&["pump-tied"], a_pump_reads_what_was_purged);
    never(&["purged-reads-empty"], a_pump_reads_what_was_purged);
}

/// A follower comes back to a log of which it lacks more than a peer's frame can hold.
async fn a_follower_lacks_more_than_a_frame(guards: Guards) -> bool {
    let mut scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    let [away, _]: [_; 2] = scene.others(leader);
    scene.kill(away);
    for n in 0..18 {
        assert!(scene.put(leader, &format!("big/{n}"), 1 << 20, S).await);
    }
    scene.start(away).await.expect("it starts again");
    !scene.catch_up(away).await
}

#[test]
fn guard_8_a_follower_that_is_far_behind_is_sent_chunks_that_it_takes() {
    shows(&["small-chunks"], a_follower_lacks_more_than_a_frame);
}

/// A leader is cut off with entries that nobody else has. Those that go on without it soon have no log for it any more, and
/// send their state, which ends before those entries do. Its log hangs from the moment the state comes: that these entries
/// are given up is not on disk when the state is installed, and the power goes.
async fn a_state_comes_before_the_end_of_a_wrong_tail(guards: Guards) -> bool {
    let mut scene = Scene::with(3, guards, |config| config.images = NOTHING_KEPT).await;
    let old = scene.leader().await;
    for n in 0..20 {
        assert!(scene.put(old, &format!("fill/{n}"), 200, S).await);
    }
    sim::sleep(S).await;
    for other in scene.others::<2>(old) {
        sim::partition(old, other);
    }
    let mut tail = Vec::new();
    for n in 0..8 {
        tail.push(scene.begin_write(old, n));
        sim::sleep(5 * MS).await;
    }
    sim::sleep(2 * ELECTION).await;
    let new = scene.leader().await;
    assert_ne!(new, old);
    assert!(scene.write(new, "kept", S).await);
    // All of it is persisted, and all of the log is purged.
    sim::sleep(4 * S).await;
    let (ours, theirs) = (scene.last_log(old), scene.last_log(new));
    assert!(
        ours >= theirs,
        "the tail ends at {ours}, the state at {theirs}"
    );
    sim::heal_all();
    let end = sim::elapsed() + 10 * S;
    while scene.term(old) < scene.term(new) || !scene.has_file(old, "rows.staging").await {
        assert!(sim::elapsed() < end, "it is not sent the state");
        sim::sleep(MS).await;
    }
    sim::hang_files(old, "/wal/", 600 * S);
    for _ in 0..10_000 {
        if scene.has(old, "kept") {
            break;
        }
        sim::sleep(MS).await;
    }
    scene.cut_power(old);
    sim::sleep(MS).await;
    scene.start(old).await.is_err() || !scene.catch_up(old).await
}

#[test]
fn guard_10_a_state_is_not_installed_before_the_log_has_given_up_its_tail() {
    shows(
        &["install-barrier"],
        a_state_comes_before_the_end_of_a_wrong_tail,
    );
}

/// A member to which the log does not reach any more, and the leader.
async fn left_behind(guards: Guards, rows: usize) -> (Scene, NodeId, NodeId) {
    let mut scene = Scene::with(3, guards, |config| config.images = SLOW).await;
    let leader = scene.leader().await;
    let [away, _]: [_; 2] = scene.others(leader);
    scene.kill(away);
    for n in 0..rows {
        assert!(scene.put(leader, &format!("fill/{n}"), 200, S).await);
    }
    assert!(scene.write(leader, "before it is back", S).await);
    sim::sleep(2 * S).await;
    scene.start(away).await.expect("it starts again");
    (scene, leader, away)
}

/// A state takes longer than the network holds at a time, and the leader's own state goes on meanwhile.
async fn a_transfer_is_cut_again_and_again(guards: Guards) -> bool {
    let (scene, leader, away) = left_behind(guards, 500).await;
    let end = sim::elapsed() + 20 * S;
    let mut n = 0;
    while sim::elapsed() < end {
        for _ in 0..8 {
            n += 1;
            assert!(scene.put(leader, &format!("load/{n}"), 200, S).await);
            sim::sleep(50 * MS).await;
        }
        if scene.has(away, "before it is back") {
            return false;
        }
        sim::break_connections(leader, away);
    }
    true
}

#[test]
fn guard_11_a_transfer_that_is_cut_goes_on_with_the_same_state() {
    shows(&["image-pinned"], a_transfer_is_cut_again_and_again);
}

#[test]
fn guard_11_a_transfer_that_is_cut_goes_on_where_it_was() {
    shows(&["image-resumed"], a_transfer_is_cut_again_and_again);
}

/// While a state is sent, more is written than is kept of the log otherwise.
async fn a_state_is_out_of_date_when_it_is_there(guards: Guards) -> bool {
    let (scene, leader, away) = left_behind(guards, 1_000).await;
    let end = sim::elapsed() + 20 * S;
    let mut n = 0;
    while sim::elapsed() < end {
        n += 1;
        let key = format!("load/{}", n % 20);
        assert!(scene.put(leader, &key, 200, S).await);
        sim::sleep(5 * MS).await;
        if scene.applied(away) + 20 >= scene.applied(leader) {
            return false;
        }
    }
    true
}

#[test]
fn guard_11_the_log_behind_a_state_that_is_sent_stays() {
    shows(&["image-pinned"], a_state_is_out_of_date_when_it_is_there);
}

/// A follower answers every append within half a second, but its link carries half of what is written. openraft purges
/// nothing that it may still want to send.
async fn a_slow_follower_holds_the_log(guards: Guards) -> bool {
    let scene = Scene::with(3, guards, |config| {
        config.sizes.log.segment_bytes = 1 << 20;
        config.images = ImageRules {
            log_kept_min: 64 << 10,
            log_kept_max: 64 << 10,
            log_kept_hard: 256 << 10,
            ..ImageRules::default()
        };
    })
    .await;
    let leader = scene.leader().await;
    let [slow, _]: [_; 2] = scene.others(leader);
    let half = Link {
        rate: 2_000_000,
        ..Link::default()
    };
    sim::set_link(leader, slow, half);
    for n in 0..400 {
        let key = format!("load/{}", n % 4);
        assert!(scene.put(leader, &key, 50_000, S).await);
        sim::sleep(10 * MS).await;
    }
    let kept = scene.bytes_in(leader, "wal").await;
    kept > 5 << 20
}

#[test]
fn guard_11_a_follower_that_is_too_slow_is_cut_off() {
    shows(&["slow-cut"], a_slow_follower_holds_the_log);
}

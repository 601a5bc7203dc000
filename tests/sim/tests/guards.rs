//! For each guard that can be switched off: a scene that shows what it prevents, with the guard off, and shows nothing with
//! it on. GUARDS.md has the list, with the guards that are shown elsewhere.

use std::time::Duration;

use barque_store_consensus::Guards;
use barque_store_env::sim;
use barque_tests_sim::guards::without;
use barque_tests_sim::scene::{ELECTION, HEARTBEAT, LEASE, Scene, shows};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// The followers commit what the leader's disk does not have; it loses power and is back before anybody misses it.
async fn a_leader_forgets_its_tail(guards: Guards) -> bool {
    let mut scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    sim::stall_disk(leader, 30 * S);
    let acknowledged = scene.write_somewhere("unsynced at the leader").await;
    scene.cut_power(leader);
    if scene.start(leader).await.is_err() {
        return true;
    }
    let more = scene.write_somewhere("next").await && scene.write_somewhere("last").await;
    let nodes = scene.nodes();
    for node in &nodes {
        if !scene.catch_up(*node).await {
            return true;
        }
    }
    let lost = |node: &sim::NodeId| !scene.has(*node, "unsynced at the leader");
    acknowledged && more && nodes.iter().any(lost) || !scene.states_agree().await
}

#[test]
fn guard_1_a_restarted_leader_does_not_resume_its_term() {
    shows(&["no-leader-restore"], a_leader_forgets_its_tail);
}

/// A leader's lease rests on one follower, which is restarted while the other one asks for votes.
async fn a_follower_forgets_its_promise(guards: Guards) -> bool {
    let mut scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    let [promised, hungry] = scene.others(leader);
    sim::partition(leader, hungry);
    sim::sleep(4 * LEASE).await;
    scene.kill(promised);
    sim::partition(leader, promised);
    scene.start(promised).await.expect("it starts again");
    scene.two_lead_within(4 * LEASE).await
}

#[test]
fn guard_2_a_restarted_follower_keeps_the_promise_it_forgot() {
    shows(&["vote-after-lease"], a_follower_forgets_its_promise);
}

/// A follower that was cut off comes back: nobody should notice.
async fn a_follower_comes_back_and_the_term_rises(guards: Guards) -> bool {
    let scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    let term = scene.term(leader);
    let [away, other] = scene.others(leader);
    sim::partition(leader, away);
    sim::partition(other, away);
    sim::sleep(6 * ELECTION).await;
    sim::heal_all();
    sim::sleep(6 * ELECTION).await;
    scene.term(leader) != term
}

#[test]
fn guard_3_pre_vote_keeps_a_follower_that_comes_back_from_disturbing() {
    shows(&["pre-vote"], a_follower_comes_back_and_the_term_rises);
}

/// Only one of five reaches all others. The leader, which is not that one, reaches nobody else: it has no majority, and its
/// heartbeats keep the one that would have it from asking for votes.
async fn a_leader_without_a_quorum_keeps_the_only_able_one_back(guards: Guards) -> bool {
    let scene = Scene::with(5, guards, |_| {}).await;
    let leader = scene.leader().await;
    let [able, others @ ..]: [_; 4] = scene.others(leader);
    for (n, other) in others.iter().enumerate() {
        sim::partition(leader, *other);
        for third in &others[n + 1..] {
            sim::partition(*other, *third);
        }
    }
    for _ in 0..60 {
        if scene.write(able, "served again", 500 * MS).await {
            return false;
        }
    }
    true
}

#[test]
fn guard_3_a_leader_without_a_quorum_makes_room_for_one_that_would_have_it() {
    shows(
        &["quorum-loss-probe"],
        a_leader_without_a_quorum_keeps_the_only_able_one_back,
    );
}

/// A leader that nobody reaches any more, while a second one is elected.
async fn a_cut_off_leader_and_the_next(guards: Guards) -> bool {
    let scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    for other in scene.others::<2>(leader) {
        sim::partition(leader, other);
    }
    scene.two_lead_within(6 * ELECTION).await
}

#[test]
fn guard_4_a_cut_off_leader_does_not_act_as_one_beside_the_next() {
    shows(&["leads-by-acks"], a_cut_off_leader_and_the_next);
}

/// A leader under load stands still for longer than its lease, again and again. The answers that it finds when it goes on are
/// old ones.
async fn old_answers_prolong_a_lease(guards: Guards) -> bool {
    let scene = Scene::three(guards).await;
    for _ in 0..12 {
        let leader = scene.leader().await;
        let writes: Vec<_> = (0..8).map(|i| scene.begin_write(leader, i)).collect();
        sim::sleep(sim::between(Duration::ZERO, 4 * MS)).await;
        sim::pause(leader, 5 * LEASE);
        if scene.two_lead_within(7 * LEASE).await {
            return true;
        }
        drop(writes);
    }
    false
}

#[test]
fn guard_4_an_old_answer_does_not_prolong_the_lease_of_a_leader_that_stood_still() {
    shows(&["answers-in-order"], old_answers_prolong_a_lease);
}

/// Polls in two seconds with a follower down.
async fn polls_with_a_follower_down(guards: Guards) -> u64 {
    let mut scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    let [down, _]: [_; 2] = scene.others(leader);
    scene.kill(down);
    sim::sleep(S).await;
    let before = sim::polls();
    sim::sleep(2 * S).await;
    sim::polls() - before
}

#[test]
fn guard_6_a_dead_follower_does_not_make_the_leader_spin() {
    let off = without(["input-first"]).expect("a guard's name");
    for seed in 1..=3 {
        let calm = sim::run(seed, polls_with_a_follower_down(Guards::default()));
        let spinning = sim::run(seed, polls_with_a_follower_down(off));
        assert!(
            spinning > 3 * calm,
            "seed {seed}: {spinning} polls without the guard, {calm} with it"
        );
    }
}

/// The leader's log hangs, the disk its rows are on does not: what the followers have committed is applied, and would be
/// persisted before the own log has it; then the power goes.
async fn rows_overtake_the_log(guards: Guards) -> bool {
    let mut scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    sim::hang_files(leader, "/wal/", 30 * S);
    let mut acknowledged = true;
    for key in ["a", "b", "c"] {
        acknowledged &= scene.write_somewhere(key).await;
    }
    // Several of the persister's rounds.
    sim::sleep(10 * HEARTBEAT).await;
    scene.cut_power(leader);
    sim::sleep(MS).await;
    acknowledged && scene.start(leader).await.is_err()
}

#[test]
fn guard_10_rows_are_not_persisted_before_the_own_log_has_their_entries() {
    shows(&["log-before-rows"], rows_overtake_the_log);
}

/// A leader's disk hangs for good. Its followers commit without it, so nothing else would end its leadership.
async fn a_leader_with_a_hung_disk_leads_on(guards: Guards) -> bool {
    let scene = Scene::three(guards).await;
    let leader = scene.leader().await;
    sim::stall_disk(leader, 600 * S);
    // The log is only written to when there is something to write.
    let written = scene.write_somewhere("while it hangs").await;
    sim::sleep(ELECTION * 10).await;
    let ended = scene.has_failed(leader).await;
    let leads = scene.leading().contains(&leader);
    let served = scene.write_somewhere("afterwards").await;
    !written || !served || leads || !ended
}

#[test]
fn guard_8_a_leader_whose_disk_hangs_hands_over_and_ends() {
    shows(&["hung-disk"], a_leader_with_a_hung_disk_leads_on);
}

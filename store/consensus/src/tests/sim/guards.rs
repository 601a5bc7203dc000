//! Guards that this crate can show by itself: the same scene with the guard off, where it must go wrong, and on, where it must not.
//! `tests/sim` has the others.

use super::*;

/// The leader is acknowledged by one follower, whose promise a restart would forget while the other one campaigns.
/// Returns whether two members may have acted as leader at one instant.
async fn two_lease_holders(guards: Guards) -> bool {
    let mut cluster = boot_all_with(guards).await;
    write(&cluster, "before").await;
    let leader = one_leader(&cluster).await.id.0;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (promised, hungry) = (others[0], others[1]);
    sim::partition(node(leader), node(hungry));
    sim::sleep(MS * 1000).await;
    cluster[promised as usize - 1] = None;
    sim::partition(node(leader), node(promised));
    sim::kill(node(promised));
    cluster[promised as usize - 1] = Some(boot_with(promised, guards).await);
    for _ in 0..400 {
        if leading(&cluster).len() > 1 {
            return true;
        }
        sim::sleep(MS).await;
    }
    false
}

#[test]
fn guard_2_keeps_the_promise_a_restarted_follower_forgot() {
    let off = Guards {
        vote_after_lease: false,
        ..Guards::default()
    };
    let found = (1..=20).find(|seed| sim::run(*seed, two_lease_holders(off)));
    assert!(
        found.is_some(),
        "without the guard nothing happens: this test shows nothing"
    );
    for seed in 1..=20 {
        assert!(
            !sim::run(seed, two_lease_holders(Guards::default())),
            "seed {seed}"
        );
    }
}

/// The followers commit what the leader's disk does not have yet; then the leader loses its power and comes back
/// before anybody misses it. Returns whether an acknowledged write was lost or the members differ.
async fn lost_after_power_loss(guards: Guards) -> bool {
    let mut cluster = boot_all_with(guards).await;
    write(&cluster, "before").await;
    let leader = one_leader(&cluster).await.id.0;
    sim::stall_disk(node(leader), Duration::from_secs(30));
    write(&cluster, "unsynced here").await;
    cluster[leader as usize - 1] = None;
    sim::power_off(node(leader));
    sim::stall_disk(node(leader), Duration::ZERO);
    sim::power_on(node(leader));
    cluster[leader as usize - 1] = Some(boot_with(leader, guards).await);
    write(&cluster, "next").await;
    write(&cluster, "last").await;
    for member in cluster.iter().flatten() {
        if read(member, Duration::from_secs(5)).await.is_err() {
            return true;
        }
    }
    let books: Vec<_> = cluster.iter().flatten().map(|m| m.book.keys()).collect();
    books.windows(2).any(|w| w[0] != w[1])
        || cluster
            .iter()
            .flatten()
            .any(|m| !m.book.has("unsynced here"))
}

#[test]
fn guard_1_keeps_a_leader_from_giving_out_log_ids_twice() {
    let off = Guards {
        no_leader_restore: false,
        ..Guards::default()
    };
    let found = (1..=20).find(|seed| sim::run(*seed, lost_after_power_loss(off)));
    assert!(
        found.is_some(),
        "without the guard nothing happens: this test shows nothing"
    );
    for seed in 1..=20 {
        assert!(
            !sim::run(seed, lost_after_power_loss(Guards::default())),
            "seed {seed}"
        );
    }
}

/// Of forty entries of 4 MiB, how many a leader takes whose followers have just gone.
async fn taken_without_followers(guards: Guards) -> usize {
    let cluster = boot_all_with(guards).await;
    let leader = one_leader(&cluster).await;
    for other in (1..=3).filter(|id| *id != leader.id.0) {
        sim::partition(node(leader.id.0), node(other));
    }
    let value = Bytes::from(vec![0; 4 << 20]);
    let mut taken = 0;
    for _ in 0..40 {
        let put = Put {
            key: Bytes::from_static(b"big"),
            value: value.clone(),
            ..Put::default()
        };
        let entry = Entry {
            time: ClusterTime(1),
            commands: vec![Command::Put(put)],
            origins: Vec::new(),
        };
        let consensus = leader.consensus.clone();
        let proposal = sim::spawn_on(node(leader.id.0), "propose", async move {
            consensus.propose(entry).await
        });
        match SimEnv::timeout(MS, proposal).await {
            Err(_) => taken += 1,
            Ok(answer) => assert!(matches!(answer, Ok(Err(ProposeError::Busy))), "{answer:?}"),
        }
    }
    taken
}

#[test]
fn guard_8_a_leader_takes_no_more_than_it_can_hold() {
    let off = Guards {
        admission: false,
        ..Guards::default()
    };
    assert_eq!(sim::run(61, taken_without_followers(off)), 40);
    let taken = sim::run(61, taken_without_followers(Guards::default()));
    assert_eq!(taken, crate::limits::UNCOMMITTED_BYTES_MAX / (4 << 20) - 1);
}

/// Whether a leader appends what was meant for other terms than its own.
async fn takes_other_terms(guards: Guards) -> bool {
    let cluster = boot_all_with(guards).await;
    let leader = one_leader(&cluster).await;
    let term = sim::enter(node(leader.id.0), || leader.consensus.view().term);
    let mut taken = false;
    for other in [term - 1, term + 1] {
        let consensus = leader.consensus.clone();
        let answer = on(leader.id.0, async move {
            consensus.propose_in(other, entry(&["other"])).await
        });
        taken |= answer.await.expect("the leader lives").is_ok();
    }
    let consensus = leader.consensus.clone();
    let own = on(leader.id.0, async move {
        consensus.propose_in(term, entry(&["own"])).await
    });
    own.await
        .expect("the leader lives")
        .expect("it leads in this term");
    taken
}

#[test]
fn guard_13_what_was_meant_for_another_term_is_not_appended() {
    let off = Guards {
        own_term: false,
        ..Guards::default()
    };
    for seed in 1..=3 {
        assert!(
            sim::run(seed, takes_other_terms(off)),
            "seed {seed}: this test shows nothing"
        );
        assert!(
            !sim::run(seed, takes_other_terms(Guards::default())),
            "seed {seed}"
        );
    }
}

//! Members of different versions: a peer that speaks none of this one's protocols is refused with the reason, a frame of
//! another version ends its connection, and what a peer can do is known from its handshake.

use std::time::Duration;

use barque_store_env::sim::{self, NodeId, SimEnv};
use barque_store_env::{Conn, Env, Listener, Net, WriteHalf};
use barque_store_state::ClusterVersion;

use super::*;
use crate::record::VoteRecord;
use crate::transport::frame::{Frame, FrameError, Kind, Reader};
use crate::transport::wire::{
    AppendBody, EntryBody, FEATURES, Hello, Lane, LogIdBody, PROTOCOL, PROTOCOL_OLDEST, Refused,
    Welcome,
};
use crate::{HashAt, Run};

fn addrs() -> Vec<(u64, String)> {
    (1..=2).map(|id| (id, format!("n{id}:2380"))).collect()
}

/// Member 1 of two, on a machine of its own; the tests play the other.
async fn one_of_two() -> Member<SimEnv> {
    let started = sim::spawn_on(NodeId(1), "member", async {
        let config = config(1, &addrs(), "/data/log".into());
        start(config, sim::disk(NodeId(1)), sim::net(NodeId(1))).await
    });
    started.await.expect("nobody kills it")
}

fn hello(protocol_oldest: u32, protocol: u32) -> Hello {
    Hello {
        cluster_id: 0xc1,
        from: 2,
        to: 1,
        protocol,
        protocol_oldest,
        features: FEATURES,
        lane: Lane::Requests as i32,
        version: "9.9.9".into(),
        incarnation: 2,
    }
}

/// What member 1 answers to bytes on a new connection; `None`: it closes it.
async fn answer_to(bytes: Bytes) -> Option<Frame> {
    let asked = sim::spawn_on(NodeId(2), "peer", async move {
        let conn = sim::net(NodeId(2)).connect("n1:2380").await;
        let (read, mut write) = conn.expect("it listens").split();
        write.write_all(bytes).await.expect("sent");
        let mut read = Reader::new(read);
        let answer = SimEnv::timeout(Duration::from_secs(20), read.next(4 << 10)).await;
        match answer.expect("an answer or an end") {
            Ok(frame) => frame,
            Err(FrameError::Io(_) | FrameError::Cut) => None,
            Err(other) => panic!("{other}"),
        }
    });
    asked.await.expect("nobody kills it")
}

#[test]
fn a_peer_whose_protocols_do_not_meet_ours_hears_why() {
    sim::run(1, async {
        let _member = one_of_two().await;
        for (oldest, newest) in [(PROTOCOL + 1, PROTOCOL + 3), (0, PROTOCOL_OLDEST - 1)] {
            let hello = Frame::encode(Kind::Hello, 0, &hello(oldest, newest));
            let frame = answer_to(hello).await.expect("an answer");
            assert_eq!(frame.kind, Kind::Refused);
            let reason = frame.parse::<Refused>().expect("its body").reason;
            assert!(reason.contains("protocol mismatch"), "{reason}");
            assert!(reason.contains(&format!("the peer {oldest} to {newest}")));
        }
        // A newer one that still speaks ours is let in, and hears which of both is spoken.
        let newer = Frame::encode(Kind::Hello, 0, &hello(PROTOCOL, PROTOCOL + 3));
        let frame = answer_to(newer).await.expect("an answer");
        assert_eq!(frame.kind, Kind::Welcome);
        let welcome = frame.parse::<Welcome>().expect("its body");
        assert_eq!(welcome.protocol, PROTOCOL);
        let newest = (welcome.newest_major, welcome.newest_minor);
        let ours = ClusterVersion::NEWEST;
        assert_eq!(newest, (ours.major, ours.minor));
    });
}

#[test]
fn a_frame_of_a_newer_version_ends_the_connection() {
    sim::run(2, async {
        let _member = one_of_two().await;
        let mut frame = Frame::encode(Kind::Hello, 0, &hello(1, PROTOCOL)).to_vec();
        frame[8] += 1;
        let checksum = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(answer_to(frame.into()).await, None);
    });
}

/// Serves one handshake after the other as member 2, and tells the kinds of the frames that follow.
async fn play_member_2(features: u64, newest: ClusterVersion, seen: Arc<Mutex<Vec<Kind>>>) {
    let mut listener = sim::net(NodeId(2)).listen("n2:2380").await.expect("free");
    while let Ok(conn) = listener.accept().await {
        let seen = seen.clone();
        drop(SimEnv::spawn("peer connection", async move {
            let (read, mut write) = conn.split();
            let mut read = Reader::new(read);
            let Ok(Some(_hello)) = read.next(4 << 10).await else {
                return;
            };
            let welcome = Welcome {
                protocol: PROTOCOL,
                features,
                version: "0.0.1".into(),
                incarnation: 2,
                newest_major: newest.major,
                newest_minor: newest.minor,
            };
            let welcome = Frame::encode(Kind::Welcome, 0, &welcome);
            if write.write_all(welcome).await.is_err() {
                return;
            }
            while let Ok(Some(frame)) = read.next(1 << 20).await {
                seen.lock().push(frame.kind);
            }
        }));
    }
}

#[test]
fn what_a_peer_can_do_is_known_and_calls_it_does_not_know_are_not_sent() {
    let older = ClusterVersion { major: 3, minor: 6 };
    for (features, is_sent) in [(0, false), (FEATURES, true)] {
        sim::run(3, async move {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let play = play_member_2(features, older, seen.clone());
            drop(sim::spawn_on(NodeId(2), "member 2", play));
            let member = one_of_two().await;
            let other = MemberId(2);
            let consensus = member.consensus.clone();
            let told = sim::spawn_on(NodeId(1), "ask", async move {
                // It asks the other for its vote, and so learns of it.
                let ability = eventually::<SimEnv, _>("a handshake", || {
                    consensus.abilities().get(&other).copied().flatten()
                });
                let newest = ability.await.newest;
                let deadline = SimEnv::now() + Duration::from_secs(1);
                let hash = consensus.ask_hash(other, LogIndex(1), deadline).await;
                (newest, hash)
            });
            let told: (ClusterVersion, Option<HashAt>) = told.await.expect("nobody kills it");
            assert_eq!(told, (older, None), "the other never answers");
            assert_eq!(seen.lock().contains(&Kind::Hash), is_sent);
        });
    }
}

/// What member 2 says that leads `term` and has nothing to send.
fn leads(term: u64) -> AppendBody {
    let vote = VoteRecord {
        term,
        voted_for: 2,
        committed: true,
    };
    AppendBody {
        vote: Some(vote),
        ..append(0, &[], &[])
    }
}

/// An append of member 2, which leads term 5: entries of these indexes after entry `prev`.
fn append(prev: u64, indexes: &[u64], record: &'static [u8]) -> AppendBody {
    let entry = |index: &u64| EntryBody {
        term: 5,
        index: *index,
        record: Bytes::from_static(record),
    };
    AppendBody {
        vote: Some(VoteRecord {
            term: 5,
            voted_for: 2,
            committed: true,
        }),
        prev: (prev > 0).then_some(LogIdBody {
            term: 5,
            index: prev,
        }),
        committed: None,
        entries: indexes.iter().map(entry).collect(),
    }
}

/// Sends them as member 2; the kinds of the answers, until the other end has closed the connection.
async fn lead(appends: Vec<AppendBody>) -> Vec<Kind> {
    let conn = sim::net(NodeId(2)).connect("n1:2380").await;
    let (read, mut write) = conn.expect("it listens").split();
    let hello = Hello {
        lane: Lane::Append as i32,
        ..hello(PROTOCOL, PROTOCOL)
    };
    let hello = Frame::encode(Kind::Hello, 0, &hello);
    write.write_all(hello).await.expect("sent");
    for (id, append) in (1..).zip(appends) {
        let append = Frame::encode(Kind::Append, id, &append);
        write.write_all(append).await.expect("sent");
    }
    let (mut read, mut kinds) = (Reader::new(read), Vec::new());
    while let Ok(Some(frame)) = read.next(4 << 10).await {
        kinds.push(frame.kind);
    }
    kinds
}

#[test]
fn a_leader_that_sends_entries_of_an_unknown_kind_ends_the_member() {
    sim::run(4, async {
        let member = one_of_two().await;
        // Field 9: a later version's kind.
        let appends = vec![append(0, &[1], &[0x4a, 0])];
        let answers = sim::spawn_on(NodeId(2), "leader", lead(appends));
        let answers = answers.await.expect("nobody kills it");
        assert_eq!(answers, [Kind::Welcome], "nothing is acknowledged");
        let why = member.book.unfit.lock().clone().expect("it must stop");
        assert!(
            why.contains("of a kind this version does not know"),
            "{why}"
        );
        assert_eq!(member.book.keys(), Vec::<Bytes>::new());
    });
}

/// The process was ended by an assertion, for each follower of such a leader.
#[test]
fn entries_that_do_not_follow_each_other_end_the_connection_only() {
    sim::run(5, async {
        let member = one_of_two().await;
        // Field 1, empty: an entry without commands.
        let empty: &[u8] = &[0x0a, 0];
        for wrong in [append(1, &[3], empty), append(1, &[2, 4], empty)] {
            let appends = vec![append(0, &[1], empty), wrong];
            let answers = sim::spawn_on(NodeId(2), "leader", lead(appends));
            let answers = answers.await.expect("nobody kills it");
            assert_eq!(answers, [Kind::Welcome, Kind::AppendReply]);
        }
        assert_eq!(*member.book.unfit.lock(), None);
        let again = sim::spawn_on(NodeId(2), "leader", async {
            let appends = vec![append(1, &[2], empty)];
            let ends = lead(appends);
            SimEnv::timeout(Duration::from_secs(1), ends).await
        });
        // It is answered, and the connection stays.
        assert!(again.await.expect("nobody kills it").is_err());
    });
}

/// It was sent to the next leader, with its number this time, which that one had never heard.
#[test]
fn what_a_leader_without_numbers_may_have_carried_out_is_not_sent_again() {
    for (features, expected) in [
        (FEATURES & !crate::forward::FEATURE, ProposeError::Forgotten),
        (FEATURES, ProposeError::Unknown),
    ] {
        let told = sim::run(6, async move {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let play = play_member_2(features, ClusterVersion::NEWEST, seen.clone());
            drop(sim::spawn_on(NodeId(2), "member 2", play));
            let member = one_of_two().await;
            let first = sim::spawn_on(NodeId(2), "leader", lead(vec![leads(5)]));
            sim::sleep(Duration::from_millis(50)).await;
            let run = Run {
                first: 1,
                count: 1,
                again: false,
                since: LogIndex(0),
            };
            let numbering = Numbering {
                member: MemberId(1),
                boot: 1,
                open: 1,
                term: 5,
                runs: vec![run],
            };
            let consensus = member.consensus.clone();
            let told = sim::spawn_on(NodeId(1), "forward", async move {
                let deadline = SimEnv::now() + Duration::from_secs(5);
                let put = vec![Command::Put(Put::default())];
                consensus
                    .forward(MemberId(2), put, Some(numbering), deadline)
                    .await
            });
            let sent =
                |seen: &Vec<Kind>| seen.contains(&Kind::Forward) || seen.contains(&Kind::Numbered);
            while !sent(&seen.lock()) {
                sim::sleep(Duration::from_millis(1)).await;
            }
            let next = sim::spawn_on(NodeId(2), "leader", lead(vec![leads(6)]));
            let told = told.await.expect("nobody kills it");
            drop((first, next));
            told
        });
        assert_eq!(told, [Err(expected)]);
    }
}

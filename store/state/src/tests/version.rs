//! The cluster's version and the marks at which members compare their states.

use super::persist::Engine;
use super::*;
use crate::ClusterVersion;
use crate::wire::*;

fn version(major: u32, minor: u32) -> ClusterVersion {
    ClusterVersion { major, minor }
}

#[test]
fn a_version_only_rises_and_each_answer_tells_where_it_stands() {
    let mut m = Member::new();
    assert_eq!(m.state.cluster_version(), None);
    for (set, stands) in [
        ((3, 6), (3, 6)),
        ((3, 5), (3, 6)),
        ((3, 7), (3, 7)),
        ((2, 9), (3, 7)),
    ] {
        let set = Command::ClusterVersionSet(version(set.0, set.1));
        let stands = version(stands.0, stands.1);
        assert_eq!(m.ok(set), Answer::ClusterVersion(stands));
        assert_eq!(m.state.cluster_version(), Some(stands));
    }
    assert_eq!(version(3, 7).to_string(), "3.7");
}

#[test]
fn a_version_is_part_of_the_hash_once_it_is_decided_and_survives_a_restart() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    let mut hashes = std::collections::BTreeSet::from([m.state.whole_hash()]);
    for minor in [6, 7] {
        m.ok(Command::ClusterVersionSet(version(3, minor)));
        hashes.insert(m.state.whole_hash());
        let mut engine = Engine::default();
        let mut whole = Member::new();
        whole.ok(put("a", "1"));
        whole.ok(Command::ClusterVersionSet(version(3, minor)));
        engine.persist(&mut whole.state);
        let restored = engine.restore().expect("restored");
        assert_eq!(restored.cluster_version(), Some(version(3, minor)));
        assert_eq!(restored.whole_hash(), whole.state.whole_hash());
    }
    assert_eq!(hashes.len(), 3);
}

#[test]
fn a_mark_changes_nothing_that_is_compared() {
    let mut m = Member::new();
    m.ok(put("a", "1"));
    let (revision, hash) = (m.state.revision(), m.state.whole_hash());
    assert_eq!(m.ok(Command::IntegrityMark), Answer::Marked);
    assert_eq!((m.state.revision(), m.state.whole_hash()), (revision, hash));
}

#[test]
fn versions_and_marks_are_read_back() {
    let commands = vec![
        Command::IntegrityMark,
        Command::ClusterVersionSet(version(3, 7)),
        Command::ClusterVersionSet(version(u32::MAX, 0)),
    ];
    assert_eq!(
        decode_commands(&encode_commands(&commands)),
        Ok(commands.clone())
    );
    let outcomes = Member::new().apply(commands).outcomes;
    assert_eq!(decode_outcomes(&encode_outcomes(&outcomes)), Ok(outcomes));
}

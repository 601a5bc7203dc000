//! The members as replicated state: through the log, on the wire, and over a restart.

use std::collections::BTreeSet;

use super::*;
use crate::wire::{decode_entry, decode_outcomes, encode_entry, encode_outcomes};
use crate::{MemberChange, MemberId, MemberInfo};

fn info(id: u64) -> MemberInfo {
    MemberInfo {
        id: MemberId(id),
        name: format!("m{id}"),
        peer_urls: vec![format!("http://m{id}:2380")],
        client_urls: vec!["http://c:2379".into()],
        learner: id == 9,
    }
}

fn every_change() -> Vec<Command> {
    let peer_urls = vec!["http://x:1".to_owned(), "http://y:1".to_owned()];
    let id = MemberId(7);
    let changes = [
        MemberChange::Found {
            members: vec![info(1), info(2)],
        },
        MemberChange::Add {
            id,
            peer_urls: peer_urls.clone(),
            learner: true,
        },
        MemberChange::Promote { id },
        MemberChange::Update {
            id,
            peer_urls: vec!["http://z:1".to_owned()],
        },
        MemberChange::Remove { id: MemberId(2) },
        MemberChange::Only {
            id,
            peer_urls: vec!["http://z:1".to_owned()],
            others: BTreeSet::from([MemberId(1), MemberId(2)]),
        },
    ];
    changes.map(Command::Members).into()
}

/// Of few members, so that they meet.
pub fn some_member_change(dice: &mut Dice) -> Command {
    let id = MemberId(dice.below(4));
    let peer_urls = vec![format!("http://p{}:1", dice.below(5))];
    Command::Members(match dice.below(7) {
        0 => MemberChange::Found {
            members: vec![info(1), info(2)],
        },
        1 | 2 => MemberChange::Add {
            id,
            peer_urls,
            learner: dice.one_in(2),
        },
        3 => MemberChange::Remove { id },
        4 => MemberChange::Update { id, peer_urls },
        5 => MemberChange::Only {
            id,
            peer_urls,
            others: BTreeSet::from([MemberId(dice.below(4))]),
        },
        _ => MemberChange::Promote { id },
    })
}

#[test]
fn changes_of_members_and_their_answers_are_read_back() {
    let entry = Entry {
        time: ClusterTime(3),
        commands: every_change(),
        origins: Vec::new(),
    };
    assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry.clone()));
    let outcomes = Member::new().apply(entry.commands).outcomes;
    assert!(outcomes.iter().all(|o| o.result.is_ok()), "{outcomes:?}");
    assert_eq!(decode_outcomes(&encode_outcomes(&outcomes)), Ok(outcomes));
}

#[test]
fn a_removed_member_leaves_nothing_behind_and_cannot_publish() {
    let mut m = Member::new();
    let mut changes = every_change();
    let only = changes.pop().expect("the last one");
    m.apply(changes);
    let publish = |member| Command::MemberPublish {
        member: MemberId(member),
        name: "n".into(),
        client_urls: Vec::new(),
        incarnation: 5,
    };
    m.apply(vec![publish(7), publish(2)]);
    assert!(m.state.published().contains_key(&MemberId(7)));
    assert!(!m.state.published().contains_key(&MemberId(2)), "removed");
    let remove = MemberChange::Remove { id: MemberId(7) };
    let before = m.state.whole_hash();
    m.apply(vec![Command::Members(remove)]);
    assert_ne!(m.state.whole_hash(), before);
    assert!(!m.state.published().contains_key(&MemberId(7)));
    let ids = |m: &Member| -> Vec<MemberId> { m.state.members().iter().map(|m| m.id).collect() };
    assert_eq!(ids(&m), [MemberId(1)]);

    // The same of all others, when one goes on alone.
    m.apply(vec![publish(1)]);
    assert!(m.state.published().contains_key(&MemberId(1)));
    m.apply(vec![only, publish(1), publish(7)]);
    assert_eq!(ids(&m), [MemberId(7)]);
    let published: Vec<&MemberId> = m.state.published().keys().collect();
    assert_eq!(published, [&MemberId(7)]);
}

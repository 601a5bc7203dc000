//! Random histories: the state machine beside the model, compared whole after every entry.

use super::model::Model;
use super::*;
use crate::*;

/// Makes commands a member would propose: they passed the checks, most mean something.
pub struct Generator {
    dice: Dice,
}

const KEYS: [&str; 9] = ["a", "b", "c", "c/1", "c/2", "c/3", "d", "e", "\u{10ffff}"];

impl Generator {
    pub fn new(seed: u64) -> Self {
        Generator {
            dice: Dice::new(seed),
        }
    }
    fn key(&mut self) -> Bytes {
        bytes(KEYS[self.dice.below(KEYS.len() as u64) as usize])
    }
    pub fn key_range(&mut self) -> KeyRange {
        match self.dice.below(6) {
            0 => everything(),
            1 => KeyRange::prefix(b"c/"),
            2 => KeyRange {
                key: self.key(),
                end: self.key(),
            },
            3 if self.dice.one_in(2) => KeyRange {
                key: self.key(),
                end: bytes("\0"),
            },
            _ => KeyRange::point(self.key()),
        }
    }
    fn lease(&mut self) -> LeaseId {
        LeaseId([0, 0, 0, 1, 2, -3][self.dice.below(6) as usize])
    }
    fn some_lease(&mut self) -> LeaseId {
        LeaseId([1, 2, -3][self.dice.below(3) as usize])
    }
    /// Around what can be read, a little outside on both ends too.
    pub fn revision(&mut self, state: &State) -> Revision {
        let (low, high) = (state.compact_revision().0, state.revision().0);
        let low = low.saturating_sub(1);
        Revision(low + self.dice.below(high + 3 - low))
    }
    fn bound(&mut self, state: &State) -> u64 {
        if self.dice.one_in(8) {
            self.revision(state).0
        } else {
            0
        }
    }
    pub fn range(&mut self, state: &State) -> Range {
        let targets = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ];
        let orders = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
        Range {
            range: self.key_range(),
            limit: self.dice.below(6).saturating_sub(1),
            revision: self.dice.one_in(2).then(|| self.revision(state)),
            sort_target: targets[self.dice.below(5) as usize],
            sort_order: orders[self.dice.below(3) as usize],
            keys_only: self.dice.one_in(5),
            count_only: self.dice.one_in(8),
            min_mod_revision: self.bound(state),
            max_mod_revision: self.bound(state),
            min_create_revision: self.bound(state),
            max_create_revision: self.bound(state),
        }
    }
    fn put(&mut self) -> Put {
        let ignore_value = self.dice.one_in(8);
        let ignore_lease = self.dice.one_in(8);
        Put {
            key: self.key(),
            value: if ignore_value {
                Bytes::new()
            } else {
                bytes(&self.dice.below(9).to_string())
            },
            lease: if ignore_lease {
                LeaseId::NONE
            } else {
                self.lease()
            },
            prev_kv: self.dice.one_in(2),
            ignore_value,
            ignore_lease,
        }
    }
    fn delete(&mut self) -> DeleteRange {
        DeleteRange {
            range: self.key_range(),
            prev_kv: self.dice.one_in(2),
        }
    }
    fn compare(&mut self, state: &State) -> Compare {
        let n = self.dice.below(4) as i64 - 1;
        Compare {
            range: self.key_range(),
            result: [
                CompareResult::Equal,
                CompareResult::Greater,
                CompareResult::Less,
                CompareResult::NotEqual,
                CompareResult::Unknown,
            ][self.dice.below(5) as usize],
            target: match self.dice.below(5) {
                0 => CompareTarget::Version(n),
                1 => CompareTarget::Create(self.revision(state).0 as i64),
                2 => CompareTarget::Mod(self.revision(state).0 as i64),
                3 => CompareTarget::Value(bytes(&self.dice.below(9).to_string())),
                _ => CompareTarget::Lease(n),
            },
        }
    }
    fn txn(&mut self, state: &State, depth: u64) -> Txn {
        let mut ops = |most: u64| {
            let n = self.dice.below(most);
            (0..n)
                .map(|_| match self.dice.below(6) {
                    0 | 1 => TxnOp::Put(self.put()),
                    2 => TxnOp::DeleteRange(self.delete()),
                    3 if depth > 0 => TxnOp::Txn(self.txn(state, depth - 1)),
                    _ => TxnOp::Range(self.range(state)),
                })
                .collect::<Vec<_>>()
        };
        let (success, failure) = (ops(5), ops(4));
        let compare = (0..self.dice.below(3))
            .map(|_| self.compare(state))
            .collect();
        Txn {
            compare,
            success,
            failure,
        }
    }
    fn command(&mut self, state: &State) -> Command {
        match self.dice.below(24) {
            0..=8 => Command::Put(self.put()),
            9 | 10 => Command::DeleteRange(self.delete()),
            11..=15 => Command::Txn(self.txn(state, 2)),
            16 => Command::Compact {
                revision: self.revision(state),
            },
            17 | 18 => Command::LeaseGrant {
                id: self.some_lease(),
                ttl_s: 1 + self.dice.below(5),
            },
            19 => Command::LeaseRevoke {
                id: self.some_lease(),
            },
            20 | 21 => Command::LeaseKeepAlive {
                ids: (0..self.dice.below(4)).map(|_| self.some_lease()).collect(),
            },
            22 => Command::LeaseExpire {
                id: self.some_lease(),
                deadline_seen: ClusterTime(state.time().0 + self.dice.below(6_000)),
            },
            _ => Command::MemberPublish {
                member: MemberId(self.dice.below(3)),
                name: "m".into(),
                client_urls: vec!["http://h:1".into()],
                incarnation: self.dice.below(3),
            },
        }
    }
    /// The commands of one entry.
    pub fn commands(&mut self, state: &State) -> Vec<Command> {
        let mut commands = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let command = self.command(state);
            if State::check(&command).is_ok() {
                commands.push(command);
            }
        }
        commands
    }
}

/// The model knows no damage.
fn refused<T>(read: Result<T, ReadError>) -> Result<T, Refusal> {
    read.map_err(|error| match error {
        ReadError::Refused(refusal) => refusal,
        ReadError::Unreadable(row) => panic!("{row}"),
    })
}

pub fn compare_reads(seed: u64, generator: &mut Generator, m: &Member, model: &Model) {
    for _ in 0..4 {
        let range = generator.range(&m.state);
        assert_eq!(
            refused(m.state.range(&range)),
            model.range(&range),
            "seed {seed}: {range:?}"
        );
    }
    let at = generator.revision(&m.state);
    if at != Revision(0) {
        let hash = refused(m.state.hash_kv(Some(at))).map(|hash| hash.hash);
        assert_eq!(hash, model.hash_kv(at.0), "seed {seed}: hash at {at:?}");
    }
    let range = generator.key_range();
    let mut from = generator.revision(&m.state);
    let expected = model.changes(&range, from.0);
    let mut read = Ok(Vec::new());
    while from <= m.state.revision() {
        match refused(m.state.changes(&range, from, 1 + (seed % 5) as usize)) {
            Ok(piece) => {
                if let Ok(read) = &mut read {
                    read.extend(piece.revisions);
                }
                from = piece.next;
            }
            Err(refusal) => {
                read = Err(refusal);
                break;
            }
        }
    }
    assert_eq!(read, expected, "seed {seed}: changes in {range:?}");
}

/// One history; `between` is called after each entry.
pub fn history(seed: u64, entries: usize, mut between: impl FnMut(&mut Member)) {
    let mut generator = Generator::new(seed);
    let mut m = Member::new();
    let mut model = Model::new();
    for _ in 0..entries {
        m.now.0 += generator.dice.below(1_500);
        let commands = generator.commands(&m.state);
        let since = model.revision + 1;
        let applied = m.apply(commands.clone());
        let mut expected_events = Vec::new();
        for (command, outcome) in commands.iter().zip(&applied.outcomes) {
            let first = model.revision + 1;
            let expected = model.apply(m.now.0, command);
            assert_eq!(*outcome, expected, "seed {seed}: {command:?}");
            // Events are told as they were when they happened, whatever is compacted later in the same entry.
            expected_events.extend(model.changes(&everything(), first).unwrap_or_default());
        }
        assert!(
            applied
                .events
                .iter()
                .zip(since..)
                .all(|(events, revision)| events.revision.0 == revision),
            "seed {seed}: revisions skipped"
        );
        assert_eq!(applied.events, expected_events, "seed {seed}");
        assert_eq!(m.state.revision().0, model.revision);
        between(&mut m);
        assert_eq!(m.state.live_bytes(), model.held_bytes(), "seed {seed}");
        let leases: Vec<_> = model.leases.keys().map(|id| LeaseId(*id)).collect();
        let mut ids = m.state.leases();
        ids.sort();
        assert_eq!(ids, leases, "seed {seed}");
        for (id, (ttl_s, deadline)) in &model.leases {
            let view = m.state.lease(LeaseId(*id)).expect("lost a lease");
            assert_eq!(
                (view.granted_ttl_s, view.deadline.0, view.keys),
                (*ttl_s, *deadline, model.attached(*id)),
                "seed {seed}: lease {id}"
            );
        }
        compare_reads(seed, &mut generator, &m, &model);
    }
}

#[test]
fn the_state_machine_does_what_the_model_does() {
    for seed in 0..250 {
        history(seed, 50, |_| {});
    }
}

/// The same entries, through the wire, give the same state to the byte.
#[test]
fn every_member_ends_alike() {
    for seed in 0..60 {
        let mut generator = Generator::new(seed);
        let mut leader = Member::new();
        let mut follower = Member::new();
        for _ in 0..60 {
            let commands = generator.commands(&leader.state);
            let outcomes = leader.apply(commands.clone());
            let sent = crate::wire::encode_commands(&commands);
            let received = crate::wire::decode_commands(&sent).expect("own encoding");
            assert_eq!(follower.apply(received), outcomes, "seed {seed}");
        }
        assert_eq!(leader.state.whole_hash(), follower.state.whole_hash());
        assert_eq!(
            leader.state.hash_kv(None).unwrap(),
            follower.state.hash_kv(None).unwrap()
        );
        let other = leader.ok(put("a", "one more"));
        assert!(matches!(other, Answer::Put { .. }));
        assert_ne!(leader.state.whole_hash(), follower.state.whole_hash());
    }
}

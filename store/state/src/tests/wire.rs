//! The wire form: round trips, and what must be refused.

use super::random::Generator;
use super::*;
use crate::limits::TXN_DEPTH_MAX;
use crate::wire::*;
use crate::{ClusterVersion, MemberId, OldMember, Origin, TooOld, Txn, TxnOp, WireError};

#[test]
fn whatever_is_written_is_read_back() {
    for seed in 0..40 {
        let mut generator = Generator::new(seed);
        let mut m = Member::new();
        for _ in 0..60 {
            let commands = generator.commands(&m.state);
            let entry = Entry {
                time: m.now,
                commands: commands.clone(),
                origins: vec![Origin {
                    at: 1,
                    count: 2,
                    member: MemberId(u64::MAX - seed),
                    boot: seed << 40,
                    first: seed,
                    open: 0,
                }],
            };
            assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
            let encoded = encode_commands(&commands);
            assert_eq!(decode_commands(&encoded), Ok(commands.clone()));
            let outcomes = m.apply(commands).outcomes;
            assert_eq!(decode_outcomes(&encode_outcomes(&outcomes)), Ok(outcomes));
        }
    }
}

#[test]
fn the_deepest_transaction_that_passes_the_check_is_read_back() {
    let nested = |depth: usize| {
        let mut txn = Txn {
            success: vec![TxnOp::Range(range_of("a", ""))],
            ..Txn::default()
        };
        for _ in 1..depth {
            txn = Txn {
                success: vec![TxnOp::Txn(txn)],
                ..Txn::default()
            };
        }
        Command::Txn(txn)
    };
    let too_deep = nested(TXN_DEPTH_MAX + 1);
    assert_eq!(State::check(&too_deep), Err(Refusal::TooManyOps));
    let deepest = nested(TXN_DEPTH_MAX);
    assert_eq!(State::check(&deepest), Ok(()));
    let entry = Entry {
        time: ClusterTime(0),
        commands: vec![deepest],
        origins: Vec::new(),
    };
    assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry.clone()));
    let outcomes = Member::new().apply(entry.commands).outcomes;
    assert_eq!(decode_outcomes(&encode_outcomes(&outcomes)), Ok(outcomes));
}

/// The follower that sent the command tells its client what the leader found.
#[test]
fn a_refusal_for_old_members_travels_with_their_names() {
    let member = |newest| OldMember {
        id: MemberId(u64::MAX),
        name: "m2".into(),
        newest,
    };
    let too_old = TooOld {
        needs: ClusterVersion::NEWEST,
        members: vec![member(None), member(Some(ClusterVersion::EVERY))],
    };
    let outcomes = [Outcome {
        revision: Revision(0),
        result: Err(Refusal::TooOld(too_old)),
    }];
    let encoded = encode_outcomes(&outcomes);
    assert_eq!(decode_outcomes(&encoded), Ok(outcomes.to_vec()));
}

#[test]
fn what_is_too_new_or_damaged_is_an_error() {
    let good = encode_commands(&[put("k", "v")]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        decode_commands(&bytes.into())
    };
    assert_eq!(with(0, 9), Err(WireError::UnknownFormat { format: 9 }));
    assert_eq!(with(1, 2), Err(WireError::TooNew { min_reader: 2 }));
    let short = decode_commands(&good.slice(..2));
    assert_eq!(short, Err(WireError::Truncated { bytes: 2 }));
    assert!(matches!(
        decode_commands(&good.slice(..good.len() - 1)),
        Err(WireError::Malformed { .. })
    ));
    // A command of a kind this binary does not know: field 1 (a command) of two bytes, field 100 in it.
    let unknown = [&good[..HEADER_BYTES], &[0x0a, 3, 0xa0, 0x06, 1]].concat();
    assert!(matches!(
        decode_commands(&unknown.into()),
        Err(WireError::Malformed { .. })
    ));
}

#[test]
fn damaged_bytes_never_panic() {
    let mut dice = Dice::new(5);
    let mut generator = Generator::new(5);
    let state = State::new();
    for _ in 0..2_000 {
        let entry = Entry {
            time: ClusterTime(1),
            commands: generator.commands(&state),
            origins: Vec::new(),
        };
        let mut bytes = encode_entry(&entry).to_vec();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] = dice.below(256) as u8;
        }
        let cut = dice.below(bytes.len() as u64 + 1) as usize;
        bytes.truncate(cut);
        let bytes = Bytes::from(bytes);
        let _ = decode_entry(&bytes);
        let _ = decode_outcomes(&bytes);
    }
}

#[test]
fn decoding_shares_the_buffer() {
    let value = "v".repeat(10_000);
    let encoded = encode_commands(&[put("k", &value)]);
    let inside = encoded.as_ptr_range();
    let commands = decode_commands(&encoded).unwrap();
    let Command::Put(put) = &commands[0] else {
        panic!("not a put");
    };
    assert!(inside.contains(&put.value.as_ptr()));
}

//! History is read without the hub's lock: what happens between asking, reading and handing in.

use barque_store_state::Changes;

use super::rules::{drain, text};
use super::*;

fn next_step(m: &mut Member, s: StreamId, turn: &mut Turn) -> Step {
    let waker = Waker::from(m.flag.clone());
    m.hub.poll(s, turn, &waker)
}

/// Polls, expecting a question.
fn ask(m: &mut Member, s: StreamId, turn: &mut Turn) -> Ask {
    match next_step(m, s, turn) {
        Step::Read(ask) => ask,
        other => panic!("no question: {other:?}"),
    }
}

fn said(turn: &mut Turn) -> Vec<String> {
    turn.deliveries.drain(..).map(|d| text(&d)).collect()
}

/// A member of small pieces, at `revision`, all of it key "a".
fn with_past(revision: u64) -> Member {
    let limits = Limits {
        catch_up_revisions: 2,
        ..Limits::default()
    };
    let mut m = Member::new(limits);
    for _ in 1..revision {
        m.write(put("a", "x"));
    }
    m
}

#[test]
fn a_restarted_members_watch_of_the_past_is_not_live_after_one_piece() {
    let mut m = with_past(7);
    m.hub = Hub::after(m.hub.limits, m.state.revision());
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    m.ask_progress(s);
    let first: Vec<_> = m.poll(s).iter().map(text).collect();
    assert_eq!(first[..2], ["0 created at 7", "0 at 7: a=x@2, a=x@3"]);
    let rest: Vec<_> = [first[2..].to_vec(), drain(&mut m, s)].concat();
    assert_eq!(
        rest,
        [
            "0 at 7: a=x@4, a=x@5",
            "0 at 7: a=x@6, a=x@7",
            "-1 progress 7"
        ]
    );
    m.write(put("a", "y"));
    assert_eq!(drain(&mut m, s), ["0 at 8: a=y@8"]);
}

#[test]
fn a_hub_that_was_not_told_of_the_past_is_not_misled_either() {
    let mut m = with_past(7);
    m.hub = Hub::new(m.hub.limits);
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    assert_eq!(drain(&mut m, s).len(), 4);
    assert_eq!(m.hub.counts().catching_up, 0);
}

#[test]
fn what_is_published_while_history_is_read_is_read_next() {
    let mut m = with_past(3);
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    let mut turn = m.hub.turn();
    let asked = ask(&mut m, s, &mut turn);
    let piece = asked.read(&m.state);
    m.write(put("a", "late"));
    m.hub.supply(piece, &mut turn);
    assert_eq!(m.hub.counts().catching_up, 1, "revision 4 would be lost");
    assert_eq!(said(&mut turn), ["0 created at 3", "0 at 3: a=x@2, a=x@3"]);
    assert_eq!(drain(&mut m, s), ["0 at 4: a=late@4"]);
    assert_eq!(m.hub.counts().catching_up, 0);
}

#[test]
fn what_is_published_before_the_read_is_in_it_and_told_once() {
    let mut m = with_past(2);
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    let mut turn = m.hub.turn();
    let asked = ask(&mut m, s, &mut turn);
    m.write(put("a", "between"));
    let piece = asked.read(&m.state);
    m.hub.supply(piece, &mut turn);
    assert_eq!(
        said(&mut turn),
        ["0 created at 2", "0 at 3: a=x@2, a=between@3"]
    );
    m.write(put("a", "y"));
    assert_eq!(drain(&mut m, s), ["0 at 4: a=y@4"]);
}

#[test]
fn a_piece_nobody_waits_for_is_dropped() {
    let mut m = with_past(5);
    let s = m.hub.open();
    let id = m.create(s, spec(everything(), 2));
    let mut turn = m.hub.turn();
    let asked = ask(&mut m, s, &mut turn);
    let piece = asked.read(&m.state);
    // Twice.
    m.hub.supply(piece.clone(), &mut turn);
    m.hub.supply(piece.clone(), &mut turn);
    assert_eq!(said(&mut turn), ["0 created at 5", "0 at 5: a=x@2, a=x@3"]);
    // For a watch that was cancelled, or another one under its id.
    m.hub.cancel(s, id, m.state.revision());
    m.hub.supply(piece.clone(), &mut turn);
    assert!(turn.deliveries.is_empty());
    let again = m
        .hub
        .create(s, Some(id), spec(point("b"), 2), m.state.revision());
    assert_eq!(again, Ok(id));
    m.hub.supply(piece.clone(), &mut turn);
    assert!(turn.deliveries.is_empty());
    assert_eq!(m.hub.counts().catching_up, 1);
    // For a stream that is closed.
    m.hub.close(s);
    m.hub.supply(piece, &mut turn);
    assert!(turn.deliveries.is_empty());
    assert_eq!(m.hub.counts(), Counts::default());
}

#[test]
fn compacted_while_it_catches_up() {
    let mut m = with_past(7);
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    m.create(s, spec(everything(), 6));
    let mut turn = m.hub.turn();
    let asked = ask(&mut m, s, &mut turn);
    let piece = asked.read(&m.state);
    m.write(compact(6));
    // What was read before is still true, what comes after is gone.
    m.hub.supply(piece, &mut turn);
    assert_eq!(
        said(&mut turn),
        ["0 created at 7", "1 created at 7", "0 at 7: a=x@2, a=x@3"]
    );
    assert_eq!(drain(&mut m, s), ["1 at 7: a=x@6, a=x@7", "0 compacted 6"]);
    assert_eq!(m.hub.counts().watchers, 1);
}

#[test]
fn a_refusal_read_for_a_cancelled_watch_ends_no_other() {
    let mut m = with_past(5);
    m.write(compact(4));
    let s = m.hub.open();
    let id = m.create(s, spec(everything(), 2));
    let mut turn = m.hub.turn();
    let asked = ask(&mut m, s, &mut turn);
    let refused = asked.read(&m.state);
    m.hub.cancel(s, id, m.state.revision());
    m.hub
        .create(s, Some(id), spec(everything(), 4), m.state.revision())
        .expect("created");
    turn.deliveries.clear();
    m.hub.supply(refused, &mut turn);
    assert!(turn.deliveries.is_empty());
    assert_eq!(
        drain(&mut m, s),
        ["0 canceled at 5", "0 created at 5", "0 at 5: a=x@4, a=x@5"]
    );
}

#[test]
fn a_question_that_was_never_answered_is_asked_again() {
    let mut m = with_past(3);
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    let mut turn = m.hub.turn();
    ask(&mut m, s, &mut turn);
    assert_eq!(drain(&mut m, s), ["0 at 3: a=x@2, a=x@3"]);
}

#[test]
fn history_that_cannot_be_read_ends_the_watch_and_no_other() {
    struct Broken;
    impl History for Broken {
        fn read(&self, _: &KeyRange, _: Revision, _: usize) -> Result<Past, HistoryError> {
            Err(HistoryError::Failed("damaged".to_owned()))
        }
    }
    let mut m = with_past(3);
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    m.create(s, spec(everything(), 0));
    let mut turn = m.hub.turn();
    let piece = ask(&mut m, s, &mut turn).read(&Broken);
    m.hub.supply(piece, &mut turn);
    assert_eq!(said(&mut turn)[2..], ["0 failed"]);
    m.write(put("a", "y"));
    assert_eq!(drain(&mut m, s), ["1 at 4: a=y@4"]);
}

#[test]
fn progress_waits_for_a_piece_on_its_way() {
    let mut m = with_past(3);
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    m.create(s, spec(point("b"), 0));
    m.ask_progress(s);
    let mut turn = m.hub.turn();
    let asked = ask(&mut m, s, &mut turn);
    m.write(put("b", "1"));
    assert_eq!(said(&mut turn), ["0 created at 3", "1 created at 3"]);
    let mut other = m.hub.turn();
    // The same question, and what is live meanwhile, but no progress.
    ask(&mut m, s, &mut other);
    assert_eq!(said(&mut other), ["1 at 4: b=1@4"]);
    let piece = asked.read(&m.state);
    m.hub.supply(piece, &mut turn);
    assert_eq!(said(&mut turn), ["0 at 4: a=x@2, a=x@3"]);
    assert_eq!(drain(&mut m, s), ["0 at 4: b=1@4", "-1 progress 4"]);
}

#[test]
fn an_installed_image_is_read_at_once_by_who_was_live() {
    let mut m = with_past(3);
    let s = m.hub.open();
    m.create(s, spec(everything(), 0));
    m.create(s, spec(everything(), 6));
    drain(&mut m, s);
    m.ask_progress(s);
    drain(&mut m, s);
    for _ in 0..3 {
        m.apply(put("a", "image"));
    }
    m.ask_progress(s);
    m.hub.jump(m.state.revision());
    assert!(m.flag.take(), "the image wakes nobody");
    assert_eq!(
        drain(&mut m, s),
        [
            "0 at 6: a=image@4, a=image@5",
            "1 at 6: a=image@6",
            "0 at 6: a=image@6",
            "-1 progress 6"
        ]
    );
    m.hub.jump(m.state.revision());
    m.write(put("a", "y"));
    assert_eq!(drain(&mut m, s), ["0 at 7: a=y@7", "1 at 7: a=y@7"]);
}

#[test]
fn slow_streams_together_fall_back_and_who_keeps_up_is_not_touched() {
    let limits = Limits {
        all_events: 5,
        ..Limits::default()
    };
    let mut m = Member::new(limits);
    let slow: Vec<StreamId> = (0..3).map(|_| m.hub.open()).collect();
    let quick = m.hub.open();
    for s in slow.iter().chain([&quick]) {
        m.create(*s, spec(everything(), 0));
    }
    for i in 2..8 {
        m.write(put("a", "x"));
        let told = drain(&mut m, quick);
        assert_eq!(told.last(), Some(&format!("0 at {i}: a=x@{i}")));
    }
    assert_eq!(m.hub.counts().catching_up, 3);
    assert!(m.hub.queued.events <= 6, "{:?}", m.hub.queued);
    for s in slow {
        let told = drain(&mut m, s).join(" ");
        assert_eq!(told.matches("a=x@").count(), 6, "{told}");
    }
    assert_eq!(m.hub.queued, crate::stream::Load::default());
}

#[test]
fn an_empty_past_makes_a_watch_live() {
    let mut m = with_past(3);
    let s = m.hub.open();
    m.create(s, spec(point("none"), 2));
    let mut turn = m.hub.turn();
    let asked = ask(&mut m, s, &mut turn);
    let past = Past {
        changes: Changes {
            revisions: Vec::new(),
            next: Revision(4),
        },
        revision: Revision(3),
    };
    m.hub.supply(asked.piece(Ok(past)), &mut turn);
    assert_eq!(m.hub.counts().catching_up, 0);
}

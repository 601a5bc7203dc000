//! The rules of a watch, one by one.

use super::*;

pub fn text(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Created { id, revision } => format!("{} created at {}", id.0, revision.0),
        Delivery::Events {
            id,
            revision,
            events,
        } => {
            let event = |e: &WatchEvent| {
                let key = String::from_utf8_lossy(&e.kv.key).into_owned();
                let prev = e
                    .prev
                    .as_ref()
                    .map(|kv| format!(" was {}", String::from_utf8_lossy(&kv.value)));
                let what = match e.kind {
                    barque_store_state::EventKind::Put => {
                        format!("{key}={}", String::from_utf8_lossy(&e.kv.value))
                    }
                    barque_store_state::EventKind::Delete => format!("-{key}"),
                };
                format!("{what}@{}{}", e.kv.mod_revision.0, prev.unwrap_or_default())
            };
            let events: Vec<_> = events.iter().map(event).collect();
            format!("{} at {}: {}", id.0, revision.0, events.join(", "))
        }
        Delivery::Progress { id, revision } => {
            format!("{} progress {}", id.map_or(-1, |id| id.0), revision.0)
        }
        Delivery::Canceled { id, revision } => format!("{} canceled at {}", id.0, revision.0),
        Delivery::Compacted {
            id,
            compact_revision,
        } => format!("{} compacted {}", id.0, compact_revision.0),
        Delivery::Refused { reason, revision } => format!("refused at {}: {reason}", revision.0),
        Delivery::Failed { id } => format!("{} failed", id.0),
    }
}
pub fn drain(m: &mut Member, s: StreamId) -> Vec<String> {
    m.drain(s).iter().map(text).collect()
}

#[test]
fn from_now_on_or_from_a_past_revision() {
    let mut m = Member::new(Limits::default());
    m.write(put("a", "1"));
    m.write(put("a", "2"));
    let s = m.hub.open();
    m.create(s, spec(point("a"), 0));
    m.create(s, spec(point("a"), 2));
    m.create(s, spec(point("a"), 3));
    m.write(put("a", "3"));
    let said = drain(&mut m, s);
    assert_eq!(
        said[..3],
        ["0 created at 3", "1 created at 3", "2 created at 3"]
    );
    assert_eq!(
        said[3..],
        [
            "0 at 4: a=3@4",
            "1 at 4: a=1@2, a=2@3, a=3@4",
            "2 at 4: a=2@3, a=3@4"
        ]
    );
    m.write(put("a", "4"));
    assert_eq!(
        drain(&mut m, s),
        ["0 at 5: a=4@5", "1 at 5: a=4@5", "2 at 5: a=4@5"]
    );
}

#[test]
fn prev_kv_and_filters() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    m.create(s, spec(everything(), 0));
    m.create(
        s,
        WatchSpec {
            prev_kv: true,
            no_put: true,
            ..spec(everything(), 0)
        },
    );
    m.create(
        s,
        WatchSpec {
            no_delete: true,
            ..spec(everything(), 0)
        },
    );
    drain(&mut m, s);
    m.write(put("a", "1"));
    m.write(delete(point("a")));
    assert_eq!(
        drain(&mut m, s),
        [
            "0 at 2: a=1@2",
            "2 at 2: a=1@2",
            "0 at 3: -a@3",
            "1 at 3: -a@3 was 1"
        ]
    );
    // Fully filtered: nothing is sent, live or from history.
    m.create(
        s,
        WatchSpec {
            no_put: true,
            no_delete: true,
            ..spec(everything(), 1)
        },
    );
    m.write(put("b", "1"));
    assert_eq!(
        drain(&mut m, s),
        ["3 created at 3", "0 at 4: b=1@4", "2 at 4: b=1@4"]
    );
}

#[test]
fn ids_count_up_and_skip_and_ranges_are_checked() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    let mut create = |id: Option<i64>, range| {
        m.hub
            .create(s, id.map(WatchId), spec(range, 0), Revision(1))
            .map(|id| id.0)
    };
    assert_eq!(create(Some(1), point("a")), Ok(1));
    assert_eq!(create(None, point("a")), Ok(0));
    assert_eq!(create(None, point("a")), Ok(2));
    assert_eq!(create(Some(2), point("a")), Err(CreateError::DuplicateId));
    assert_eq!(create(Some(-7), point("a")), Ok(-7));
    let backwards = KeyRange {
        key: bytes("b"),
        end: bytes("b"),
    };
    assert_eq!(create(None, backwards), Err(CreateError::EmptyRange));
    assert_eq!(create(None, point("a")), Ok(3));
    assert_eq!(m.hub.counts().watchers, 5);
    m.hub.close(s);
    assert_eq!(m.hub.counts(), Counts::default());
    assert!(m.hub.lookup.is_empty());
}

#[test]
fn a_refusal_is_answered_in_its_place() {
    let limits = Limits {
        watches: 2,
        stream_answers: 4,
        ..Limits::default()
    };
    let mut m = Member::new(limits);
    let (s, other) = (m.hub.open(), m.hub.open());
    m.create(other, spec(point("a"), 0));
    m.create(s, spec(point("a"), 0));
    let full = m.hub.create(s, None, spec(point("a"), 0), Revision(1));
    assert_eq!(full, Err(CreateError::TooMany));
    m.hub.refuse(s, full.unwrap_err().to_string(), Revision(1));
    m.hub.cancel(s, WatchId(0), Revision(1));
    m.create(s, spec(point("a"), 0));
    assert!(m.hub.congested(s), "refusals count as answers");
    assert_eq!(
        drain(&mut m, s),
        [
            "0 created at 1",
            "refused at 1: etcdserver: too many watches",
            "0 canceled at 1",
            "1 created at 1"
        ]
    );
}

#[test]
fn a_start_in_the_future_is_waited_for_and_no_progress_told_before() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    m.create(
        s,
        WatchSpec {
            progress_notify: true,
            ..spec(everything(), 4)
        },
    );
    m.ask_progress(s);
    m.hub.tick_progress(s, m.state.revision());
    assert_eq!(drain(&mut m, s), ["0 created at 1"]);
    m.write(put("a", "2"));
    assert!(drain(&mut m, s).is_empty());
    m.write(put("a", "3"));
    assert_eq!(drain(&mut m, s), ["-1 progress 3"]);
    m.hub.tick_progress(s, m.state.revision());
    m.write(put("a", "4"));
    assert_eq!(drain(&mut m, s), ["0 progress 3", "0 at 4: a=4@4"]);
}

#[test]
fn a_start_that_was_compacted_is_told_after_created_and_forgotten() {
    let mut m = Member::new(Limits::default());
    for value in ["1", "2", "3"] {
        m.write(put("a", value));
    }
    m.write(compact(3));
    let s = m.hub.open();
    m.create(s, spec(everything(), 2));
    m.create(s, spec(everything(), 3));
    assert_eq!(
        drain(&mut m, s),
        [
            "0 created at 4",
            "1 created at 4",
            "0 compacted 3",
            "1 at 4: a=2@3, a=3@4"
        ]
    );
    assert_eq!(m.hub.counts().watchers, 1);
    m.write(put("a", "4"));
    assert_eq!(drain(&mut m, s), ["1 at 5: a=4@5"]);
}

#[test]
fn the_delete_at_the_compaction_is_seen_from_there() {
    let mut m = Member::new(Limits::default());
    m.write(put("a", "1"));
    m.write(delete(point("a")));
    m.write(compact(3));
    let s = m.hub.open();
    m.create(s, spec(everything(), 3));
    assert_eq!(drain(&mut m, s), ["0 created at 3", "0 at 3: -a@3"]);
}

#[test]
fn cancelling_ends_it_at_once() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    let id = m.create(s, spec(everything(), 0));
    m.write(put("a", "1"));
    m.hub.cancel(s, id, m.state.revision());
    m.hub.cancel(s, WatchId(77), m.state.revision());
    m.write(put("a", "2"));
    assert_eq!(drain(&mut m, s), ["0 created at 1", "0 canceled at 2"]);
    let again = m
        .hub
        .create(s, Some(id), spec(everything(), 0), m.state.revision());
    assert_eq!(again, Ok(id));
}

#[test]
fn progress_comes_after_everything_it_speaks_of() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    m.ask_progress(s);
    assert!(drain(&mut m, s).is_empty(), "nobody to answer for");
    m.create(s, spec(point("a"), 0));
    m.ask_progress(s);
    m.ask_progress(s);
    assert_eq!(drain(&mut m, s), ["0 created at 1", "-1 progress 1"]);
    m.write(put("a", "1"));
    m.write(put("b", "1"));
    m.ask_progress(s);
    m.write(put("a", "2"));
    assert_eq!(drain(&mut m, s), ["0 at 4: a=1@2, a=2@4", "-1 progress 4"]);
}

#[test]
fn progress_waits_for_what_is_applied_but_not_yet_published() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    m.create(s, spec(point("a"), 0));
    drain(&mut m, s);
    let events = m.apply(put("b", "1"));
    m.ask_progress(s);
    assert!(drain(&mut m, s).is_empty());
    m.hub.publish(&events);
    assert!(m.flag.take(), "the stream sleeps on its progress");
    assert_eq!(drain(&mut m, s), ["-1 progress 2"]);
}

#[test]
fn progress_is_known_though_nothing_was_published_since_the_start() {
    let mut m = Member::new(Limits::default());
    m.apply(put("a", "1"));
    let s = m.hub.open();
    m.create(s, spec(point("a"), 0));
    m.ask_progress(s);
    assert_eq!(drain(&mut m, s), ["0 created at 2", "-1 progress 2"]);
}

#[test]
fn periodic_progress_only_for_the_idle_who_asked() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    m.create(s, spec(everything(), 0));
    m.create(
        s,
        WatchSpec {
            progress_notify: true,
            ..spec(point("a"), 0)
        },
    );
    drain(&mut m, s);
    m.hub.tick_progress(s, m.state.revision());
    m.hub.tick_progress(s, m.state.revision());
    assert_eq!(drain(&mut m, s), ["1 progress 1"], "at most one waits");
    m.write(put("a", "1"));
    m.hub.tick_progress(s, m.state.revision());
    assert_eq!(drain(&mut m, s), ["1 at 2: a=1@2", "0 at 2: a=1@2"]);
    m.hub.tick_progress(s, m.state.revision());
    assert_eq!(drain(&mut m, s), ["1 progress 2"]);
}

#[test]
fn a_revision_is_one_piece_and_shared_fairly() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    m.create(s, spec(KeyRange::prefix(b"a"), 0));
    m.create(s, spec(point("b"), 0));
    drain(&mut m, s);
    m.write(put_all(&["b", "a2", "c", "a1"]));
    assert_eq!(drain(&mut m, s), ["0 at 2: a2=@2, a1=@2", "1 at 2: b=@2"]);
}

#[test]
fn a_slow_client_falls_back_to_history_and_holds_nobody() {
    let limits = Limits {
        stream_events: 3,
        ..Limits::default()
    };
    let mut m = Member::new(limits);
    let slow = m.hub.open();
    let quick = m.hub.open();
    m.create(slow, spec(everything(), 0));
    m.create(quick, spec(everything(), 0));
    drain(&mut m, quick);
    for i in 2..10 {
        m.write(put("a", "x"));
        assert_eq!(drain(&mut m, quick), [format!("0 at {i}: a=x@{i}")]);
    }
    assert_eq!(m.hub.counts().catching_up, 1);
    // What was queued, then the rest from history, once.
    assert_eq!(
        drain(&mut m, slow),
        [
            "0 created at 1",
            "0 at 4: a=x@2, a=x@3, a=x@4",
            "0 at 9: a=x@5, a=x@6, a=x@7, a=x@8, a=x@9"
        ]
    );
    assert_eq!(m.hub.counts().catching_up, 0);
    m.write(put("a", "x"));
    assert_eq!(drain(&mut m, slow), ["0 at 10: a=x@10"]);
}

#[test]
fn one_revision_larger_than_the_bound_is_still_delivered_live() {
    let limits = Limits {
        stream_events: 2,
        stream_bytes: 10,
        ..Limits::default()
    };
    let mut m = Member::new(limits);
    let s = m.hub.open();
    m.create(s, spec(everything(), 0));
    drain(&mut m, s);
    m.write(put_all(&["a", "b", "c", "d"]));
    assert_eq!(m.hub.counts().catching_up, 0);
    assert_eq!(drain(&mut m, s), ["0 at 2: a=@2, b=@2, c=@2, d=@2"]);
}

#[test]
fn catching_up_is_bounded_per_poll_and_takes_turns() {
    let limits = Limits {
        catch_up_revisions: 2,
        catch_up_reads: 2,
        ..Limits::default()
    };
    let mut m = Member::new(limits);
    for _ in 0..6 {
        m.write(put("a", "x"));
    }
    let s = m.hub.open();
    for _ in 0..3 {
        m.create(s, spec(everything(), 2));
    }
    m.create(s, spec(KeyRange::prefix(b"none"), 2));
    let first: Vec<_> = m.poll(s).iter().map(text).collect();
    let second: Vec<_> = m.poll(s).iter().map(text).collect();
    assert_eq!(first[4..], ["0 at 7: a=x@2, a=x@3", "1 at 7: a=x@2, a=x@3"]);
    // The third and the one without matches have their turn before the first goes on.
    assert_eq!(second, ["2 at 7: a=x@2, a=x@3"]);
    drain(&mut m, s);
    assert_eq!(m.hub.counts().catching_up, 0);
}

#[test]
fn revisions_that_were_never_published_are_read_from_history() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    m.create(s, spec(everything(), 0));
    m.write(put("a", "2"));
    drain(&mut m, s);
    m.apply(put("a", "3"));
    m.apply(put("a", "4"));
    m.write(put("a", "5"));
    assert!(m.flag.take(), "the gap wakes nobody");
    assert_eq!(drain(&mut m, s), ["0 at 5: a=3@3, a=4@4, a=5@5"]);
}

#[test]
fn too_many_unread_answers_are_noticed() {
    let limits = Limits {
        stream_answers: 3,
        ..Limits::default()
    };
    let mut m = Member::new(limits);
    let s = m.hub.open();
    for _ in 0..2 {
        m.create(s, spec(point("a"), 0));
    }
    assert!(!m.hub.congested(s));
    m.hub.cancel(s, WatchId(0), Revision(1));
    assert!(m.hub.congested(s));
    drain(&mut m, s);
    assert!(!m.hub.congested(s));
}

#[test]
#[should_panic(expected = "published again")]
fn a_revision_published_twice_is_a_bug() {
    let mut m = Member::new(Limits::default());
    let events = m.apply(put("a", "1"));
    m.hub.publish(&events);
    m.hub.publish(&events);
}

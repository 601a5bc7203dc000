//! Encodings are shared by all who are told of an event, and rows before a change are made only where wanted.

use std::cell::Cell;

use barque_store_state::Event;

use super::rules::drain;
use super::*;

/// Encodes everything that was delivered, as a front would, and counts the calls that had to.
fn encode(deliveries: &[Delivery], encoded: &Cell<usize>) -> Vec<Bytes> {
    let mut bytes = Vec::new();
    for delivery in deliveries {
        if let Delivery::Events { events, .. } = delivery {
            for event in events {
                let made = event.encoded(|event: &Event| {
                    encoded.set(encoded.get() + 1);
                    Bytes::from(format!("{event:?}"))
                });
                assert_eq!(**made, format!("{:?}", **event).into_bytes());
                bytes.push(made.clone());
            }
        }
    }
    bytes
}

#[test]
fn an_event_is_encoded_once_for_each_shape_however_many_are_told() {
    let mut m = Member::new(Limits::default());
    let streams: Vec<StreamId> = (0..10).map(|_| m.hub.open()).collect();
    for s in &streams {
        for i in 0..100 {
            let range = if i % 4 == 0 { point("a") } else { everything() };
            m.create(
                *s,
                WatchSpec {
                    prev_kv: i % 2 == 0,
                    ..spec(range, 0)
                },
            );
        }
        m.drain(*s);
    }
    let encoded = Cell::new(0);
    let told = |m: &mut Member| {
        encoded.set(0);
        let deliveries: Vec<Delivery> = streams.iter().flat_map(|s| m.drain(*s)).collect();
        let bytes = encode(&deliveries, &encoded);
        (bytes.len(), encoded.get())
    };
    // Of a create there is one shape.
    m.write(put("a", "1"));
    assert_eq!(told(&mut m), (1000, 1));
    m.write(put("a", "2"));
    assert_eq!(told(&mut m), (1000, 2));
    // Also where a watch wants only some of a revision: 1000 of "a", 750 of each other.
    m.write(put_all(&["a", "b", "c"]));
    assert_eq!(told(&mut m), (2500, 4));
}

#[test]
fn encodings_end_with_the_last_who_is_to_be_told() {
    let mut m = Member::new(Limits::default());
    let (quick, slow) = (m.hub.open(), m.hub.open());
    for s in [quick, slow] {
        m.create(s, spec(everything(), 0));
        m.drain(s);
    }
    m.write(put("a", "1"));
    let encoded = Cell::new(0);
    let bytes = encode(&m.drain(quick), &encoded).remove(0);
    assert!(!bytes.is_unique(), "the slow one would encode it again");
    assert_eq!(encode(&m.drain(slow), &encoded).len(), 1);
    assert_eq!(encoded.get(), 1);
    assert!(bytes.is_unique(), "kept though everybody was told");
}

#[test]
fn who_came_after_rows_were_left_out_is_told_of_them_from_history() {
    let mut m = Member::new(Limits::default());
    let s = m.hub.open();
    let plain = m.create(s, spec(everything(), 0));
    m.write(put("a", "1"));
    assert!(!m.hub.wants_previous());
    let mut events = m.apply(put("a", "2"));
    for revision in &mut events {
        let mut bare = revision.events.to_vec();
        bare.iter_mut().for_each(|event| event.prev = None);
        revision.events = bare.into();
    }
    m.hub.publish(&events);
    let with_prev = |start| WatchSpec {
        prev_kv: true,
        ..spec(everything(), start)
    };
    let past = m.create(s, with_prev(3));
    let now = m.create(s, with_prev(0));
    assert!(m.hub.wants_previous());
    m.write(put("a", "3"));
    assert_eq!(
        drain(&mut m, s),
        [
            "0 created at 1",
            "0 at 3: a=1@2, a=2@3",
            "1 created at 3",
            "2 created at 3",
            "0 at 4: a=3@4",
            "2 at 4: a=3@4 was 2",
            "1 at 4: a=2@3 was 1, a=3@4 was 2",
        ]
    );
    m.hub.cancel(s, past, m.state.revision());
    m.hub.cancel(s, plain, m.state.revision());
    assert!(m.hub.wants_previous());
    m.hub.cancel(s, now, m.state.revision());
    assert!(!m.hub.wants_previous());
    m.create(s, with_prev(0));
    m.hub.close(s);
    assert!(!m.hub.wants_previous());
}

#[test]
fn a_compacted_watch_wants_no_previous_rows_any_more() {
    let mut m = Member::new(Limits::default());
    for value in ["1", "2", "3"] {
        m.write(put("a", value));
    }
    m.write(compact(4));
    let s = m.hub.open();
    m.create(
        s,
        WatchSpec {
            prev_kv: true,
            ..spec(everything(), 2)
        },
    );
    assert!(m.hub.wants_previous());
    assert_eq!(drain(&mut m, s), ["0 created at 4", "0 compacted 4"]);
    assert!(!m.hub.wants_previous());
}

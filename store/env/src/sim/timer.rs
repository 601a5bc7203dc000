//! A point of a machine's own clock, waited for in the world's time.
//! Promise: never ready before that clock shows it, whatever its rate becomes meanwhile; one that is dropped leaves no event.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::Instant;

use super::NodeId;
use super::world::{Event, EventKey, try_with, with};

/// Ready once a machine's clock shows the instant.
pub(super) struct Timer {
    node: NodeId,
    at: Instant,
    event: Option<EventKey>,
}

impl Timer {
    pub fn new(node: NodeId, at: Instant) -> Self {
        Timer {
            node,
            at,
            event: None,
        }
    }
}

impl Future for Timer {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (node, at, old) = (self.node, self.at, self.event.take());
        let waker = cx.waker().clone();
        // Old wakers are dropped outside: they may be anybody's.
        let (event, _old) = with(|w| {
            let old = old.and_then(|key| w.cancel(key));
            if w.local(node) >= at {
                return (None, (old, Some(waker)));
            }
            // Asked again after each wake: the clock's rate may have changed meanwhile.
            let when = w.node(node).clock.global(at).max(w.now + 1);
            let event = w.schedule(when, Event::Wake(waker));
            (Some(event), (old, None))
        });
        self.event = event;
        if event.is_some() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.event.take() {
            let _old = try_with(|w| w.cancel(key));
        }
    }
}

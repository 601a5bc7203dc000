//! Guard 8: proposals are admitted by bytes. Owns the count of bytes proposed here and not yet answered by the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub struct Admission {
    held: AtomicUsize,
    max: usize,
}

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub struct Held {
    of: Arc<Admission>,
    bytes: usize,
}

impl Admission {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Admission {
            held: AtomicUsize::new(0),
            max,
        })
    }
    /// `None` when that would be too much. One alone is always admitted.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                let sum = held.saturating_add(bytes);
                (held == 0 || sum <= self.max).then_some(sum)
            })
            .ok()?;
        Some(Held {
            of: self.clone(),
            bytes,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_up_to_the_bound_and_again_when_some_left() {
        let admission = Admission::new(100);
        let first = admission.admit(60).expect("empty");
        assert!(admission.admit(41).is_none(), "over the bound");
        let second = admission.admit(40).expect("just the bound");
        drop(first);
        assert!(admission.admit(60).is_some());
        drop(second);
        assert!(admission.admit(1000).is_some(), "one alone goes");
    }
}

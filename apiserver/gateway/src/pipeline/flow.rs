//! How much is served at once. Every request holds a permit; a user holds at most its share of them.
//! Not here: queues and priorities; who is refused is told to come back in a second.

use std::collections::BTreeMap;
use std::sync::Arc;

use barque_apiserver_rules::User;
use parking_lot::Mutex;

use crate::limits::{
    INFLIGHT_PER_USER_MAX_DIVISOR, READS_INFLIGHT_MAX, WATCHES_MAX, WRITES_INFLIGHT_MAX,
};
use crate::requests::Verb;
use crate::status::ApiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Read,
    Write,
    Watch,
}

impl Class {
    fn of(verb: Verb) -> Self {
        match verb {
            Verb::Watch => Class::Watch,
            verb if verb.mutates() => Class::Write,
            _ => Class::Read,
        }
    }
    fn bound(self) -> usize {
        match self {
            Class::Read => READS_INFLIGHT_MAX,
            Class::Write => WRITES_INFLIGHT_MAX,
            Class::Watch => WATCHES_MAX,
        }
    }
}

#[derive(Default)]
pub struct FlowControl {
    inflight: Arc<Mutex<Inflight>>,
}

#[derive(Default)]
struct Inflight {
    total: BTreeMap<Class, usize>,
    /// Invariant: no zero entries, so that it is as large as there are users with a request under way.
    by_user: BTreeMap<(Class, String), usize>,
}

/// A request under way. Dropping it makes room.
pub struct Permit {
    inflight: Arc<Mutex<Inflight>>,
    class: Class,
    user: String,
}

impl FlowControl {
    pub fn enter(&self, user: &User, verb: Verb) -> Result<Permit, ApiError> {
        let class = Class::of(verb);
        let mut guard = self.inflight.lock();
        let inflight = &mut *guard;
        let total = inflight.total.entry(class).or_default();
        let own = inflight
            .by_user
            .get(&(class, user.name.clone()))
            .copied()
            .unwrap_or(0);
        let share = class.bound() / INFLIGHT_PER_USER_MAX_DIVISOR;
        if *total >= class.bound() || own >= share {
            return Err(ApiError::too_many_requests());
        }
        *total += 1;
        inflight.by_user.insert((class, user.name.clone()), own + 1);
        drop(guard);
        Ok(Permit {
            inflight: self.inflight.clone(),
            class,
            user: user.name.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut guard = self.inflight.lock();
        let inflight = &mut *guard;
        if let Some(total) = inflight.total.get_mut(&self.class) {
            *total -= 1;
        }
        let key = (self.class, std::mem::take(&mut self.user));
        if let Some(own) = inflight.by_user.get_mut(&key) {
            *own -= 1;
            if *own == 0 {
                inflight.by_user.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        User::from_subject(name, Vec::new()).unwrap()
    }

    #[test]
    fn one_user_leaves_room_for_others() {
        let flow = FlowControl::default();
        let greedy = user("greedy");
        let mut held = Vec::new();
        let refusal = loop {
            match flow.enter(&greedy, Verb::Create) {
                Ok(permit) => held.push(permit),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(
            held.len(),
            WRITES_INFLIGHT_MAX / INFLIGHT_PER_USER_MAX_DIVISOR
        );
        assert_eq!(
            (refusal.code, refusal.retry_after_seconds()),
            (429, Some(1))
        );
        assert!(
            flow.enter(&greedy, Verb::Get).is_ok(),
            "reads are counted apart"
        );
        assert!(flow.enter(&user("modest"), Verb::Create).is_ok());
        held.pop();
        assert!(flow.enter(&greedy, Verb::Create).is_ok());
    }

    #[test]
    fn nothing_is_left_behind() {
        let flow = FlowControl::default();
        drop(flow.enter(&user("a"), Verb::Watch).unwrap());
        let inflight = flow.inflight.lock();
        assert!(inflight.by_user.is_empty());
        assert!(inflight.total.values().all(|count| *count == 0));
    }
}

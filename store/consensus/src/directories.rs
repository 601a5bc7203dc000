//! Guard 5: each data directory has an incarnation, and the state knows the one each member votes with. A member that
//! shows another one lost its log with its promises: it is not talked to, and it hears why, once, and stops.
//! Not here: where an incarnation is kept (`store/node`), the handshake that shows it (`transport`).

use std::sync::Arc;

use barque_store_env::watch;
use barque_store_state::MemberId;

use crate::{Config, Machine};

pub struct Directories {
    machine: Arc<dyn Machine>,
    on: bool,
    /// Whether a peer has told this member that its directory is another one than the cluster knows.
    wiped: watch::Sender<bool>,
    /// Whether a peer has told this member that it was removed.
    removed: watch::Sender<bool>,
}

impl Directories {
    pub fn new(config: &Config, machine: Arc<dyn Machine>) -> Self {
        Directories {
            machine,
            on: config.guards.identity,
            wiped: watch::channel(false).0,
            removed: watch::channel(false).0,
        }
    }

    /// Why the member with this incarnation is not the one that the cluster knows; `None` when it is, or when its
    /// incarnation is not known (yet).
    pub fn stranger(&self, member: MemberId, incarnation: u64) -> Option<String> {
        let known = *self.machine.incarnations().get(&member)?;
        (self.on && known != incarnation).then(|| {
            format!(
                "member {:x} was started with an empty data directory ({incarnation:016x}), but the cluster knows it with \
                 another one ({known:016x}); a wiped member must not vote. Restore its data directory, or remove the \
                 member and add it again",
                member.0
            )
        })
    }

    pub fn told_wiped(&self) {
        self.wiped.send(true);
    }
    pub fn is_wiped(&self) -> bool {
        self.wiped.subscribe().get()
    }
    pub async fn wiped(&self) {
        self.wiped.until(|told| told.then_some(())).await;
    }
    pub fn told_removed(&self) {
        self.removed.send(true);
    }
    pub async fn removed(&self) {
        self.removed.until(|told| told.then_some(())).await;
    }
}

/// What the wiped member itself says of it.
pub fn wiped(me: MemberId, advice: &str) -> String {
    format!(
        "member {:x} was started with an empty data directory, but the cluster knows it with another one; a wiped member \
         must not vote. {advice}",
        me.0
    )
}

//! Room for data: the quota on live bytes, and the file system's. When either runs out, growth is refused and the NOSPACE
//! alarm goes up; when there is room again, it comes down by itself.
//! Promise: reads, deletes, compactions and revocations are never refused here. The quota is the leader's to keep; a nearly
//! full file system is each member's own, and stops growth on all, because a member that runs into the end of its disk stops.
//! Not here: what an alarm refuses (`store/state`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use barque_store_env::{Disk, Env, Instant, Space};
use barque_store_state::*;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::Shared;
use crate::limits::*;

/// What a member is told of room. The default is etcd's quota and a reserve that follows the file system's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceRules {
    /// Live bytes (as `State::live_bytes` counts them) beyond which nothing is added; `None`: no quota.
    pub quota_bytes: Option<u64>,
    /// Free bytes of the data directory's file system below which nothing is added; `None`: the smaller of 256 MiB and 5 %,
    /// but never less than the log needs for itself.
    pub disk_reserve_bytes: Option<u64>,
}

impl Default for SpaceRules {
    fn default() -> Self {
        SpaceRules {
            quota_bytes: Some(QUOTA_BYTES_DEFAULT),
            disk_reserve_bytes: None,
        }
    }
}

impl SpaceRules {
    fn reserve(&self, space: Space) -> u64 {
        let derived = (space.total / 20).clamp(DISK_RESERVE_BYTES_MIN, DISK_RESERVE_BYTES_MAX);
        self.disk_reserve_bytes.unwrap_or(derived)
    }
}

/// What is refused before it is proposed. Read on every proposal, written rarely: no locks.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) quota_bytes: Option<u64>,
    live_bytes: AtomicU64,
    no_space: AtomicBool,
    corrupt: AtomicBool,
    /// This member's own file system is below its reserve.
    disk_low: AtomicBool,
    /// The leader refused something for the quota.
    quota_hit: AtomicBool,
    pressed: Notify,
}

impl Gate {
    pub(crate) fn new(quota_bytes: Option<u64>) -> Self {
        Gate {
            quota_bytes,
            live_bytes: AtomicU64::new(0),
            no_space: AtomicBool::new(false),
            corrupt: AtomicBool::new(false),
            disk_low: AtomicBool::new(false),
            quota_hit: AtomicBool::new(false),
            pressed: Notify::new(),
        }
    }

    /// After each applied entry.
    pub(crate) fn applied(&self, state: &State) {
        let active = state.alarms().active();
        self.live_bytes.store(state.live_bytes(), Ordering::Relaxed);
        self.no_space.store(active.no_space, Ordering::Relaxed);
        self.corrupt.store(active.corrupt, Ordering::Relaxed);
    }

    pub(crate) fn disk_low(&self) -> bool {
        self.disk_low.load(Ordering::Relaxed)
    }

    /// Why this member takes `command` from nobody now. The log refuses for alarms as well; this saves the way there.
    pub(crate) fn refusal(&self, command: &Command) -> Option<Refusal> {
        let active = ActiveAlarms {
            no_space: self.no_space.load(Ordering::Relaxed) || self.disk_low(),
            corrupt: self.corrupt.load(Ordering::Relaxed),
        };
        if active == ActiveAlarms::default() {
            return None;
        }
        active.refusal(command)
    }

    /// Whether the leader may propose `command` when `pending` bytes of growth are on their way already.
    pub(crate) fn within_quota(&self, command: &Command, pending: u64) -> bool {
        let Some(quota) = self.quota_bytes else {
            return true;
        };
        let growth = growth(command);
        let live = self.live_bytes.load(Ordering::Relaxed);
        if growth == 0 || live.saturating_add(pending).saturating_add(growth) < quota {
            return true;
        }
        self.quota_hit.store(true, Ordering::Relaxed);
        self.pressed.notify_one();
        false
    }
}

/// What the file system must offer before anything is opened. A start that would end in the middle of its first segment is
/// refused with what to do about it.
pub(crate) async fn check_disk<D: Disk>(disk: &D, dir: &Path, fresh: bool) -> Result<(), String> {
    // Not every file system tells; then the first write does.
    let Ok(space) = disk.space(dir).await else {
        return Ok(());
    };
    let needed = if fresh {
        DISK_START_BYTES_MIN
    } else {
        DISK_RESTART_BYTES_MIN
    };
    if space.free >= needed {
        return Ok(());
    }
    Err(format!(
        "its file system has too little room: {} of {} free, and a start needs {}; make room there or give another --data-dir, then start again",
        bytes_text(space.free),
        bytes_text(space.total),
        bytes_text(needed)
    ))
}

/// Adds what to do to an error of the directory, where the operating system's reason tells. The layers below give texts;
/// the number in them is the system's.
pub(crate) fn with_advice(reason: String) -> String {
    let advice = [
        (
            "(os error 28)",
            "its file system is full: make room there or give another --data-dir, then start again",
        ),
        (
            "(os error 30)",
            "its file system is mounted read-only: mount it read-write or give another --data-dir, then start again",
        ),
        (
            "(os error 13)",
            "this user may not write there: give it the directory (chown) or give another --data-dir, then start again",
        ),
    ];
    match advice.iter().find(|(number, _)| reason.contains(number)) {
        Some((_, advice)) => format!("{reason}; {advice}"),
        None => reason,
    }
}

/// Bytes for people: the largest unit that leaves at least one of it.
fn bytes_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        if bytes >= 1 << shift {
            return format!("{:.1} {unit}", bytes as f64 / f64::from(1u32 << shift));
        }
    }
    format!("{bytes} B")
}

/// Keeps an eye on both, for as long as the member runs.
pub(crate) struct Keeper<E: Env> {
    pub(crate) shared: Arc<Shared<E>>,
    pub(crate) rules: SpaceRules,
    pub(crate) disk: E::Disk,
    pub(crate) dir: PathBuf,
}

impl<E: Env> Keeper<E> {
    pub(crate) async fn run(self) {
        let gate = self.shared.machine.gate.clone();
        let mut warned = false;
        let mut unknown = false;
        let mut leads_since = None;
        loop {
            self.look_at_disk(&mut unknown).await;
            self.keep_own_alarm().await;
            leads_since = match self.shared.leads(E::now()) {
                true => leads_since.or(Some(E::now())),
                false => None,
            };
            if let Some(since) = leads_since {
                self.clear_lost(since).await;
                if let Some(quota) = gate.quota_bytes {
                    warn_early(&gate, quota, &mut warned);
                    self.raise_at_quota(quota).await;
                }
                self.clear_quota().await;
            }
            let pressed = gate.pressed.notified();
            futures::pin_mut!(pressed);
            // Either way the next round looks at everything.
            drop(futures::future::select(pressed, E::sleep(SPACE_INTERVAL)).await);
        }
    }

    /// Low below the reserve; enough again only with a quarter more, so that it does not flutter.
    async fn look_at_disk(&self, unknown: &mut bool) {
        let gate = &self.shared.machine.gate;
        let space = match self.disk.space(&self.dir).await {
            Ok(space) => space,
            Err(error) => {
                if !std::mem::replace(unknown, true) {
                    warn!(%error, dir = %self.dir.display(), "the file system does not tell how much room it has");
                }
                return;
            }
        };
        *unknown = false;
        let reserve = self.rules.reserve(space);
        let low = gate.disk_low();
        if !low && space.free < reserve {
            gate.disk_low.store(true, Ordering::Relaxed);
            warn!(
                free = space.free,
                reserve,
                total = space.total,
                dir = %self.dir.display(),
                "the file system is nearly full: nothing is added until there is room; reads, deletes and compactions go on"
            );
        } else if low && space.free >= reserve.saturating_add(reserve / 4) {
            gate.disk_low.store(false, Ordering::Relaxed);
            info!(free = space.free, reserve, "the file system has room again");
        }
    }

    /// The others must know that this member's disk is low, and that it is not any more.
    async fn keep_own_alarm(&self) {
        let me = self.shared.member;
        let up = self.alarm(me);
        let low = self.shared.machine.gate.disk_low();
        let command = match up {
            None if low => raise(me, AlarmCause::Disk),
            Some(alarm) if !low && alarm.cause == AlarmCause::Disk => clear(alarm),
            _ => return,
        };
        self.propose(command).await;
    }

    fn alarm(&self, member: MemberId) -> Option<Alarm> {
        let state = self.shared.machine.state.read();
        state.alarms().get(AlarmKind::NoSpace, member)
    }

    async fn raise_at_quota(&self, quota: u64) {
        let gate = &self.shared.machine.gate;
        if !gate.quota_hit.swap(false, Ordering::Relaxed) {
            return;
        }
        let live = gate.live_bytes.load(Ordering::Relaxed);
        // One large write that does not fit is refused alone: smaller ones still do.
        if live < clear_below(quota) || self.alarm(self.shared.member).is_some() {
            return;
        }
        warn!(
            live_bytes = live,
            quota_bytes = quota,
            "the quota is reached: alarm NOSPACE; nothing is added until keys are deleted and compacted"
        );
        self.propose(raise(self.shared.member, AlarmCause::Quota))
            .await;
    }

    /// Whoever leads clears what any leader raised. (Compacted rows go with the entries that are applied; where nobody writes
    /// any more, `sweep` sees to it.)
    async fn clear_quota(&self) {
        let alarms: Vec<Alarm> = {
            let state = self.shared.machine.state.read();
            let quota = |alarm: &Alarm| alarm.cause == AlarmCause::Quota;
            state.alarms().iter().filter(quota).collect()
        };
        if alarms.is_empty() {
            return;
        }
        let gate = &self.shared.machine.gate;
        let live = gate.live_bytes.load(Ordering::Relaxed);
        if gate
            .quota_bytes
            .is_none_or(|quota| live < clear_below(quota))
        {
            info!(live_bytes = live, quota_bytes = ?gate.quota_bytes, "there is room below the quota again: alarm NOSPACE ends");
            for alarm in alarms {
                self.propose(clear(alarm)).await;
            }
        }
    }

    /// A member whose disk was low and that is gone since, for it ran into the end of the disk most likely, keeps nobody else
    /// from writing. It raises its alarm again when it comes back to a disk that is low.
    async fn clear_lost(&self, leads_since: Instant) {
        let patience = self.shared.consensus.lease() * SPACE_LOST_LEASES;
        let now = E::now();
        let lost = |alarm: &Alarm| {
            let progress = self.shared.consensus.progress(alarm.member);
            let heard = progress.and_then(|p| p.acked).unwrap_or(leads_since);
            alarm.cause == AlarmCause::Disk
                && alarm.member != self.shared.member
                && now.saturating_since(heard.max(leads_since)) > patience
        };
        let lost: Vec<Alarm> = {
            let state = self.shared.machine.state.read();
            state.alarms().iter().filter(lost).collect()
        };
        for alarm in lost {
            warn!(
                member = format_args!("{:x}", alarm.member.0),
                "its disk was nearly full when it was heard last: its alarm NOSPACE ends, the others go on without it"
            );
            self.propose(clear(alarm)).await;
        }
    }

    /// Whatever becomes of it, the next round looks at the state again.
    async fn propose(&self, command: Command) {
        let deadline: Instant = E::now() + SPACE_PROPOSAL_TIMEOUT;
        drop(self.shared.propose(command, deadline).await);
    }
}

/// The alarm ends below it: far enough from the quota that it does not come back with the next few writes.
fn clear_below(quota: u64) -> u64 {
    percent(quota, QUOTA_CLEAR_PERCENT)
}

fn percent(bytes: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// Once per crossing: again only after it was clearly below.
fn warn_early(gate: &Gate, quota: u64, warned: &mut bool) {
    let live = gate.live_bytes.load(Ordering::Relaxed);
    if !*warned && live >= percent(quota, QUOTA_WARN_PERCENT) {
        *warned = true;
        warn!(
            live_bytes = live,
            quota_bytes = quota,
            percent = percent_of(live, quota),
            "live data comes near the quota; compact, delete, or raise --quota-backend-bytes"
        );
    } else if *warned && live < percent(quota, QUOTA_WARN_PERCENT - QUOTA_WARN_PERCENT / 10) {
        *warned = false;
    }
}

fn percent_of(live: u64, quota: u64) -> u64 {
    u64::try_from(u128::from(live) * 100 / u128::from(quota.max(1))).unwrap_or(u64::MAX)
}

fn raise(member: MemberId, cause: AlarmCause) -> Command {
    Command::AlarmRaise(Alarm {
        kind: AlarmKind::NoSpace,
        member,
        cause,
    })
}

fn clear(alarm: Alarm) -> Command {
    Command::AlarmClear {
        kind: alarm.kind,
        member: alarm.member,
        only: Some(alarm.cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(bytes: usize) -> Command {
        Command::Put(Put {
            key: vec![b'k'; bytes].into(),
            ..Put::default()
        })
    }

    #[test]
    fn the_quota_counts_what_is_there_what_is_on_its_way_and_what_comes() {
        let gate = Gate::new(Some(1_000));
        let small = put(100);
        let grows = growth(&small);
        assert!(gate.within_quota(&small, 999 - grows));
        assert!(!gate.quota_hit.load(Ordering::Relaxed));
        assert!(!gate.within_quota(&small, 1_000 - grows));
        assert!(gate.quota_hit.load(Ordering::Relaxed));
        assert!(gate.within_quota(&Command::LeaseRevoke { id: LeaseId(1) }, u64::MAX));
        assert!(Gate::new(None).within_quota(&put(10_000), u64::MAX));
    }

    #[test]
    fn a_low_disk_refuses_growth_alone() {
        let gate = Gate::new(None);
        assert_eq!(gate.refusal(&put(1)), None);
        gate.disk_low.store(true, Ordering::Relaxed);
        assert_eq!(gate.refusal(&put(1)), Some(Refusal::NoSpace));
        let compact = Command::Compact {
            revision: Revision(1),
        };
        assert_eq!(gate.refusal(&compact), None);
    }

    #[test]
    fn the_reserve_follows_the_file_system_within_its_bounds() {
        let reserve = |total| SpaceRules::default().reserve(Space { free: 0, total });
        assert_eq!(reserve(1 << 40), DISK_RESERVE_BYTES_MAX);
        assert_eq!(reserve(20 * (200 << 20)), 200 << 20);
        assert_eq!(reserve(1 << 30), DISK_RESERVE_BYTES_MIN);
        let told = SpaceRules {
            disk_reserve_bytes: Some(0),
            ..SpaceRules::default()
        };
        assert_eq!(
            told.reserve(Space {
                free: 0,
                total: 1 << 40
            }),
            0
        );
    }

    #[test]
    fn errors_of_the_directory_say_what_to_do() {
        let text =
            |number| with_advice(format!("x: {}", std::io::Error::from_raw_os_error(number)));
        assert!(text(28).contains("make room"), "{}", text(28));
        assert!(text(30).contains("read-only"), "{}", text(30));
        assert!(text(13).contains("chown"), "{}", text(13));
        assert_eq!(with_advice("in use".into()), "in use");
        assert_eq!(bytes_text(1_536), "1.5 KiB");
        assert_eq!(bytes_text(64 << 20), "64.0 MiB");
    }
}

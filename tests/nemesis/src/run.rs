//! A loaded run: clients, watchers and keepers on a cluster whose members somebody else treats badly; then rest, and judgement.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::task::JoinSet;

use crate::Failure;
use crate::alike::alike;
use crate::clients::{Client, prefix_end, revision, sample};
use crate::journal::Journal;
use crate::judge::{Judged, judge};
use crate::keeper;
use crate::lessees::Lessee;
use crate::limits::{SERVES, SETTLE, WRITES_PER_SECOND_MIN};
use crate::line::{Line, Outcome};
use crate::member::{Member, kv};
use crate::value;
use crate::watchers::{Wanted, Watcher};

const WRITERS: u64 = 6;
const LESSEES: u64 = 3;
/// The number of whoever writes beside the clients, such as the last row.
pub const LAST: u64 = WRITERS + LESSEES;

pub struct Load {
    pub journal: Arc<Journal>,
    watchers: Vec<Arc<Watcher>>,
    /// They end when the run calms down.
    clients: JoinSet<()>,
    /// They end when it is stopped.
    watching: JoinSet<()>,
    began: Instant,
}

impl Load {
    /// Starts everybody against running members.
    pub fn start(members: &[Member], seed: u64) -> Load {
        let endpoints: Vec<String> = members.iter().map(|m| m.addr().to_owned()).collect();
        let journal = Arc::new(Journal::new(endpoints, LAST as usize + 1 + members.len()));
        let wanted = [
            ("w-all", Wanted::All, false),
            ("w-all-prev", Wanted::All, true),
            ("w-registers", Wanted::Prefix("r/"), false),
            ("w-leases", Wanted::Prefix("l/"), false),
            ("w-key", Wanted::Key("b/0/00"), true),
        ];
        let watchers: Vec<Arc<Watcher>> = wanted
            .into_iter()
            .zip(1..)
            .map(|((name, wanted, prev), n)| {
                Watcher::new(name, wanted, prev, seed ^ (n << 20), journal.clone())
            })
            .collect();
        let mut clients = JoinSet::new();
        for id in 0..WRITERS {
            clients.spawn(Client::new(id, seed, journal.clone()).run());
        }
        for id in WRITERS..WRITERS + LESSEES {
            clients.spawn(Lessee::new(id, seed, journal.clone()).run());
        }
        if members.len() > 1 {
            for member in 0..members.len() {
                let id = LAST + 1 + member as u64;
                clients.spawn(Client::pinned(id, seed, journal.clone(), member).run());
            }
        }
        clients.spawn(keeper::compact(journal.clone(), watchers.clone(), seed));
        clients.spawn(keeper::read_the_past(journal.clone(), seed));
        for member in 0..members.len() {
            clients.spawn(keeper::hash(journal.clone(), member, seed));
        }
        let mut watching = JoinSet::new();
        for watcher in &watchers {
            watching.spawn(watcher.clone().run());
        }
        Load {
            journal,
            watchers,
            clients,
            watching,
            began: Instant::now(),
        }
    }

    /// Fails as soon as a violation is known.
    pub fn check(&self) -> Result<(), Failure> {
        let violations = self.journal.violations();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Failure::Violated(violations))
        }
    }

    /// Waits until the cluster serves: more writes than can have been under way are acknowledged. The time it took.
    pub async fn serves(&self) -> Result<Duration, Failure> {
        let (began, before) = (Instant::now(), self.journal.writes());
        while self.journal.writes() < before + 2 * WRITERS {
            self.check()?;
            if began.elapsed() > SERVES {
                return Err(Failure::violated(format!(
                    "a majority is connected, but within {SERVES:?} no writes are acknowledged"
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(began.elapsed())
    }

    /// Ends the load, lets everything come to rest, restarts each member once more in both ways, and judges. All members must run.
    pub async fn judged(mut self, members: &mut [Member]) -> Result<Judged, Failure> {
        let loaded = self.began.elapsed();
        self.journal.calm_down();
        let ends = async { while self.clients.join_next().await.is_some() {} };
        if tokio::time::timeout(SETTLE, ends).await.is_err() {
            return Err(Failure::violated(format!(
                "clients get no answer within {SETTLE:?} of the last fault"
            )));
        }
        let mut line = Line::new(self.journal.clone(), 0);
        self.leases_end(&mut line).await?;
        let last = self.write_the_last(&mut line).await?;
        let deadline = Instant::now() + SETTLE;
        while self.watchers.iter().any(|w| w.next() <= last) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.read_all(members, last).await?;
        if members.len() > 1 {
            alike(members).await?;
        }
        for member in members.iter_mut() {
            member.still_runs()?;
            member.stop().await?;
            member.start()?;
            member.ready().await?;
        }
        self.read_all(members, last).await?;
        for member in members.iter_mut() {
            member.kill();
            member.start()?;
            member.ready().await?;
        }
        self.read_all(members, last).await?;
        if members.len() > 1 {
            alike(members).await?;
        }
        self.journal.stop();
        while self.watching.join_next().await.is_some() {}
        let judged = judge(&self.journal, &self.watchers, last).map_err(Failure::Violated)?;
        let rate = judged.acknowledged as f64 / loaded.as_secs_f64();
        if rate < WRITES_PER_SECOND_MIN {
            return Err(Failure::Void(format!(
                "{rate:.1} acknowledged writes a second are no load"
            )));
        }
        Ok(judged)
    }

    /// Every lease that nobody renews ends, and takes its key along.
    async fn leases_end(&self, line: &mut Line) -> Result<(), Failure> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let request = RangeRequest {
                key: "l/".into(),
                range_end: prefix_end("l/").into(),
                count_only: true,
                ..RangeRequest::default()
            };
            let Some(channel) = line.channel().await else {
                return Ok(());
            };
            let left = match line.outcome(kv(channel).range(request)).await {
                Outcome::Done(response) if response.count == 0 => return Ok(()),
                Outcome::Done(response) => format!("{} keys still hang on leases", response.count),
                Outcome::Refused(status) => status.to_string(),
                Outcome::Unknown => "no answer".to_owned(),
            };
            if Instant::now() > deadline {
                return Err(Failure::violated(format!(
                    "within {SETTLE:?} of the last fault leases have not ended: {left}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn write_the_last(&self, line: &mut Line) -> Result<u64, Failure> {
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            let Some(channel) = line.channel().await else {
                break;
            };
            let n = self.journal.made[LAST as usize].fetch_add(1, Ordering::SeqCst);
            let request = PutRequest {
                key: "end".into(),
                value: value::value(value::number(LAST, n)),
                ..PutRequest::default()
            };
            if let Outcome::Done(response) = line.outcome(kv(channel).put(request)).await {
                return Ok(revision(&response.header));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Failure::violated(format!(
            "no write is acknowledged within {SETTLE:?} of the last fault"
        )))
    }

    /// Takes every member's hash and all its keys at the last revision, for the judge.
    async fn read_all(&self, members: &[Member], last: u64) -> Result<(), Failure> {
        for (n, member) in members.iter().enumerate() {
            // Its connections may be older than its last restart.
            let deadline = Instant::now() + SETTLE;
            while !self.read_one(n, last).await? {
                if Instant::now() > deadline {
                    return Err(member.failure("does not answer at rest"));
                }
            }
        }
        Ok(())
    }

    /// Whether the member has answered.
    async fn read_one(&self, n: usize, last: u64) -> Result<bool, Failure> {
        let mut line = Line::pinned(self.journal.clone(), n);
        let before = self.journal.told.lock().hashes.len();
        keeper::hash_once(&self.journal, &mut line, n, last, true).await;
        if self.journal.told.lock().hashes.len() == before {
            return Ok(false);
        }
        let request = RangeRequest {
            key: vec![0].into(),
            range_end: vec![0xff].into(),
            ..RangeRequest::default()
        };
        let Some(channel) = line.channel().await else {
            return Ok(false);
        };
        match line.outcome(kv(channel).range(request.clone())).await {
            Outcome::Done(response) => {
                let at = revision(&response.header);
                if at != last {
                    return Err(Failure::violated(format!(
                        "at rest at revision {at}, not at {last}, the last write's"
                    )));
                }
                sample(&self.journal, at, request, &response);
                Ok(true)
            }
            Outcome::Refused(status) => Err(Failure::violated(format!(
                "the last read was refused: {status}"
            ))),
            Outcome::Unknown => Ok(false),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.journal.calm_down();
        self.journal.stop();
    }
}

/// Directories of one run; gone with it.
pub fn temporary() -> Result<tempfile::TempDir, Failure> {
    let dir = tempfile::Builder::new().prefix("barque-nemesis-").tempdir();
    dir.map_err(Failure::io("making a temporary directory"))
}

//! The first error of the disk is final: the member ends by itself, says so with its status, and acknowledges nothing that the disk
//! did not take. One call fails, once: a member that tried again would succeed, go on, and be found out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{PutRequest, RangeRequest};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::Failure;
use crate::chance::Chance;
use crate::clients::{prefix_end, revision};
use crate::member::{Program, cluster, connect, kv};
use crate::report::Report;
use crate::run::temporary;
use crate::shim::Shim;

/// Which call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Write,
    Fdatasync,
    Rename,
    Dirsync,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Write, Kind::Fdatasync, Kind::Rename, Kind::Dirsync];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Write => "write",
            Kind::Fdatasync => "fdatasync",
            Kind::Rename => "rename",
            Kind::Dirsync => "dirsync",
        }
    }

    /// Names change when a log segment is full: that takes large writes.
    fn value_bytes(self) -> usize {
        match self {
            Kind::Write | Kind::Fdatasync => 2 << 10,
            Kind::Rename | Kind::Dirsync => 256 << 10,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub kind: Kind,
    /// Every call of the kind fails from then on, not the first alone.
    pub always: bool,
    /// How soon the process must be gone.
    pub within: Duration,
}

const WRITERS: u64 = 4;
/// Load before the error.
const BEFORE: Duration = Duration::from_millis(600);
/// How long the load may take until a call of the kind happens at all.
const FIRES: Duration = Duration::from_secs(90);
/// An answer may be on its way when the error strikes, and the client slow to look at it.
const ON_THE_WAY: Duration = Duration::from_millis(300);

#[derive(Default)]
struct Told {
    /// Key number, revision.
    acknowledged: Mutex<BTreeMap<u64, u64>>,
    last: Mutex<Option<Instant>>,
    asked: AtomicU64,
    stop: AtomicBool,
}

fn key(number: u64) -> String {
    format!("e/{number:012}")
}

async fn write(addr: String, told: Arc<Told>, bytes: usize) {
    let Ok(channel) = connect(&addr).await else {
        return;
    };
    let value = Bytes::from(vec![0x5a; bytes]);
    while !told.stop.load(Ordering::SeqCst) {
        let number = told.asked.fetch_add(1, Ordering::SeqCst);
        let put = PutRequest {
            key: key(number).into(),
            value: value.clone(),
            ..PutRequest::default()
        };
        // The first failure ends this client: there is one error in this run, and what matters is what was acknowledged.
        let Ok(answer) = kv(channel.clone()).put(put).await else {
            return;
        };
        *told.last.lock() = Some(Instant::now());
        let revision = revision(&answer.into_inner().header);
        told.acknowledged.lock().insert(number, revision);
    }
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    let shim = Shim::compile(home.path())?;
    let data = home.path().join("data");
    std::fs::create_dir(&data).map_err(Failure::io("making a data directory"))?;
    let mut members = cluster(&options.program, 1, &data, home.path())?;
    let member = &mut members[0];
    member.set_environment(shim.environment(&data));
    member.start()?;
    member.ready().await?;

    let told = Arc::new(Told::default());
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let addr = member.addr().to_owned();
        writers.spawn(write(addr, told.clone(), options.kind.value_bytes()));
    }
    let mut chance = Chance::new(options.seed, 0xe0);
    tokio::time::sleep(BEFORE + chance.between(Duration::ZERO, BEFORE)).await;
    member.still_runs()?;
    let before = told.acknowledged.lock().len();
    if before == 0 {
        return Err(Failure::Void(
            "nothing was acknowledged before the error".into(),
        ));
    }
    shim.arm(options.kind.name(), options.always)?;
    let armed = Instant::now();
    let (status, after) = loop {
        let fired = shim.fired();
        if let Some(status) = member.exited() {
            let Some(fired) = fired.or_else(|| shim.fired()) else {
                return Err(member.failure(format!("ended by itself ({status}) before any error")));
            };
            break (status, fired);
        }
        match fired {
            None if armed.elapsed() > FIRES => {
                return Err(Failure::Void(format!(
                    "no {} happened within {FIRES:?}",
                    options.kind.name()
                )));
            }
            Some(fired) if fired > options.within => {
                return Err(member.failure(format!(
                    "still runs {} ms after a failed {}",
                    fired.as_millis(),
                    options.kind.name()
                )));
            }
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    let exited = Instant::now();
    told.stop.store(true, Ordering::SeqCst);
    while writers.join_next().await.is_some() {}
    let kind = options.kind.name();
    if status.success() {
        return Err(member.failure(format!("ended with success after a failed {kind}")));
    }
    if after > options.within {
        return Err(member.failure(format!(
            "ended only {} ms after a failed {kind}",
            after.as_millis()
        )));
    }
    let error_at = exited.checked_sub(after).unwrap_or(exited);
    let last = told.last.lock().expect("something was acknowledged");
    let late = last.saturating_duration_since(error_at);
    if late > ON_THE_WAY {
        return Err(member.failure(format!(
            "acknowledged a write {} ms after a failed {kind}",
            late.as_millis()
        )));
    }

    // With a sound disk again: everything acknowledged is there.
    shim.disarm();
    member.set_environment(Vec::new());
    member.start()?;
    let ready = member.ready().await?;
    let channel = connect(member.addr())
        .await
        .map_err(|e| member.failure(e))?;
    let range = RangeRequest {
        key: "e/".into(),
        range_end: prefix_end("e/").into(),
        keys_only: true,
        ..RangeRequest::default()
    };
    let answer = kv(channel)
        .range(range)
        .await
        .map_err(|e| member.failure(e))?
        .into_inner();
    let there: BTreeMap<Bytes, i64> = answer
        .kvs
        .into_iter()
        .map(|kv| (kv.key, kv.mod_revision))
        .collect();
    let acknowledged = told.acknowledged.lock();
    for (number, revision) in acknowledged.iter() {
        let found = there.get(key(*number).as_bytes());
        if found.and_then(|r| u64::try_from(*r).ok()) != Some(*revision) {
            return Err(Failure::violated(format!(
                "{} was acknowledged at revision {revision}, but after the failed {kind} and a restart there is {found:?}",
                key(*number)
            )));
        }
    }
    let calls = if options.always {
        "every call from then on"
    } else {
        "one call"
    };
    let mut report = Report::new(&format!("a failing {kind}, {calls}"), &options.program);
    report.row("seed", options.seed);
    report.row(
        "from the error to the end of the process",
        format!("{} ms, {status}", after.as_millis()),
    );
    report.row(
        "writes acknowledged, all there after a restart",
        acknowledged.len(),
    );
    report.row(
        "asked, without an answer",
        told.asked.load(Ordering::SeqCst) - acknowledged.len() as u64,
    );
    report.row(
        "of these there after a restart",
        there.len() - acknowledged.len(),
    );
    report.row(
        "from start to the first linearizable read",
        format!("{} ms", ready.as_millis()),
    );
    Ok(report)
}

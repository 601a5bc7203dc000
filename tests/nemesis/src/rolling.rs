//! Every member is stopped with SIGTERM and started again, one after the other, under writers that go on at the next member the moment
//! one fails them. Judged by the time they were without an acknowledged write, and by what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{PutRequest, RangeRequest};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::Failure;
use crate::chance::Chance;
use crate::line::said;
use crate::member::{Program, cluster, connect, kv, start_all};
use crate::report::{Report, times};
use crate::run::temporary;
use crate::standing::agreed;

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub members: usize,
    pub rounds: u32,
    /// The longest time a writer may be without an acknowledged write around a stop; of the leader, and of another.
    pub gap_of_leader: Duration,
    pub gap: Duration,
}

const WRITERS: usize = 6;
/// Writes before a writer moves on, so that every member has some whenever it is stopped.
const TURN: u64 = 50;
/// A writer's pause between two writes: the machine is not to be the bottleneck.
const THINK: Duration = Duration::from_millis(1);
/// An answer that takes longer has not been "at once".
const PATIENCE: Duration = Duration::from_secs(2);
/// Quiet after a member is back: connections settle, and what is measured belongs to one stop.
const QUIET: Duration = Duration::from_millis(700);

/// What writers share.
struct Told {
    endpoints: Vec<String>,
    stop: AtomicBool,
    /// The longest time between two acknowledged writes of one writer, since it was last taken; nanoseconds.
    gap: AtomicU64,
    acknowledged: AtomicU64,
    /// Each failed request's end.
    failures: Mutex<BTreeMap<String, u64>>,
    /// Failures that leave a client without a next step.
    wrong: Mutex<Vec<String>>,
    /// Last acknowledged and last tried number of each writer.
    last: Vec<(AtomicU64, AtomicU64)>,
}

fn key(writer: usize) -> String {
    format!("w/{writer}")
}

fn lazy(addr: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address");
    endpoint
        .connect_timeout(Duration::from_secs(1))
        .connect_lazy()
}

/// Whether a client may ask another member at once: it was told so, or could not ask at all.
fn retryable(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.code() == Code::Unavailable
}

async fn write(writer: usize, told: Arc<Told>) {
    let mut channels: Vec<Channel> = told.endpoints.iter().map(|addr| lazy(addr)).collect();
    let mut at = writer % channels.len();
    let mut number = 0;
    let mut last = Instant::now();
    while !told.stop.load(Ordering::SeqCst) {
        number += 1;
        told.last[writer].1.store(number, Ordering::SeqCst);
        if number.is_multiple_of(TURN) {
            at = (at + 1) % channels.len();
        }
        loop {
            let put = PutRequest {
                key: key(writer).into(),
                value: Bytes::from(format!("{number:020}")),
                ..PutRequest::default()
            };
            let asked = Instant::now();
            match tokio::time::timeout(PATIENCE, kv(channels[at].clone()).put(put)).await {
                Ok(Ok(_)) => break,
                Ok(Err(status)) => {
                    if !retryable(&status) {
                        let after = asked.elapsed();
                        let text = format!("after {after:?}: {status:?}");
                        told.wrong.lock().push(text);
                    }
                    *told.failures.lock().entry(said(&status)).or_default() += 1;
                }
                Err(_) => {
                    let text = format!("no answer from {} within {PATIENCE:?}", told.endpoints[at]);
                    told.wrong.lock().push(text);
                }
            }
            if told.stop.load(Ordering::SeqCst) {
                return;
            }
            // A fresh connection next time: this one may be waiting for a member that is gone.
            channels[at] = lazy(&told.endpoints[at]);
            at = (at + 1) % channels.len();
        }
        let now = Instant::now();
        let gap = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
        told.gap.fetch_max(gap, Ordering::SeqCst);
        last = now;
        told.acknowledged.fetch_add(1, Ordering::SeqCst);
        told.last[writer].0.store(number, Ordering::SeqCst);
        tokio::time::sleep(THINK).await;
    }
}

impl Told {
    fn take_gap(&self) -> Duration {
        Duration::from_nanos(self.gap.swap(0, Ordering::SeqCst))
    }
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    let size = options.members;
    let data = home.path().join("data");
    let mut members = cluster(&options.program, size, &data, home.path())?;
    start_all(&mut members).await?;
    let told = Arc::new(Told {
        endpoints: members.iter().map(|m| m.addr().to_owned()).collect(),
        stop: AtomicBool::new(false),
        gap: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        failures: Mutex::default(),
        wrong: Mutex::default(),
        last: (0..WRITERS).map(|_| Default::default()).collect(),
    });
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(writer, told.clone()));
    }
    tokio::time::sleep(2 * QUIET).await;
    let (mut quiet, mut of_leaders, mut of_others) = (Vec::new(), Vec::new(), Vec::new());
    let (mut stops, mut starts) = (Vec::new(), Vec::new());
    let mut chance = Chance::new(options.seed, 0x4011);
    let began = Instant::now();
    for _ in 0..options.rounds {
        let mut order: Vec<usize> = (0..size).collect();
        for n in (1..size).rev() {
            order.swap(n, chance.below(n as u64 + 1) as usize);
        }
        for at in order {
            told.take_gap();
            tokio::time::sleep(QUIET).await;
            quiet.push(told.take_gap());
            let (leader, _) = agreed(&members).await?;
            let stopping = Instant::now();
            let member = &mut members[at];
            member.still_runs()?;
            member.stop().await?;
            stops.push(stopping.elapsed());
            member.start()?;
            starts.push(member.ready().await?);
            tokio::time::sleep(QUIET).await;
            match at == leader {
                true => of_leaders.push(told.take_gap()),
                false => of_others.push(told.take_gap()),
            }
        }
    }
    let lasted = began.elapsed();
    told.stop.store(true, Ordering::SeqCst);
    while writers.join_next().await.is_some() {}
    let mut wrong = std::mem::take(&mut *told.wrong.lock());
    wrong.truncate(10);
    for (gaps, bar, whom) in [
        (&of_leaders, options.gap_of_leader, "the leader"),
        (&of_others, options.gap, "another member"),
    ] {
        if let Some(gap) = gaps.iter().filter(|gap| **gap > bar).max() {
            wrong.push(format!(
                "a writer was {} ms without an acknowledged write around a stop of {whom}; the bar is {} ms; all gaps: {gaps:?}",
                gap.as_millis(),
                bar.as_millis()
            ));
        }
    }
    for member in &members {
        if let Err(why) = all_there(member.addr(), &told).await {
            wrong.push(format!("{}: {why}", member.name));
        }
    }
    let failures = told.failures.lock();
    let listed: Vec<String> = failures
        .iter()
        .map(|(what, n)| format!("{n} x {what}"))
        .collect();
    if !wrong.is_empty() {
        wrong.push(format!("failed requests: {listed:?}"));
        wrong.push(format!("gaps of the leader: {of_leaders:?}"));
        return Err(Failure::Violated(wrong));
    }
    let mut report = Report::new("rolling restart by SIGTERM under load", &options.program);
    report.row("seed", options.seed);
    report.row("members", size);
    report.row(
        "restarts",
        format!("{} rounds, {} stops", options.rounds, stops.len()),
    );
    report.row(
        "acknowledged writes",
        format!(
            "{}, {:.0} a second",
            told.acknowledged.load(Ordering::SeqCst),
            told.acknowledged.load(Ordering::SeqCst) as f64 / lasted.as_secs_f64()
        ),
    );
    report.row(
        "longest gap of any writer around a stop of the leader",
        times(&mut of_leaders),
    );
    report.row("the same, of another member", times(&mut of_others));
    report.row("the same, with no stop", times(&mut quiet));
    report.row(
        "failed requests, all retryable at once",
        match listed.is_empty() {
            true => "none".to_owned(),
            false => listed.join("; "),
        },
    );
    report.row("from SIGTERM to the end of the process", times(&mut stops));
    report.row(
        "from start to the first linearizable read",
        times(&mut starts),
    );
    Ok(report)
}

/// Each writer's key holds its last acknowledged value, or the one it was still trying for.
async fn all_there(addr: &str, told: &Told) -> Result<(), String> {
    let channel = connect(addr).await.map_err(|e| e.to_string())?;
    for (writer, (acknowledged, tried)) in told.last.iter().enumerate() {
        let range = RangeRequest {
            key: key(writer).into(),
            ..RangeRequest::default()
        };
        let answer = kv(channel.clone()).range(range).await;
        let answer = answer.map_err(|e| e.to_string())?.into_inner();
        let value = answer.kvs.first().map(|kv| kv.value.clone());
        let text = value.as_deref().and_then(|v| std::str::from_utf8(v).ok());
        let number = text.and_then(|t| t.parse::<u64>().ok());
        let (least, most) = (
            acknowledged.load(Ordering::SeqCst),
            tried.load(Ordering::SeqCst),
        );
        if !number.is_some_and(|n| (least..=most).contains(&n)) {
            return Err(format!(
                "{} is {number:?}, {least} was acknowledged and {most} tried",
                key(writer)
            ));
        }
    }
    Ok(())
}

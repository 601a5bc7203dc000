//! kill -9 at random moments, also while a member is still starting.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::chance::Chance;
use crate::judge::Judged;
use crate::member::{Program, cluster};
use crate::report::{Report, times};
use crate::run::{Load, temporary};

/// Members of the cluster. The rest is written for more.
const MEMBERS: usize = 1;

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    /// How long the load goes on; the kills are spread over it.
    pub lasting: Duration,
    pub kills: u32,
}

/// Runs, judges, reports.
pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    let mut members = cluster(
        &options.program,
        MEMBERS,
        &home.path().join("data"),
        home.path(),
    )?;
    for member in &mut members {
        member.start()?;
    }
    for member in &mut members {
        member.ready().await?;
    }
    let load = Load::start(&members, options.seed);
    let mut chance = Chance::new(options.seed, 0xdead);
    let end = Instant::now() + options.lasting;
    let mut restarts = Vec::new();
    let mut while_starting = 0;
    let mut killed = 0;
    while killed < options.kills {
        let mean = end.saturating_duration_since(Instant::now()) / (options.kills - killed);
        tokio::time::sleep(chance.between(mean / 4, mean * 3 / 2)).await;
        let at = chance.below(members.len() as u64) as usize;
        let member = &mut members[at];
        member.still_runs()?;
        member.kill();
        killed += 1;
        tokio::time::sleep(chance.between(Duration::ZERO, Duration::from_millis(100))).await;
        member.start()?;
        // One in six does not even come up before it is killed again.
        if killed < options.kills && chance.below(6) == 0 {
            tokio::time::sleep(chance.between(Duration::ZERO, Duration::from_millis(200))).await;
            member.still_runs()?;
            member.kill();
            member.start()?;
            killed += 1;
            while_starting += 1;
        }
        restarts.push(member.ready().await?);
        load.check()?;
    }
    let rest = end.saturating_duration_since(Instant::now());
    tokio::time::sleep(rest.max(Duration::from_millis(500))).await;
    for member in &mut members {
        member.still_runs()?;
    }
    let judged = load.judged(&mut members).await?;
    let mut report = Report::new("kill -9 under load", &options.program);
    report.row("seed", options.seed);
    report.row("load for", format!("{} s", options.lasting.as_secs()));
    report.row(
        "kills",
        format!("{killed}, {while_starting} of them while starting"),
    );
    report.row(
        "from start to the first linearizable read",
        times(&mut restarts),
    );
    judgement(&mut report, &judged);
    Ok(report)
}

/// What a loaded run was judged by.
pub fn judgement(report: &mut Report, judged: &Judged) {
    let compared = judged.compared;
    report.row(
        "acknowledged writes, all there and none twice",
        judged.acknowledged,
    );
    report.row(
        "unknown outcomes",
        format!(
            "{}, of which {} happened",
            judged.unknown, judged.unknown_happened
        ),
    );
    report.row(
        "operations on registers, linearizable",
        format!(
            "{} on {} registers",
            judged.register_operations, judged.registers
        ),
    );
    report.row(
        "operations in order of their revisions, none reused",
        judged.ordered,
    );
    report.row(
        "watch events, without gap, repetition or change",
        format!("{} over {} streams", judged.events, judged.connections),
    );
    report.row("rows before events (prev_kv) right", compared.previous);
    report.row("reads equal to the model", compared.samples);
    report.row("HashKV equal to the model", compared.hashes);
    report.row("compactions", judged.compactions);
    report.row(
        "answers of a member that had just started and was still behind (HashKV, serializable)",
        judged.behind,
    );
    report.row(
        "leases, none early",
        format!(
            "{}, of which {} ran out",
            judged.leases, judged.leases_ended_alone
        ),
    );
}

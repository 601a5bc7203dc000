//! kill -9 at random moments, also while a member is still starting: one member, two at a time, or all at once.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::chance::Chance;
use crate::judge::Judged;
use crate::member::{Member, Program, cluster, start_all};
use crate::report::{Report, times};
use crate::run::{Load, temporary};
use crate::standing::leader;

/// How much longer than asked a run may take when members need longer to come back than there is time between two kills. After
/// it: the kills that are left are left out, and the report says how many there were.
const OVERTIME: Duration = Duration::from_secs(90);
/// Longer than an election with the default timings: the others must choose a new leader before the old one is back.
const LONG_AWAY: Duration = Duration::from_millis(2500);
/// Kinds of errors in a report, the most frequent ones.
const ERRORS_SHOWN: usize = 6;

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub members: usize,
    /// How long the load goes on; the kills are spread over it.
    pub lasting: Duration,
    /// Members killed; with `all`, times that all are killed.
    pub kills: u32,
    /// All members at once, each time.
    pub all: bool,
}

#[derive(Default)]
struct Counts {
    killed: u32,
    of_leaders: u32,
    two_at_once: u32,
    while_starting: u32,
}

/// Who is killed together.
async fn victims(members: &[Member], all: bool, chance: &mut Chance) -> Vec<usize> {
    let size = members.len();
    if all {
        return (0..size).collect();
    }
    // Of several the leader is met as often as all the others together.
    let leads = match size > 1 && chance.below(2) == 0 {
        true => leader(members).await,
        false => None,
    };
    let first = leads.unwrap_or_else(|| chance.below(size as u64) as usize);
    if size > 2 && chance.below(6) == 0 {
        let step = 1 + chance.below(size as u64 - 1) as usize;
        return vec![first, (first + step) % size];
    }
    vec![first]
}

/// Runs, judges, reports.
pub async fn run(options: &Options) -> Result<Report, Failure> {
    let home = temporary()?;
    let size = options.members;
    let data = home.path().join("data");
    let mut members = cluster(&options.program, size, &data, home.path())?;
    start_all(&mut members).await?;
    let load = Load::start(&members, options.seed);
    let mut chance = Chance::new(options.seed, 0xdead);
    let end = Instant::now() + options.lasting;
    let mut restarts = Vec::new();
    let mut gaps = Vec::new();
    let mut counts = Counts::default();
    load.journal.take_gap();
    while counts.killed < options.kills && Instant::now() < end + OVERTIME {
        let left = options.kills - counts.killed;
        let mean = end.saturating_duration_since(Instant::now()) / left;
        tokio::time::sleep(chance.between(mean / 4, mean * 3 / 2)).await;
        let victims = victims(&members, options.all, &mut chance).await;
        if size > 1 && !options.all {
            let leads = leader(&members).await;
            counts.of_leaders += u32::from(leads.is_some_and(|l| victims.contains(&l)));
        }
        for &at in &victims {
            members[at].still_runs()?;
        }
        for &at in &victims {
            members[at].kill();
        }
        counts.killed += match options.all {
            true => 1,
            false => victims.len() as u32,
        };
        counts.two_at_once += u32::from(!options.all && victims.len() == 2);
        for &at in &victims {
            let away = match size > 1 && chance.below(3) == 0 {
                true => LONG_AWAY,
                false => Duration::from_millis(100),
            };
            tokio::time::sleep(chance.between(Duration::ZERO, away)).await;
            let member = &mut members[at];
            member.start()?;
            // One in six does not even come up before it is killed again.
            if (options.all || counts.killed < options.kills) && chance.below(6) == 0 {
                tokio::time::sleep(chance.between(Duration::ZERO, Duration::from_millis(200)))
                    .await;
                member.still_runs()?;
                member.kill();
                member.start()?;
                counts.killed += u32::from(!options.all);
                counts.while_starting += 1;
            }
        }
        for &at in &victims {
            restarts.push(members[at].ready().await?);
        }
        load.serves().await?;
        gaps.push(load.journal.take_gap());
        load.check()?;
    }
    let rest = end.saturating_duration_since(Instant::now());
    tokio::time::sleep(rest.max(Duration::from_millis(500))).await;
    for member in &mut members {
        member.still_runs()?;
    }
    let judged = load.judged(&mut members).await?;
    let what = match options.all {
        true => "kill -9 of all members at once under load",
        false => "kill -9 under load",
    };
    let mut report = Report::new(what, &options.program);
    report.row("seed", options.seed);
    report.row("members", size);
    report.row("load for", format!("{} s", options.lasting.as_secs()));
    let mut kills = format!(
        "{} of {} asked for, {} while starting",
        counts.killed, options.kills, counts.while_starting
    );
    if size > 1 && !options.all {
        kills += &format!(
            "; the leader among them {} times, two at once {} times",
            counts.of_leaders, counts.two_at_once
        );
    }
    report.row("kills", kills);
    report.row(
        "from start to the first linearizable read",
        times(&mut restarts),
    );
    report.row(
        "longest time without an acknowledged write, for each kill",
        times(&mut gaps),
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
    if !judged.errors.is_empty() {
        let mut errors: Vec<_> = judged.errors.iter().collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let listed = errors
            .iter()
            .map(|(what, count)| format!("{count} x {what}"));
        let listed: Vec<String> = listed.take(ERRORS_SHOWN).collect();
        report.row("what requests failed with", listed.join("; "));
    }
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
        "answers of a member that was still behind (HashKV, serializable)",
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

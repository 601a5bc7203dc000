//! A fourth member, a learner, joins three that hold much data while clients write at a steady rate: how long it takes, what the
//! clients notice, how many bytes go over the wire; and the same when it is killed on its way a few times.
//! Promise: the clusters are filled once; a trial adds a member with nothing, and removes it and its data at the end.
//! Not here: its promotion.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Void;
use crate::ask;
use crate::cluster::{Cluster, Side};
use crate::limits::{ASK, JOIN, JOIN_POLL};
use crate::setup::{Bench, Each, Servers, fill, stop_each, turn};
use crate::table::{Better, Named, Table, median};
use crate::wire::Beyond;
use crate::work::{Keys, Steady};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Bytes of keys and values: a number, or one with KiB, MiB or GiB
    #[arg(long, default_value = "1GiB", value_parser = bytes)]
    bytes: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// Joins of each kind and side
    #[arg(long, default_value_t = 3)]
    trials: usize,
    /// How often the joining member is killed on its way, in the trials of the second kind; 0: none of those
    #[arg(long, default_value_t = 3)]
    interruptions: usize,
    /// Writes per second, before, meanwhile and after
    #[arg(long, default_value_t = 500)]
    writes_per_second: u64,
    /// Seconds the writes are looked at before and after
    #[arg(long, default_value_t = 5.0)]
    look: f64,
    #[command(flatten)]
    servers: Servers,
}

/// What is asked of Barque: the writes of the others meanwhile, against before; and the bytes of an interrupted join, against one
/// that was not. One that starts over each time needs 1 + k / (k + 1) as many for k interruptions.
const BAR_P99_TIMES: f64 = 2.0;
const BAR_BYTES_TIMES: f64 = 1.25;

/// A life of the joining member ends when its share of the bytes has come, or after so many times its share of the time.
const LIFE_TIMES: f64 = 3.0;

/// The joining member answers at once or not at all yet; it is asked again soon.
const JOINING_ASK: Duration = Duration::from_millis(100);

const MIB: f64 = (1 << 20) as f64;

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        other => return Err(format!("{other:?} is none of KiB, MiB, GiB")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| "not a number")?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too much".to_owned())
}

/// Latencies of writes, from each one's due time.
#[derive(Clone, Copy, Debug)]
struct Writes {
    p50_us: f64,
    p99_us: f64,
}

impl Writes {
    fn of(nanos: &Histogram<u64>) -> Writes {
        let us = |quantile| match nanos.is_empty() {
            true => f64::NAN,
            false => nanos.value_at_quantile(quantile) as f64 / 1e3,
        };
        Writes {
            p50_us: us(0.5),
            p99_us: us(0.99),
        }
    }
}

/// A join that was completed.
#[derive(Clone, Copy, Debug)]
struct Joined {
    /// From the first start of the joining member until it had everything, its lives added up.
    took: Duration,
    /// Beyond what the steady writes need anyway.
    bytes: f64,
    kills: usize,
    before: Writes,
    meanwhile: Writes,
    after: Writes,
}

/// One side's trials of one kind.
#[derive(Clone, Debug, Default)]
struct Trials {
    joined: Vec<Joined>,
    /// Why others were not completed.
    not: Vec<String>,
}

impl Trials {
    fn median(&self, figure: impl Fn(&Joined) -> f64) -> f64 {
        median(self.joined.iter().map(figure).collect())
    }
}

/// When to kill the joining member: a join without it took so long and so many bytes.
#[derive(Clone, Copy, Debug)]
struct Interruptions {
    count: usize,
    took: f64,
    bytes: f64,
}

pub async fn run(args: &Args) -> Result<String, Void> {
    let keys = Keys {
        count: args.bytes / (crate::work::KEY_BYTES + args.value) as u64,
        value_bytes: args.value,
    };
    if keys.count == 0 || args.trials == 0 || args.writes_per_second == 0 {
        return Err(Void::Asked(
            "--bytes: at least one key; --trials, --writes-per-second: at least 1".into(),
        ));
    }
    if !(args.look > 0.0 && args.look <= 3600.0) {
        return Err(Void::Asked("--look: at most an hour".into()));
    }
    let bench = Bench::new(&args.servers.asked).await?;
    let mut clusters = bench
        .start_each(args.servers.sides, 3, &args.servers.flags.flags())
        .await?;
    for cluster in &clusters {
        let began = Instant::now();
        fill(cluster, keys).await?;
        eprintln!(
            "{}: {} keys written in {} s",
            cluster.side,
            keys.count,
            began.elapsed().as_secs()
        );
    }
    let mut plain = Each::<Trials>::default();
    let mut interrupted = Each::<Trials>::default();
    let mut number = 3;
    for n in 0..args.trials {
        for which in turn(n, clusters.len()) {
            let cluster = &mut clusters[which];
            let side = cluster.side;
            number += 1;
            one(args, cluster, keys, number, None, plain.of(side)).await?;
            let whole = plain.of(side);
            let interruptions = Interruptions {
                count: args.interruptions,
                took: whole.median(|joined| joined.took.as_secs_f64()),
                bytes: whole.median(|joined| joined.bytes),
            };
            // Without a completed one there are no shares to kill at.
            if args.interruptions > 0 && !whole.joined.is_empty() {
                number += 1;
                let found = interrupted.of(side);
                one(args, cluster, keys, number, Some(interruptions), found).await?;
            }
        }
    }
    stop_each(clusters).await?;
    let what = format!(
        "join: 3 members with {} keys of {} B ({:.0} MiB of keys and values), {} writes/s to the leader; a learner is added and started \
         with nothing; {} alternating trials",
        keys.count,
        args.value,
        keys.live_bytes() as f64 / MIB,
        args.writes_per_second,
        args.trials
    );
    let mut table = bench.table(&what, &args.servers.in_words());
    rows(&mut table, &plain);
    if args.interruptions > 0 {
        rows_interrupted(&mut table, args, &plain, &interrupted);
    }
    table.note(
        "Latencies count from each write's due time. Bytes are those of the loopback interface beyond what the steady writes need \
         anyway; other programs that use it are counted too.",
    );
    for (side, trials) in [
        (Side::Barque, [&plain.barque, &interrupted.barque]),
        (Side::Etcd, [&plain.etcd, &interrupted.etcd]),
    ] {
        for why in trials.iter().flat_map(|trials| &trials.not) {
            table.note(&format!("A join of {side} was not completed: {why}"));
        }
    }
    Ok(table.text())
}

/// One trial; its end is noted in `found`.
async fn one(
    args: &Args,
    cluster: &mut Cluster,
    keys: Keys,
    number: usize,
    interruptions: Option<Interruptions>,
    found: &mut Trials,
) -> Result<(), Void> {
    let leader = cluster.settled().await?.leader;
    let look = Duration::from_secs_f64(args.look);
    let leader_addr = cluster.addr(leader).to_owned();
    let started = Steady::start(&leader_addr, keys, args.writes_per_second).await;
    let load = started.map_err(|why| cluster.load_error(why))?;
    let usual = Beyond::new(0.0);
    tokio::time::sleep(look).await;
    let rate = usual.per_second();
    let before = Writes::of(&load.since().await);

    let id = cluster.add_learner(&format!("m{number}")).await?;
    let slack = i64::try_from(args.writes_per_second / 10).unwrap_or(i64::MAX);
    drop(load.since().await);
    let ended = join(cluster, &leader_addr, rate, slack, interruptions).await?;
    let meanwhile = Writes::of(&load.since().await);
    tokio::time::sleep(look).await;
    let after = Writes::of(&load.since().await);
    load.end().await.map_err(|why| cluster.load_error(why))?;
    cluster.remove_last(id).await?;
    match ended {
        Ok((took, bytes, kills)) => {
            let joined = Joined {
                took,
                bytes,
                kills,
                before,
                meanwhile,
                after,
            };
            eprintln!("{}: {joined:?}", cluster.side);
            found.joined.push(joined);
        }
        Err(why) => {
            eprintln!("{}: not completed: {why}", cluster.side);
            found.not.push(why);
        }
    }
    Ok(())
}

type Ended = Result<(Duration, f64, usize), String>;

/// From the start of the last member until it has what the leader had a tenth of a second of writes before.
async fn join(
    cluster: &mut Cluster,
    leader: &str,
    rate: f64,
    slack: i64,
    interruptions: Option<Interruptions>,
) -> Result<Ended, Void> {
    let last = cluster.len() - 1;
    let whole = Beyond::new(rate);
    let began = Instant::now();
    let mut life = (whole, began);
    let mut kills = 0;
    while began.elapsed() < JOIN {
        tokio::time::sleep(JOIN_POLL).await;
        if let Some(status) = cluster.member(last).exited() {
            let said = cluster.member(last).tail();
            return Ok(Err(format!("it ended by itself with {status}\n{said}")));
        }
        if interruptions.is_some_and(|plan| kills < plan.count && plan.is_due(life)) {
            let member = cluster.member(last);
            member.kill().await?;
            member.start_again()?;
            kills += 1;
            life = (Beyond::new(rate), Instant::now());
            continue;
        }
        let at = ask::status(leader, ASK).await;
        let at = at.map_err(|why| cluster.load_error(why))?;
        let Ok(own) = ask::status(cluster.addr(last), JOINING_ASK).await else {
            continue;
        };
        let revision = |header: Option<barque_proto::etcdserverpb::ResponseHeader>| {
            header.map_or(0, |header| header.revision)
        };
        if revision(own.header) + slack >= revision(at.header) {
            return Ok(Ok((began.elapsed(), whole.bytes(), kills)));
        }
    }
    Ok(Err(format!("not within {JOIN:?}, {kills} interruptions")))
}

impl Interruptions {
    fn is_due(&self, (bytes, since): (Beyond, Instant)) -> bool {
        let share = 1.0 / (self.count + 1) as f64;
        bytes.bytes() >= share * self.bytes
            || since.elapsed().as_secs_f64() >= LIFE_TIMES * share * self.took
    }
}

fn rows(table: &mut Table, plain: &Each<Trials>) {
    let done = plain.map(|t| format!("{} of {}", t.joined.len(), t.joined.len() + t.not.len()));
    table.row("joins completed", &done.barque, &done.etcd, "");
    let seconds = plain.map(|t| t.median(|joined| joined.took.as_secs_f64()));
    let name = "start until it has everything, median s";
    table.both(name, seconds.barque, seconds.etcd, Better::Less);
    let mib = plain.map(|t| t.median(|joined| joined.bytes / MIB));
    let name = "MiB on the wire for it, median";
    table.both(name, mib.barque, mib.etcd, Better::Less);
    let phases: [Named<Joined, Writes>; 3] = [
        ("before", |joined| joined.before),
        ("meanwhile", |joined| joined.meanwhile),
        ("after", |joined| joined.after),
    ];
    for (phase, writes) in phases {
        let p50 = plain.map(|t| t.median(|joined| writes(joined).p50_us));
        let name = format!("write p50 us, {phase}");
        table.both(&name, p50.barque, p50.etcd, Better::Less);
        let p99 = plain.map(|t| t.median(|joined| writes(joined).p99_us));
        let name = format!("write p99 us, {phase}");
        table.both(&name, p99.barque, p99.etcd, Better::Less);
    }
    let times = plain.map(|t| t.median(|j| j.meanwhile.p99_us / j.before.p99_us));
    let name = "write p99 meanwhile / before";
    table.both(name, times.barque, times.etcd, Better::Less);
    table.bar(name, times.barque, BAR_P99_TIMES, "median");
}

fn rows_interrupted(
    table: &mut Table,
    args: &Args,
    plain: &Each<Trials>,
    interrupted: &Each<Trials>,
) {
    let what = format!("killed {} times on its way", args.interruptions);
    let done =
        interrupted.map(|t| format!("{} of {}", t.joined.len(), t.joined.len() + t.not.len()));
    let name = format!("{what}: joins completed");
    table.row(&name, &done.barque, &done.etcd, "");
    let kills = interrupted.map(|t| t.joined.iter().map(|j| j.kills).sum::<usize>().to_string());
    let name = format!("{what}: kills in all of those");
    table.row(&name, &kills.barque, &kills.etcd, "");
    let seconds = interrupted.map(|t| t.median(|joined| joined.took.as_secs_f64()));
    let name = format!("{what}: start until it has everything, median s");
    table.both(&name, seconds.barque, seconds.etcd, Better::Less);
    let bytes = interrupted.map(|t| t.median(|joined| joined.bytes));
    let whole = plain.map(|t| t.median(|joined| joined.bytes));
    let times = Each {
        barque: bytes.barque / whole.barque,
        etcd: bytes.etcd / whole.etcd,
    };
    let name = format!("{what}: bytes / those of one that is not killed");
    table.both(&name, times.barque, times.etcd, Better::Less);
    let over = 1.0 + args.interruptions as f64 / (args.interruptions + 1) as f64;
    let how = format!("starting over each time would be {over:.2}");
    table.bar(&name, times.barque, BAR_BYTES_TIMES, &how);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("64 MiB"), Ok(64 << 20));
        assert_eq!(bytes("4096"), Ok(4096));
        for bad in ["GiB", "1GB", "-1", "99999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_life_ends_with_its_share_of_the_time_at_the_latest() {
        let plan = |took| Interruptions {
            count: 3,
            took,
            bytes: f64::INFINITY,
        };
        let life = (Beyond::new(0.0), Instant::now());
        assert!(!plan(3600.0).is_due(life));
        assert!(plan(0.0).is_due(life));
    }

    #[test]
    fn no_writes_have_no_latency() {
        let none = Histogram::new(3).unwrap();
        assert!(Writes::of(&none).p99_us.is_nan());
    }
}

//! Members die until no majority is left: with two of five gone the cluster serves; with three gone nothing is acknowledged, every
//! request is refused in words, and serializable reads go on; with one back it serves again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::{PutRequest, RangeRequest};
use tonic::{Code, Status};

use crate::Failure;
use crate::chance::Chance;
use crate::kills::judgement;
use crate::line::said;
use crate::member::{Member, Program, cluster, connect, kv, start_all};
use crate::report::{Report, times};
use crate::run::{LAST, Load, temporary};
use crate::standing::leader;
use crate::value;

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    /// Odd, three or more.
    pub members: usize,
    pub rounds: u32,
    /// Load with a minority gone.
    pub reduced: Duration,
}

/// etcd's: a request is given up after 5 s and two election timeouts. The rest is for a busy machine.
const REFUSED: Duration = Duration::from_secs(7 + 5);
/// A serializable read asks nobody else.
const LOCAL: Duration = Duration::from_secs(1);
/// Serializable reads while there is no majority, of each member, and the pause between two.
const LOCAL_READS: u32 = 20;
const LOCAL_PAUSE: Duration = Duration::from_millis(250);

/// What one request without a majority was told, and after how long.
struct Refused {
    member: String,
    what: &'static str,
    words: String,
    after: Duration,
}

/// A refusal that a client understands: "unavailable", in etcd's words.
fn in_words(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message().starts_with("etcdserver: ")
}

async fn refused(
    member: &Member,
    what: &'static str,
    ask: impl Future<Output = Result<(), Status>>,
) -> Result<Refused, Failure> {
    let began = Instant::now();
    let answer = tokio::time::timeout(REFUSED, ask).await;
    let after = began.elapsed();
    match answer {
        Err(_) => Err(member.failure(format!(
            "says nothing to a {what} without a majority within {REFUSED:?}"
        ))),
        Ok(Ok(())) => Err(member.failure(format!(
            "carried out a {what} without a majority, after {after:?}"
        ))),
        Ok(Err(status)) if in_words(&status) => Ok(Refused {
            member: member.name.clone(),
            what,
            words: said(&status),
            after,
        }),
        Ok(Err(status)) => Err(member.failure(format!(
            "refuses a {what} without a majority with {status:?}, which no client understands"
        ))),
    }
}

/// Asks one of the members that are left for everything that needs a majority, and for what does not.
async fn without_majority(
    load: &Load,
    member: &Member,
    reads: &mut Vec<Duration>,
) -> Result<Vec<Refused>, Failure> {
    let channel = connect(member.addr()).await;
    let channel = channel.map_err(|e| member.failure(format!("lets nobody in: {e}")))?;
    // It may be carried out once there is a majority again, so it is a write like any other.
    let n = load.journal.made[LAST as usize].fetch_add(1, Ordering::SeqCst);
    let number = value::number(LAST, n);
    load.journal.told.lock().unknown_values.insert(number);
    let put = PutRequest {
        key: "without".into(),
        value: value::value(number),
        ..PutRequest::default()
    };
    let range = |serializable| RangeRequest {
        key: "b/0/00".into(),
        serializable,
        ..RangeRequest::default()
    };
    let (mut writer, mut reader, mut local) = (
        kv(channel.clone()),
        kv(channel.clone()),
        kv(channel.clone()),
    );
    let written = refused(member, "put", async { writer.put(put).await.map(|_| ()) });
    let read = refused(member, "linearizable read", async {
        reader.range(range(false)).await.map(|_| ())
    });
    let locals = async {
        for _ in 0..LOCAL_READS {
            let began = Instant::now();
            match tokio::time::timeout(LOCAL, local.range(range(true))).await {
                Ok(Ok(_)) => reads.push(began.elapsed()),
                Ok(Err(status)) => {
                    return Err(member.failure(format!("refuses a serializable read: {status}")));
                }
                Err(_) => {
                    return Err(member.failure(format!(
                        "has not answered a serializable read within {LOCAL:?}"
                    )));
                }
            }
            tokio::time::sleep(LOCAL_PAUSE).await;
        }
        Ok(())
    };
    let (written, read, locals) = tokio::join!(written, read, locals);
    locals?;
    Ok(vec![written?, read?])
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    let size = options.members;
    let minority = (size - 1) / 2;
    if size < 3 || size.is_multiple_of(2) {
        return Err(Failure::Void("three members or five".into()));
    }
    let home = temporary()?;
    let data = home.path().join("data");
    let mut members = cluster(&options.program, size, &data, home.path())?;
    start_all(&mut members).await?;
    let load = Load::start(&members, options.seed);
    let mut chance = Chance::new(options.seed, 0xf1fe);
    let (mut reduced, mut back, mut local) = (Vec::new(), Vec::new(), Vec::new());
    let mut refusals: Vec<Refused> = Vec::new();
    for _ in 0..options.rounds {
        load.serves().await?;
        // Who goes: in two rounds of three the leader is the first.
        let leads = leader(&members).await;
        let mut order: Vec<usize> = (0..size).collect();
        for n in (1..size).rev() {
            order.swap(n, chance.below(n as u64 + 1) as usize);
        }
        if chance.below(3) > 0
            && let Some(at) = order.iter().position(|n| Some(*n) == leads)
        {
            order.swap(0, at);
        }
        let (gone, left) = order.split_at(minority + 1);
        for &at in &gone[..minority] {
            members[at].still_runs()?;
            members[at].kill();
        }
        reduced.push(load.serves().await?);
        tokio::time::sleep(options.reduced).await;
        load.serves().await?;
        let last = gone[minority];
        members[last].still_runs()?;
        members[last].kill();
        // What was committed before, and is acknowledged only now, is told within a moment.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let writes = load.journal.writes();
        let mut asked = Vec::new();
        for &at in left {
            let (load, member) = (&load, &members[at]);
            asked.push(async move {
                let mut reads = Vec::new();
                let told = without_majority(load, member, &mut reads).await;
                told.map(|told| (told, reads))
            });
        }
        for told in join_all(asked).await {
            let (told, reads) = told?;
            refusals.extend(told);
            local.extend(reads);
        }
        let more = load.journal.writes() - writes;
        if more > 0 {
            return Err(Failure::violated(format!(
                "{more} writes were acknowledged with {} of {size} members",
                left.len()
            )));
        }
        let began = Instant::now();
        members[last].start()?;
        load.serves().await?;
        back.push(began.elapsed());
        for &at in &gone[..minority] {
            members[at].start()?;
        }
        for &at in gone {
            members[at].ready().await?;
        }
        load.check()?;
    }
    load.serves().await?;
    let judged = load.judged(&mut members).await?;
    let title = format!("{size} members, {minority} lost, then one more");
    let mut report = Report::new(&title, &options.program);
    report.row("seed", options.seed);
    report.row("rounds", options.rounds);
    report.row(
        &format!("from the loss of {minority} until twelve writes are acknowledged"),
        times(&mut reduced),
    );
    for what in ["put", "linearizable read"] {
        let of: Vec<&Refused> = refusals.iter().filter(|r| r.what == what).collect();
        let mut after: Vec<Duration> = of.iter().map(|r| r.after).collect();
        let mut words: Vec<&str> = of.iter().map(|r| r.words.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        let whom = of.first().map_or("", |r| r.member.as_str());
        report.row(
            &format!("a {what} without a majority (first {whom})"),
            format!("{}; {}", words.join("; "), times(&mut after)),
        );
    }
    report.row(
        "serializable reads without a majority, all answered",
        times(&mut local),
    );
    report.row(
        "from the start of one member until twelve writes are acknowledged",
        times(&mut back),
    );
    judgement(&mut report, &judged);
    Ok(report)
}

/// All at once, answers in their order.
async fn join_all<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = all.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, answer) in &mut waiting {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *answer = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        match pending {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
    waiting
        .into_iter()
        .filter_map(|(_, answer)| answer)
        .collect()
}

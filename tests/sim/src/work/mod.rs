//! The clients: who works on the cluster, and all that they were told.

use std::sync::Arc;
use std::time::Duration;

use barque_store_env::Task;
use barque_store_env::sim;
use barque_store_node::ProposeError;
use barque_store_state::{
    Answer, Command, KeyRange, Outcome, Range, RangeResult, Refusal, Revision,
};
use barque_tests_checkers::{Acknowledged, Life, Operation, Placed};
use parking_lot::Mutex;

use crate::cluster::{Cluster, Lost};
use crate::truth::Change;

pub mod bank;
pub mod compactor;
pub mod lessees;
pub mod observers;
pub mod registers;
pub mod watchers;

/// The longest a client waits for an answer.
pub const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// A read at an old revision, to be compared with the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldRead {
    pub member: sim::NodeId,
    pub key: String,
    pub revision: u64,
    pub found: Option<String>,
}

/// All that the clients were told.
#[derive(Default)]
pub struct Told {
    pub operations: Mutex<Vec<Operation>>,
    pub acknowledged: Mutex<Vec<Acknowledged<Change>>>,
    pub placed: Mutex<Vec<Placed>>,
    pub lives: Mutex<Vec<Life>>,
    pub old_reads: Mutex<Vec<OldRead>>,
    /// The highest compaction that was acknowledged.
    pub compacted: Mutex<u64>,
}

/// What a client got for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Certainly not carried out.
    Refused,
    Unknown,
}

/// What all clients have: a name, the cluster, and where they write down what they were told.
#[derive(Clone)]
pub struct Desk {
    pub client: u64,
    pub cluster: Arc<Cluster>,
    pub told: Arc<Told>,
}

pub fn now() -> u64 {
    sim::elapsed().as_nanos() as u64
}

/// How long the next request waits.
pub fn patience() -> Duration {
    let choices = [
        Duration::from_millis(60),
        Duration::from_millis(200),
        PATIENCE_MAX,
    ];
    choices[sim::below(3) as usize]
}

impl Desk {
    pub async fn pause(&self) {
        let most = self.cluster.plan.work.pause;
        sim::sleep(sim::between(Duration::from_millis(1), most)).await;
    }

    /// Every member in turn: the one that is cut off as well.
    pub fn next_member(&self, turn: &mut usize) -> sim::NodeId {
        let members = self.cluster.members();
        *turn += 1;
        members[*turn % members.len()]
    }

    /// Proposes through a member. An answer is noted with its place; `writes` says whether it is one of a change.
    pub async fn propose(
        &self,
        node: sim::NodeId,
        timeout: Duration,
        command: Command,
        writes: fn(&Answer) -> bool,
    ) -> Result<(Revision, Answer), Unanswered> {
        let called = now();
        let answer = self
            .cluster
            .request(node, timeout, async move |store, deadline| {
                store.propose(command, deadline).await
            });
        match answer.await {
            Ok(Ok(Outcome { revision, result })) => match result {
                Ok(answer) => {
                    self.place(called, revision, writes(&answer));
                    Ok((revision, answer))
                }
                // These two are the member's own word, given before anything is proposed, or the log's; both ways nothing
                // was changed.
                Err(Refusal::NoSpace | Refusal::Corrupt) => Err(Unanswered::Refused),
                Err(refusal) => {
                    self.place(called, revision, false);
                    self.refused(refusal)
                }
            },
            // These two say that it was proposed nowhere.
            Ok(Err(ProposeError::NoLeader | ProposeError::TooManyRequests)) => {
                Err(Unanswered::Refused)
            }
            Ok(Err(_)) => Err(Unanswered::Unknown),
            Err(Lost::NotSent) => Err(Unanswered::Refused),
            Err(Lost::Unknown) => Err(Unanswered::Unknown),
        }
    }

    /// Refusals that a client's own request can cause.
    fn refused(&self, refusal: Refusal) -> Result<(Revision, Answer), Unanswered> {
        let usual = matches!(
            refusal,
            Refusal::LeaseNotFound | Refusal::Compacted | Refusal::FutureRevision
        );
        if !usual {
            let text = format!("a proposal was refused: {refusal}");
            self.cluster.journal.violation(text);
        }
        Err(Unanswered::Refused)
    }

    /// A linearizable read, noted with its place.
    pub async fn read(
        &self,
        node: sim::NodeId,
        timeout: Duration,
        range: Range,
    ) -> Option<(Revision, Result<RangeResult, Refusal>)> {
        let called = now();
        let answer = self
            .cluster
            .request(node, timeout, async move |store, deadline| {
                store.read_index(deadline).await?;
                Ok::<_, ProposeError>(store.range(&range))
            });
        match answer.await {
            // A fenced member, or one whose disk has failed, answers nothing else; its end is judged where it ends.
            Ok(Ok((_, Err(Refusal::Corrupt | Refusal::Stopped)))) => None,
            Ok(Ok((revision, result))) => {
                self.place(called, revision, false);
                Some((revision, result))
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn place(&self, called: u64, revision: Revision, write: bool) {
        self.told.placed.lock().push(Placed {
            client: self.client,
            called,
            returned: now(),
            revision: revision.0,
            write,
        });
    }

    /// A write that was acknowledged.
    pub fn acknowledged(&self, revision: Revision, key: String, value: Option<String>) {
        self.cluster.journal.count(|c| c.acknowledged += 1);
        let change = Change { key, value };
        self.told.acknowledged.lock().push(Acknowledged {
            revision: revision.0,
            change,
        });
    }
}

/// For [`Desk::propose`]: a change always.
pub fn always(_: &Answer) -> bool {
    true
}
/// Never, or not for certain.
pub fn never(_: &Answer) -> bool {
    false
}
/// A transaction whose success writes.
pub fn if_succeeded(answer: &Answer) -> bool {
    matches!(answer, Answer::Txn(txn) if txn.succeeded)
}

pub fn of_key(key: &str) -> Range {
    Range {
        range: KeyRange::point(key.to_owned().into()),
        ..Range::default()
    }
}
pub fn of_prefix(prefix: &str) -> Range {
    Range {
        range: KeyRange::prefix(prefix.as_bytes()),
        ..Range::default()
    }
}

/// Starts all clients of the plan; they end when the run calms down.
pub fn start(cluster: &Arc<Cluster>, told: &Arc<Told>) -> Vec<Task<()>> {
    let mut clients = 0;
    let mut desk = || {
        clients += 1;
        Desk {
            client: clients,
            cluster: cluster.clone(),
            told: told.clone(),
        }
    };
    let work = cluster.plan.work;
    let mut tasks = Vec::new();
    for _ in 0..work.registrars {
        let client = registers::Client::new(desk());
        tasks.push(sim::spawn_on(sim::HARNESS, "registrar", client.run()));
    }
    for _ in 0..work.bankers {
        tasks.push(sim::spawn_on(sim::HARNESS, "banker", bank::run(desk())));
    }
    for _ in 0..work.lessees {
        tasks.push(sim::spawn_on(sim::HARNESS, "lessee", lessees::run(desk())));
    }
    for _ in 0..work.observers {
        tasks.push(sim::spawn_on(
            sim::HARNESS,
            "observer",
            observers::run(desk()),
        ));
    }
    tasks.push(sim::spawn_on(
        sim::HARNESS,
        "compactor",
        compactor::run(desk()),
    ));
    tasks
}

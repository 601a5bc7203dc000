//! Linearizable reads that a member gets to see only after it has stood still: the answers tell whether it still takes itself for the
//! leader it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use barque_proto::etcdserverpb::RangeRequest;
use barque_tests_checkers::Placed;
use tokio::task::JoinSet;

use crate::clients::{revision, sample};
use crate::journal::Journal;
use crate::member::{connect, kv};
use crate::run::LAST;

/// A reader waits as long as a member that has just been resumed may need, an election included.
const PATIENCE: Duration = Duration::from_secs(12);

/// Readers on their way.
pub struct Probes {
    reads: JoinSet<()>,
    answered: Arc<AtomicU64>,
}

impl Probes {
    /// Sends `count` reads to a member, one every `apart`. Each is judged like any other linearizable read.
    pub fn send(journal: &Arc<Journal>, member: usize, count: u32, apart: Duration) -> Probes {
        let mut reads = JoinSet::new();
        let answered = Arc::new(AtomicU64::new(0));
        for n in 0..count {
            let (journal, answered) = (journal.clone(), answered.clone());
            reads.spawn(async move {
                tokio::time::sleep(apart * n).await;
                let read = read(&journal, member);
                if let Ok(Some(())) = tokio::time::timeout(PATIENCE, read).await {
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Probes { reads, answered }
    }

    /// How many were answered with a reading, once all have ended.
    pub async fn answered(mut self) -> u64 {
        while self.reads.join_next().await.is_some() {}
        self.answered.load(Ordering::SeqCst)
    }
}

async fn read(journal: &Journal, member: usize) -> Option<()> {
    // The kernel accepts for a process that stands still, and keeps the request for it.
    let channel = connect(&journal.endpoints[member]).await.ok()?;
    let called = journal.now();
    let request = RangeRequest {
        key: "b/0/00".into(),
        ..RangeRequest::default()
    };
    let answer = kv(channel).range(request.clone()).await.ok()?.into_inner();
    let at = revision(&answer.header);
    sample(journal, at, request, &answer);
    journal.told.lock().placed.push(Placed {
        client: LAST,
        called,
        returned: journal.now(),
        revision: at,
        write: false,
    });
    Some(())
}

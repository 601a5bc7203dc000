//! Writes whose leader died before it answered: done or not, the client gets the truth.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::storage::{
    CompareAndWrite, Consistency, Read, Rows, StorageError, WatchSource, Written,
};
use barque_store_state::{KeyRange, LeaseId, Revision};
use futures::FutureExt;
use futures::future::BoxFuture;

/// Carries the next writes out (or not) and forgets to say so.
struct Forgetful {
    memory: Memory,
    /// Writes to lose the answer of; odd ones are carried out.
    to_lose: AtomicUsize,
    says: fn() -> StorageError,
}

impl Storage for Forgetful {
    fn read(&self, read: Read) -> BoxFuture<'_, Result<Rows, StorageError>> {
        self.memory.read(read)
    }
    fn write(&self, write: CompareAndWrite) -> BoxFuture<'_, Result<Written, StorageError>> {
        async move {
            let left = self.to_lose.load(Ordering::SeqCst);
            if left == 0 {
                return self.memory.write(write).await;
            }
            self.to_lose.store(left - 1, Ordering::SeqCst);
            if left % 2 == 1 {
                self.memory.write(write).await?;
            }
            Err((self.says)())
        }
        .boxed()
    }
    fn watch(
        &self,
        range: KeyRange,
        after: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn WatchSource>, StorageError>> {
        self.memory.watch(range, after)
    }
    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StorageError>> {
        self.memory.lease_grant(ttl)
    }
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        self.memory.compact(revision)
    }
    fn revision(&self, consistency: Consistency) -> BoxFuture<'_, Result<Revision, StorageError>> {
        self.memory.revision(consistency)
    }
}

async fn forgetful(says: fn() -> StorageError) -> World<Forgetful> {
    World::on(Arc::new(Forgetful {
        memory: Memory::new(),
        to_lose: AtomicUsize::new(0),
        says,
    }))
    .await
}

fn leader_changed() -> StorageError {
    StorageError::OutcomeUnknown("etcdserver: leader changed".to_owned())
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_settled() {
    let world = forgetful(leader_changed).await;
    let path = format!("{CONFIG_MAPS}/a");
    // 1: done, but the answer is lost; 2: first not done, then done and lost.
    for lost in [1, 2] {
        let lose = || world.storage.to_lose.store(lost, Ordering::SeqCst);
        lose();
        let created = world
            .post(CONFIG_MAPS, &config_map("a", "1"))
            .await
            .expect(201);
        assert_eq!(
            world.get(&path).await.expect(200),
            created,
            "not AlreadyExists, and the true version"
        );
        lose();
        let patched = world
            .patch(&path, "merge-patch", &json!({"data": {"k": "2"}}))
            .await
            .expect(200);
        assert_eq!(world.get(&path).await.expect(200), patched);
        lose();
        world.delete(&path, &json!({})).await.expect(200);
        world.get(&path).await.refused(404, "NotFound");
    }
}

#[tokio::test]
async fn a_write_that_stays_unknown_is_not_called_undone() {
    let world = forgetful(leader_changed).await;
    world.storage.to_lose.store(100, Ordering::SeqCst);
    let reply = world.post(CONFIG_MAPS, &config_map("a", "1")).await;
    assert_eq!(
        reply.refused(504, "Timeout"),
        "Timeout: etcdserver: leader changed"
    );
    assert!(
        !reply.headers.contains_key("retry-after"),
        "a client would do it twice"
    );
}

#[tokio::test]
async fn a_write_that_was_not_done_may_be_asked_for_again() {
    let world = forgetful(|| StorageError::NotDone("etcdserver: no leader".to_owned())).await;
    world.storage.to_lose.store(2, Ordering::SeqCst);
    let reply = world.post(CONFIG_MAPS, &config_map("a", "1")).await;
    assert_eq!(
        reply.refused(503, "ServiceUnavailable"),
        "etcdserver: no leader"
    );
    assert_eq!(reply.headers["retry-after"], "1");
}

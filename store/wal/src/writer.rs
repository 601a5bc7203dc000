//! The one task that writes: takes what was queued during one fdatasync as the next batch.
//! Promise: batch k+1 is begun only after the fdatasync of k; the first error is final; nobody is told "durable"
//! before the sync that covers him returned.
//! Not here: what is in a batch (`queue`), how a segment comes to be (`segment`).

use std::collections::VecDeque;
use std::sync::Arc;

use barque_store_env::{Disk, Env, Task};
use bytes::BytesMut;
use tokio::sync::{Notify, mpsc};

use crate::codec::{self, Link, Place, SEGMENT_HEADER};
use crate::error::WalError;
use crate::limits::{LAZY, REMOVALS_MAX, SEGMENTS_AHEAD};
use crate::queue::{Draft, Next, Shared, Told};
use crate::recover::Resume;
use crate::replay::Meta;
use crate::segment::{Dir, Span};

type Ahead<D> = (Span, <D as Disk>::File);

/// Starts the writer and its helpers. `ended` is told when the last of them is gone and the lock is released.
pub fn start<E: Env>(
    resume: Resume<E::Disk>,
    lock: <E::Disk as Disk>::Lock,
    shared: Arc<Shared>,
    told: Told,
    ended: Arc<Notify>,
) {
    let (ahead_in, ahead) = mpsc::channel(SEGMENTS_AHEAD);
    let mut next = resume.active.segment + 1;
    if let Some(ready) = resume.ready {
        next = ready.0.segment + 1;
        if ahead_in.try_send(ready).is_err() {
            unreachable!("the channel is new and holds SEGMENTS_AHEAD >= 1");
        }
    }
    let (removals, removals_out) = mpsc::channel(REMOVALS_MAX);
    let filler = E::spawn(
        "wal-fill",
        fill(resume.dir.clone(), next, ahead_in, shared.clone()),
    );
    let remover = E::spawn(
        "wal-remove",
        remove(resume.dir.clone(), removals_out, shared.clone()),
    );
    let writer = Writer::<E> {
        dir: resume.dir,
        older: resume.older,
        active: resume.active,
        file: resume.file,
        offset: resume.offset,
        link: resume.link,
        meta: resume.meta,
        ahead,
        removals,
        shared,
        told,
    };
    drop(E::spawn("wal-write", async move {
        writer.run([filler, remover]).await;
        drop(lock);
        ended.notify_one();
    }));
}

struct Writer<E: Env> {
    dir: Dir<E::Disk>,
    older: VecDeque<Span>,
    active: Span,
    file: <E::Disk as Disk>::File,
    offset: u64,
    link: Link,
    /// After the last batch written.
    meta: Meta,
    ahead: mpsc::Receiver<Ahead<E::Disk>>,
    removals: mpsc::Sender<Span>,
    shared: Arc<Shared>,
    told: Told,
}

impl<E: Env> Writer<E> {
    async fn run(mut self, helpers: [Task<()>; 2]) {
        let error = self.write_all().await.err();
        // Lets the helpers end: whoever opens the directory next must be alone in it.
        self.ahead.close();
        while self.ahead.recv().await.is_some() {}
        drop(self.removals);
        if let Some(error) = &error {
            tracing::error!(%error, "the log failed; nothing more is acknowledged");
            // Told before the helpers have ended: they may hang on the same disk.
            tell(&self.shared, &self.told, error);
        }
        for helper in helpers {
            // A helper's own error has come through `Shared::fail`; a killed one has nothing more to do.
            let _ = helper.await;
        }
        if error.is_none() {
            tell(&self.shared, &self.told, &WalError::Closed);
        }
    }

    async fn write_all(&mut self) -> Result<(), WalError> {
        let mut lazy = None;
        loop {
            let now = lazy.is_some_and(|due| E::now() >= due);
            match self.shared.next(now) {
                Next::Write(draft) => {
                    lazy = None;
                    self.write(draft).await?;
                }
                Next::Lazy => {
                    let due = *lazy.get_or_insert_with(|| E::now() + LAZY);
                    // Either way round the loop: an append, or the time.
                    let _ = E::timeout_at(due, self.shared.work.notified()).await;
                }
                Next::Idle => self.shared.work.notified().await,
                Next::Close => return Ok(()),
                Next::Fail(error) => return Err(error),
            }
        }
    }

    async fn write(&mut self, draft: Draft) -> Result<(), WalError> {
        let len = codec::sealed_len(&draft.bytes) as u64;
        if self.offset + len > self.dir.segment_bytes && self.offset > SEGMENT_HEADER as u64 {
            self.rotate().await?;
        }
        let queued = (draft.bytes.len() - codec::BATCH_HEADER) as u64;
        self.active.max_index = self.active.max_index.max(draft.max_index);
        self.put(draft.bytes, draft.records).await?;
        let purged = draft.meta.purged;
        self.meta = draft.meta;

        let records = u64::from(draft.records);
        self.shared
            .wrote(draft.last, records, queued, self.dir.fsync);
        self.told.durable.send(draft.last);
        if let Some((purged, _)) = purged {
            self.remove_upto(purged);
        }
        Ok(())
    }

    /// Goes on in the next segment, which begins with the meta state: from then on older ones can be removed.
    async fn rotate(&mut self) -> Result<(), WalError> {
        let Some((span, file)) = self.ahead.recv().await else {
            // The filler ends early only by failing, and says so first.
            return match self.shared.next(false) {
                Next::Fail(error) => Err(error),
                _ => Err(WalError::Stopped),
            };
        };
        let full = std::mem::replace(&mut self.active, span);
        self.older.push_back(full);
        self.file = file;
        self.offset = SEGMENT_HEADER as u64;

        let records = self.meta.records();
        let mut bytes = BytesMut::new();
        codec::begin(&mut bytes);
        for record in &records {
            codec::encode(record, &mut bytes);
        }
        self.put(bytes, records.len() as u32).await
    }

    async fn put(&mut self, mut bytes: BytesMut, records: u32) -> Result<(), WalError> {
        let place = Place {
            log_id: self.dir.log_id,
            segment: self.active.segment,
            offset: self.offset,
        };
        self.link = codec::seal(&mut bytes, records, place, self.link);
        let end = self.offset + bytes.len() as u64;
        self.dir
            .write(&self.file, self.offset, bytes.freeze())
            .await
            .map_err(|cause| {
                let operation = if self.dir.fsync {
                    "write and sync"
                } else {
                    "write"
                };
                WalError::io(operation, self.dir.file(self.active.segment), cause)
            })?;
        self.offset = end;
        // Only a batch larger than a whole segment gets here.
        if end > self.active.bytes {
            self.shared.disk_grew(end - self.active.bytes);
            self.active.bytes = end;
        }
        Ok(())
    }

    fn remove_upto(&mut self, purged: u64) {
        while let Some(oldest) = self.older.front()
            && oldest.max_index <= Some(purged)
        {
            // Full: the next batch tries again.
            if self.removals.try_send(oldest.clone()).is_err() {
                return;
            }
            self.older.pop_front();
        }
    }
}

fn tell(shared: &Shared, told: &Told, end: &WalError) {
    shared.end(end);
    told.end.send(Some(end.clone()));
}

/// Writes the next segment ahead, as soon as the one before was taken.
async fn fill<D: Disk>(
    dir: Dir<D>,
    mut segment: u64,
    ahead: mpsc::Sender<Ahead<D>>,
    shared: Arc<Shared>,
) {
    while let Ok(permit) = ahead.reserve().await {
        match dir.prepare(segment, || !ahead.is_closed()).await {
            Ok(Some(file)) => {
                let bytes = dir.segment_bytes;
                shared.disk_grew(bytes);
                let span = Span {
                    segment,
                    bytes,
                    max_index: None,
                };
                permit.send((span, file));
                segment += 1;
            }
            Ok(None) => return,
            Err(error) => return shared.fail(error),
        }
    }
}

async fn remove<D: Disk>(dir: Dir<D>, mut removals: mpsc::Receiver<Span>, shared: Arc<Shared>) {
    while let Some(span) = removals.recv().await {
        if let Err(error) = dir.remove(span.segment).await {
            return shared.fail(error);
        }
        shared.disk_shrank(span.bytes);
    }
}

//! The one task that writes: takes what was queued during one fdatasync as the next batch.
//! Promise: batch k+1 is begun only after the fdatasync of k; the first error is final; nobody is told "durable"
//! before the sync that covers him returned.
//! Not here: what is in a batch (`queue`), when a segment comes and goes (`keeper`).

use std::collections::VecDeque;
use std::sync::Arc;

use barque_store_env::{Disk, Env, Instant, Task, watch};
use bytes::BytesMut;
use tokio::sync::{Notify, mpsc};

use crate::codec::{self, Link, Place, SEGMENT_HEADER};
use crate::error::WalError;
use crate::keeper::{self, Ahead, Use};
use crate::limits::{LAZY, REMOVALS_MAX, SEGMENTS_AHEAD, SYNC_SLOW_PAUSE};
use crate::queue::{Draft, Next, Shared, Told};
use crate::recover::Resume;
use crate::replay::Meta;
use crate::segment::{Dir, Span};
use crate::sync_times::Complaint;

/// Starts the writer and its helper. `ended` is told when both are gone and the lock is released.
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
    let (purged, purged_out) = mpsc::channel(REMOVALS_MAX);
    let (used, used_out) = watch::channel(Use {
        active: resume.active.segment,
        wants_next: wants_next(resume.offset, resume.active.bytes),
    });
    let keeper = E::spawn(
        "wal-keep",
        keeper::keep(
            resume.dir.clone(),
            next,
            ahead_in,
            purged_out,
            used_out,
            shared.clone(),
        ),
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
        purged,
        used,
        complaint: Complaint::default(),
        shared,
        told,
    };
    drop(E::spawn("wal-write", async move {
        writer.run(keeper).await;
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
    purged: mpsc::Sender<Span>,
    used: watch::Sender<Use>,
    complaint: Complaint,
    shared: Arc<Shared>,
    told: Told,
}

impl<E: Env> Writer<E> {
    async fn run(mut self, keeper: Task<()>) {
        let error = self.write_all().await.err();
        // Lets the keeper end: whoever opens the directory next must be alone in it.
        self.ahead.close();
        drop(self.purged);
        if let Some(error) = &error {
            tracing::error!(%error, "the log failed; nothing more is acknowledged");
            // Told before the keeper has ended: it may hang on the same disk.
            tell(&self.shared, &self.told, error);
        }
        // Its own error has come through `Shared::fail`; when it was killed it has nothing more to do.
        let _ = keeper.await;
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
                    self.shared.sync_clock.begin(E::now());
                    self.write(draft).await?;
                    self.shared.sync_clock.done();
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
        if self.offset + len > self.active.bytes && self.offset > SEGMENT_HEADER as u64 {
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
            self.give_up_to(purged);
        }
        Ok(())
    }

    /// Goes on in the next segment, which begins with the meta state: from then on older ones can be removed.
    async fn rotate(&mut self) -> Result<(), WalError> {
        self.tell_use(true);
        let Some((span, file)) = self.ahead.recv().await else {
            // The keeper ends early only by failing, and says so first.
            return match self.shared.next(false) {
                Next::Fail(error) => Err(error),
                _ => Err(WalError::Stopped),
            };
        };
        let full = std::mem::replace(&mut self.active, span);
        self.older.push_back(full);
        self.file = file;
        self.offset = SEGMENT_HEADER as u64;
        self.tell_use(false);

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
        let begun = E::now();
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
        if self.dir.fsync {
            self.note_sync(begun);
        }
        self.offset = end;
        // Only a batch larger than a whole segment gets here.
        if end > self.active.bytes {
            self.shared.disk_grew(0, end - self.active.bytes);
            self.active.bytes = end;
        }
        if wants_next(self.offset, self.active.bytes) {
            self.tell_use(true);
        }
        Ok(())
    }

    fn note_sync(&mut self, begun: Instant) {
        let now = E::now();
        let took = now.saturating_since(begun);
        self.shared.sync_clock.note(took);
        if let Some(count) = self.complaint.note(now, took) {
            tracing::warn!(
                file = %self.dir.file(self.active.segment).display(),
                took_seconds = took.as_secs_f64(),
                slow_syncs = count,
                "the disk is slow: a sync of the log took {:.2} s (said at most every {} s)",
                took.as_secs_f64(),
                SYNC_SLOW_PAUSE.as_secs()
            );
        }
    }

    fn tell_use(&self, wants_next: bool) {
        let new = Use {
            active: self.active.segment,
            wants_next,
        };
        self.used.send_if_modified(|used| {
            let changed = *used != new;
            *used = new;
            changed
        });
    }

    /// Hands over the segments that hold nothing above `purged`, oldest first.
    fn give_up_to(&mut self, purged: u64) {
        while let Some(oldest) = self.older.front()
            && oldest.max_index <= Some(purged)
        {
            // Full: the next batch tries again.
            if self.purged.try_send(oldest.clone()).is_err() {
                return;
            }
            self.older.pop_front();
        }
    }
}

/// Half of the active segment is used: it is time to have the next one ready.
fn wants_next(offset: u64, segment_bytes: u64) -> bool {
    offset >= segment_bytes / 2
}

fn tell(shared: &Shared, told: &Told, end: &WalError) {
    shared.end(end);
    told.end.send(Some(end.clone()));
}

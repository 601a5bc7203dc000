//! What waits to be written: drafts of batches, and the callers to be told. Owns the order of records.
//! Promise: records keep the order of their appends; those of one append share a batch, so a crash keeps all or none
//! of them; callbacks run in order.
//! Not here: files, and when to write (`writer`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use barque_store_env::watch;
use bytes::BytesMut;
use tokio::sync::Notify;

use crate::codec;
use crate::error::WalError;
use crate::limits::{APPEND_BYTES_MAX, BATCH_BYTES_MAX};
use crate::replay::Meta;
use crate::sync_times::SyncClock;
use crate::{Done, Record, RecordNumber, Space, Stats};

/// A batch that is still being filled.
#[derive(Debug)]
pub struct Draft {
    /// Room for the header, then the encoded records.
    pub bytes: BytesMut,
    pub records: u32,
    /// The number of its last record.
    pub last: u64,
    /// The meta state after its last record.
    pub meta: Meta,
    pub max_index: Option<u64>,
}

/// What the writer tells. Two channels: whoever waits for a failure is not woken by every batch.
pub struct Told {
    /// Number of the last durable record.
    pub durable: watch::Sender<u64>,
    /// Why nothing more will be written.
    pub end: watch::Sender<Option<WalError>>,
}

#[derive(Default)]
struct Queue {
    drafts: VecDeque<Draft>,
    callbacks: VecDeque<(u64, Done)>,
    /// Number of the last record appended.
    last: u64,
    /// Number of the last record known to be durable, all callbacks up to it having run.
    durable: u64,
    /// Someone waits for what is queued; else it may wait for `limits::LAZY`.
    urgent: bool,
    /// Bytes queued or being written.
    pending: u64,
    /// Invariant: the meta state after the last record appended.
    meta: Meta,
    /// The index the next entry must have; `None` when any may come.
    next_index: Option<u64>,
    /// Found outside the writer, for it to fail with.
    fault: Option<WalError>,
    closing: bool,
    /// Why nothing can be appended any more.
    ended: Option<WalError>,
    space: Space,
    stats: Stats,
}

/// Shared by the handles, the writer and its helpers.
pub struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    pub work: Notify,
    pub durable: watch::Receiver<u64>,
    pub end: watch::Receiver<Option<WalError>>,
    pub sync_clock: SyncClock,
}

/// What the writer should do.
pub enum Next {
    Write(Draft),
    /// Records that nobody waits for.
    Lazy,
    Idle,
    Close,
    Fail(WalError),
}

impl Shared {
    pub fn new(meta: Meta, last_index: Option<u64>, space: Space) -> (Self, Told) {
        let (durable_in, durable) = watch::channel(0);
        let (end_in, end) = watch::channel(None);
        let queue = Queue {
            meta,
            next_index: last_index.map(|index| index + 1),
            space,
            ..Queue::default()
        };
        let shared = Shared {
            queue: Mutex::new(queue),
            work: Notify::new(),
            durable,
            end,
            sync_clock: SyncClock::default(),
        };
        let told = Told {
            durable: durable_in,
            end: end_in,
        };
        (shared, told)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("no code panics while it holds this lock")
    }

    pub fn append(&self, records: &[Record], done: Option<Done>) -> RecordNumber {
        let mut queue = self.queue();
        if let Some(error) = queue
            .ended
            .clone()
            .or(queue.closing.then_some(WalError::Closed))
        {
            // These are not counted, and must not be taken for older ones that are durable: after a failure nothing is.
            let number = match error {
                WalError::Closed => RecordNumber(queue.last),
                _ => RecordNumber(u64::MAX),
            };
            drop(queue);
            if let Some(done) = done {
                done(Err(error));
            }
            return number;
        }
        if queue.fault.is_none()
            && let Err(fault) = queue.push(records)
        {
            queue.fault = Some(fault);
        }
        queue.last += records.len() as u64;
        let number = queue.last;
        if let Some(done) = done {
            if number <= queue.durable && queue.callbacks.is_empty() && queue.fault.is_none() {
                drop(queue);
                done(Ok(()));
                return RecordNumber(number);
            }
            // A callback on records of an earlier append is a request to see them durable.
            queue.urgent |= records.is_empty();
            queue.callbacks.push_back((number, done));
        }
        drop(queue);
        self.work.notify_one();
        RecordNumber(number)
    }

    /// Someone waits for `upto`: lazily queued records must not dawdle.
    pub fn hurry(&self, upto: RecordNumber) {
        let mut queue = self.queue();
        if upto.0 > queue.durable && !queue.urgent && !queue.drafts.is_empty() {
            queue.urgent = true;
            drop(queue);
            self.work.notify_one();
        }
    }

    /// `now` writes lazily queued records too.
    pub fn next(&self, now: bool) -> Next {
        let mut queue = self.queue();
        if let Some(fault) = queue.fault.take() {
            return Next::Fail(fault);
        }
        let go = now || queue.urgent || queue.closing || queue.drafts.len() > 1;
        match queue.drafts.len() {
            0 if queue.closing => Next::Close,
            0 => Next::Idle,
            _ if !go => Next::Lazy,
            left => {
                // Whoever waits, waits at most for the last draft.
                queue.urgent &= left > 1;
                Next::Write(queue.drafts.pop_front().expect("there is one"))
            }
        }
    }

    /// The draft up to `last` is safe: counts it and calls those who waited.
    pub fn wrote(&self, last: u64, records: u64, bytes: u64, synced: bool) {
        {
            let mut queue = self.queue();
            queue.pending -= bytes;
            queue.stats.batches += 1;
            queue.stats.records += records;
            queue.stats.bytes += bytes;
            queue.stats.syncs += u64::from(synced);
        }
        let mut ready = Vec::new();
        loop {
            {
                let mut queue = self.queue();
                while queue.callbacks.front().is_some_and(|(at, _)| *at <= last) {
                    ready.extend(queue.callbacks.pop_front());
                }
                if ready.is_empty() {
                    // Only now: a callback added meanwhile must not run before these.
                    queue.durable = last;
                    return;
                }
            }
            // Without the lock: a callback may append.
            ready.drain(..).for_each(|(_, done)| done(Ok(())));
        }
    }

    /// Nothing will be written any more: tells everyone who waits, in order.
    pub fn end(&self, error: &WalError) {
        loop {
            let callbacks = {
                let mut queue = self.queue();
                queue.drafts.clear();
                if queue.callbacks.is_empty() {
                    queue.pending = 0;
                    queue.ended = Some(error.clone());
                    return;
                }
                std::mem::take(&mut queue.callbacks)
            };
            // Without the lock: a callback may append.
            for (_, done) in callbacks {
                done(Err(error.clone()));
            }
        }
    }

    pub fn fail(&self, error: WalError) {
        self.queue().fault.get_or_insert(error);
        self.work.notify_one();
    }

    pub fn close(&self) {
        self.queue().closing = true;
        self.work.notify_one();
    }

    pub fn disk_grew(&self, segments: u64, bytes: u64) {
        let space = &mut self.queue().space;
        space.segments += segments;
        space.bytes += bytes;
    }

    pub fn disk_shrank(&self, segments: u64, bytes: u64) {
        let space = &mut self.queue().space;
        space.segments -= segments;
        space.bytes -= bytes;
    }

    pub fn recycled(&self) {
        self.queue().stats.recycled += 1;
    }

    pub fn pending_bytes(&self) -> u64 {
        self.queue().pending
    }

    pub fn space(&self) -> Space {
        self.queue().space
    }

    pub fn stats(&self) -> Stats {
        self.queue().stats
    }
}

impl Queue {
    fn push(&mut self, records: &[Record]) -> Result<(), WalError> {
        if records.is_empty() {
            return Ok(());
        }
        let len: usize = records.iter().map(codec::encoded_len).sum();
        if len > APPEND_BYTES_MAX {
            return Err(WalError::TooLarge { bytes: len });
        }
        let max_index = self.check_indexes(records)?;
        let full = |draft: &Draft| draft.bytes.len() + len > BATCH_BYTES_MAX;
        if self.drafts.back().is_none_or(full) {
            let mut bytes = BytesMut::with_capacity(codec::BATCH_HEADER + len + codec::ALIGN);
            codec::begin(&mut bytes);
            self.drafts.push_back(Draft {
                bytes,
                records: 0,
                last: self.last,
                meta: Meta::default(),
                max_index: None,
            });
        }
        for record in records {
            self.meta.note(record);
            self.urgent |= !matches!(record, Record::Committed { .. });
        }
        let draft = self.drafts.back_mut().expect("one was just made sure of");
        for record in records {
            codec::encode(record, &mut draft.bytes);
        }
        draft.records += records.len() as u32;
        draft.last += records.len() as u64;
        draft.max_index = draft.max_index.max(max_index);
        draft.meta.clone_from(&self.meta);
        self.pending += len as u64;
        Ok(())
    }

    /// A gap in the entries would make the next start refuse the log: it is caught before it is written.
    fn check_indexes(&mut self, records: &[Record]) -> Result<Option<u64>, WalError> {
        let mut max_index = None;
        for record in records {
            match *record {
                Record::Entry { index, .. } => {
                    if let Some(expected) = self.next_index
                        && index != expected
                    {
                        return Err(WalError::Gap {
                            expected,
                            got: index,
                        });
                    }
                    self.next_index = Some(index + 1);
                    max_index = max_index.max(Some(index));
                }
                Record::TruncateAfter { index } => {
                    self.next_index = self.next_index.map(|next| next.min(index + 1));
                }
                Record::Purge { index, .. } => {
                    self.next_index = self.next_index.max(Some(index + 1));
                }
                Record::Vote(_) | Record::Committed { .. } => {}
            }
        }
        Ok(max_index)
    }
}

//! The task beside the writer: has the next segment ready in time, out of a purged one if there is one, and removes the
//! other purged ones.
//! Promise: at most `limits::SEGMENTS_AHEAD` segments beside those in use; the first error ends the log.
//! Not here: how it is done on disk (`segment`), which segments are purged (`writer`).

use std::sync::Arc;

use barque_store_env::{Disk, watch};
use futures::future::Either;
use tokio::sync::mpsc;

use crate::error::WalError;
use crate::queue::Shared;
use crate::segment::{Dir, Span};

/// A segment to be written to next.
pub type Ahead<D> = (Span, <D as Disk>::File);

/// What the writer is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    pub active: u64,
    /// The next segment will be needed soon, or is.
    pub wants_next: bool,
}

struct Keeper<D: Disk> {
    dir: Dir<D>,
    /// Number of the segment to be made next. Invariant: the one before it is the active one, or waits in `ahead`.
    next: u64,
    ahead: mpsc::Sender<Ahead<D>>,
    used: watch::Receiver<Use>,
    shared: Arc<Shared>,
}

/// Runs until the writer has gone. The segment numbered `next` is the first to be made.
pub async fn keep<D: Disk>(
    dir: Dir<D>,
    next: u64,
    ahead: mpsc::Sender<Ahead<D>>,
    purged: mpsc::Receiver<Span>,
    used: watch::Receiver<Use>,
    shared: Arc<Shared>,
) {
    let keeper = Keeper {
        dir,
        next,
        ahead,
        used,
        shared: shared.clone(),
    };
    if let Err(error) = keeper.run(purged).await {
        shared.fail(error);
    }
}

impl<D: Disk> Keeper<D> {
    async fn run(mut self, mut purged: mpsc::Receiver<Span>) -> Result<(), WalError> {
        // What is still queued when the writer goes is left for the next start: after an error nothing is touched.
        while !self.ahead.is_closed() {
            let used = self.used.get_and_update();
            // What is purged already comes before a new file.
            let span = match purged.try_recv() {
                Ok(span) => span,
                Err(mpsc::error::TryRecvError::Disconnected) => return Ok(()),
                Err(mpsc::error::TryRecvError::Empty) if used.wants_next && self.lacks(used) => {
                    if !self.prepare(None).await? {
                        return Ok(());
                    }
                    continue;
                }
                Err(mpsc::error::TryRecvError::Empty) => {
                    let (span, change) = (purged.recv(), self.used.changed());
                    futures::pin_mut!(span, change);
                    match futures::future::select(span, change).await {
                        Either::Left((Some(span), _)) => span,
                        Either::Left((None, _)) | Either::Right((Err(_), _)) => return Ok(()),
                        Either::Right((Ok(()), _)) => continue,
                    }
                }
            };
            let used = self.used.get();
            if self.lacks(used) && span.bytes == self.dir.segment_bytes {
                if !self.prepare(Some(span)).await? {
                    return Ok(());
                }
            } else {
                self.dir.remove(span.segment).await?;
                self.shared.disk_shrank(1, span.bytes);
            }
        }
        Ok(())
    }

    /// There is no segment ready after the active one.
    fn lacks(&self, used: Use) -> bool {
        self.next == used.active + 1
    }

    /// False when the writer has gone.
    async fn prepare(&mut self, recycled: Option<Span>) -> Result<bool, WalError> {
        let wanted = || !self.ahead.is_closed();
        let from = recycled.as_ref().map(|span| span.segment);
        let file = self.dir.prepare(self.next, from, wanted).await?;
        let bytes = self.dir.segment_bytes;
        let Some(file) = file else {
            if let Some(span) = recycled {
                self.shared.disk_shrank(1, span.bytes);
            }
            return Ok(false);
        };
        match recycled {
            Some(_) => self.shared.recycled(),
            None => self.shared.disk_grew(1, bytes),
        }
        let span = Span {
            segment: self.next,
            bytes,
            max_index: None,
        };
        self.next += 1;
        // Room for it is certain; the writer may have gone meanwhile.
        Ok(self.ahead.try_send((span, file)).is_ok())
    }
}

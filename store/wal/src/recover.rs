//! What a start finds: reads all segments, tells a torn tail from corruption, makes the log ready to be continued.
//! Promise: every record that was ever reported durable comes back, or there is an error that names file and offset;
//! what comes back is durable.
//! Not here: the meaning of records (`replay`), writing on (`writer`).

use std::collections::VecDeque;
use std::path::Path;

use barque_store_env::{Disk, Env, File, Open};
use bytes::Bytes;

use crate::codec::{self, Found, HeaderError, Link, Place, SEGMENT_HEADER, SegmentHeader};
use crate::error::WalError;
use crate::limits::{FILL_BYTES, SEGMENT_BYTES_MIN};
use crate::replay::{Meta, Replay};
use crate::segment::{self, Dir, Span};
use crate::{Options, Record, Recovered};

/// Where the writer goes on.
pub struct Resume<D: Disk> {
    pub dir: Dir<D>,
    /// Full segments, oldest first.
    pub older: VecDeque<Span>,
    pub active: Span,
    pub file: D::File,
    /// Where the next batch goes in `active`.
    pub offset: u64,
    pub link: Link,
    pub meta: Meta,
    pub last_index: Option<u64>,
    /// An empty segment after the active one, if there is one.
    pub ready: Option<(Span, D::File)>,
}

/// The last good batch, and the end of the log after it.
struct Tail {
    segment: u64,
    offset: u64,
    last: Option<(u64, Bytes)>,
    torn: bool,
}

pub async fn recover<E: Env>(
    disk: E::Disk,
    path: &Path,
    options: Options,
) -> Result<(Resume<E::Disk>, Recovered), WalError> {
    let mut dir = Dir {
        disk,
        path: path.to_owned(),
        log_id: 0,
        segment_bytes: options.segment_bytes.max(SEGMENT_BYTES_MIN),
        fsync: options.fsync,
    };
    segment::remove_if_there(&dir.disk, &path.join(segment::FILLING)).await?;
    let names = dir
        .disk
        .list(path)
        .await
        .map_err(|cause| WalError::io("listing", path, cause))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::number(name))
        .collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        dir.log_id = E::random();
        // Segment 1 is the only one whose number says that nothing came before it.
        dir.prepare(1, || true).await?;
        numbers.push(1);
    }
    // A name that is seen may not be durable: a start before this one was killed between rename and sync.
    dir.sync_names().await?;
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(corrupt(&dir, pair[0] + 1, 0, "the file is missing"));
        }
    }

    let mut scan = Scan::new(numbers[0]);
    for &number in &numbers {
        let bytes = read_segment(&dir, number).await?;
        let header = read_header(&dir, number, &bytes)?;
        if number == numbers[0] {
            dir.log_id = header.log_id;
        } else if header.log_id != dir.log_id {
            return Err(corrupt(&dir, number, 0, "the file belongs to another log"));
        }
        scan.segment(&dir, number, &bytes)?;
    }
    scan.finish(&dir, numbers[0]).await
}

struct Scan {
    replay: Replay,
    /// The last good batch; `None` until one was read, unless the log begins with segment 1.
    link: Option<Link>,
    spans: VecDeque<Span>,
    tail: Tail,
    /// A bad batch: no valid one may follow.
    bad: Option<(u64, u64, &'static str)>,
}

impl Scan {
    fn new(first: u64) -> Self {
        Scan {
            replay: Replay::default(),
            link: (first == 1).then(Link::default),
            spans: VecDeque::new(),
            tail: Tail {
                segment: first,
                offset: SEGMENT_HEADER as u64,
                last: None,
                torn: false,
            },
            bad: None,
        }
    }

    fn segment<D: Disk>(
        &mut self,
        dir: &Dir<D>,
        number: u64,
        bytes: &[u8],
    ) -> Result<(), WalError> {
        let mut place = Place {
            log_id: dir.log_id,
            segment: number,
            offset: SEGMENT_HEADER as u64,
        };
        let mut max_index = None;
        while self.bad.is_none() {
            match codec::read_batch(bytes, place) {
                Found::Batch(batch) => {
                    if let Some(link) = self.link
                        && (batch.link.number != link.number + 1 || batch.previous_crc != link.crc)
                    {
                        let what = format!(
                            "batch {} stands where batch {} should follow",
                            batch.link.number,
                            link.number + 1
                        );
                        return Err(corrupt(dir, number, place.offset, what));
                    }
                    let records = batch
                        .records()
                        .map_err(|what| corrupt(dir, number, place.offset, what))?;
                    for record in records {
                        if let Record::Entry { index, .. } = record {
                            max_index = max_index.max(Some(index));
                        }
                        self.replay
                            .apply(record)
                            .map_err(|what| corrupt(dir, number, place.offset, what))?;
                    }
                    self.link = Some(batch.link);
                    self.tail = Tail {
                        segment: number,
                        offset: place.offset + batch.bytes.len() as u64,
                        last: Some((place.offset, Bytes::copy_from_slice(batch.bytes))),
                        torn: false,
                    };
                    place.offset = self.tail.offset;
                }
                Found::End => break,
                Found::Bad(why) => {
                    self.bad = Some((number, place.offset, why));
                    self.tail.torn = true;
                }
            }
        }
        if let Some((bad_segment, bad_offset, why)) = self.bad
            && let Some(later) = codec::find_batch(bytes, place)
        {
            let what = format!(
                "{why}, but a valid batch follows in {} at offset {later}",
                dir.file(number).display()
            );
            return Err(corrupt(dir, bad_segment, bad_offset, what));
        }
        self.spans.push_back(Span {
            segment: number,
            bytes: bytes.len() as u64,
            max_index,
        });
        Ok(())
    }

    async fn finish<D: Disk>(
        self,
        dir: &Dir<D>,
        first: u64,
    ) -> Result<(Resume<D>, Recovered), WalError> {
        let Some(link) = self.link else {
            // Older segments were removed only after this one's first batch was durable.
            return Err(corrupt(
                dir,
                first,
                SEGMENT_HEADER as u64,
                "the first batch is missing",
            ));
        };
        let meta = self.replay.meta.clone();
        let recovered = self
            .replay
            .finish()
            .map_err(|what| corrupt(dir, first, SEGMENT_HEADER as u64, what))?;

        let tail = self.tail;
        let mut older = self.spans;
        let mut after: VecDeque<Span> = VecDeque::new();
        while older.back().is_some_and(|span| span.segment > tail.segment) {
            after.extend(older.pop_back());
        }
        let active = older
            .pop_back()
            .expect("the tail lies in a segment that was read");
        if let Some((segment, offset, why)) = self.bad {
            tracing::warn!(
                file = %dir.file(segment).display(), offset, why,
                "the last write before the stop was cut off; its unacknowledged records are dropped"
            );
        }

        let file = open(dir, active.segment).await?;
        if tail.torn {
            zero(dir, active.segment, &file, tail.offset, active.bytes).await?;
        }
        if dir.fsync {
            persist(dir, active.segment, &file, tail.last).await?;
        }
        // Highest first, so that no hole can appear; the lowest is kept for the writer.
        let mut ready = None;
        for span in after {
            if span.segment == active.segment + 1 {
                let file = open(dir, span.segment).await?;
                if tail.torn {
                    zero(dir, span.segment, &file, SEGMENT_HEADER as u64, span.bytes).await?;
                }
                ready = Some((span, file));
            } else {
                dir.remove(span.segment).await?;
            }
        }
        let last_index = recovered
            .entries
            .last()
            .map(|entry| entry.index)
            .or(meta.purged.map(|(index, _)| index));
        let resume = Resume {
            dir: dir.clone(),
            older,
            active,
            file,
            offset: tail.offset,
            link,
            meta,
            last_index,
            ready,
        };
        Ok((resume, recovered))
    }
}

/// A batch read from the page cache may never have reached the disk (the process died before its fdatasync, or that
/// sync failed and the kernel marked the pages clean). Only the last one can be so: each is begun after the sync of
/// the one before. Writing the same bytes again makes it durable, or fails, before anyone counts on it.
async fn persist<D: Disk>(
    dir: &Dir<D>,
    segment: u64,
    file: &D::File,
    last: Option<(u64, Bytes)>,
) -> Result<(), WalError> {
    match last {
        Some((offset, bytes)) => file.write_sync(offset, bytes).await,
        None => file.sync_data().await,
    }
    .map_err(|cause| WalError::io("sync", dir.file(segment), cause))
}

/// Zeros what a cut-off write left behind, so that a later search never meets it.
async fn zero<D: Disk>(
    dir: &Dir<D>,
    segment: u64,
    file: &D::File,
    from: u64,
    to: u64,
) -> Result<(), WalError> {
    let failed = |operation| move |cause| WalError::io(operation, dir.file(segment), cause);
    let mut offset = from;
    while offset < to {
        let len = (to - offset).min(FILL_BYTES as u64) as usize;
        let bytes = file.read_at(offset, len).await.map_err(failed("read"))?;
        if !codec::all_zero(&bytes) {
            let zeros = Bytes::from(vec![0; len]);
            file.write_at(offset, zeros)
                .await
                .map_err(failed("write"))?;
        }
        offset += len as u64;
    }
    if dir.fsync {
        file.sync_data().await.map_err(failed("sync"))?;
    }
    Ok(())
}

async fn open<D: Disk>(dir: &Dir<D>, segment: u64) -> Result<D::File, WalError> {
    let path = dir.file(segment);
    dir.disk
        .open(&path, Open::ReadWrite)
        .await
        .map_err(|cause| WalError::io("opening", path, cause))
}

async fn read_segment<D: Disk>(dir: &Dir<D>, segment: u64) -> Result<Bytes, WalError> {
    let path = dir.file(segment);
    let failed = |operation| {
        let path = path.clone();
        move |cause| WalError::io(operation, path, cause)
    };
    let file = dir
        .disk
        .open(&path, Open::Read)
        .await
        .map_err(failed("opening"))?;
    let len = file.len().await.map_err(failed("reading the length"))?;
    file.read_at(0, len as usize).await.map_err(failed("read"))
}

fn read_header<D: Disk>(
    dir: &Dir<D>,
    segment: u64,
    bytes: &[u8],
) -> Result<SegmentHeader, WalError> {
    match SegmentHeader::decode(bytes) {
        Ok(header) if header.segment == segment => Ok(header),
        Ok(header) => {
            let what = format!("the file holds segment {}", header.segment);
            Err(corrupt(dir, segment, 0, what))
        }
        Err(HeaderError::TooNew { format, min_reader }) => Err(WalError::TooNew {
            file: dir.file(segment),
            format,
            min_reader,
        }),
        Err(HeaderError::Bad(what)) => Err(corrupt(dir, segment, 0, what)),
    }
}

fn corrupt<D: Disk>(dir: &Dir<D>, segment: u64, offset: u64, what: impl Into<String>) -> WalError {
    WalError::Corrupt {
        file: dir.file(segment),
        offset,
        what: what.into(),
    }
}

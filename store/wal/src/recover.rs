//! What a start finds: reads all segments, tells a torn tail from corruption, makes the log ready to be continued.
//! Promise: every record that was ever reported durable comes back, or there is an error that names file and offset;
//! what comes back is durable.
//! Not here: the meaning of records (`replay`), writing on (`writer`).

use std::collections::VecDeque;
use std::path::Path;

use barque_store_env::{Disk, Env, File, Open};
use bytes::Bytes;

use crate::codec::{self, ALIGN, HeaderError, Link, Place, SEGMENT_HEADER, SegmentHeader};
use crate::error::WalError;
use crate::limits::{FILL_BYTES, SEGMENT_BYTES_MIN};
use crate::replay::{Meta, Replay};
use crate::scan::{self, Found};
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
}

/// A write that a crash cut off, unless evidence of a later batch turns up.
struct Torn {
    segment: u64,
    offset: u64,
    why: &'static str,
    /// All bytes of the segment.
    bytes: Bytes,
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
    // Whatever it held was not part of the log any more, or not yet.
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
        dir.prepare(1, None, || true).await?;
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
    /// No batch may follow it.
    torn: Option<Torn>,
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
            },
            torn: None,
        }
    }

    fn segment<D: Disk>(
        &mut self,
        dir: &Dir<D>,
        number: u64,
        bytes: &Bytes,
    ) -> Result<(), WalError> {
        let mut span = Span {
            segment: number,
            bytes: bytes.len() as u64,
            max_index: None,
        };
        if let Some(torn) = &self.torn {
            // A segment is written to only when all before it is synced.
            if let Some(at) = codec::first_nonzero(&bytes[SEGMENT_HEADER..]) {
                return Err(torn.followed(dir, number, (SEGMENT_HEADER + at) as u64));
            }
        } else {
            self.batches(dir, number, bytes, &mut span)?;
        }
        self.spans.push_back(span);
        Ok(())
    }

    fn batches<D: Disk>(
        &mut self,
        dir: &Dir<D>,
        number: u64,
        bytes: &Bytes,
        span: &mut Span,
    ) -> Result<(), WalError> {
        let mut place = Place {
            log_id: dir.log_id,
            segment: number,
            offset: SEGMENT_HEADER as u64,
        };
        loop {
            let corrupt = |what: String| corrupt(dir, number, place.offset, what);
            match scan::read_batch(bytes, place) {
                Found::Batch(batch) => {
                    if let Some(link) = self.link
                        && (batch.link.number != link.number + 1 || batch.previous_crc != link.crc)
                    {
                        return Err(corrupt(format!(
                            "batch {} stands where batch {} should follow",
                            batch.link.number,
                            link.number + 1
                        )));
                    }
                    for record in batch.records().map_err(|what| corrupt(what.to_owned()))? {
                        if let Record::Entry { index, .. } = record {
                            span.max_index = span.max_index.max(Some(index));
                        }
                        self.replay.apply(record).map_err(corrupt)?;
                    }
                    let end = place.offset + batch.bytes.len() as u64;
                    self.link = Some(batch.link);
                    self.tail = Tail {
                        segment: number,
                        offset: end,
                        last: Some((place.offset, bytes.slice_ref(batch.bytes))),
                    };
                    place.offset = end;
                }
                Found::End => return Ok(()),
                Found::Damaged(why) => return Err(corrupt(why.to_owned())),
                Found::Torn { why, end } => {
                    let torn = Torn {
                        segment: number,
                        offset: place.offset,
                        why,
                        bytes: bytes.clone(),
                    };
                    if let Some(at) = scan::later(bytes, place, end) {
                        return Err(torn.followed(dir, number, at));
                    }
                    self.torn = Some(torn);
                    return Ok(());
                }
            }
        }
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
        let file = open(dir, active.segment).await?;
        if let Some(torn) = &self.torn {
            tracing::warn!(
                file = %dir.file(torn.segment).display(), offset = torn.offset, why = torn.why,
                "the last write before the stop was cut off; its unacknowledged records are dropped"
            );
            if torn.segment == active.segment {
                torn.clear(dir, &file).await?;
            }
        }
        if dir.fsync {
            persist(dir, active.segment, &file, tail.last).await?;
        }
        // Highest first, so that no hole can appear; the lowest is kept for the writer.
        let mut ready = None;
        for span in after {
            if span.segment == active.segment + 1 {
                let file = open(dir, span.segment).await?;
                if let Some(torn) = &self.torn
                    && torn.segment == span.segment
                {
                    torn.clear(dir, &file).await?;
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

impl Torn {
    /// It was synced after all: something was written after it.
    fn followed<D: Disk>(&self, dir: &Dir<D>, segment: u64, offset: u64) -> WalError {
        let what = format!(
            "{}, but it was synced once: a later batch left bytes in {} at offset {offset}",
            self.why,
            dir.file(segment).display()
        );
        corrupt(dir, self.segment, self.offset, what)
    }

    /// Zeros what the write left behind, as the segment must be zero where it is written next.
    async fn clear<D: Disk>(&self, dir: &Dir<D>, file: &D::File) -> Result<(), WalError> {
        let failed =
            |operation| move |cause| WalError::io(operation, dir.file(self.segment), cause);
        let bytes = &self.bytes[self.offset as usize..];
        // First and by itself the start, which says "not written": a crash in the middle of what follows could leave
        // what looks like a damaged batch.
        let mut from = 0;
        let mut len = ALIGN.min(bytes.len());
        while from < bytes.len() {
            if !codec::all_zero(&bytes[from..from + len]) {
                let offset = self.offset + from as u64;
                let zeros = Bytes::from(vec![0; len]);
                file.write_at(offset, zeros)
                    .await
                    .map_err(failed("write"))?;
                if from == 0 && dir.fsync {
                    file.sync_data().await.map_err(failed("sync"))?;
                }
            }
            from += len;
            len = (bytes.len() - from).min(FILL_BYTES);
        }
        if dir.fsync {
            file.sync_data().await.map_err(failed("sync"))?;
        }
        Ok(())
    }
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
        Ok(header) if header.segment == segment && (bytes.len() as u64) < header.bytes => {
            let what = format!("the file ends here, but was {} bytes long", header.bytes);
            Err(corrupt(dir, segment, bytes.len() as u64, what))
        }
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
        Err(HeaderError::TooOld { format }) => Err(WalError::TooOld {
            file: dir.file(segment),
            format,
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

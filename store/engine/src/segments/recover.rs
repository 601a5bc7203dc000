//! What a start finds: the newest checkpoint that verifies and the frames after it, or all frames.
//! Promise: every batch that was ever reported durable comes back, or there is an error that names file and offset;
//! what comes back is durable. Nothing is told to the caller that a later finding could revoke, but for the start failing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barque_store_env::{Disk, Env, File, Open};
use bytes::Bytes;
use parking_lot::RwLock;

use crate::codec::{
    self, FILE_HEADER, FileHeader, Found, Frame, FrameKind, Link, Place, SEGMENT_MAGIC,
};
use crate::error::{Error, Latch};
use crate::files::{remove_if_there, sync_dir};
use crate::{Lock, Opened, Options, Restore, RowId};

use super::checkpoint::{self, Done, Loaded, Position};
use super::files::{
    CHECKPOINT_TMP, Dir, SEGMENT_TMP, SegmentFile, checkpoint_number, read_header, segment_number,
};
use super::reader::{Shared, State};
use super::table::{Row, Table};
use super::{Active, Segments, set};

pub(crate) async fn open<E: Env>(
    disk: E::Disk,
    lock: Lock<E>,
    path: &Path,
    restore: &mut (dyn Restore + Send),
    options: Options,
) -> Result<Opened<Segments<E>>, Error> {
    let mut dir = Dir {
        disk,
        path: path.to_owned(),
        store_id: 0,
    };
    for tmp in [SEGMENT_TMP, CHECKPOINT_TMP] {
        remove_if_there(&dir.disk, &path.join(tmp)).await?;
    }
    let mut names = list(&dir).await?;
    if names.segments.is_empty() && names.checkpoints.is_empty() {
        dir.store_id = E::random();
        dir.create_segment(1, Link::default()).await?;
        names.segments.push(1);
    }
    // A name that is seen may not be durable: a start before this one was killed between rename and sync.
    sync_dir(&dir.disk, &dir.path).await?;

    let base = Base::find(&dir, &names, options.index_kept_bytes).await?;
    let mut scan = Scan::new(base, restore).await?;
    let tail: Vec<u32> = (names.segments.iter().copied())
        .filter(|number| *number >= scan.position.segment)
        .collect();
    let mut active = None;
    for (at, number) in tail.iter().enumerate() {
        let newest = at + 1 == tail.len();
        active = Some(scan.segment(&mut dir, *number, newest, restore).await?);
    }
    let active = active.expect("the position's segment is there");
    scan.finish(&dir, &names)?;

    // Segments that are gone hold no rows, `finish` saw to that; those the checkpoint does not name are left-overs of a
    // removal that a power cut undid.
    let covered = names.segments.iter().copied().filter(|n| *n < tail[0]);
    for number in covered {
        let used = scan.table.usage(number).is_some();
        match scan.listed.get(&number) {
            Some(bytes) => drop(scan.sealed.insert(number, *bytes)),
            None if used => {
                let what = "rows lie in a segment that the checkpoint does not name";
                return Err(Error::corrupt(dir.segment(number), 0, what));
            }
            None => remove_if_there(&dir.disk, &dir.segment(number)).await?,
        }
    }
    let all = scan.sealed.keys().copied().chain([active.number]);
    let files = all.map(|number| (number, SegmentFile::new(&dir, number)));
    let state = State {
        files: files.collect(),
        table: scan.table,
        meta: Arc::new(scan.meta.clone()),
        before: None,
    };
    let current = scan.checkpoint.map(|done| done.number);
    let checkpoints = names.checkpoints.iter().copied();
    let engine = Segments {
        options,
        shared: Arc::new(Shared {
            dir: dir.clone(),
            state: RwLock::new(state),
        }),
        dir,
        active,
        link: scan.position.link,
        meta_bytes: scan.meta_bytes,
        sealed: scan.sealed,
        checkpoint: scan.checkpoint,
        last_checkpoint: names.checkpoints.last().copied().unwrap_or(0),
        stale_checkpoints: checkpoints.filter(|n| Some(*n) != current).collect(),
        draft: None,
        tail_bytes: scan.tail_bytes,
        draft_tail_bytes: 0,
        moving: None,
        leaving: Vec::new(),
        latch: Latch::default(),
        _lock: lock,
    };
    Ok(Opened {
        engine,
        meta: scan.meta,
    })
}

/// Numbers, ascending.
struct Names {
    segments: Vec<u32>,
    checkpoints: Vec<u64>,
}

impl Names {
    /// Whether all segments from `first` to the newest are there, and which is the first that is not.
    fn whole_from(&self, first: u32) -> Result<(), u32> {
        let from = self.segments.partition_point(|number| *number < first);
        let mut due = first;
        for number in &self.segments[from..] {
            if *number != due {
                return Err(due);
            }
            due += 1;
        }
        if due == first { Err(first) } else { Ok(()) }
    }
}

async fn list<D: Disk>(dir: &Dir<D>) -> Result<Names, Error> {
    let names = dir
        .disk
        .list(&dir.path)
        .await
        .map_err(|cause| Error::io("listing", &dir.path, cause))?;
    let mut segments: Vec<u32> = names.iter().filter_map(|n| segment_number(n)).collect();
    let mut checkpoints: Vec<u64> = names.iter().filter_map(|n| checkpoint_number(n)).collect();
    segments.sort_unstable();
    checkpoints.sort_unstable();
    Ok(Names {
        segments,
        checkpoints,
    })
}

/// What a start goes out from.
struct Base<D: Disk> {
    loaded: Option<Loaded<D>>,
    /// The last frame that a checkpoint was seen to cover, usable or not: the scan must come that far.
    reaches: Option<(u64, PathBuf)>,
}

impl<D: Disk> Base<D> {
    /// The newest checkpoint that verifies and whose later segments are all there; none when all segments are.
    async fn find(dir: &Dir<D>, names: &Names, keep_bytes: usize) -> Result<Self, Error> {
        let mut first_error = None;
        let mut reaches: Option<(u64, PathBuf)> = None;
        for &number in names.checkpoints.iter().rev() {
            if let Some(covers) = checkpoint::covers(dir, number).await
                && reaches.as_ref().is_none_or(|(known, _)| *known < covers)
            {
                reaches = Some((covers, dir.checkpoint(number)));
            }
            let error = match checkpoint::load(dir, number, keep_bytes).await {
                Ok(loaded) => {
                    let position = loaded.done.position;
                    match names.whole_from(position.segment) {
                        Ok(()) => {
                            let loaded = Some(loaded);
                            return Ok(Base { loaded, reaches });
                        }
                        Err(missing) => {
                            let what = format!(
                                "the file is missing; checkpoint {number} needs it and all later ones"
                            );
                            Error::corrupt(dir.segment(missing), 0, what)
                        }
                    }
                }
                Err(error @ Error::Corrupt { .. }) => error,
                Err(error) => return Err(error),
            };
            tracing::warn!(%error, "a checkpoint cannot be used; trying to do without");
            first_error.get_or_insert(error);
        }
        match (names.whole_from(1), first_error) {
            (Ok(()), _) => Ok(Base {
                loaded: None,
                reaches,
            }),
            (Err(missing), None) => {
                let what = "the file is missing, and there is no checkpoint to do without it";
                Err(Error::corrupt(dir.segment(missing), 0, what))
            }
            (Err(missing), Some(Error::Corrupt { file, offset, what })) => {
                let what = format!(
                    "{what}; and without it the state cannot be put together, for {} is gone",
                    dir.segment(missing).display()
                );
                Err(Error::corrupt(file, offset, what))
            }
            (Err(_), Some(error)) => Err(error),
        }
    }
}

/// Reads frames and keeps what they say.
struct Scan {
    position: Position,
    checkpoint: Option<Done>,
    store_id: Option<u64>,
    table: Table,
    meta: BTreeMap<String, Bytes>,
    meta_bytes: u64,
    /// Segments as the checkpoint names them, and as they were read.
    listed: BTreeMap<u32, u64>,
    sealed: BTreeMap<u32, u64>,
    tail_bytes: u64,
    reaches: Option<(u64, PathBuf)>,
}

impl Scan {
    async fn new<D: Disk>(
        base: Base<D>,
        restore: &mut (dyn Restore + Send),
    ) -> Result<Self, Error> {
        let mut scan = Scan {
            position: Position {
                segment: 1,
                offset: FILE_HEADER as u64,
                link: Link::default(),
            },
            checkpoint: None,
            store_id: None,
            table: Table::default(),
            meta: BTreeMap::new(),
            meta_bytes: 0,
            listed: BTreeMap::new(),
            sealed: BTreeMap::new(),
            tail_bytes: 0,
            reaches: base.reaches,
        };
        if let Some(mut loaded) = base.loaded {
            loaded.tell_index(restore).await?;
            scan.position = loaded.done.position;
            scan.checkpoint = Some(loaded.done);
            scan.store_id = Some(loaded.store_id);
            scan.table = loaded.table;
            for (name, value) in loaded.meta {
                set(&mut scan.meta, &mut scan.meta_bytes, name, Some(value));
            }
            scan.listed = loaded.segments;
        }
        Ok(scan)
    }

    /// Reads the segment from the present position on, or from its beginning; makes the newest one ready to be continued.
    async fn segment<D: Disk>(
        &mut self,
        dir: &mut Dir<D>,
        number: u32,
        newest: bool,
        restore: &mut (dyn Restore + Send),
    ) -> Result<Active<D>, Error> {
        let path = dir.segment(number);
        let failed = |operation| {
            let path = path.clone();
            move |cause| Error::io(operation, path, cause)
        };
        let how = if newest { Open::ReadWrite } else { Open::Read };
        let file = dir.disk.open(&path, how).await.map_err(failed("opening"))?;
        let header = file.read_at(0, FILE_HEADER).await.map_err(failed("read"))?;
        let header = read_header(&header, SEGMENT_MAGIC, &path, number.into())?;
        self.enter(dir, &header, number)?;
        let bytes = file
            .read_at(self.position.offset, usize::MAX)
            .await
            .map_err(failed("read"))?;
        let start = self.position.offset;
        let len = file.len().await.map_err(failed("reading the length"))?;
        if len < start {
            let what = format!("the file ends here, but a checkpoint covers it up to {start}");
            return Err(Error::corrupt(path, len, what));
        }

        let mut last = None;
        let mut bad = None;
        loop {
            let place = Place {
                store_id: dir.store_id,
                segment: number.into(),
                offset: self.position.offset,
            };
            let rest = &bytes[(self.position.offset - start) as usize..];
            match codec::read_frame(rest, place) {
                Found::Frame(frame) => {
                    self.frame(dir, &frame, restore)?;
                    last = Some((place.offset, frame.bytes.len()));
                }
                Found::End => break,
                Found::Bad(why) => {
                    bad = Some(why);
                    if let Some(later) = codec::find_frame(rest, place) {
                        let what = format!("{why}, but a valid frame follows at offset {later}");
                        return Err(Error::corrupt(path, place.offset, what));
                    }
                    break;
                }
            }
        }
        let end = self.position.offset;
        if !newest {
            // The next segment was begun only after this one's last frame was durable; its header says which that was.
            if let Some(why) = bad {
                let what = format!("{why}, but a later segment follows");
                return Err(Error::corrupt(path, end, what));
            }
            self.sealed.insert(number, len);
        } else {
            if len > end {
                tracing::warn!(
                    file = %path.display(), bytes = len - end, why = bad.unwrap_or("zeros"),
                    "the last write before the stop, at offset {end}, was cut off; its batch was never acknowledged and is dropped"
                );
                file.set_len(end).await.map_err(failed("cutting"))?;
            }
            // A frame read from the page cache may never have reached the disk (the process died before its fdatasync, or
            // that sync failed and the kernel marked the pages clean). Only the last one can be so. Writing the same bytes
            // again makes it durable, or fails, before anyone counts on it.
            match last {
                Some((offset, len)) => {
                    let at = (offset - start) as usize;
                    file.write_sync(offset, bytes.slice(at..at + len)).await
                }
                None => file.sync_data().await,
            }
            .map_err(failed("sync"))?;
        }
        Ok(Active {
            number,
            file,
            offset: end,
        })
    }

    /// Checks that the segment is the one that goes on here.
    fn enter<D: Disk>(
        &mut self,
        dir: &mut Dir<D>,
        header: &FileHeader,
        number: u32,
    ) -> Result<(), Error> {
        let store_id = *self.store_id.get_or_insert(header.store_id);
        dir.store_id = store_id;
        if header.store_id != store_id {
            let what = "the file belongs to another store";
            return Err(Error::corrupt(dir.segment(number), 0, what));
        }
        if number == self.position.segment && self.checkpoint.is_some() {
            return Ok(());
        }
        let link = self.position.link;
        if header.link != link {
            let before = dir.segment(self.position.segment);
            let what = format!(
                "frame {} should follow, for {} goes on after frame {}",
                link.number + 1,
                dir.segment(number).display(),
                header.link.number
            );
            return Err(Error::corrupt(before, self.position.offset, what));
        }
        self.position.segment = number;
        self.position.offset = FILE_HEADER as u64;
        Ok(())
    }

    fn frame<D: Disk>(
        &mut self,
        dir: &Dir<D>,
        frame: &Frame<'_>,
        restore: &mut (dyn Restore + Send),
    ) -> Result<(), Error> {
        let Position {
            segment,
            offset,
            link,
        } = self.position;
        let corrupt = |what: String| Error::corrupt(dir.segment(segment), offset, what);
        if frame.link.number != link.number + 1 || frame.previous_crc != link.crc {
            return Err(corrupt(format!(
                "frame {} stands where frame {} should follow",
                frame.link.number,
                link.number + 1
            )));
        }
        let contents = frame.contents().map_err(|what| corrupt(what.into()))?;
        let place = |(id, at, row): &(RowId, u64, &[u8])| Row {
            main: id.main,
            sub: id.sub,
            segment,
            offset: (offset + at) as u32,
            len: row.len() as u32,
        };
        let told = |what| Error::Restore {
            dir: dir.path.clone(),
            what,
        };
        match contents.kind {
            FrameKind::Relocated => {
                for row in contents.rows.iter().map(place) {
                    if !self.table.relocate(row) {
                        return Err(corrupt(format!("row {} was moved but not held", row.id())));
                    }
                }
            }
            FrameKind::Batch => {
                let rows: Vec<Row> = contents.rows.iter().map(place).collect();
                let ascending = rows.is_sorted_by(|a, b| a.id() < b.id());
                if !ascending
                    || (rows.first()).is_some_and(|row| Some(row.id()) <= self.table.last())
                {
                    return Err(corrupt("the rows are out of order".into()));
                }
                self.table.append(&rows);
                for (id, _, row) in &contents.rows {
                    restore
                        .row(*id, Bytes::copy_from_slice(row))
                        .map_err(|what| told(format!("row {id}: {what}")))?;
                }
            }
        }
        for id in contents.freed {
            self.table.free(id);
            restore
                .freed(id)
                .map_err(|what| told(format!("freed row {id}: {what}")))?;
        }
        for (name, value) in contents.meta {
            let value = value.map(Bytes::copy_from_slice);
            set(&mut self.meta, &mut self.meta_bytes, name.to_owned(), value);
        }
        let len = frame.bytes.len() as u64;
        self.position.offset += len;
        self.position.link = frame.link;
        self.tail_bytes += len;
        Ok(())
    }

    /// Whether what was read can be all there was.
    fn finish<D: Disk>(&self, dir: &Dir<D>, names: &Names) -> Result<(), Error> {
        let Position {
            segment,
            offset,
            link,
        } = self.position;
        if let Some((reaches, checkpoint)) = &self.reaches
            && *reaches > link.number
        {
            let what = format!(
                "frame {} should follow, for {} covers it",
                link.number + 1,
                checkpoint.display()
            );
            return Err(Error::corrupt(dir.segment(segment), offset, what));
        }
        for (number, usage) in self.table.used() {
            if names.segments.binary_search(&number).is_err() {
                let what = format!("the file is missing, and {} rows with it", usage.rows);
                return Err(Error::corrupt(dir.segment(number), 0, what));
            }
        }
        Ok(())
    }
}

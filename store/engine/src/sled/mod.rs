//! An engine on sled 0.34.7, behind the cargo feature `sled`: for comparison, and for those who ask for it.
//! Why it is not the default: its `flush()` issues `sync_file_range` alone, which makes neither the file's size nor the
//! disk's own cache durable, and files of large items are never synced; after power cuts its database was empty or did
//! not open. It has had no release since 2021, gives no space back, and its readers wait for its writers.
//! Guards: no flusher of its own; after each flush this engine syncs every file of sled's itself; nothing is stored in
//! one piece that sled might put aside as a blob; a mark beside the database, synced after each commit, tells a database
//! that came back older than what was acknowledged; panics are caught; each row has a checksum of ours.
//! What is left: within one commit sled may reuse a part of its file on the strength of a write that was not synced yet.
//! Then the next start fails with [`Error::Corrupt`], and the member's data must come from its peers: the
//! engine is a disposable cache.
//! Not here: simulated disks (sled opens files by itself), checkpoints, giving space back.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use barque_store_env::{Disk, Env, File, Open};
use bytes::Bytes;
use parking_lot::RwLock;

use crate::codec::{
    self, FILE_HEADER, FileHeader, FrameKind, FrameWriter, Link, ROW_HEADER, SLED_MAGIC, row_len,
    u64_at,
};
use crate::error::Latch;
use crate::limits::{SLED_CACHE_BYTES, SLED_LINGERS_MAX, SLED_LOCK_PAUSE, SLED_PIECE_BYTES};
use crate::{Batch, Engine, Error, Images, Lock, Opened, Reader, Restore, RowId, Space, files};

mod rows;

use rows::{COMMITS, LAST, NO_ROW, Rows, guarded, meta_key, pieces, row_key, row_of};

const NAME: &str = "sled";
const MARK: &str = "sled.mark";
const MARK_TMP: &str = "sled.mark.tmp";

/// Rows in a sled database.
pub struct Sled<E: Env> {
    disk: E::Disk,
    dir: PathBuf,
    mark: <E::Disk as Disk>::File,
    rows: Arc<Rows>,
    /// Commits ever made durable; the database holds the number, and so does the mark.
    commits: u64,
    last: Option<RowId>,
    /// Pieces and bytes of each named value.
    meta: BTreeMap<String, (u16, u64)>,
    live_bytes: u64,
    /// Blob files that were synced.
    synced: BTreeSet<String>,
    checkpointing: bool,
    latch: Latch,
    _lock: Lock<E>,
}

impl<E: Env> Sled<E> {
    pub(crate) async fn open(
        disk: E::Disk,
        lock: Lock<E>,
        dir: &Path,
        restore: &mut (dyn Restore + Send),
    ) -> Result<Opened<Self>, Error> {
        let foreign = |what: String| Error::Foreign {
            kind: NAME,
            dir: dir.to_owned(),
            what,
        };
        let path = dir.join(NAME);
        let path = disk
            .native_path(&path)
            .ok_or_else(|| foreign("it knows real files only".into()))?;
        let (mark, header) = open_mark::<E>(&disk, dir).await?;
        let corrupt = |what: String| Error::corrupt(&path, 0, what);
        let db = open_database::<E>(&path).await?;

        let number = |key: &[u8]| -> Result<Option<u64>, Error> {
            let value = guarded(|| db.get(key)).map_err(&corrupt)?;
            Ok(value
                .filter(|v| v.len() == 8)
                .map(|value| u64_at(&value, 0)))
        };
        let commits = number(COMMITS)?.unwrap_or(0);
        if commits < header.number {
            return Err(corrupt(format!(
                "it came back with commit {commits}, but {} were acknowledged",
                header.number
            )));
        }
        let last = guarded(|| db.get(LAST)).map_err(&corrupt)?;
        let last = last.as_deref().and_then(row_of).map(|(id, _)| id);
        let mut engine = Sled::<E> {
            disk,
            dir: dir.to_owned(),
            mark,
            rows: Arc::new(Rows {
                db,
                changing: RwLock::default(),
                path: path.clone(),
                store_id: header.store_id,
            }),
            commits,
            last,
            meta: BTreeMap::new(),
            live_bytes: 0,
            synced: BTreeSet::new(),
            checkpointing: false,
            latch: Latch::default(),
            _lock: lock,
        };
        let meta = engine.load(restore)?;
        // What was read may be in the page cache only.
        engine.sync_files().await?;
        files::sync_dir(&engine.disk, dir).await?;
        engine.write_mark(header.store_id).await?;
        Ok(Opened { engine, meta })
    }

    /// Tells all rows; returns the named values.
    fn load(
        &mut self,
        restore: &mut (dyn Restore + Send),
    ) -> Result<BTreeMap<String, Bytes>, Error> {
        let rows = self.rows.clone();
        let mut from = Some(RowId { main: 0, sub: 0 });
        while let Some(at) = from {
            let some = rows.scan(at, 1_000, 1 << 20)?;
            from = some.last().map(|(id, _)| match id.sub.checked_add(1) {
                Some(sub) => RowId { main: id.main, sub },
                None => RowId {
                    main: id.main + 1,
                    sub: 0,
                },
            });
            for (id, row) in some {
                self.live_bytes += row_len(row.len());
                restore.row(id, row).map_err(|what| Error::Restore {
                    dir: self.dir.clone(),
                    what: format!("row {id}: {what}"),
                })?;
            }
        }
        let mut out = BTreeMap::new();
        for (name, (count, value)) in rows.named()? {
            let size = (name.len() + value.len()) as u64;
            self.meta.insert(name.clone(), (count, size));
            out.insert(name, value);
        }
        Ok(out)
    }

    /// Syncs what sled has written but not made durable.
    async fn sync_files(&mut self) -> Result<(), Error> {
        let path = self.dir.join(NAME);
        let blobs = path.join("blobs");
        let mut there = BTreeSet::new();
        let any = self.disk.exists(&blobs).await;
        if any.map_err(|cause| Error::io("looking for", &blobs, cause))? {
            let names = self.disk.list(&blobs).await;
            for name in names.map_err(|cause| Error::io("listing", &blobs, cause))? {
                let blob = blobs.join(&name);
                // sled drops one that it has replaced, perhaps just now.
                if self.synced.contains(&name) || self.sync_file(&blob).await? {
                    there.insert(name);
                }
            }
            files::sync_dir(&self.disk, &blobs).await?;
        }
        self.synced = there;
        for name in ["db", "conf"] {
            let file = path.join(name);
            if !self.sync_file(&file).await? {
                return Err(Error::corrupt(file, 0, "the file is missing"));
            }
        }
        files::sync_dir(&self.disk, &path).await
    }

    /// False when there is no such file.
    async fn sync_file(&self, path: &Path) -> Result<bool, Error> {
        let synced = match self.disk.open(path, Open::Read).await {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => Err(cause),
            Ok(file) => file.sync_data().await,
        };
        synced.map_err(|cause| Error::io("sync", path, cause))?;
        Ok(true)
    }

    async fn write_mark(&self, store_id: u64) -> Result<(), Error> {
        let header = FileHeader {
            magic: SLED_MAGIC,
            number: self.commits,
            store_id,
            link: Link::default(),
            position: (0, 0),
        };
        self.mark
            .write_sync(0, Bytes::copy_from_slice(&header.encode()))
            .await
            .map_err(|cause| Error::io("write and sync", self.dir.join(MARK), cause))
    }

    fn put(&self, out: &mut ::sled::Batch, key: impl Fn(u16) -> Vec<u8>, id: RowId, bytes: &[u8]) {
        let mut frame = FrameWriter::new(self.rows.store_id, FrameKind::Batch, bytes.len() + 64);
        let at = frame.row(id, bytes);
        let record = frame.record(at);
        for (piece, part) in record.chunks(SLED_PIECE_BYTES).enumerate() {
            out.insert(key(piece as u16), part);
        }
    }

    async fn write(&mut self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        codec::check(&batch, self.last)?;
        let foreign = |dir: &Path| {
            let dir = dir.to_owned();
            move |what| Error::Foreign {
                kind: NAME,
                dir,
                what,
            }
        };
        let mut out = ::sled::Batch::default();
        for (id, row) in &batch.rows {
            self.live_bytes += row_len(row.len());
            self.put(&mut out, |piece| row_key(*id, piece), *id, row);
            self.last = Some(*id);
        }
        let given: BTreeMap<RowId, &Bytes> =
            batch.rows.iter().map(|(id, row)| (*id, row)).collect();
        let mut gone = BTreeSet::new();
        for id in batch.freed {
            if !gone.insert(id) {
                continue;
            }
            let bytes = match given.get(&id) {
                Some(row) => Some(ROW_HEADER + row.len()),
                None => self.rows.record(id)?.map(|record| record.len()),
            };
            if let Some(bytes) = bytes {
                self.live_bytes -= bytes as u64;
                for piece in 0..pieces(bytes) {
                    out.remove(row_key(id, piece));
                }
            }
        }
        for (name, value) in batch.meta {
            let old = self.meta.remove(&name).map_or(0, |(count, _)| count);
            for piece in 0..old {
                out.remove(meta_key(&name, piece));
            }
            if let Some(value) = value {
                self.put(&mut out, |piece| meta_key(&name, piece), NO_ROW, &value);
                let size = (name.len() + value.len()) as u64;
                self.meta
                    .insert(name, (pieces(ROW_HEADER + value.len()), size));
            }
        }
        self.commits += 1;
        out.insert(COMMITS, &self.commits.to_le_bytes());
        if let Some(last) = self.last {
            out.insert(LAST, row_key(last, 0));
        }
        {
            let _whole = self.rows.changing.write();
            guarded(|| self.rows.db.apply_batch(out)).map_err(foreign(&self.dir))?;
        }
        guarded(|| self.rows.db.flush()).map_err(foreign(&self.dir))?;
        self.sync_files().await?;
        self.write_mark(self.rows.store_id).await
    }
}

/// Opens sled's own files. The directory's lock is ours, so a lock on the database that is still held is held by one of
/// sled's threads that has not let go of the database that this process closed a moment ago: that one is waited for.
async fn open_database<E: Env>(path: &Path) -> Result<::sled::Db, Error> {
    let config = ::sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(SLED_CACHE_BYTES);
    let patience = E::now() + SLED_LINGERS_MAX;
    loop {
        let opened = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Err(::sled::Error::Io(cause))) => {
                // sled makes an error of its own of it, with the kernel's in the text only.
                if cause.to_string().contains("could not acquire lock") && E::now() < patience {
                    E::sleep(SLED_LOCK_PAUSE).await;
                    continue;
                }
                return Err(Error::io("opening", path, cause));
            }
            opened => guarded(|| opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        };
        return opened.map_err(|what| Error::corrupt(path, 0, format!("it does not open: {what}")));
    }
}

/// Opens the mark, or makes it where there is no database yet.
async fn open_mark<E: Env>(
    disk: &E::Disk,
    dir: &Path,
) -> Result<(<E::Disk as Disk>::File, FileHeader), Error> {
    let path = dir.join(MARK);
    let failed = |operation| {
        let path = path.clone();
        move |cause| Error::io(operation, path, cause)
    };
    let there = disk.exists(&path).await.map_err(failed("looking for"))?;
    if !there {
        // Its file and not its directory, which is left behind when the files are taken away.
        let database = dir.join(NAME).join("db");
        let old = disk
            .exists(&database)
            .await
            .map_err(failed("looking for"))?;
        if old {
            return Err(Error::corrupt(
                path,
                0,
                "the file is missing beside its database",
            ));
        }
        let header = FileHeader {
            magic: SLED_MAGIC,
            number: 0,
            store_id: E::random(),
            link: Link::default(),
            position: (0, 0),
        };
        let tmp = dir.join(MARK_TMP);
        files::remove_if_there(disk, &tmp).await?;
        let file = disk
            .open(&tmp, Open::CreateNew)
            .await
            .map_err(failed("creation"))?;
        file.write_sync(0, Bytes::copy_from_slice(&header.encode()))
            .await
            .map_err(failed("write and sync"))?;
        disk.rename(&tmp, &path).await.map_err(failed("rename"))?;
        files::sync_dir(disk, dir).await?;
        return Ok((file, header));
    }
    let file = disk
        .open(&path, Open::ReadWrite)
        .await
        .map_err(failed("opening"))?;
    let bytes = file.read_at(0, FILE_HEADER).await.map_err(failed("read"))?;
    let header =
        FileHeader::decode(&bytes, SLED_MAGIC).map_err(|cause| Error::header(&path, cause))?;
    Ok((file, header))
}

impl<E: Env> Engine<E> for Sled<E> {
    async fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        self.latch.enter()?;
        let done = self.write(batch).await;
        self.latch.leave(done)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.rows.clone()
    }

    fn images(&self) -> Arc<dyn Images> {
        self.rows.clone()
    }

    async fn begin_checkpoint(&mut self) -> Result<(), Error> {
        self.latch.enter()?;
        self.checkpointing = true;
        self.latch.leave(Ok(()))
    }
    async fn checkpoint_chunk(&mut self, _: Bytes) -> Result<(), Error> {
        self.latch.enter()?;
        let done = self.checkpointing.then_some(()).ok_or(Error::NoCheckpoint);
        self.latch.leave(done)
    }
    async fn finish_checkpoint(&mut self) -> Result<(), Error> {
        self.latch.enter()?;
        let begun = std::mem::take(&mut self.checkpointing);
        let done = begun.then_some(()).ok_or(Error::NoCheckpoint);
        self.latch.leave(done)
    }
    fn keeps_checkpoints(&self) -> bool {
        false
    }
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// sled reuses what is freed inside its file by itself, and gives nothing back.
    async fn maintain(&mut self) -> Result<bool, Error> {
        self.latch.enter()?;
        self.latch.leave(Ok(false))
    }

    fn space(&self) -> Space {
        let meta: u64 = self.meta.values().map(|(_, bytes)| bytes).sum();
        // Zero, should even this fail: the next commit says why.
        let disk_bytes = guarded(|| self.rows.db.size_on_disk()).unwrap_or(0);
        Space {
            disk_bytes: disk_bytes + FILE_HEADER as u64,
            live_bytes: self.live_bytes + meta,
            segments: 1,
            checkpoint_bytes: 0,
        }
    }
}

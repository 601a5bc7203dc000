//! A file that is dropped between a reader's look-up and its opening of the file.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use barque_store_env::real::{RealDisk, RealFile, RealLock};
use barque_store_env::{File, Open, ReadAt, Space};

use super::*;
use crate::codec::{FILE_HEADER, FrameKind, FrameWriter, Link, Place};

type Hook = Box<dyn FnOnce() + Send>;

/// The real disk; just before the next opening of a reader, something else happens.
#[derive(Clone)]
struct Hooked(Arc<Mutex<Option<Hook>>>);

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Disk for Hooked {
    type File = RealFile;
    type Lock = RealLock;
    async fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir).await
    }
    async fn open(&self, path: &Path, how: Open) -> io::Result<RealFile> {
        RealDisk.open(path, how).await
    }
    async fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir).await
    }
    async fn lock(&self, path: &Path) -> io::Result<RealLock> {
        RealDisk.lock(path).await
    }
    async fn space(&self, dir: &Path) -> io::Result<Space> {
        RealDisk.space(dir).await
    }
    fn reader(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let hook = self.0.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        RealDisk.reader(path)
    }
}

const ID: RowId = RowId { main: 5, sub: 0 };

fn row(segment: u32) -> Row {
    Row {
        main: ID.main,
        sub: ID.sub,
        segment,
        offset: (FILE_HEADER + crate::codec::FRAME_HEADER) as u32,
        len: 3,
    }
}

/// One row, by the table in segment 1, which does not exist; a copy of it lies in segment 2, which does.
async fn moved(path: &Path) -> (Arc<Shared<Hooked>>, Hooked) {
    let disk = Hooked(Arc::default());
    let dir = Dir {
        disk: disk.clone(),
        path: path.to_owned(),
        store_id: 7,
    };
    let file = dir.create_segment(2, Link::default()).await.unwrap();
    let mut frame = FrameWriter::new(7, FrameKind::Relocated, 0);
    frame.row(ID, b"row");
    let place = Place {
        store_id: 7,
        segment: 2,
        offset: FILE_HEADER as u64,
    };
    let (bytes, _) = frame.seal(&[], &[], place, Link::default());
    file.write_at(place.offset, bytes).await.unwrap();
    let mut state = State::default();
    for number in [1, 2] {
        state.files.insert(number, SegmentFile::new(&dir, number));
    }
    state.table.append(&[row(1)]);
    let state = RwLock::new(state);
    (Arc::new(Shared { dir, state }), disk)
}

fn read(shared: &Shared<Hooked>, scanning: bool) -> Result<Option<Bytes>, Unreadable> {
    if scanning {
        let rows = shared.scan(ID, 1, 1)?;
        return Ok(rows.into_iter().next().map(|(_, row)| row));
    }
    shared.read(ID)
}

#[tokio::test]
async fn a_reader_looks_again_when_the_file_is_gone() {
    for scanning in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let (shared, disk) = moved(home.path()).await;
        let error = read(&shared, scanning).unwrap_err();
        assert!(
            error.to_string().contains("opening failed"),
            "a lost file: {error}"
        );

        let state = shared.clone();
        *disk.0.lock().unwrap() = Some(Box::new(move || {
            assert!(state.state.write().table.relocate(row(2)));
        }));
        let found = read(&shared, scanning).unwrap();
        assert_eq!(found, Some(Bytes::from_static(b"row")), "it was moved");

        let home = tempfile::tempdir().unwrap();
        let (shared, disk) = moved(home.path()).await;
        let state = shared.clone();
        *disk.0.lock().unwrap() = Some(Box::new(move || {
            assert!(state.state.write().table.free(ID));
        }));
        assert_eq!(read(&shared, scanning).unwrap(), None, "it was freed");
    }
}

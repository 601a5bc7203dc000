//! Takes the files of a directory away, a little at a time (see `Going`).
//! Not here: when they may go (`places`).

use std::io;
use std::path::PathBuf;

use barque_store_env::{Disk, Going};

use crate::slip::failed;

/// A directory that is being emptied, and those below it. The directories stay, empty.
pub(crate) struct Clearing<D: Disk> {
    directories: Vec<PathBuf>,
    /// Listed, and there still.
    files: Vec<PathBuf>,
    /// The file whose space is given back.
    going: Option<(PathBuf, Going<D>)>,
    /// Where names were taken away that may come back yet after a power loss.
    unsynced: Option<PathBuf>,
}

impl<D: Disk> Clearing<D> {
    /// Of a directory that is there.
    pub(crate) fn of(directory: PathBuf) -> Self {
        Clearing {
            directories: vec![directory],
            files: Vec::new(),
            going: None,
            unsynced: None,
        }
    }

    /// One step. True while there is more; then all of it is gone, durably.
    pub(crate) async fn step(&mut self, disk: &D) -> Result<bool, String> {
        if let Some((path, going)) = &mut self.going {
            if !going.step().await.map_err(failed("cut off", path))? {
                self.going = None;
            }
            return Ok(true);
        }
        if let Some(path) = self.files.pop() {
            match Going::begin(disk, &path).await {
                Ok(going) => self.going = Some((path, going)),
                Err(cause) if cause.kind() == io::ErrorKind::IsADirectory => {
                    self.directories.push(path);
                }
                // A removal whose caller went away was carried out all the same.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(failed("remove", &path)(cause)),
            }
            return Ok(true);
        }
        if let Some(directory) = self.unsynced.take() {
            let synced = disk.sync_dir(&directory).await;
            synced.map_err(failed("sync", &directory))?;
        }
        let Some(directory) = self.directories.pop() else {
            return Ok(false);
        };
        let names = disk.list(&directory).await;
        let names = names.map_err(failed("list", &directory))?;
        self.files = names.iter().map(|name| directory.join(name)).collect();
        self.unsynced = (!names.is_empty()).then_some(directory);
        Ok(true)
    }
}

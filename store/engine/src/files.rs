//! The engine's directory: making it, its lock.

use std::io;
use std::path::Path;

use barque_store_env::{Disk, create_dir_durably};

use crate::error::Error;

pub const LOCK: &str = "LOCK";

/// Makes `dir` and its parents, names durable.
pub async fn create_dir<D: Disk>(disk: &D, dir: &Path) -> Result<(), Error> {
    create_dir_durably(disk, dir)
        .await
        .map_err(|error| Error::io(error.operation, error.path, error.cause))
}

pub async fn lock<D: Disk>(disk: &D, dir: &Path) -> Result<D::Lock, Error> {
    let path = dir.join(LOCK);
    disk.lock(&path).await.map_err(|cause| {
        if cause.kind() == io::ErrorKind::WouldBlock {
            Error::Locked {
                dir: dir.to_owned(),
            }
        } else {
            Error::io("locking", path, cause)
        }
    })
}

pub async fn remove_if_there<D: Disk>(disk: &D, path: &Path) -> Result<(), Error> {
    match disk.remove(path).await {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("removal", path, cause))
        }
        _ => Ok(()),
    }
}

pub async fn sync_dir<D: Disk>(disk: &D, dir: &Path) -> Result<(), Error> {
    disk.sync_dir(dir)
        .await
        .map_err(|cause| Error::io("directory sync", dir, cause))
}

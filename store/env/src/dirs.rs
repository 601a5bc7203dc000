//! Making directories whose names survive a power loss.

use std::io;
use std::path::{Path, PathBuf};

use crate::Disk;

/// Which step of making a directory failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {path} failed")]
pub struct DirError {
    pub operation: &'static str,
    pub path: PathBuf,
    #[source]
    pub cause: io::Error,
}

/// Makes `dir` and its parents, one by one, and each one's name durable before the next is made.
pub async fn create_dir_durably<D: Disk>(disk: &D, dir: &Path) -> Result<(), DirError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |cause| DirError {
            operation,
            path,
            cause,
        }
    };
    let mut missing = Vec::new();
    for ancestor in dir.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        if disk
            .exists(ancestor)
            .await
            .map_err(failed("looking for", ancestor))?
        {
            // A start that was killed may have made this one and not come to the sync.
            match disk.sync_dir(parent(ancestor)).await {
                // Then it was not this program that made it.
                Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {}
                done => done.map_err(failed("directory sync", parent(ancestor)))?,
            }
            break;
        }
        missing.push(ancestor);
    }
    for path in missing.into_iter().rev() {
        disk.create_dir_all(path)
            .await
            .map_err(failed("creation", path))?;
        disk.sync_dir(parent(path))
            .await
            .map_err(failed("directory sync", parent(path)))?;
    }
    Ok(())
}

/// The directory that holds the path's name; the root's is itself.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

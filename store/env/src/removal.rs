//! Large files go a little at a time. A file system gives the space of a removed file back in one go, and meanwhile holds up
//! whoever else writes: on ext4 a removed file of 32 MiB took 8 ms, in which the log's fdatasync did not return; cut off in
//! steps of [`REMOVAL_STEP_BYTES`] it took 12 ms, and the log did not notice.
//! Not here: when a file may go.

use std::io;
use std::path::Path;

use crate::limits::REMOVAL_STEP_BYTES;
use crate::{Disk, File, Open};

/// A file that has lost its name and is being cut off. Dropped, what is left of it goes in one go.
#[derive(Debug)]
pub struct Going<D: Disk> {
    file: D::File,
    left: u64,
}

impl<D: Disk> Going<D> {
    /// Takes the name away, which is durable after [`Disk::sync_dir`]. Where a name that comes back after a power loss must have
    /// its file's bytes behind it, that is to come before the first step.
    pub async fn begin(disk: &D, path: &Path) -> io::Result<Self> {
        let file = disk.open(path, Open::ReadWrite).await?;
        let left = file.len().await?;
        disk.remove(path).await?;
        Ok(Going { file, left })
    }

    /// Cuts some of it off. True while there is more than may go in one go. Whoever else has the file open reads no further than what
    /// is left.
    pub async fn step(&mut self) -> io::Result<bool> {
        if self.left > REMOVAL_STEP_BYTES {
            self.left -= REMOVAL_STEP_BYTES;
            self.file.set_len(self.left).await?;
        }
        Ok(self.left > REMOVAL_STEP_BYTES)
    }

    /// All the steps.
    pub async fn finish(mut self) -> io::Result<()> {
        while self.step().await? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::RealDisk;

    #[tokio::test]
    async fn the_name_goes_first_and_the_bytes_in_steps() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("large");
        std::fs::write(
            &path,
            vec![7; 3 * REMOVAL_STEP_BYTES as usize + REMOVAL_STEP_BYTES as usize / 2],
        )
        .unwrap();
        let seen = std::fs::File::open(&path).unwrap();
        let mut going = Going::begin(&RealDisk, &path).await.unwrap();
        assert!(!path.exists());
        let mut steps = 0;
        let mut before = seen.metadata().unwrap().len();
        while going.step().await.unwrap() {
            steps += 1;
            let now = seen.metadata().unwrap().len();
            assert_eq!(before - now, REMOVAL_STEP_BYTES);
            before = now;
        }
        assert_eq!(steps, 2);
        let gone = Going::begin(&RealDisk, &path).await;
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

//! What is made of files that somebody may replace while the process runs, such as certificates.
//! Promise: [`Reloading::latest`] is made of the files as they are now; where nothing can be made of them (one is missing, half
//! written, or does not fit the others yet), it is what the last good ones gave, and the log says so. A disk that hangs holds up
//! one caller and no runtime's thread.
//! Not here: what the files mean.

use std::error::Error;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use tracing::{info, warn};

use crate::limits::RELOAD_SETTLING;

/// Something made of files, made anew when they change. There is no task that watches: whoever needs it looks.
pub struct Reloading<T> {
    files: Vec<PathBuf>,
    /// An error is a text, with its causes.
    make: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    /// As [`RELOAD_SETTLING`].
    settling: Duration,
    value: RwLock<Arc<T>>,
    /// Held while the files are looked at and read.
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Of the files that the value was made of.
    look: Look,
    /// Why nothing can be made of the files as they are now; told once.
    complaint: Option<String>,
}

/// The files at one moment.
#[derive(Debug)]
struct Look {
    stamps: Vec<Option<Stamp>>,
    /// No change since would leave the stamps as they are.
    settled: bool,
}

impl Look {
    fn at(files: &[PathBuf], settling: Duration) -> Self {
        let latest = SystemTime::now() - settling;
        let stamps: Vec<Option<Stamp>> = files.iter().map(|file| Stamp::of(file)).collect();
        Look {
            settled: stamps.iter().flatten().all(|stamp| stamp.changed <= latest),
            stamps,
        }
    }
}

/// Tells a file from what it was before; the change time also where a copy keeps the time of its contents.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: SystemTime,
    changed: SystemTime,
}

impl Stamp {
    /// `None`: there is no such file, or it cannot be looked at.
    fn of(file: &Path) -> Option<Self> {
        let meta = std::fs::metadata(file).ok()?;
        let at = |seconds: i64, nanos: i64| {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanos).unwrap_or(0))
        };
        Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: at(meta.mtime(), meta.mtime_nsec()),
            changed: at(meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// An error with its causes, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

impl<T> Reloading<T> {
    /// `make` reads `files` and nothing else. It is called here for the first time, and its error is the caller's.
    pub fn new<E: Error>(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        Self::settling(files, make, RELOAD_SETTLING)
    }

    fn settling<E: Error>(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, E> + Send + Sync + 'static,
        settling: Duration,
    ) -> Result<Self, E> {
        // Before they are read: a file that changes in between is read again.
        let look = Look::at(&files, settling);
        let value = RwLock::new(Arc::new(make()?));
        Ok(Reloading {
            files,
            make: Box::new(move || make().map_err(|error| with_causes(&error))),
            settling,
            value,
            seen: Mutex::new(Seen {
                look,
                complaint: None,
            }),
        })
    }

    /// Of the files as they are now. They are looked at each time, and read when one has or may have changed, on a thread for
    /// blocking work. To be called in a tokio runtime.
    pub async fn latest(self: &Arc<Self>) -> Arc<T>
    where
        T: Send + Sync + 'static,
    {
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || this.current()).await;
        // It is not carried out when the runtime is being shut down.
        looked.unwrap_or_else(|_| self.value.read().clone())
    }

    fn current(&self) -> Arc<T> {
        // Somebody else looks at this moment, and perhaps for long: what there is must do.
        if let Some(mut seen) = self.seen.try_lock() {
            self.look(&mut seen);
        }
        self.value.read().clone()
    }

    fn look(&self, seen: &mut Seen) {
        let look = Look::at(&self.files, self.settling);
        let same = look.stamps == seen.look.stamps;
        if same && seen.look.settled {
            seen.complaint = None;
            return;
        }
        match (self.make)() {
            Ok(value) => {
                if !same {
                    info!(files = ?self.files, "files were replaced and read again: new connections use them");
                }
                *self.value.write() = Arc::new(value);
                *seen = Seen {
                    look,
                    complaint: None,
                };
            }
            // The last look stays that at good files: what cannot be used now is tried again the next time.
            Err(error) if seen.complaint.as_ref() != Some(&error) => {
                warn!(%error, "files were replaced and cannot be used: new connections use what was read before; put right what the error names");
                seen.complaint = Some(error);
            }
            Err(_) => {}
        }
    }
}

impl<T> fmt::Debug for Reloading<T> {
    /// Never what was made: it may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot use {}", .0.display())]
    struct Unusable(PathBuf, #[source] std::io::Error);

    /// The sum of a number in each file, and how often they were read.
    fn sum(
        files: &[PathBuf],
        settling: Duration,
    ) -> (Result<Reloading<u64>, Unusable>, Arc<AtomicUsize>) {
        let reads = Arc::new(AtomicUsize::new(0));
        let (counted, of) = (reads.clone(), files.to_vec());
        let make = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let number = |file: &PathBuf| {
                let text = fs::read_to_string(file).map_err(|e| Unusable(file.clone(), e))?;
                let bad = |e| Unusable(file.clone(), std::io::Error::other(e));
                text.parse::<u64>().map_err(bad)
            };
            of.iter().map(number).sum()
        };
        (Reloading::settling(files.to_vec(), make, settling), reads)
    }

    #[test]
    fn files_are_read_again_when_one_changed_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| dir.path().join(name));
        fs::write(&files[0], "1").unwrap();
        fs::write(&files[1], "20").unwrap();
        let (sum, reads) = sum(&files, Duration::ZERO);
        let sum = sum.unwrap();
        assert_eq!((*sum.current(), *sum.current()), (21, 21));
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        fs::write(&files[1], "300").unwrap();
        assert_eq!((*sum.current(), *sum.current()), (301, 301));
        // Equal length, in place of the old one by a rename.
        fs::write(dir.path().join("new"), "4").unwrap();
        fs::rename(dir.path().join("new"), &files[0]).unwrap();
        assert_eq!((*sum.current(), *sum.current()), (304, 304));
        assert_eq!(reads.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_cannot_be_used_leaves_the_old_and_is_told_with_its_path_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("n")];
        fs::write(&files[0], "1").unwrap();
        let (sum, _) = sum(&files, RELOAD_SETTLING);
        let sum = sum.unwrap();
        let complaint = || sum.seen.lock().complaint.clone();
        fs::write(&files[0], "half").unwrap();
        assert_eq!(*sum.current(), 1);
        let told = complaint().unwrap();
        assert!(told.contains(&files[0].display().to_string()), "{told}");
        assert!(told.contains("invalid digit"), "{told}");
        fs::remove_file(&files[0]).unwrap();
        assert_eq!(*sum.current(), 1);
        assert_ne!(complaint().unwrap(), told);
        // Perhaps at the same place and in the same tick of the clock as the first one, and of its length.
        fs::write(&files[0], "2").unwrap();
        assert_eq!((*sum.current(), complaint()), (2, None));
        fs::write(&files[0], "3").unwrap();
        assert_eq!((*sum.current(), complaint()), (3, None));
    }

    #[test]
    fn who_comes_while_another_looks_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("n")];
        fs::write(&files[0], "1").unwrap();
        let (sum, _) = sum(&files, RELOAD_SETTLING);
        let sum = sum.unwrap();
        fs::write(&files[0], "22").unwrap();
        let looking = sum.seen.lock();
        assert_eq!(*sum.current(), 1);
        drop(looking);
        assert_eq!(*sum.current(), 22);
    }

    #[test]
    fn the_first_time_a_mistake_is_the_callers() {
        let (sum, _) = sum(&["/nonexistent/n".into()], RELOAD_SETTLING);
        assert!(sum.unwrap_err().to_string().contains("/nonexistent/n"));
    }
}

//! One process at a time works in a member's directory: its lock is held before anything in there is changed or taken away.
//! Not here: the locks of log and rows, which are those crates' own.

use std::io;
use std::path::Path;

use barque_store_env::Disk;

/// In `member/`.
const NAME: &str = "LOCK";

/// The lock; given up when it is dropped, or when the process ends.
pub(crate) async fn lock<D: Disk>(disk: &D, member: &Path) -> Result<D::Lock, String> {
    let path = member.join(NAME);
    disk.lock(&path).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::WouldBlock => format!(
            "another process uses it and holds the lock {}: stop that one, or give this one another --data-dir",
            path.display()
        ),
        _ => format!("cannot lock {}: {cause}", path.display()),
    })
}

//! The mark that says: this directory's state is not to be used; take it anew from the leader. An empty file, so that it is
//! there or not there whatever a crash does.
//! Promise: once [`mark`] has returned, every later start sees it, until [`unmark`] has.
//! Not here: how a state is taken anew (`anew`).

use std::path::Path;

use barque_store_consensus::Fence;
use barque_store_env::{Disk, File, Open};
use bytes::Bytes;

/// In `member/`.
const NAME: &str = "refetch";

pub(crate) async fn mark<D: Disk>(disk: &D, member: &Path) -> Result<(), String> {
    let path = member.join(NAME);
    let failed = |cause: std::io::Error| format!("cannot mark it in {}: {cause}", path.display());
    if !disk.exists(&path).await.map_err(failed)? {
        let file = disk.open(&path, Open::CreateNew).await.map_err(failed)?;
        file.write_sync(0, Bytes::new()).await.map_err(failed)?;
    }
    disk.sync_dir(member).await.map_err(failed)
}

/// The state is another one now.
pub(crate) async fn unmark<D: Disk>(disk: &D, member: &Path) -> Result<(), String> {
    let path = member.join(NAME);
    let failed = |cause: std::io::Error| format!("cannot remove {}: {cause}", path.display());
    if disk.exists(&path).await.map_err(failed)? {
        disk.remove(&path).await.map_err(failed)?;
    }
    disk.sync_dir(member).await.map_err(failed)
}

pub(crate) async fn is_marked<D: Disk>(disk: &D, member: &Path) -> Result<bool, String> {
    let path = member.join(NAME);
    let failed = |cause: std::io::Error| format!("cannot look for {}: {cause}", path.display());
    disk.exists(&path).await.map_err(failed)
}

/// What the mark says.
pub(crate) const MARKED: &str = "this member's state is not to be used (member/refetch says so)";

/// Why a member without others cannot take it anew, and what to do.
pub(crate) const ALONE: &str = "no other member is known that could give this one its state: restore it from a backup (a member that \
     others are left of must be told where they are by --initial-cluster)";

/// Why a member with such a state does not go on as the only one.
pub(crate) const NOT_WHOLE: &str = "--force-new-cluster goes on with this member's own state, so it needs one that is whole: give it \
     to another member, or restore the cluster from a backup";

/// What a running member says of damage that it came upon.
pub(crate) fn damage(reason: &str) -> String {
    format!(
        "{reason}. It serves nothing any more, and member/refetch marks its directory; the others go on. Start it again: it \
         takes the state anew from another member by itself. Look for the reason: memory or disk"
    )
}

/// What a member says that ends because its state differs.
pub(crate) fn reason(fence: &Fence) -> String {
    format!(
        "this member's state differs from the other members': at entry {} its hash is {:016x}, a majority has {:016x}. It \
         serves nothing any more, and member/refetch marks its directory; the others go on. Start it again: it takes the \
         state anew from another member by itself. Look for the reason: memory, disk, or a fault in this program",
        fence.index.0, fence.wrong, fence.right
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_env::sim::{self, NodeId};

    #[test]
    fn the_mark_outlives_a_power_loss() {
        let node = NodeId(1);
        sim::run(3, async move {
            let made = sim::spawn_on(node, "mark", async move {
                let (disk, dir) = (sim::disk(node), Path::new("/data/member"));
                barque_store_wal::create_dir(&disk, dir)
                    .await
                    .expect("made");
                assert_eq!(is_marked(&disk, dir).await, Ok(false));
                mark(&disk, dir).await.expect("marked");
                mark(&disk, dir).await.expect("marked again");
            });
            made.await.expect("it is not killed");
            sim::power_off(node);
            sim::power_on(node);
            let seen = sim::spawn_on(node, "look", async move {
                is_marked(&sim::disk(node), Path::new("/data/member")).await
            });
            assert_eq!(seen.await.expect("it is not killed"), Ok(true));
            let taken_away = sim::spawn_on(node, "unmark", async move {
                let (disk, dir) = (sim::disk(node), Path::new("/data/member"));
                unmark(&disk, dir).await.expect("removed");
                unmark(&disk, dir).await.expect("removed again");
            });
            taken_away.await.expect("it is not killed");
            sim::power_off(node);
            sim::power_on(node);
            let seen = sim::spawn_on(node, "look", async move {
                is_marked(&sim::disk(node), Path::new("/data/member")).await
            });
            assert_eq!(seen.await.expect("it is not killed"), Ok(false));
        });
    }
}

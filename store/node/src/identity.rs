//! Whose data directory this is: a small file that names the cluster and the member, so that a directory given to the wrong
//! member is refused instead of voting in its name.

use std::path::Path;

use barque_store_env::{Disk, Env, File, Open};
use barque_store_state::MemberId;
use bytes::Bytes;

use crate::StartError;

const NAME: &str = "identity";
const FORMAT: &str = "barque-identity 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member: MemberId,
}

impl Identity {
    fn text(self) -> String {
        format!(
            "{FORMAT}\ncluster {:016x}\nmember {:016x}\n",
            self.cluster_id, self.member.0
        )
    }

    fn parse(text: &str) -> Option<Identity> {
        let mut lines = text.lines();
        if lines.next()? != FORMAT {
            return None;
        }
        let cluster_id = u64::from_str_radix(lines.next()?.strip_prefix("cluster ")?, 16).ok()?;
        let member =
            MemberId(u64::from_str_radix(lines.next()?.strip_prefix("member ")?, 16).ok()?);
        Some(Identity { cluster_id, member })
    }

    /// Writes the identity into a new directory, or compares it with the one that is there.
    pub(crate) async fn claim<E: Env>(self, disk: &E::Disk, dir: &Path) -> Result<(), StartError> {
        let refuse = |reason: String| StartError::DataDir {
            dir: dir.to_owned(),
            reason,
        };
        let path = dir.join(NAME);
        let io = |what: &'static str| {
            move |cause: std::io::Error| format!("cannot {what} {NAME}: {cause}")
        };
        if !disk
            .exists(&path)
            .await
            .map_err(io("look for"))
            .map_err(refuse)?
        {
            let temporary = dir.join("identity.new");
            if disk
                .exists(&temporary)
                .await
                .map_err(io("look for"))
                .map_err(refuse)?
            {
                disk.remove(&temporary)
                    .await
                    .map_err(io("replace"))
                    .map_err(refuse)?;
            }
            let file = disk
                .open(&temporary, Open::CreateNew)
                .await
                .map_err(io("create"))
                .map_err(refuse)?;
            file.write_sync(0, Bytes::from(self.text()))
                .await
                .map_err(io("write"))
                .map_err(refuse)?;
            disk.rename(&temporary, &path)
                .await
                .map_err(io("name"))
                .map_err(refuse)?;
            return disk.sync_dir(dir).await.map_err(io("sync")).map_err(refuse);
        }
        let file = disk
            .open(&path, Open::Read)
            .await
            .map_err(io("open"))
            .map_err(refuse)?;
        let bytes = file
            .read_at(0, 4096)
            .await
            .map_err(io("read"))
            .map_err(refuse)?;
        let found = std::str::from_utf8(&bytes)
            .ok()
            .and_then(Identity::parse)
            .ok_or_else(|| refuse(format!("{NAME} is not one this version can read; restore it from a backup or start with an empty directory")))?;
        if found != self {
            return Err(refuse(format!(
                "it belongs to member {:x} of cluster {:x}, but the flags name member {:x} of cluster {:x}; \
                 check --data-dir, --initial-cluster, --initial-cluster-token and --name",
                found.member.0, found.cluster_id, self.member.0, self.cluster_id
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let identity = Identity {
            cluster_id: 0xcdf818194e3a8c32,
            member: MemberId(1),
        };
        assert_eq!(Identity::parse(&identity.text()), Some(identity));
        assert_eq!(Identity::parse("barque-identity 2\n"), None);
        assert_eq!(Identity::parse(""), None);
    }
}

//! Whose data directory this is: a small file that names the cluster, the member and the directory's incarnation, so
//! that a directory given to the wrong member, or one that lost its log, is refused instead of voting. The incarnation
//! lets the peers recognise a member that comes back with an emptied directory (guard 5).
//! A new directory is claimed in two steps, so that a crash between them is no loss: `identity.new` before there is a
//! log, and its final name when there is one.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use barque_store_env::{Disk, Env, File, Open};
use barque_store_state::MemberId;
use bytes::Bytes;

use crate::StartError;
use crate::space::with_advice;

const NAME: &str = "identity";
const UNFINISHED: &str = "identity.new";
const FORMAT: &str = "barque-identity 3";
/// How the first line of every format begins; a number follows.
const FORMAT_PREFIX: &str = "barque-identity ";
const FORMAT_NUMBER: u32 = 3;
/// As 3, but without a checksum. Read, no longer written.
const FORMAT_UNCHECKED: &str = "barque-identity 2";

/// What the flags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) cluster_id: u64,
    pub(crate) member: MemberId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    owner: Owner,
    incarnation: u64,
}

impl Identity {
    fn text(self) -> String {
        let text = format!(
            "{FORMAT}\ncluster {:016x}\nmember {:016x}\nincarnation {:016x}\n",
            self.owner.cluster_id, self.owner.member.0, self.incarnation
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}checksum {checksum:08x}\n")
    }

    fn parse(text: &str) -> Option<Identity> {
        // A file cut short ends in a shorter number that would parse.
        let mut lines = text.strip_suffix('\n')?.lines();
        let checked = match lines.next()? {
            FORMAT => true,
            FORMAT_UNCHECKED => false,
            _ => return None,
        };
        let mut number = |name: &str| {
            let digits = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?;
            u64::from_str_radix(digits, 16).ok()
        };
        let owner = Owner {
            cluster_id: number("cluster")?,
            member: MemberId(number("member")?),
        };
        let incarnation = number("incarnation")?;
        let identity = Identity { owner, incarnation };
        // A flipped bit would make another member of it, or an incarnation the peers do not know. The whole text is compared, for
        // there are several ways to write a number.
        let right = if checked {
            text == identity.text()
        } else {
            lines.next().is_none()
        };
        right.then_some(identity)
    }
}

/// A claimed directory; [`Claim::finish`] once there is a log in it.
pub(crate) struct Claim<E: Env> {
    pub(crate) incarnation: u64,
    disk: E::Disk,
    dir: PathBuf,
    finished: bool,
    env: PhantomData<fn() -> E>,
}

impl<E: Env> Claim<E> {
    /// Whose the directory is; `None`: nobody's yet, or it is not told (which [`Claim::begin`] will refuse).
    pub(crate) async fn owner(disk: &E::Disk, dir: &Path) -> Result<Option<Owner>, StartError> {
        for name in [NAME, UNFINISHED] {
            let text = read(disk, &dir.join(name)).await;
            let text = text.map_err(|reason| StartError::DataDir {
                dir: dir.to_owned(),
                reason: with_advice(reason),
            })?;
            if let Some(text) = text {
                return Ok(Identity::parse(&text).map(|identity| identity.owner));
            }
        }
        Ok(None)
    }

    /// Compares the directory's identity with its owner, or gives a new directory one.
    pub(crate) async fn begin(
        owner: Owner,
        disk: &E::Disk,
        dir: &Path,
    ) -> Result<Self, StartError> {
        let (incarnation, finished) =
            incarnation::<E>(owner, disk, dir)
                .await
                .map_err(|reason| StartError::DataDir {
                    dir: dir.to_owned(),
                    reason: with_advice(reason),
                })?;
        Ok(Claim {
            incarnation,
            disk: disk.clone(),
            dir: dir.to_owned(),
            finished,
            env: PhantomData,
        })
    }

    /// From now on a directory without a log is one whose log was lost.
    pub(crate) async fn finish(self) -> Result<(), StartError> {
        if self.finished {
            return Ok(());
        }
        let (from, to) = (self.dir.join(UNFINISHED), self.dir.join(NAME));
        let renamed = match self.disk.rename(&from, &to).await {
            Ok(()) => self.disk.sync_dir(&self.dir).await,
            Err(e) => Err(e),
        };
        renamed.map_err(|cause| StartError::DataDir {
            reason: format!("cannot name {NAME}: {cause}"),
            dir: self.dir,
        })
    }
}

/// The directory's incarnation, and whether it has its final name.
async fn incarnation<E: Env>(
    owner: Owner,
    disk: &E::Disk,
    dir: &Path,
) -> Result<(u64, bool), String> {
    let log = has_log(disk, &dir.join("wal"))
        .await
        .map_err(|cause| format!("cannot look for the log: {cause}"))?;
    if let Some(text) = read(disk, &dir.join(NAME)).await? {
        let found = Identity::parse(&text).ok_or_else(|| unread(&text))?;
        check(owner, found)?;
        if !log {
            return Err(
                "the log (wal) is missing or empty, but this member has voted with it; a member that forgot its votes must \
                 not vote. Restore the directory from where the log went, or remove the member and add it again"
                    .into(),
            );
        }
        return Ok((found.incarnation, true));
    }
    // A start before this one ended between the two steps.
    let begun = read(disk, &dir.join(UNFINISHED)).await?;
    if let Some(found) = begun.as_deref().and_then(Identity::parse) {
        check(owner, found)?;
        return Ok((found.incarnation, false));
    }
    if log {
        return Err(format!(
            "there is a log (wal), but {NAME} is missing: whose log it is cannot be told; restore {NAME} from a backup"
        ));
    }
    // 0 is "not told".
    let incarnation = E::random().max(1);
    let io = |what: &'static str| {
        move |cause: std::io::Error| format!("cannot {what} {UNFINISHED}: {cause}")
    };
    let path = dir.join(UNFINISHED);
    if begun.is_some() {
        disk.remove(&path).await.map_err(io("replace"))?;
    }
    let file = disk
        .open(&path, Open::CreateNew)
        .await
        .map_err(io("create"))?;
    let text = Identity { owner, incarnation }.text();
    file.write_sync(0, Bytes::from(text))
        .await
        .map_err(io("write"))?;
    disk.sync_dir(dir).await.map_err(io("sync"))?;
    Ok((incarnation, false))
}

/// Why the text is no identity.
fn unread(text: &str) -> String {
    let number = text.lines().next().and_then(|line| {
        let number = line.strip_prefix(FORMAT_PREFIX)?;
        number.parse::<u32>().ok()
    });
    match number {
        Some(number) if number > FORMAT_NUMBER => format!(
            "{NAME} was written by a newer version (format {number}); this one reads up to {FORMAT_NUMBER} and must be upgraded"
        ),
        _ => format!(
            "{NAME} is damaged (from offset 0 on); restore it from a backup or start with an empty directory"
        ),
    }
}

fn check(owner: Owner, found: Identity) -> Result<(), String> {
    if found.owner == owner {
        return Ok(());
    }
    Err(format!(
        "it belongs to member {:x} of cluster {:x}, but the flags name member {:x} of cluster {:x}; \
         check --data-dir, --initial-cluster, --initial-cluster-token and --name",
        found.owner.member.0, found.owner.cluster_id, owner.member.0, owner.cluster_id
    ))
}

/// Whether there is a log in the directory `wal`.
pub(crate) async fn has_log<D: Disk>(disk: &D, wal: &Path) -> std::io::Result<bool> {
    if !disk.exists(wal).await? {
        return Ok(false);
    }
    let names = disk.list(wal).await?;
    // The lock alone is no log.
    Ok(names.iter().any(|name| name.ends_with(".wal")))
}

/// The file's text, or nothing when there is no such file. What is not text is read as none that parses.
async fn read<D: Disk>(disk: &D, path: &Path) -> Result<Option<String>, String> {
    let failed = |cause: std::io::Error| format!("cannot read {}: {cause}", path.display());
    if !disk.exists(path).await.map_err(failed)? {
        return Ok(None);
    }
    let file = disk.open(path, Open::Read).await.map_err(failed)?;
    let bytes = file.read_at(0, 4096).await.map_err(failed)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_env::sim::{self, NodeId, SimEnv};

    const OWNER: Owner = Owner {
        cluster_id: 0xcdf818194e3a8c32,
        member: MemberId(1),
    };

    #[test]
    fn text_and_back() {
        let identity = Identity {
            owner: OWNER,
            incarnation: 0x1234_5678_9abc_def0,
        };
        let text = identity.text();
        assert_eq!(Identity::parse(&text), Some(identity));
        for cut in 0..text.len() {
            assert_eq!(Identity::parse(&text[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Identity::parse("barque-identity 1\n"), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let identity = Identity {
            owner: OWNER,
            incarnation: 0x1234_5678_9abc_def0,
        };
        let good = identity.text();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone().into_bytes();
                bad[at] ^= 1 << bit;
                let bad = String::from_utf8_lossy(&bad);
                assert_eq!(Identity::parse(&bad), None, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn an_identity_without_a_checksum_is_still_read() {
        let text = "barque-identity 2\ncluster cdf818194e3a8c32\nmember 0000000000000001\nincarnation 00000000000000ff\n";
        let identity = Identity {
            owner: OWNER,
            incarnation: 0xff,
        };
        assert_eq!(Identity::parse(text), Some(identity));
        assert_eq!(Identity::parse(&format!("{text}checksum 00000000\n")), None);
    }

    #[test]
    fn a_directory_keeps_its_incarnation_and_is_refused_without_its_log() {
        let node = NodeId(1);
        let claims = async move {
            let (disk, dir) = (sim::disk(node), Path::new("/data/member"));
            disk.create_dir_all(&dir.join("wal")).await.expect("made");
            let begin = || Claim::<SimEnv>::begin(OWNER, &disk, dir);
            let first = begin().await.expect("a new directory").incarnation;
            // Ended before there was a log, and before it was finished.
            assert_eq!(begin().await.expect("begun").incarnation, first);
            let segment = dir.join("wal/0000000000000001.wal");
            disk.open(&segment, Open::CreateNew).await.expect("made");
            let claim = begin().await.expect("begun, with a log");
            assert_eq!(claim.incarnation, first);
            claim.finish().await.expect("renamed");
            let again = begin().await.expect("as it was left");
            assert_eq!(again.incarnation, first);
            again.finish().await.expect("nothing to do");

            let refused = |claim: Result<Claim<SimEnv>, StartError>, why: &str| {
                let text = claim.err().expect("refused").to_string();
                assert!(text.contains(why), "{text}");
            };
            let other = Owner {
                member: MemberId(2),
                ..OWNER
            };
            refused(
                Claim::begin(other, &disk, dir).await,
                "belongs to member 1 of",
            );
            disk.remove(&segment).await.expect("removed");
            refused(begin().await, "the log (wal) is missing");
            disk.open(&segment, Open::CreateNew).await.expect("made");
            disk.remove(&dir.join(NAME)).await.expect("removed");
            refused(begin().await, "identity is missing");
            disk.remove(&segment).await.expect("removed");
            let new = begin().await.expect("nothing is left").incarnation;
            assert_ne!(new, first, "another directory");
        };
        sim::run(7, async move {
            sim::spawn_on(node, "test", claims)
                .await
                .expect("it is not killed");
        });
    }
}

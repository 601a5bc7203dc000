//! Small files of one line of text, with a checksum, exchanged whole (FORMAT.md).
//! Promise: after a crash such a file is the old one or the new one; a changed or cut one is told from one that is not there, and
//! from one that a newer version wrote.
//! Not here: what the lines say.

use std::io;
use std::path::Path;

use barque_store_env::{Disk, File, Open};
use bytes::Bytes;

use crate::trouble::Trouble;

/// What the last line begins with.
const CHECKSUM: &str = "checksum ";
/// No such file is longer, in any version. What is beyond is not read, and the file then counts as damaged.
const BYTES_MAX: usize = 4096;

pub(crate) fn failed<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> String + 'a {
    move |cause| format!("cannot {what} {}: {cause}", path.display())
}

/// The file's line, or nothing when there is no such file.
pub(crate) async fn read<D: Disk>(
    disk: &D,
    path: &Path,
    format: &str,
) -> Result<Option<String>, Trouble> {
    let there = disk.exists(path).await;
    if !there.map_err(failed("look for", path))? {
        return Ok(None);
    }
    let opened = disk.open(path, Open::Read).await;
    let file = opened.map_err(failed("open", path))?;
    let bytes = file.read_at(0, BYTES_MAX).await;
    let bytes = bytes.map_err(failed("read", path))?;
    let found = String::from_utf8_lossy(&bytes);
    if let Some(line) = parse(&found, format) {
        return Ok(Some(line));
    }
    Err(match is_newer(&found, format) {
        true => Trouble::Other(format!(
            "{} was written by a newer version; upgrade this member",
            path.display()
        )),
        false => Trouble::Damage(format!(
            "{} is damaged (from offset 0 on), or not one this version can read",
            path.display()
        )),
    })
}

/// Written beside, synced, renamed, and the name synced.
pub(crate) async fn write<D: Disk>(
    disk: &D,
    dir: &Path,
    name: &str,
    format: &str,
    line: &str,
) -> Result<(), String> {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    let left = disk.exists(&new).await;
    if left.map_err(failed("look for", &new))? {
        let removed = disk.remove(&new).await;
        removed.map_err(failed("remove", &new))?;
    }
    let file = disk.open(&new, Open::CreateNew).await;
    let file = file.map_err(failed("create", &new))?;
    let written = file.write_sync(0, Bytes::from(text(format, line))).await;
    written.map_err(failed("write", &new))?;
    let renamed = disk.rename(&new, &path).await;
    renamed.map_err(failed("rename", &new))?;
    let synced = disk.sync_dir(dir).await;
    synced.map_err(failed("sync", dir))
}

fn text(format: &str, line: &str) -> String {
    let lines = format!("{format}\n{line}\n");
    format!("{lines}{}", checksum(&lines))
}

/// The last line, of those before.
fn checksum(lines: &str) -> String {
    format!("{CHECKSUM}{:08x}\n", crc32c::crc32c(lines.as_bytes()))
}

fn parse(found: &str, format: &str) -> Option<String> {
    let line = found.strip_prefix(format)?.strip_prefix('\n')?;
    let line = line.lines().next()?;
    // The whole is compared: a cut or changed file is none.
    (text(format, line) == found).then(|| line.to_owned())
}

/// Whether this is whole, and of a later number of the same format. All of them keep the first line, the last one and the bound
/// (FORMAT.md): otherwise one flipped bit of the first line would pass for a newer version, and a newer version for damage.
fn is_newer(found: &str, format: &str) -> bool {
    let first = found.lines().next().unwrap_or_default();
    let (Some((name, number)), Some((known_name, known))) = (numbered(first), numbered(format))
    else {
        return false;
    };
    let Some(last) = found.rfind(CHECKSUM) else {
        return false;
    };
    let (lines, last) = found.split_at(last);
    name == known_name && number > known && last == checksum(lines)
}

/// Name and number of a format.
fn numbered(format: &str) -> Option<(&str, u64)> {
    let (name, number) = format.rsplit_once(' ')?;
    Some((name, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_env::sim::{self, NodeId};

    #[test]
    fn a_changed_or_cut_file_is_noticed() {
        const FORMAT: &str = "barque-rows 1";
        for line in ["rows-2", "", "a:1 b:2"] {
            let good = text(FORMAT, line);
            assert_eq!(parse(&good, FORMAT).as_deref(), Some(line));
            assert_eq!(parse(&good, "barque-peers 1"), None);
            for cut in 0..good.len() {
                assert_eq!(parse(&good[..cut], FORMAT), None, "cut at {cut}");
            }
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone().into_bytes();
                bad[bit / 8] ^= 1 << (bit % 8);
                let bad = String::from_utf8_lossy(&bad);
                assert_eq!(parse(&bad, FORMAT), None, "bit {bit}");
                assert!(!is_newer(&bad, FORMAT), "bit {bit}");
            }
        }
    }

    /// A member of an older version would have given its state up, and marked its directory.
    #[test]
    fn a_file_of_a_newer_version_is_no_damage() {
        let node = NodeId(1);
        let found = sim::run(1, async move {
            let read_all = sim::spawn_on(node, "read", async move {
                let (disk, dir) = (sim::disk(node), Path::new("/data/member"));
                barque_store_wal::create_dir(&disk, dir)
                    .await
                    .expect("made");
                let mut found = Vec::new();
                for format in ["barque-rows 2", "barque-rows 10", "barque-rows 0"] {
                    let written = write(&disk, dir, "rows.current", format, "rows-2").await;
                    written.expect("written");
                    found.push(read(&disk, &dir.join("rows.current"), "barque-rows 1").await);
                }
                found
            });
            read_all.await.expect("nobody kills it")
        });
        for newer in &found[..2] {
            let told =
                matches!(newer, Err(Trouble::Other(why)) if why.contains("upgrade this member"));
            assert!(told, "{newer:?}");
        }
        assert!(matches!(found[2], Err(Trouble::Damage(_))), "{found:?}");
        // Of another format, or with more behind the checksum.
        let newer = text("barque-rows 2", "rows-2");
        assert!(is_newer(&newer, "barque-rows 1"));
        assert!(!is_newer(&newer, "barque-peers 1"));
        assert!(!is_newer(&format!("{newer}more"), "barque-rows 1"));
    }
}

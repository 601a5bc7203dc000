//! Small files of one line of text, with a checksum, exchanged whole (FORMAT.md).
//! Promise: after a crash such a file is the old one or the new one; a changed or cut one is told from one that is not there.
//! Not here: what the lines say.

use std::io;
use std::path::Path;

use barque_store_env::{Disk, File, Open};
use bytes::Bytes;

use crate::trouble::Trouble;

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
    let bytes = file.read_at(0, 4096).await;
    let bytes = bytes.map_err(failed("read", path))?;
    match parse(&String::from_utf8_lossy(&bytes), format) {
        Some(line) => Ok(Some(line)),
        None => Err(Trouble::Damage(format!(
            "{} is damaged (from offset 0 on), or not one this version can read",
            path.display()
        ))),
    }
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
    let text = format!("{format}\n{line}\n");
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum {checksum:08x}\n")
}

fn parse(found: &str, format: &str) -> Option<String> {
    let line = found.strip_prefix(format)?.strip_prefix('\n')?;
    let line = line.lines().next()?;
    // The whole is compared: a cut or changed file is none.
    (text(format, line) == found).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            }
        }
    }
}

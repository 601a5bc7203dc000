//! The files of a data directory: kept, put back with one bit flipped, and which bit that is.
//! Nothing here knows what the files are.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::chance::Chance;

/// A file as it was, without the zeros at its end.
pub struct Original {
    pub path: PathBuf,
    pub written: Vec<u8>,
    pub len: u64,
}

/// Every file below `dir` that has bytes.
pub fn load(dir: &Path) -> Result<Vec<Original>, Failure> {
    let mut originals = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    let failed = || Failure::io(format!("reading {}", dir.display()));
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(&next).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let mut written = std::fs::read(&path).map_err(failed())?;
            let len = written.len() as u64;
            let end = written.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            written.truncate(end);
            written.shrink_to_fit();
            originals.push(Original { path, written, len });
        }
    }
    originals.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(originals)
}

/// Makes the directory what it was, but for one bit.
pub fn restore(
    dir: &Path,
    originals: &[Original],
    flip: Option<(usize, u64, u8)>,
) -> Result<(), Failure> {
    let failed = || Failure::io(format!("restoring {}", dir.display()));
    std::fs::remove_dir_all(dir).map_err(failed())?;
    for (n, original) in originals.iter().enumerate() {
        let parent = original.path.parent().unwrap_or(dir);
        let write = || {
            std::fs::create_dir_all(parent)?;
            // A data directory that others may read is refused.
            use std::os::unix::fs::{FileExt, PermissionsExt};
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o700))?;
            let mut file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(&original.path)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            file.write_all(&original.written)?;
            file.set_len(original.len)?;
            if let Some((_, offset, bit)) = flip.filter(|(file, _, _)| *file == n) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset)?;
                byte[0] ^= 1 << bit;
                file.write_all_at(&byte, offset)?;
            }
            Ok(())
        };
        write().map_err(failed())?;
    }
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(failed())
}

/// Four of five flips hit what is written, evenly over its bytes but with every file hit now and then; the fifth may be anywhere.
pub fn choose(chance: &mut Chance, originals: &[Original]) -> (usize, u64, u8) {
    let bit = (chance.below(8)) as u8;
    let written: u64 = originals.iter().map(|o| o.written.len() as u64).sum();
    let whole: u64 = originals.iter().map(|o| o.len).sum();
    let kind = chance.below(10);
    if kind == 0 {
        let with_bytes: Vec<usize> = (0..originals.len())
            .filter(|n| !originals[*n].written.is_empty())
            .collect();
        let file = with_bytes[chance.below(with_bytes.len() as u64) as usize];
        return (
            file,
            chance.below(originals[file].written.len() as u64),
            bit,
        );
    }
    let anywhere = kind < 3;
    let size = |o: &Original| {
        if anywhere {
            o.len
        } else {
            o.written.len() as u64
        }
    };
    let mut at = chance.below(if anywhere { whole } else { written });
    for (file, original) in originals.iter().enumerate() {
        if at < size(original) {
            return (file, at, bit);
        }
        at -= size(original);
    }
    unreachable!("below the sum of all sizes");
}

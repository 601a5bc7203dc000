//! Bit rot in a stopped member's directory: one random bit of one of its files at a time. The member must refuse to start and name
//! the place, or serve exactly what it served before. Any file below the directory may be hit; nothing here knows what they are.
//! Not here: the files and the flip itself (`files`), what a member made of it (`verdict`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::Failure;
use crate::chance::Chance;
use crate::member::{Program, cluster};
use crate::picture::picture;
use crate::report::{Report, times};
use crate::run::temporary;

mod files;
mod made;
mod verdict;

use files::{choose, load, restore};
use made::make;
use verdict::{DECIDES, Verdict, verdict};

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub flips: u32,
    /// Writes that make the directory.
    pub writes: u32,
}

/// How many ended how.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    refused: u32,
    refused_later: u32,
    served: u32,
    cut: u32,
}

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Refused => &mut self.refused,
            Verdict::RefusedLater => &mut self.refused_later,
            Verdict::Served => &mut self.served,
            Verdict::Cut => &mut self.cut,
        } += 1;
    }
}

pub async fn run(options: &Options) -> Result<Report, Failure> {
    // A flip is about bytes, not about a disk: in memory it is quick.
    let memory = Path::new("/dev/shm");
    let home = if memory.is_dir() {
        let dir = tempfile::Builder::new()
            .prefix("barque-nemesis-")
            .tempdir_in(memory);
        dir.map_err(Failure::io("making a directory in /dev/shm"))?
    } else {
        temporary()?
    };
    let data = home.path().join("data");
    let mut members = cluster(&options.program, 1, &data, home.path())?;
    let member = &mut members[0];
    let last = make(member, options).await?;
    let originals = load(member.data())?;

    // What it served, twice from the untouched files: a picture that changes by itself judges nobody.
    let mut pictures = Vec::new();
    for _ in 0..2 {
        restore(member.data(), &originals, None)?;
        member.start()?;
        member.ready().await?;
        pictures.push(
            picture(member.addr(), DECIDES)
                .await
                .map_err(|e| member.failure(format!("untouched: {e}")))?,
        );
        member.kill();
    }
    let truth = pictures.swap_remove(0);
    if truth != pictures[0] || truth.revision != last {
        return Err(Failure::violated(
            "an untouched directory is not served the same twice, or not to its end",
        ));
    }

    let names: Vec<String> = originals
        .iter()
        .filter_map(|o| Some(o.path.file_name()?.to_str()?.to_owned()))
        .collect();
    let mut chance = Chance::new(options.seed, 0xf11);
    let mut counts = BTreeMap::<String, Counts>::new();
    let mut taken = Vec::new();
    let (mut in_written, mut in_zeros) = (0, 0);
    for n in 0..options.flips {
        let (file, offset, bit) = choose(&mut chance, &originals);
        let original = &originals[file];
        if offset < original.written.len() as u64 {
            in_written += 1;
        } else {
            in_zeros += 1;
        }
        let name = original
            .path
            .strip_prefix(member.data())
            .unwrap_or(&original.path);
        let name = name.display().to_string();
        let what = format!(
            "flip {n}: bit {bit} of byte {offset} of {name} (seed {})",
            options.seed
        );
        restore(member.data(), &originals, Some((file, offset, bit)))?;
        member.forget_log()?;
        let began = Instant::now();
        member.start()?;
        let verdict = verdict(member, &truth, &names).await;
        let verdict = verdict.map_err(|e| Failure::violated(format!("{what}: {e}")))?;
        counts.entry(kind_of(&name)).or_default().add(verdict);
        member.kill();
        taken.push(began.elapsed());
    }
    let mut report = Report::new("bit rot in a stopped member's directory", &options.program);
    report.row("seed", options.seed);
    report.row(
        "flips",
        format!(
            "{} ({in_written} in what is written, {in_zeros} in the zeros after it)",
            options.flips
        ),
    );
    for (file, counts) in counts {
        report.row(
            &format!(
                "{file}: refused with the place named / the same, when it came to be read / served exactly / last write cut off"
            ),
            format!(
                "{} / {} / {} / {}",
                counts.refused, counts.refused_later, counts.served, counts.cut
            ),
        );
    }
    report.row("start, verify, kill", times(&mut taken));
    Ok(report)
}

/// Files of one purpose are counted together: numbers are left out of their names.
fn kind_of(name: &str) -> String {
    let mut kind = String::new();
    for part in name.split_inclusive(['/', '.']) {
        let digits = part
            .trim_end_matches('.')
            .bytes()
            .all(|b| b.is_ascii_hexdigit());
        kind.push_str(if digits && part.len() > 8 { "*." } else { part });
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_purpose_are_counted_together() {
        assert_eq!(
            kind_of("member/wal/0000000000000012.wal"),
            "member/wal/*.wal"
        );
        assert_eq!(kind_of("member/identity"), "member/identity");
    }
}

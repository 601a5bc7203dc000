//! Bit rot in a stopped member's directory: one random bit of one of its files at a time. The member must refuse to start and name
//! the place, or serve exactly what it served before. Any file below the directory may be hit; nothing here knows what they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use barque_proto::etcdserverpb::lease_client::LeaseClient;
use barque_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, request_op::Request,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::Failure;
use crate::chance::Chance;
use crate::clients::revision;
use crate::member::{Member, Program, cluster, connect, kv};
use crate::picture::{LAST, Picture, all, difference, picture, without_the_last};
use crate::report::{Report, times};
use crate::run::temporary;
use crate::value;

#[derive(Clone, Debug)]
pub struct Options {
    pub program: Program,
    pub seed: u64,
    pub flips: u32,
    /// Writes that make the directory.
    pub writes: u32,
}

/// How long a flipped member may take to decide. After it: a violation, for it does neither.
const DECIDES: Duration = Duration::from_secs(20);
/// How long a member that failed a request may take to say why.
const SPEAKS: Duration = Duration::from_secs(2);
const LEASES: i64 = 5;
/// Far longer than any run.
const LEASE_SECONDS: i64 = 1_000_000;
/// A file as it was, without the zeros at its end.
struct Original {
    path: PathBuf,
    written: Vec<u8>,
    len: u64,
}

/// How many ended how.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    refused: u32,
    refused_later: u32,
    served: u32,
    cut: u32,
}

/// What a member made of a flipped bit. Anything else breaks the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It did not start, and named file and offset.
    Refused,
    /// It started, and refused or ended with file and offset named when it came to the place.
    RefusedLater,
    /// Everything as before.
    Served,
    /// All but the very last write.
    Cut,
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

/// A directory with puts, deletions, transactions, leases and a compaction in the middle. Its last revision.
async fn make(member: &mut Member, options: &Options) -> Result<u64, Failure> {
    member.start()?;
    member.ready().await?;
    let mut chance = Chance::new(options.seed, 0xda7a);
    let channel = connect(member.addr())
        .await
        .map_err(|e| member.failure(e))?;
    let made = fill(channel, &mut chance, options.writes).await;
    let last = made.map_err(|e| member.failure(format!("making a directory: {e}")))?;
    member.stop().await?;
    Ok(last)
}

async fn fill(channel: Channel, chance: &mut Chance, writes: u32) -> Result<u64, Status> {
    let mut client = kv(channel.clone());
    let mut leases = LeaseClient::new(channel);
    for id in 1..=LEASES {
        leases
            .lease_grant(LeaseGrantRequest {
                id,
                ttl: LEASE_SECONDS,
            })
            .await?;
    }
    let put = |key: u64, n: u64, lease: i64| PutRequest {
        key: format!("k/{key:04}").into(),
        value: value::value(value::number(1, n)),
        lease,
        ..PutRequest::default()
    };
    for n in 0..u64::from(writes) {
        let key = chance.below(u64::from(writes) / 3 + 1);
        match chance.below(10) {
            0 => {
                let request = DeleteRangeRequest {
                    key: format!("k/{key:04}").into(),
                    range_end: format!("k/{:04}", key + 3).into(),
                    ..DeleteRangeRequest::default()
                };
                client.delete_range(request).await?;
            }
            1 => {
                let puts = (0..3).map(|i| RequestOp {
                    request: Some(Request::RequestPut(put(key + i, n * 4 + i, 0))),
                });
                let txn = TxnRequest {
                    success: puts.collect(),
                    ..TxnRequest::default()
                };
                client.txn(txn).await?;
            }
            2 => {
                let lease = 1 + chance.below(LEASES as u64) as i64;
                client.put(put(key, n * 4, lease)).await?;
            }
            _ => {
                client.put(put(key, n * 4, 0)).await?;
            }
        }
        if n == u64::from(writes) / 2 {
            let at = client.range(all(0)).await?.into_inner();
            let half = revision(&at.header) / 2;
            let request = CompactionRequest {
                revision: i64::try_from(half).unwrap_or(i64::MAX),
                physical: true,
            };
            client.compact(request).await?;
        }
    }
    let request = PutRequest {
        key: LAST.into(),
        value: value::value(value::number(2, 0)),
        ..PutRequest::default()
    };
    let answer = client.put(request).await?.into_inner();
    Ok(revision(&answer.header))
}

/// Every file below `dir` that has bytes.
fn load(dir: &Path) -> Result<Vec<Original>, Failure> {
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
fn restore(
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
fn choose(chance: &mut Chance, originals: &[Original]) -> (usize, u64, u8) {
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

/// Starts are over: what does it do?
async fn verdict(
    member: &mut Member,
    truth: &Picture,
    names: &[String],
) -> Result<Verdict, Failure> {
    if !decided(member, names).await? {
        return Ok(Verdict::Refused);
    }
    let seen = match picture(member.addr(), DECIDES).await {
        Ok(seen) => seen,
        Err(why) => return later(member, names, why).await,
    };
    if seen == *truth {
        return match goes_on(member.addr(), truth).await {
            Ok(()) => Ok(Verdict::Served),
            Err(why) => later(member, names, why).await,
        };
    }
    if without_the_last(truth, &seen) {
        return Ok(Verdict::Cut);
    }
    let difference = difference(truth, &seen);
    Err(member.failure(format!("serves something else: {difference}")))
}

/// It started, but did not answer everything: right if it says where the damage is, and does not end as if all were well.
async fn later(member: &mut Member, names: &[String], why: String) -> Result<Verdict, Failure> {
    let deadline = Instant::now() + SPEAKS;
    while Instant::now() < deadline {
        let ended_well = member.exited().is_some_and(|status| status.success());
        if !ended_well && names_a_place(&member.said(), names) {
            return Ok(Verdict::RefusedLater);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(member.failure(format!(
        "serves, but {why}, and does not say where the damage is"
    )))
}

/// True when it serves, false when it has refused as it should.
async fn decided(member: &mut Member, names: &[String]) -> Result<bool, Failure> {
    let deadline = Instant::now() + DECIDES;
    loop {
        if let Some(status) = member.exited() {
            if status.success() {
                return Err(member.failure("ended with success instead of serving or refusing"));
            }
            let said = member.said();
            return if names_a_place(&said, names) {
                Ok(false)
            } else {
                Err(member.failure(format!("refused ({status}) without the file and offset")))
            };
        }
        if answered(member.addr()).await {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Err(member.failure(format!("neither serves nor refuses within {DECIDES:?}")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn answered(addr: &str) -> bool {
    let Ok(channel) = connect(addr).await else {
        return false;
    };
    let range = RangeRequest {
        key: "ready".into(),
        ..RangeRequest::default()
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(2), kv(channel).range(range)).await,
        Ok(Ok(_))
    )
}

/// A line that says which file of the directory, and where in it.
fn names_a_place(said: &str, names: &[String]) -> bool {
    said.lines().any(|line| {
        let offset = line
            .split_once("offset ")
            .is_some_and(|(_, n)| n.starts_with(|c: char| c.is_ascii_digit()));
        offset && names.iter().any(|name| line.contains(name.as_str()))
    })
}

/// A member that serves also takes writes, at the next revision.
async fn goes_on(addr: &str, truth: &Picture) -> Result<(), String> {
    let channel = connect(addr).await.map_err(|e| e.to_string())?;
    let put = PutRequest {
        key: "after".into(),
        ..PutRequest::default()
    };
    let answer = kv(channel).put(put).await.map_err(|e| e.to_string())?;
    let at = revision(&answer.into_inner().header);
    if at == truth.revision + 1 {
        return Ok(());
    }
    Err(format!(
        "it writes at revision {at} after {}",
        truth.revision
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_file_of_the_directory_and_an_offset_in_it() {
        let names = ["0000000000000001.wal".to_owned(), "identity".to_owned()];
        let named = |said: &str| names_a_place(said, &names);
        assert!(named(
            "x\nthe log is corrupt: d/0000000000000001.wal at offset 64: checksum\n"
        ));
        assert!(named(
            "data directory d: identity is damaged (from offset 0 on)"
        ));
        assert!(!named(
            "the log is corrupt: d/0000000000000001.wal: checksum"
        ));
        assert!(!named("corrupt at offset 64"));
        assert!(!named("d/0000000000000001.wal\nat offset 64"));
    }

    #[test]
    fn files_of_one_purpose_are_counted_together() {
        assert_eq!(
            kind_of("member/wal/0000000000000012.wal"),
            "member/wal/*.wal"
        );
        assert_eq!(kind_of("member/identity"), "member/identity");
    }
}

//! The most memory a server ever held: while keys are written, overwritten, compacted, and read in full.

use crate::Void;
use crate::cluster::{Cluster, Side};
use crate::find::Asked;
use crate::setup::Bench;
use crate::table::{Better, DEFAULT_FLAGS};
use crate::work::{Keys, compact, read_all, write_all};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// Full reads at the end
    #[arg(long, default_value_t = 3)]
    reads: usize,
    /// Barque once more with this --value-cache-bytes; 0 leaves that row out
    #[arg(long, default_value_t = 64 << 20)]
    value_cache_bytes: u64,
    #[command(flatten)]
    asked: Asked,
}

/// MiB at different moments; the kernel keeps the peak.
#[derive(Clone, Copy, Debug)]
struct Peaks {
    loaded: f64,
    overwritten: f64,
    read: f64,
}

pub async fn run(args: &Args) -> Result<String, Void> {
    if args.keys == 0 {
        return Err(Void::Asked("--keys: at least 1".into()));
    }
    let bench = Bench::new(&args.asked).await?;
    let mut sides = Vec::new();
    for side in [Side::Barque, Side::Etcd] {
        let cluster = bench.start(side, 1, &[]).await?;
        sides.push(peaks(args, cluster).await?);
    }
    let cached = match args.value_cache_bytes {
        0 => None,
        bytes => match with_cache(&bench, bytes).await? {
            Ok(cluster) => Some(Ok(peaks(args, cluster).await?)),
            Err(why) => Some(Err(why)),
        },
    };
    let keys = keys(args);
    let live = keys.live_bytes() as f64 / MIB;
    let what = format!(
        "memory: {} keys of {} B ({live:.0} MiB of keys and values), written, overwritten once, compacted, read in full {} times; peak RSS (VmHWM)",
        args.keys, args.value, args.reads
    );
    let mut table = bench.table(&what, DEFAULT_FLAGS);
    let (barque, etcd) = (sides[0], sides[1]);
    table.both(
        "MiB after writing",
        barque.loaded,
        etcd.loaded,
        Better::Less,
    );
    table.both(
        "MiB after overwriting and compaction",
        barque.overwritten,
        etcd.overwritten,
        Better::Less,
    );
    table.both("MiB after reading", barque.read, etcd.read, Better::Less);
    match cached {
        Some(Ok(cached)) => {
            let name = format!(
                "the same with --value-cache-bytes {}",
                args.value_cache_bytes
            );
            table.both(&name, cached.read, etcd.read, Better::Less);
        }
        Some(Err(why)) => table.note(&format!(
            "Barque with --value-cache-bytes is left out: {why}"
        )),
        None => {}
    }
    Ok(table.text())
}

const MIB: f64 = (1 << 20) as f64;

fn keys(args: &Args) -> Keys {
    Keys {
        count: args.keys,
        value_bytes: args.value,
    }
}

/// Barque with a bounded cache of values, or why this one has no such flag.
pub async fn with_cache(bench: &Bench, bytes: u64) -> Result<Result<Cluster, String>, Void> {
    let flag = "--value-cache-bytes";
    let more = [flag.to_owned(), bytes.to_string()];
    match bench.start(Side::Barque, 1, &more).await {
        Ok(cluster) => Ok(Ok(cluster)),
        // Only the flag's refusal is an answer; any other failure voids the run.
        Err(Void::NotReady { log, .. })
            if log.contains("unexpected argument") && log.contains(flag) =>
        {
            Ok(Err(format!(
                "{} has no such flag",
                bench.programs.barque_version
            )))
        }
        Err(other) => Err(other),
    }
}

async fn peaks(args: &Args, cluster: Cluster) -> Result<Peaks, Void> {
    let addr = cluster.addr(0).to_owned();
    let failed = |e| cluster.load_error(e);
    let keys = keys(args);
    write_all(&addr, keys, 0).await.map_err(failed)?;
    let loaded = peak(&cluster)?;
    write_all(&addr, keys, 1).await.map_err(failed)?;
    let revision = cluster.revision().await?;
    compact(&addr, revision).await.map_err(failed)?;
    let overwritten = peak(&cluster)?;
    for _ in 0..args.reads {
        let count = read_all(&addr).await.map_err(failed)?;
        if count != args.keys {
            return Err(cluster.load_error(format!("{count} keys of {} were read", args.keys)));
        }
    }
    let read = peak(&cluster)?;
    eprintln!(
        "{}: {loaded:.0}, {overwritten:.0}, {read:.0} MiB",
        cluster.side
    );
    cluster.stop().await?;
    Ok(Peaks {
        loaded,
        overwritten,
        read,
    })
}

/// The most the first member ever held, in MiB.
fn peak(cluster: &Cluster) -> Result<f64, Void> {
    let pids = cluster.pids();
    let status = pids
        .first()
        .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let kib = status.as_deref().and_then(high_water);
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| cluster.load_error("its memory cannot be read"))
}

fn high_water(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_kernels_words() {
        let status = "Name:\tetcd\nVmPeak:\t  900 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(high_water(status), Some(2048.0));
        assert_eq!(high_water("Name: x"), None);
    }
}

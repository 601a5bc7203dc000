//! What the same live data takes on disk after it was overwritten several times with compaction behind, and what compaction does to
//! the writes that go on meanwhile.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Void;
use crate::cluster::{Cluster, Side};
use crate::find::Asked;
use crate::setup::Bench;
use crate::table::{Better, DEFAULT_FLAGS};
use crate::work::{Keys, Steady, compact, defragment, histogram, write_all};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// How often every key is overwritten, each time with a compaction behind
    #[arg(long, default_value_t = 3)]
    overwrites: u64,
    /// Writes per second that go on while it compacts and comes to rest
    #[arg(long, default_value_t = 1_000)]
    writes_per_second: u64,
    /// Seconds from the last compaction to the measurement
    #[arg(long, default_value_t = 60.0)]
    rest: f64,
    #[command(flatten)]
    asked: Asked,
}

/// Writes are looked at for at least so long without a compaction, and from the beginning of each.
const LOOK: Duration = Duration::from_secs(5);

/// One side's figures.
#[derive(Clone, Copy, Debug)]
struct Space {
    bytes: u64,
    log_bytes: u64,
    defragmented: u64,
    quiet_p99_us: f64,
    compacting_p99_us: f64,
    compacting_max_us: f64,
    defragmenting_max_us: f64,
    compaction_seconds: f64,
}

pub async fn run(args: &Args) -> Result<String, Void> {
    if args.keys == 0 || args.overwrites == 0 || args.writes_per_second == 0 {
        return Err(Void::Asked(
            "--keys, --overwrites, --writes-per-second: at least 1".into(),
        ));
    }
    if !(args.rest >= 0.0 && args.rest <= 3600.0) {
        return Err(Void::Asked("--rest: at most an hour".into()));
    }
    let bench = Bench::new(&args.asked).await?;
    let keys = Keys {
        count: args.keys,
        value_bytes: args.value,
    };
    let mut sides = Vec::new();
    for side in [Side::Barque, Side::Etcd] {
        let cluster = bench.start(side, 1, &[]).await?;
        let space = one(args, keys, &cluster).await?;
        eprintln!("{side}: {space:?}");
        cluster.stop().await?;
        sides.push(space);
    }
    let (barque, etcd) = (sides[0], sides[1]);
    let live = keys.live_bytes() as f64;
    let what = format!(
        "space: {} keys of {} B ({:.0} MiB of keys and values), overwritten {} times with a compaction behind each, {} writes/s meanwhile; \
         measured {} s after the last",
        args.keys,
        args.value,
        live / MIB,
        args.overwrites,
        args.writes_per_second,
        args.rest
    );
    let mut table = bench.table(&what, DEFAULT_FLAGS);
    let over = |bytes: u64| bytes as f64 / live;
    table.both(
        "data directory / live bytes",
        over(barque.bytes),
        over(etcd.bytes),
        Better::Less,
    );
    table.both(
        "of it the log",
        over(barque.log_bytes),
        over(etcd.log_bytes),
        Better::Less,
    );
    table.both(
        "data directory / live bytes after Defragment",
        over(barque.defragmented),
        over(etcd.defragmented),
        Better::Less,
    );
    table.both(
        "write p99 us, no compaction",
        barque.quiet_p99_us,
        etcd.quiet_p99_us,
        Better::Less,
    );
    table.both(
        "write p99 us, compacting",
        barque.compacting_p99_us,
        etcd.compacting_p99_us,
        Better::Less,
    );
    let times = |space: &Space| space.compacting_p99_us / space.quiet_p99_us;
    table.both(
        "p99 compacting / without",
        times(&barque),
        times(&etcd),
        Better::Less,
    );
    table.both(
        "slowest write us, compacting",
        barque.compacting_max_us,
        etcd.compacting_max_us,
        Better::Less,
    );
    table.both(
        "slowest write us, Defragment",
        barque.defragmenting_max_us,
        etcd.defragmenting_max_us,
        Better::Less,
    );
    table.both(
        "the slowest compaction, s (until it answered, physical)",
        barque.compaction_seconds,
        etcd.compaction_seconds,
        Better::Less,
    );
    table.note(
        "Bytes are what the file system has allocated. Latencies count from each write's due time.",
    );
    Ok(table.text())
}

const MIB: f64 = (1 << 20) as f64;

async fn one(args: &Args, keys: Keys, cluster: &Cluster) -> Result<Space, Void> {
    let addr = cluster.addr(0).to_owned();
    let failed = |e| cluster.load_error(e);
    write_all(&addr, keys, 0).await.map_err(failed)?;
    let steady = async || Steady::start(&addr, keys, args.writes_per_second).await;

    let load = steady().await.map_err(failed)?;
    tokio::time::sleep(LOOK).await;
    let quiet = load.since().await;
    load.end().await.map_err(failed)?;

    let mut compacting = histogram();
    let mut slowest = Duration::ZERO;
    let mut last = None;
    for salt in 1..=args.overwrites {
        write_all(&addr, keys, salt).await.map_err(failed)?;
        let revision = cluster.revision().await?;
        let load = steady().await.map_err(failed)?;
        let began = Instant::now();
        compact(&addr, revision).await.map_err(failed)?;
        slowest = slowest.max(began.elapsed());
        // A server may answer first and work afterwards.
        tokio::time::sleep(LOOK.saturating_sub(began.elapsed())).await;
        compacting.add(load.since().await).expect("the same range");
        if salt == args.overwrites {
            last = Some((load, began));
        } else {
            load.end().await.map_err(failed)?;
        }
    }
    let (load, began) = last.expect("at least one overwrite");
    let rest = Duration::from_secs_f64(args.rest);
    tokio::time::sleep(rest.saturating_sub(began.elapsed())).await;
    let (bytes, log_bytes) = allocated(cluster.data())?;
    drop(load.since().await);
    defragment(&addr).await.map_err(failed)?;
    let defragmenting = load.since().await;
    let (defragmented, _) = allocated(cluster.data())?;
    load.end().await.map_err(failed)?;
    let us = |nanos: u64| nanos as f64 / 1e3;
    Ok(Space {
        bytes,
        log_bytes,
        defragmented,
        quiet_p99_us: us(quiet.value_at_quantile(0.99)),
        compacting_p99_us: us(compacting.value_at_quantile(0.99)),
        compacting_max_us: us(compacting.max()),
        defragmenting_max_us: us(defragmenting.max()),
        compaction_seconds: slowest.as_secs_f64(),
    })
}

/// Bytes allocated below `dir`, and those of them below a directory named `wal`. Files may go while it looks.
fn allocated(dir: &Path) -> Result<(u64, u64), Void> {
    let mut sum = (0, 0);
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        let entries =
            std::fs::read_dir(&next).map_err(Void::io(format!("reading {}", next.display())))?;
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                dirs.push(entry.path());
                continue;
            }
            let bytes = meta.blocks() * 512;
            sum.0 += bytes;
            if next.components().any(|part| part.as_os_str() == "wal") {
                sum.1 += bytes;
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_share_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("member/wal")).unwrap();
        std::fs::write(dir.path().join("member/wal/1"), vec![1; 40_000]).unwrap();
        std::fs::write(dir.path().join("member/db"), vec![1; 80_000]).unwrap();
        let (all, log) = allocated(dir.path()).unwrap();
        assert!(log >= 40_000 && all >= log + 80_000, "{all} {log}");
    }
}

//! Measures what opening a log costs: `open_cost [DIR] [MIB]` fills a log of that size (96 MiB unless said) with
//! entries of 4 KiB and opens it five times. Prints milliseconds.

use std::path::Path;

use barque_store_env::real::{RealDisk, RealEnv};
use barque_store_env::{Env, Instant};
use barque_store_wal::{Options, Record, Wal};

const ENTRY_BYTES: u64 = 4 << 10;

fn ms(since: Instant) -> f64 {
    RealEnv::now().saturating_since(since).as_secs_f64() * 1e3
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or("open-cost-log".to_owned());
    let mib: u64 = args.next().map_or(Ok(96), |mib| mib.parse())?;
    let dir = Path::new(&dir);
    let (wal, found) = Wal::<RealEnv>::open(RealDisk, dir, Options::default()).await?;
    if found.entries.is_empty() {
        let begun = RealEnv::now();
        let mut last = None;
        for index in 1..=mib * (1 << 20) / ENTRY_BYTES {
            let payload = vec![index as u8 | 1; ENTRY_BYTES as usize].into();
            let record = Record::Entry {
                index,
                term: 1,
                payload,
            };
            last = Some(wal.append(vec![record]));
            while wal.pending_bytes() > 8 << 20 {
                RealEnv::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        if let Some(last) = last {
            wal.durable(last).await?;
        }
        println!(
            "written: {mib} MiB in {:.0} ms; {:?}; {:?}",
            ms(begun),
            wal.space(),
            wal.sync_times()
        );
    }
    wal.close().await;
    drop(wal);
    for _ in 0..5 {
        let begun = RealEnv::now();
        let (wal, recovered) = Wal::<RealEnv>::open(RealDisk, dir, Options::default()).await?;
        println!(
            "opened: {} entries, {} MiB on disk, in {:.0} ms",
            recovered.entries.len(),
            wal.space().bytes >> 20,
            ms(begun)
        );
        wal.close().await;
    }
    Ok(())
}

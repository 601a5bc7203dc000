//! Linearizable reads per second, of one key and of a page, among few keys and among all.

use std::time::Duration;

use crate::Void;
use crate::cluster::Side;
use crate::find::Asked;
use crate::memory::with_cache;
use crate::setup::{Bench, fill, stop_each, turn};
use crate::table::{Better, DEFAULT_FLAGS, median};
use crate::work::{Keys, Reading, read};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// Reads that a cache can hold are of this many keys
    #[arg(long, default_value_t = 1_000)]
    hot: u64,
    /// Keys of a page
    #[arg(long, default_value_t = 100)]
    page: u64,
    #[arg(long, default_value_t = 16)]
    clients: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds per round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// A cache smaller than the data, for the reads of all keys: Barque's --value-cache-bytes
    #[arg(long)]
    value_cache_bytes: Option<u64>,
    #[command(flatten)]
    asked: Asked,
}

pub async fn run(args: &Args) -> Result<String, Void> {
    let sizes = [
        args.keys,
        args.hot,
        args.page,
        args.clients as u64,
        args.rounds as u64,
    ];
    if sizes.contains(&0) || args.page > args.hot || args.hot > args.keys {
        return Err(Void::Asked(
            "--page <= --hot <= --keys, and none of them 0".into(),
        ));
    }
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        return Err(Void::Asked("--seconds: at most an hour".into()));
    }
    let bench = Bench::new(&args.asked).await?;
    let keys = Keys {
        count: args.keys,
        value_bytes: args.value,
    };
    let mut refused = None;
    let mut clusters = Vec::new();
    for side in [Side::Barque, Side::Etcd] {
        let cluster = match args.value_cache_bytes.filter(|_| side == Side::Barque) {
            Some(bytes) => match with_cache(&bench, bytes).await? {
                Ok(cluster) => cluster,
                Err(why) => {
                    refused = Some(why);
                    bench.start(side, 1, &[]).await?
                }
            },
            None => bench.start(side, 1, &[]).await?,
        };
        fill(&cluster, keys).await?;
        clusters.push(cluster);
    }
    let what = format!(
        "reads: {} keys of {} B, {} clients in a closed loop, linearizable, medians of {} alternating rounds of {} s",
        args.keys, args.value, args.clients, args.rounds, args.seconds
    );
    let mut table = bench.table(&what, DEFAULT_FLAGS);
    let rows = [
        (format!("one key of {} /s", args.hot), args.hot, 1),
        (format!("one key of all {} /s", args.keys), args.keys, 1),
        (
            format!("{} keys of {} /s", args.page, args.hot),
            args.hot,
            args.page,
        ),
        (
            format!("{} keys of all {} /s", args.page, args.keys),
            args.keys,
            args.page,
        ),
    ];
    for (name, among, page) in rows {
        let reading = Reading {
            among,
            page,
            clients: args.clients,
            window: Duration::from_secs_f64(args.seconds),
        };
        let mut rates = [Vec::new(), Vec::new()];
        for n in 0..args.rounds {
            for which in turn(n, clusters.len()) {
                let cluster = &clusters[which];
                let rate = read(cluster.addr(0), reading, n as u64).await;
                rates[which].push(rate.map_err(|e| cluster.load_error(e))?);
            }
        }
        let [barque, etcd] = rates.map(median);
        eprintln!("{name}: barque {barque:.0}, etcd {etcd:.0}");
        table.both(&name, barque, etcd, Better::More);
    }
    stop_each(clusters).await?;
    if let Some(why) = refused {
        table.note(&format!("Barque ran without --value-cache-bytes: {why}"));
    }
    Ok(table.text())
}

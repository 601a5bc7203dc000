//! How long a server is away when it was killed under full load: from the start of the process to its first linearizable read.

use std::time::Duration;

use crate::Void;
use crate::find::Asked;
use crate::setup::{Bench, Sides, fill, stop_each, turn};
use crate::table::{Better, DEFAULT_FLAGS, median, most};
use crate::work::{Keys, write_until_it_fails};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// How often each is killed
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// Seconds of full load before each
    #[arg(long, default_value_t = 3.0)]
    load: f64,
    #[command(flatten)]
    asked: Asked,
}

/// What is asked of Barque: a fixed part, and so much for each key.
const BAR_SECONDS: f64 = 0.3;
const BAR_SECONDS_PER_KEY: f64 = 0.4e-6;

pub async fn run(args: &Args) -> Result<String, Void> {
    if args.keys == 0 || args.kills == 0 || !(args.load > 0.0 && args.load <= 3600.0) {
        return Err(Void::Asked(
            "--keys, --kills and --load: more than nothing".into(),
        ));
    }
    let bench = Bench::new(&args.asked).await?;
    let keys = Keys {
        count: args.keys,
        value_bytes: args.value,
    };
    let mut clusters = bench.start_each(Sides::both(), 1, &[]).await?;
    for cluster in &clusters {
        fill(cluster, keys).await?;
    }
    let mut away = [Vec::new(), Vec::new()];
    for n in 0..args.kills {
        for which in turn(n, clusters.len()) {
            let cluster = &mut clusters[which];
            let addr = cluster.addr(0).to_owned();
            let writers = tokio::spawn(async move { write_until_it_fails(&addr, keys).await });
            tokio::time::sleep(Duration::from_secs_f64(args.load)).await;
            cluster.member(0).kill().await?;
            let acknowledged = writers.await.expect("the writers do not panic");
            if acknowledged == 0 {
                return Err(cluster.load_error("it was killed under no load"));
            }
            let took = cluster.start_again(0).await?;
            eprintln!(
                "kill {}: {} after {} ms ({acknowledged} writes)",
                n + 1,
                cluster.side,
                took.as_millis()
            );
            away[which].push(took.as_secs_f64() * 1e3);
        }
    }
    stop_each(clusters).await?;
    let what = format!(
        "restart: {} keys of {} B, killed under the full load of {} clients, medians of {}",
        args.keys,
        args.value,
        crate::limits::LOADERS,
        args.kills
    );
    let mut table = bench.table(&what, DEFAULT_FLAGS);
    let (barque_most, etcd_most) = (most(&away[0]), most(&away[1]));
    let [barque, etcd] = away.map(median);
    table.both(
        "start to first linearizable read, median ms",
        barque,
        etcd,
        Better::Less,
    );
    table.both("the same, most ms", barque_most, etcd_most, Better::Less);
    let bar = (BAR_SECONDS + BAR_SECONDS_PER_KEY * args.keys as f64) * 1e3;
    table.bar("start, median ms", barque, bar, "0.3 s + 0.4 us a key");
    Ok(table.text())
}

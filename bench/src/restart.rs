//! How long a server is away when it was killed under full load: from the start of the process to its first linearizable read.

use std::time::Duration;

use crate::cluster::{Cluster, Side};
use crate::find::{self, Asked};
use crate::table::{Better, Table, median};
use crate::work::{Keys, write_all, write_until_it_fails};
use crate::{Void, machine};

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
    let programs = find::programs(&args.asked).await?;
    let machine = machine::describe(args.asked.dir.as_deref())?;
    let home = args.asked.home()?;
    let keys = Keys {
        count: args.keys,
        value_bytes: args.value,
    };
    let mut clusters = Vec::new();
    for side in [Side::Barque, Side::Etcd] {
        let cluster = Cluster::start(side, programs.of(side), 1, home.path()).await?;
        write_all(cluster.addrs()[0], keys, 0)
            .await
            .map_err(|e| cluster.load_error(e))?;
        clusters.push(cluster);
    }
    let mut away = [Vec::new(), Vec::new()];
    for n in 0..args.kills {
        // Turned around each time.
        for which in if n % 2 == 0 { [0, 1] } else { [1, 0] } {
            let cluster = &mut clusters[which];
            let addr = cluster.addrs()[0].to_owned();
            let writers = tokio::spawn(async move { write_until_it_fails(&addr, keys).await });
            tokio::time::sleep(Duration::from_secs_f64(args.load)).await;
            cluster.kill().await?;
            let acknowledged = writers.await.expect("the writers do not panic");
            if acknowledged == 0 {
                return Err(cluster.load_error("it was killed under no load"));
            }
            let took = cluster.start_again().await?;
            eprintln!(
                "kill {}: {} after {} ms ({acknowledged} writes)",
                n + 1,
                cluster.side,
                took.as_millis()
            );
            away[which].push(took.as_secs_f64() * 1e3);
        }
    }
    for cluster in clusters {
        cluster.stop().await?;
    }
    let what = format!(
        "restart: {} keys of {} B, killed under the full load of {} clients, medians of {}",
        args.keys,
        args.value,
        crate::limits::LOADERS,
        args.kills
    );
    let mut table = Table::new(&what, &machine, &programs);
    let most = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
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
    let verdict = if barque <= bar { "kept" } else { "missed" };
    table.row(
        "bar: 0.3 s + 0.4 us a key, ms",
        &format!("{bar:.0} ({verdict})"),
        "",
        "",
    );
    Ok(table.text())
}

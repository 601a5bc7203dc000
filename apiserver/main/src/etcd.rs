//! `barque etcd`: the store alone, with the flags of a static etcd cluster.

use std::ffi::OsString;
use std::pin::pin;

use barque_store_server::{EtcdFront, Pages};
use clap::Args;
use tracing::info;

use crate::store_flags::StoreFlags;
use crate::store_thread::StoreThread;
use crate::{Failure, log_to_stderr, master, signals};

#[derive(Args)]
pub struct EtcdFlags {
    #[command(flatten)]
    store: StoreFlags,
}

/// etcd's flags may be written with one dash (Go's flag package); only for this subcommand.
pub fn accept_single_dashes(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    if args.get(1).is_some_and(|a| a == "etcd") {
        for arg in args.iter_mut().skip(2) {
            if let Some(text) = arg.to_str()
                && text.len() > 2
                && text.starts_with('-')
                && text[1..].starts_with(|c: char| c.is_ascii_alphabetic())
            {
                *arg = format!("-{text}").into();
            }
        }
    }
    args
}

pub fn run(flags: EtcdFlags) -> Result<(), Failure> {
    log_to_stderr(&flags.store.log_level);
    let front = master::front_config(&flags.store)?;
    let (config, net) = flags.store.node()?;
    let runtime = signals::runtime(1)?;
    let stop = runtime.block_on(async { signals::stop_signal() })?;
    let pages = Pages::default();
    let metrics = master::start_metrics(&flags.store, &front, &pages)?;
    let mut stop = pin!(stop);
    let starting = StoreThread::start(config, net, stop.as_mut());
    let store = match runtime.block_on(starting)? {
        Ok(store) => store,
        Err(signal) => {
            signal.die();
            return Ok(());
        }
    };
    let ending = runtime.block_on(async {
        // Whoever probes it may know from now on what it waits for.
        pages.ready(store.store.clone());
        if let Some(ending) = master::caught_up(&store.store, stop.as_mut()).await {
            return Ok(ending);
        }
        let front = EtcdFront::start_with(front, store.store.clone(), pages)
            .map_err(|e| Failure::new(e.to_string()))?;
        info!(clients = ?front.addresses(), "serving");
        master::announce_ready(&front.addresses());
        let outcome = master::until_stopped(&store.store, stop).await;
        front.shutdown().await;
        if let Some(metrics) = metrics {
            metrics.shutdown().await;
        }
        outcome
    })?;
    store.stop()?;
    ending.die();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_dashes_are_taken_for_etcd_only() {
        let take = |args: &[&str]| -> Vec<OsString> {
            accept_single_dashes(args.iter().map(OsString::from))
        };
        assert_eq!(
            take(&["barque", "etcd", "-name", "a", "--data-dir", "-h"]),
            ["barque", "etcd", "--name", "a", "--data-dir", "-h"].map(OsString::from)
        );
        assert_eq!(
            take(&["barque", "up", "-dir"]),
            ["barque", "up", "-dir"].map(OsString::from)
        );
    }
}

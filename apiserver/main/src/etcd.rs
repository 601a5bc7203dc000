//! `barque etcd`: the store alone, with the flags of a static etcd cluster.

use std::ffi::OsString;

use clap::Args;
use tracing::info;

use crate::store_flags::StoreFlags;
use crate::{Failure, master};

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
    master::run(&flags.store, 1, async |_, front| {
        info!(clients = ?front.addresses(), "serving");
        Ok(None)
    })
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

//! `barque etcd`: the store alone, with the flags of a static etcd cluster.

use clap::Args;
use tracing::info;

use crate::store_flags::{ENVIRONMENT_HELP, Notices, StoreFlags};
use crate::{Failure, master};

#[derive(Args)]
// As etcd: of a flag given twice, the last counts.
#[command(args_override_self = true, after_help = ENVIRONMENT_HELP)]
pub struct EtcdFlags {
    #[command(flatten)]
    store: StoreFlags,
}

pub fn run(flags: EtcdFlags, notices: &Notices) -> Result<(), Failure> {
    master::run(&flags.store, notices, 1, async |_, front| {
        info!(clients = ?front.addresses(), "serving");
        Ok(None)
    })
}

//! `barque status`: what runs of a cluster of `barque up`, and which master leads.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::up::layout::{Cluster, Process};
use crate::up::{certificates, probe};
use crate::{Failure, signals};

#[derive(Args)]
pub struct StatusFlags {
    /// Directory of the cluster
    #[arg(long, default_value = ".barque")]
    dir: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
    /// Only the pid of the leading master
    LeaderPid,
    /// Only the name (and kubeconfig context) of a master that serves but does not lead
    Follower,
}

pub fn run(flags: StatusFlags) -> Result<(), Failure> {
    let dir = std::fs::canonicalize(&flags.dir).map_err(|_| {
        Failure::new(format!(
            "no cluster in {}: start one with barque up",
            flags.dir.display()
        ))
    })?;
    let cluster = Cluster::load(&dir)?.ok_or_else(|| {
        Failure::new(format!(
            "no cluster in {}: start one with barque up",
            dir.display()
        ))
    })?;
    let files = certificates(&dir, &cluster)?;
    let runtime = signals::runtime(1)?;
    let pid = |name: &str| {
        cluster
            .processes
            .get(name)
            .filter(|p| Process::runs(p))
            .map(|p| p.pid)
    };
    let mut masters = Vec::new();
    for master in &cluster.masters {
        let status = match pid(&master.name) {
            Some(_) => runtime
                .block_on(probe::member_status(master.client_url(), &files))
                .map_err(|f| f.to_string()),
            None => Err("not running".into()),
        };
        masters.push((master, status));
    }
    let leads = |s: &barque_proto::etcdserverpb::StatusResponse| {
        s.leader != 0 && s.header.as_ref().is_some_and(|h| h.member_id == s.leader)
    };
    match flags.output {
        Output::LeaderPid => {
            let leader = masters
                .iter()
                .find(|(_, status)| status.as_ref().is_ok_and(leads));
            let leader = leader
                .and_then(|(m, _)| pid(&m.name))
                .ok_or_else(|| Failure::new("no master leads now".into()))?;
            say!("{leader}");
        }
        Output::Follower => {
            let follower = masters
                .iter()
                .find(|(_, status)| status.as_ref().is_ok_and(|s| s.leader != 0 && !leads(s)));
            let (master, _) = follower
                .ok_or_else(|| Failure::new("no master serves without leading now".into()))?;
            say!("{}", master.name);
        }
        Output::Json => {
            let masters: Vec<_> = masters
                .iter()
                .map(|(m, status)| {
                    let mut row = json!({"name": m.name, "pid": pid(&m.name), "kubernetes": m.gateway_url(), "etcd": m.client_url()});
                    match status {
                        Ok(s) => {
                            row["member"] = json!(format!("{:x}", s.header.as_ref().map_or(0, |h| h.member_id)));
                            row["leader"] = json!(leads(s));
                            row["term"] = json!(s.raft_term);
                            row["applied"] = json!(s.raft_applied_index);
                            row["revision"] = json!(s.header.as_ref().map_or(0, |h| h.revision));
                        }
                        Err(error) => row["error"] = json!(error),
                    }
                    row
                })
                .collect();
            let agents: Vec<_> = agents(&cluster)
                .map(|name| json!({"name": name, "pid": pid(name)}))
                .collect();
            let out = json!({
                "dir": dir, "kubeconfig": dir.join("kubeconfig"), "masters": masters, "agents": agents,
                "etcd": {"cacert": files.store_ca, "cert": files.store_client.cert, "key": files.store_client.key},
            });
            say!("{out:#}");
        }
        Output::Text => {
            say!(
                "{:<14} {:<9} {:<8} {:<6} {:<9} {:<26} ETCD",
                "NAME",
                "PID",
                "ROLE",
                "TERM",
                "REVISION",
                "KUBERNETES"
            );
            for (m, status) in &masters {
                let (role, term, revision) = match status {
                    Ok(s) => (
                        if leads(s) { "leader" } else { "follower" },
                        s.raft_term.to_string(),
                        s.header.as_ref().map_or(0, |h| h.revision).to_string(),
                    ),
                    Err(_) => ("down", "-".into(), "-".into()),
                };
                let pid = pid(&m.name).map_or("-".into(), |p| p.to_string());
                say!(
                    "{:<14} {pid:<9} {role:<8} {term:<6} {revision:<9} {:<26} {}",
                    m.name,
                    m.gateway_url(),
                    m.client_url()
                );
            }
            for name in agents(&cluster) {
                match pid(name) {
                    Some(pid) => say!("{name:<14} {pid:<9} running"),
                    None => say!("{name:<14} {:<9} down", "-"),
                }
            }
            say!("kubeconfig {}", dir.join("kubeconfig").display());
        }
    }
    Ok(())
}

fn agents(cluster: &Cluster) -> impl Iterator<Item = &String> {
    cluster
        .processes
        .keys()
        .filter(|name| !cluster.masters.iter().any(|m| m.name == **name))
}

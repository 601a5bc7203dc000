//! Which certificates and processes a cluster of `barque up` has. Decides only; `processes` starts them.

use std::path::{Path, PathBuf};

use crate::Failure;
use crate::pki::{Authority, Leaf, Pair};
use crate::up::layout::Cluster;

pub struct Certificates {
    pub cluster_ca: PathBuf,
    pub store_ca: PathBuf,
    pub admin: Pair,
    /// For etcdctl and other clients of the store.
    pub store_client: Pair,
    scheduler: Pair,
    controller: Pair,
    /// Per master: the gateway's certificate, and the store's (for peers and clients).
    masters: Vec<(Pair, Pair)>,
    kubelets: Vec<Pair>,
}

/// Where the certificates of `barque up` lie, made when they are not there.
pub fn certificates(dir: &Path, cluster: &Cluster) -> Result<Certificates, Failure> {
    const LOCAL: [&str; 2] = ["localhost", "127.0.0.1"];
    let pki = dir.join("pki");
    let authority = Authority::open(&pki, "cluster-ca", "barque-cluster-ca")?;
    let store = Authority::open(&pki.join("store"), "store-ca", "barque-store-ca")?;
    let client = |file: &str, user: &str, groups: &[&str]| {
        authority.issue(&Leaf {
            file,
            common_name: user,
            organizations: groups,
            names: &[],
            server: false,
            client: true,
        })
    };
    let mut masters = Vec::new();
    for master in &cluster.masters {
        let names = [
            "localhost",
            "127.0.0.1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            &master.name,
        ];
        let gateway = authority.issue(&Leaf {
            file: &format!("gateway-{}", master.name),
            common_name: "kube-apiserver",
            organizations: &[],
            names: &names,
            server: true,
            client: false,
        })?;
        let member = store.issue(&Leaf {
            file: &master.name,
            common_name: &master.name,
            organizations: &[],
            names: &LOCAL,
            server: true,
            client: true,
        })?;
        masters.push((gateway, member));
    }
    let mut kubelets = Vec::new();
    for worker in &cluster.workers {
        kubelets.push(client(
            &format!("kubelet-{}", worker.name),
            &format!("system:node:{}", worker.name),
            &["system:nodes"],
        )?);
    }
    Ok(Certificates {
        admin: client("admin", "kubernetes-admin", &["system:masters"])?,
        scheduler: client("scheduler", "system:kube-scheduler", &[])?,
        controller: client("controller", "system:kube-controller-manager", &[])?,
        store_client: store.issue(&Leaf {
            file: "client",
            common_name: "root",
            organizations: &[],
            names: &[],
            server: false,
            client: true,
        })?,
        cluster_ca: authority.cert.clone(),
        store_ca: store.cert.clone(),
        masters,
        kubelets,
    })
}

/// One process to run: `barque ARGS...`, its output to `log`.
pub struct Command {
    pub name: String,
    pub args: Vec<String>,
    pub log: PathBuf,
}

fn flag(args: &mut Vec<String>, name: &str, value: impl AsRef<std::ffi::OsStr>) {
    args.push(format!("--{name}"));
    args.push(value.as_ref().to_string_lossy().into_owned());
}

/// All processes in the order of their start: masters, then what needs them.
pub fn commands(dir: &Path, cluster: &Cluster, files: &Certificates) -> Vec<Command> {
    let command = |name: &str, args: Vec<String>| Command {
        name: name.to_owned(),
        args,
        log: dir.join("logs").join(format!("{name}.log")),
    };
    let initial_cluster = cluster
        .masters
        .iter()
        .map(|m| format!("{}={}", m.name, m.peer_url()))
        .collect::<Vec<_>>()
        .join(",");
    let endpoints = cluster
        .masters
        .iter()
        .map(crate::up::layout::Master::gateway_url)
        .collect::<Vec<_>>()
        .join(",");
    let mut all = Vec::new();
    for (master, (gateway, member)) in cluster.masters.iter().zip(&files.masters) {
        let mut args = vec!["server".to_owned()];
        flag(&mut args, "name", &master.name);
        flag(&mut args, "data-dir", dir.join(&master.name));
        flag(&mut args, "initial-cluster", &initial_cluster);
        flag(&mut args, "initial-cluster-token", "barque-up");
        flag(&mut args, "initial-advertise-peer-urls", master.peer_url());
        flag(&mut args, "listen-peer-urls", master.peer_url());
        flag(&mut args, "listen-client-urls", master.client_url());
        flag(&mut args, "advertise-client-urls", master.client_url());
        for prefix in ["", "peer-"] {
            flag(&mut args, &format!("{prefix}cert-file"), &member.cert);
            flag(&mut args, &format!("{prefix}key-file"), &member.key);
            flag(
                &mut args,
                &format!("{prefix}trusted-ca-file"),
                &files.store_ca,
            );
        }
        args.push("--client-cert-auth".into());
        flag(
            &mut args,
            "listen",
            format!("127.0.0.1:{}", master.gateway_port),
        );
        flag(&mut args, "tls-cert-file", &gateway.cert);
        flag(&mut args, "tls-private-key-file", &gateway.key);
        flag(&mut args, "client-ca-file", &files.cluster_ca);
        all.push(command(&master.name, args));
    }
    let agent = |kind: &str, pair: &Pair| {
        let mut args = vec![kind.to_owned()];
        flag(&mut args, "masters", &endpoints);
        flag(&mut args, "client-certificate", &pair.cert);
        flag(&mut args, "client-key", &pair.key);
        flag(&mut args, "certificate-authority", &files.cluster_ca);
        args
    };
    for master in &cluster.masters {
        for (kind, pair) in [
            ("scheduler", &files.scheduler),
            ("controller", &files.controller),
        ] {
            let mut args = agent(kind, pair);
            flag(&mut args, "identity", &master.name);
            let number = master.name.trim_start_matches("master-");
            all.push(command(&format!("{kind}-{number}"), args));
        }
    }
    for (index, (worker, pair)) in cluster.workers.iter().zip(&files.kubelets).enumerate() {
        let mut args = agent("kubelet", pair);
        flag(&mut args, "node-name", &worker.name);
        flag(&mut args, "runtime", "hollow");
        flag(&mut args, "pod-cidr", format!("10.244.{}.0/24", index + 1));
        all.push(command(&worker.name, args));
    }
    all
}

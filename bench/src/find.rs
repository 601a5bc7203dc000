//! Finds the two programs. Fetches the peer and builds the program under test when that is needed.
//! Promise: the peer is etcd 3.5.16, no other (3.4 is several times slower and would prove nothing).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::Void;
use crate::cluster::Side;

const PEER_VERSION: &str = "3.5.16";
const BENCH: &str = env!("CARGO_MANIFEST_DIR");

/// Where the programs and their data are to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Asked {
    /// The program under test; else the one beside this program, built if need be
    #[arg(long, env = "BARQUE_BIN")]
    pub barque: Option<PathBuf>,
    /// etcd 3.5.16; else bench/peer-etcd.sh fetches it
    #[arg(long, env = "BARQUE_PEER_ETCD")]
    pub peer: Option<PathBuf>,
    /// Data directories go below it (a temporary directory by default); its file system is what is measured
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

impl Asked {
    /// A directory of the run's own, gone with it.
    pub fn home(&self) -> Result<tempfile::TempDir, Void> {
        match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        }
        .map_err(Void::io("making a directory for the data"))
    }
}

/// The programs that are compared.
pub struct Programs {
    pub barque: PathBuf,
    pub barque_version: String,
    pub etcd: PathBuf,
    pub etcd_version: String,
}

impl Programs {
    pub fn of(&self, side: Side) -> &Path {
        match side {
            Side::Barque => &self.barque,
            Side::Etcd => &self.etcd,
        }
    }
}

pub async fn programs(args: &Asked) -> Result<Programs, Void> {
    let etcd = match &args.peer {
        Some(path) => path.clone(),
        None => fetch_peer().await?,
    };
    let etcd_version = first_line(&etcd).await.map_err(Void::Peer)?;
    if etcd_version != format!("etcd Version: {PEER_VERSION}") {
        return Err(Void::Peer(format!(
            "{} is not etcd {PEER_VERSION} but says: {etcd_version}",
            etcd.display()
        )));
    }
    let barque = match &args.barque {
        Some(path) => path.clone(),
        None => beside_this_program().await?,
    };
    let barque_version = first_line(&barque).await.map_err(Void::Barque)?;
    Ok(Programs {
        barque,
        barque_version,
        etcd,
        etcd_version,
    })
}

async fn fetch_peer() -> Result<PathBuf, Void> {
    let script = Path::new(BENCH).join("peer-etcd.sh");
    let to = Path::new(BENCH).join("../target/peer-etcd");
    let out = Command::new(&script)
        .arg(&to)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(Void::io(format!("running {}", script.display())))?;
    let path = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if out.status.success() && !path.is_empty() {
        return Ok(path.into());
    }
    Err(Void::Peer(format!(
        "etcd {PEER_VERSION} cannot be had: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    )))
}

/// `cargo run` puts this program where `cargo build` puts the one under test.
async fn beside_this_program() -> Result<PathBuf, Void> {
    let me = std::env::current_exe().map_err(Void::io("finding this program"))?;
    let barque = me.with_file_name("barque");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build
            .args(["build", "-p", "barque", "--bin", "barque"])
            .current_dir(BENCH)
            .stdin(Stdio::null());
        // The same profile as this program's own.
        if me.parent().is_some_and(|dir| dir.ends_with("release")) {
            build.arg("--release");
        }
        let status = build.status().await.map_err(Void::io("running cargo"))?;
        if !status.success() {
            return Err(Void::Barque("the program under test does not build".into()));
        }
    }
    if barque.exists() {
        return Ok(barque);
    }
    Err(Void::Barque(format!(
        "{} is not there; build it, or say where it is with --barque",
        barque.display()
    )))
}

async fn first_line(program: &Path) -> Result<String, String> {
    let out = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|cause| format!("{} --version: {cause}", program.display()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    match text.lines().next() {
        Some(line) if out.status.success() => Ok(line.trim().to_owned()),
        _ => Err(format!(
            "{} --version failed: {}",
            program.display(),
            out.status
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(rest: &[&str]) -> crate::PutArgs {
        let line = ["barque-bench", "put"].iter().chain(rest);
        match crate::Args::parse_from(line).scenario {
            crate::Scenario::Put(args) => args,
            other => panic!("put was asked for, not {other:?}"),
        }
    }

    #[tokio::test]
    async fn another_etcd_than_the_pinned_one_voids_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("etcd");
        std::fs::write(&old, "#!/bin/sh\necho etcd Version: 3.4.30\n").unwrap();
        std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let error = programs(&args(&["--peer", old.to_str().unwrap()]).asked)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("3.4.30"), "{error}");
        let none = dir.path().join("none");
        let error = programs(&args(&["--peer", none.to_str().unwrap()]).asked)
            .await
            .err()
            .unwrap();
        assert!(matches!(error, Void::Peer(_)), "{error}");
    }

    #[test]
    fn senseless_requests_are_refused() {
        for bad in [
            &["--members", "0"][..],
            &["--clients", "0"],
            &["--clients", "1000000"],
            &["--rounds", "0"],
            &["--seconds", "0"],
            &["--warm-up", "NaN"],
            &["--key-bytes", "3"],
        ] {
            assert!(args(bad).check().is_err(), "{bad:?}");
        }
        args(&["--members", "1,3", "--clients", "1,100"])
            .check()
            .unwrap();
    }
}

//! The real kubectl, in the versions this machine has.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::said;

/// Every kubectl found, oldest first: `kubectl.1.NN` beside the one on the PATH, else that one itself.
pub fn found() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(plain) = std::env::split_paths(&path)
        .map(|dir| dir.join("kubectl"))
        .find(|p| p.exists())
    else {
        return Vec::new();
    };
    let real = std::fs::canonicalize(&plain).unwrap_or_else(|_| plain.clone());
    let beside = real.parent().expect("a file has a folder");
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(beside)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let minor = entry
                .file_name()
                .to_str()?
                .strip_prefix("kubectl.1.")?
                .parse()
                .ok()?;
            Some((minor, entry.path()))
        })
        .collect();
    versions.sort();
    if versions.is_empty() {
        vec![plain]
    } else {
        versions.into_iter().map(|(_, path)| path).collect()
    }
}

/// The oldest and the newest one. None found is a failure, as the tests would show nothing.
pub fn oldest_and_newest() -> Vec<PathBuf> {
    let all = found();
    assert!(
        !all.is_empty(),
        "no kubectl on the PATH: install one (Debian: kubernetes-client of a current suite)"
    );
    let mut pick = vec![all[0].clone()];
    if all.len() > 1 {
        pick.push(all[all.len() - 1].clone());
    }
    pick
}

/// One kubectl against one cluster.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// The kubeconfig's context, i.e. the master; `None`: the current one.
    context: Option<String>,
    cache: tempfile::TempDir,
}

impl Kubectl {
    pub fn new(program: &Path, kubeconfig: &Path) -> Kubectl {
        let cache = tempfile::tempdir().expect("a temporary directory");
        Kubectl {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            context: None,
            cache,
        }
    }

    pub fn through(&self, master: &str) -> Kubectl {
        Kubectl {
            context: Some(master.to_owned()),
            ..Kubectl::new(&self.program, &self.kubeconfig)
        }
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, "")
    }

    pub fn run_with_input(&self, args: &[&str], input: &str) -> Output {
        use std::io::Write as _;
        use std::process::Stdio;
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.cache.path());
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        // kubectl may end without reading its input.
        drop(
            child
                .stdin
                .take()
                .expect("piped")
                .write_all(input.as_bytes()),
        );
        child.wait_with_output().expect("kubectl ends")
    }

    /// Runs and must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "kubectl {} failed: {}",
            args.join(" "),
            said(&output)
        );
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    }

    /// Runs and must fail; its standard error.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            !output.status.success(),
            "kubectl {} should fail, but said: {}",
            args.join(" "),
            said(&output)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)).expect("kubectl -o json prints JSON")
    }
}

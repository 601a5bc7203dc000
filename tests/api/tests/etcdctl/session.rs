//! Reads the script and carries it out, one etcdctl after the other.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::cluster::{Member, StoreCluster, etcdctl};
use crate::normal::Normal;

/// A command and everything that is compared of it.
#[derive(Debug)]
pub struct Entry {
    pub line: usize,
    pub command: String,
    pub lines: Vec<String>,
}

/// How long one command, or one awaited line of a watch, may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Session<'a> {
    members: &'a [Member],
    /// Outlives the session, and so do its processes.
    cluster: &'a StoreCluster,
    normal: Normal,
    lease: String,
    watches: BTreeMap<String, Watch>,
}

struct Watch {
    command: String,
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Session<'a> {
    pub fn new(members: &'a [Member], cluster: &'a StoreCluster) -> Self {
        Session {
            members,
            cluster,
            normal: Normal::new(members.len()),
            lease: String::new(),
            watches: BTreeMap::new(),
        }
    }

    pub fn run(mut self, script: &str) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut lines = script.lines().enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut input = Vec::new();
            while let Some((_, more)) = lines.next_if(|(_, next)| next.starts_with('<')) {
                match more.strip_prefix("<bytes ") {
                    Some(bytes) => input.resize(bytes.parse().expect("a number of bytes"), b'x'),
                    None => input.extend(
                        format!("{}\n", more.trim_start_matches("< ").trim_end_matches('<'))
                            .into_bytes(),
                    ),
                }
            }
            let output = self.step(line, &input);
            entries.push(Entry {
                line: number + 1,
                command: line.to_owned(),
                lines: output,
            });
        }
        assert!(!self.cluster.dir().as_os_str().is_empty());
        entries
    }

    fn step(&mut self, line: &str, input: &[u8]) -> Vec<String> {
        if let Some(rest) = line.strip_prefix('&') {
            let (name, command) = rest.split_once(' ').expect("&name command");
            self.start_watch(name, command);
            return Vec::new();
        }
        if let Some(rest) = line.strip_prefix('=') {
            let (name, last) = rest.split_once(' ').expect("=name text");
            return self.read_watch(name, last);
        }
        let (endpoints, command) = self.endpoints(line);
        let args = self.args(command);
        let mut child = etcdctl(&endpoints)
            .args(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl runs (package etcd-client)");
        // etcdctl may refuse its flags before it has read anything.
        let _ = child.stdin.take().expect("piped").write_all(input);
        let output = wait(child, command);
        if command.starts_with("lease grant")
            && let Some(id) = output
                .stdout
                .strip_prefix("lease ")
                .and_then(|rest| rest.split(' ').next())
        {
            self.lease = id.to_owned();
            self.normal.lease(id);
        }
        let mut lines: Vec<String> = output
            .stdout
            .lines()
            .map(|l| self.normal.line(command, l))
            .collect();
        lines.extend(
            output
                .stderr
                .lines()
                .map(|l| format!("stderr: {}", self.normal.line(command, l))),
        );
        if command.starts_with("endpoint health") {
            // It prints them as they answer.
            lines.sort();
        }
        lines.push(format!("exit status {:?}", output.status));
        lines
    }

    fn endpoints<'l>(&self, line: &'l str) -> (String, &'l str) {
        let Some((which, command)) = line.strip_prefix('@').and_then(|rest| rest.split_once(' '))
        else {
            return (self.members[0].endpoint(), line);
        };
        let endpoints: Vec<String> = self.members.iter().map(Member::endpoint).collect();
        match which {
            "all" => (endpoints.join(","), command),
            number => {
                let number: usize = number.parse().expect("@all or @number");
                (endpoints[(number - 1) % endpoints.len()].clone(), command)
            }
        }
    }

    /// Splits at blanks; double quotes hold a word together.
    fn args(&self, command: &str) -> Vec<String> {
        let mut args = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = false;
        for c in command.chars() {
            match c {
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                ' ' if !quoted => args.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            }
        }
        args.extend(word);
        args.into_iter()
            .map(|arg| arg.replace("$LEASE", &self.lease))
            .collect()
    }

    fn start_watch(&mut self, name: &str, command: &str) {
        let (endpoints, command) = self.endpoints(command);
        let mut child = etcdctl(&endpoints)
            .args(self.args(command))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcdctl runs");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        // Ends with the process, whose pipe it reads.
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        self.watches.insert(
            name.to_owned(),
            Watch {
                command: command.to_owned(),
                child,
                lines,
            },
        );
    }

    fn read_watch(&mut self, name: &str, last: &str) -> Vec<String> {
        let watch = self.watches.remove(name).expect("a watch of that name");
        let mut lines = Vec::new();
        loop {
            let line = watch.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| {
                panic!("watch {name} never said {last:?} ({e}); it said {lines:?}")
            });
            let done = line == last;
            lines.push(self.normal.line(&watch.command, &line));
            if done {
                return lines;
            }
        }
    }
}

struct Finished {
    stdout: String,
    stderr: String,
    status: Option<i32>,
}

fn wait(mut child: Child, command: &str) -> Finished {
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let stdout =
        std::thread::spawn(move || std::io::read_to_string(&mut stdout).unwrap_or_default());
    let stderr =
        std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap_or_default());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "`etcdctl {command}` did not end within {} s; it said {:?} {:?}",
                PATIENCE.as_secs(),
                stdout.join(),
                stderr.join()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Finished {
        stdout: stdout.join().expect("a reader"),
        stderr: stderr.join().expect("a reader"),
        status: status.code(),
    }
}

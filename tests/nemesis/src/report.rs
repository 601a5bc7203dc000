//! What a run did, in markdown: a verdict without commit, machine and seed means nothing.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use crate::member::Program;

pub struct Report {
    title: String,
    program: String,
    rows: Vec<(String, String)>,
}

impl Report {
    pub fn new(what: &str, program: &Program) -> Report {
        let version = first_line(Command::new(program.path()).arg("--version"));
        Report {
            title: what.to_owned(),
            program: version.unwrap_or_else(|| program.name().to_owned()),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, name: &str, value: impl fmt::Display) {
        self.rows.push((name.to_owned(), value.to_string()));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = first_line(Command::new("date").args(["-u", "+%F"])).unwrap_or_default();
        writeln!(f, "# Nemesis: {}\n", self.title)?;
        writeln!(
            f,
            "{date}, commit {}, {}. {}.\n",
            commit(),
            self.program,
            machine()
        )?;
        writeln!(f, "| | |\n|---|---:|")?;
        for (name, value) in &self.rows {
            writeln!(f, "| {name} | {value} |")?;
        }
        Ok(())
    }
}

/// Least, median and greatest.
pub fn times(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let ms = |at: usize| times.get(at).map_or(0, Duration::as_millis);
    format!(
        "{} / {} / {} ms (least, median, most of {})",
        ms(0),
        ms(times.len() / 2),
        ms(times.len().saturating_sub(1)),
        times.len()
    )
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}

fn commit() -> String {
    let here = env!("CARGO_MANIFEST_DIR");
    let git = |args: &[&str]| first_line(Command::new("git").args(["-C", here]).args(args));
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".into();
    };
    match git(&["status", "--porcelain"]) {
        Some(line) if !line.is_empty() => format!("{commit} with changes"),
        _ => commit,
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok());
    let gib = (kib.unwrap_or(0u64) + (1 << 19)) >> 20;
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} x {model}, {gib} GiB, Linux {}", kernel.trim())
}

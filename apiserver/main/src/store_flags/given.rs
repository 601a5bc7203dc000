//! What was given on the command line and in the environment, made one command line of Barque's own flags.
//! Promise: as in etcd, the command line comes before the environment, the last of several counts, and what is empty is not given.
//! No flag of etcd's is passed over without a word: it is served, or named in the log, or the start is refused.
//! Not here: what a value means (`StoreFlags`), what is refused and why (`known`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use tracing::{info, warn};

use super::StoreFlags;
use super::known::{self, Class};
use crate::Failure;

/// The subcommands that have the store's flags.
const ETCD: &str = "etcd";
const SERVER: &str = "server";

/// What the log says about what was given, once there is a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Flags and variables of etcd's that have no effect.
    no_effect: Vec<String>,
    /// Variables with etcd's prefix that no etcd knows.
    unrecognized: Vec<String>,
}

impl Notices {
    pub fn log(&self) {
        for variable in &self.unrecognized {
            // Without the value, which may be a secret of somebody else's.
            warn!(variable, "unrecognized environment variable");
        }
        if !self.no_effect.is_empty() {
            info!(
                given = self.no_effect.join(", "),
                "settings of etcd that have no effect here"
            );
        }
    }
}

#[derive(Debug)]
pub struct Given {
    /// For clap, the program's name included.
    pub args: Vec<OsString>,
    pub notices: Notices,
    /// Flag -> the variable it comes from.
    variables: BTreeMap<String, String>,
}

impl Given {
    /// Merges both. Other subcommands' arguments are left as they are, and their environment alone.
    pub fn merge(
        args: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Given, Failure> {
        let mut args = args.into_iter();
        let head: Vec<OsString> = args.by_ref().take(2).collect();
        let subcommand = head.get(1).and_then(|name| name.to_str());
        let single_dashes = subcommand == Some(ETCD);
        if !single_dashes && subcommand != Some(SERVER) {
            return Ok(Given {
                args: head.into_iter().chain(args).collect(),
                notices: Notices::default(),
                variables: BTreeMap::new(),
            });
        }
        let served = Served::new();
        let mut merger = Merger {
            served: &served,
            on_line: BTreeSet::new(),
            line: Vec::new(),
            environment: Vec::new(),
            rest: Vec::new(),
            notices: Notices::default(),
            refused: Vec::new(),
        };
        merger.take_line(args, single_dashes);
        merger.take_environment(environment.into_iter().collect());
        merger.end(head)
    }

    /// Whence the flags come that an error of clap's is about: it only knows the command line.
    pub fn origin(&self, error: &str) -> Option<String> {
        // Further lines suggest other flags.
        let error = error.lines().next().unwrap_or_default();
        let named = |flag: &str| {
            error.match_indices(flag).any(|(at, _)| {
                let next = error[at + flag.len()..].chars().next();
                !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-')
            })
        };
        self.variables
            .iter()
            .map(|(flag, variable)| (format!("--{flag}"), variable))
            .find(|(flag, _)| named(flag))
            .map(|(flag, variable)| {
                format!("note: {flag} comes from the environment variable {variable}")
            })
    }
}

/// The flags that `StoreFlags` has: any of a flag's names -> its first name, and whether it stands without a value.
struct Served(BTreeMap<String, (String, bool)>);

impl Served {
    fn new() -> Served {
        let command = StoreFlags::augment_args(clap::Command::new(ETCD));
        let mut names = BTreeMap::new();
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let also = arg.get_all_aliases().unwrap_or_default();
            for name in std::iter::once(long).chain(also) {
                let served = (long.to_owned(), arg.is_require_equals_set());
                names.insert(name.to_owned(), served);
            }
        }
        Served(names)
    }
}

/// `--NAME` or `--NAME=VALUE`.
struct Setting {
    flag: String,
    value: Option<OsString>,
}

impl Setting {
    fn arg(self) -> OsString {
        let mut arg = OsString::from(format!("--{}", self.flag));
        if let Some(value) = self.value {
            arg.push("=");
            arg.push(value);
        }
        arg
    }
}

struct Merger<'a> {
    served: &'a Served,
    /// Flags that stand on the command line, empty or not: their variables do not count.
    on_line: BTreeSet<String>,
    line: Vec<Setting>,
    environment: Vec<(Setting, String)>,
    /// What only clap understands, or refuses.
    rest: Vec<OsString>,
    notices: Notices,
    refused: Vec<String>,
}

impl Merger<'_> {
    fn take_line(&mut self, mut args: impl Iterator<Item = OsString>, single_dashes: bool) {
        while let Some(arg) = args.next() {
            if arg == "--" {
                self.rest.push(arg);
                self.rest.extend(args);
                return;
            }
            let Some((name, value)) = split(&arg, single_dashes) else {
                self.rest.push(arg);
                continue;
            };
            let served = self.served.0.get(&name);
            let known = known::known(&name);
            let switch = match (served, known) {
                (Some((_, switch)), _) => *switch,
                (None, Some(flag)) => flag.switch,
                // Perhaps one of the subcommand's other flags; its value is told from a flag by its look.
                (None, None) => {
                    self.rest.push(Setting { flag: name, value }.arg());
                    continue;
                }
            };
            let value = match value {
                None if !switch => args.next(),
                given => given,
            };
            match (served, known) {
                (Some((flag, _)), _) => {
                    self.on_line.insert(flag.clone());
                    if value.as_deref() == Some(OsStr::new("")) && !switch {
                        self.line.retain(|setting| setting.flag != *flag);
                    } else {
                        let flag = flag.clone();
                        self.line.push(Setting { flag, value });
                    }
                }
                (None, Some(flag)) => {
                    self.on_line.insert(flag.name.to_owned());
                    let value = value.unwrap_or_else(|| "true".into());
                    self.take_known(flag, format!("--{name}"), &value);
                }
                (None, None) => unreachable!("left to clap above"),
            }
        }
    }

    fn take_environment(&mut self, environment: BTreeMap<OsString, OsString>) {
        for (variable, value) in environment {
            let Some(variable) = variable.to_str() else {
                continue;
            };
            let (own, name) = match (
                variable.strip_prefix("ETCD_"),
                variable.strip_prefix("BARQUE_"),
            ) {
                (Some(name), _) => (false, name),
                (None, Some(name)) => (true, name),
                (None, None) => continue,
            };
            let name = name.to_ascii_lowercase().replace('_', "-");
            let is_own = known::OWN.contains(&name.as_str());
            if own && !is_own || known::NOT_FLAGS.contains(&variable) {
                continue;
            }
            let served = self.served.0.get(&name).filter(|_| own == is_own);
            let known = known::known(&name);
            match (served, known) {
                (None, None) => self.notices.unrecognized.push(variable.to_owned()),
                _ if value.is_empty() => {}
                (Some((flag, _)), _) if !self.on_line.contains(flag) => {
                    let setting = Setting {
                        flag: flag.clone(),
                        value: Some(value),
                    };
                    self.environment.push((setting, variable.to_owned()));
                }
                (None, Some(flag)) if !self.on_line.contains(flag.name) => {
                    self.take_known(flag, variable.to_owned(), &value);
                }
                _ => {}
            }
        }
    }

    fn take_known(&mut self, flag: &known::Flag, given: String, value: &OsStr) {
        match &flag.class {
            Class::NoEffect => self.notices.no_effect.push(given),
            Class::Refused { .. } if value.is_empty() => {}
            Class::Refused { unless, .. } if unless(&value.to_string_lossy()) => {}
            Class::Refused { why, .. } => self.refused.push(format!("{given}: {why}")),
        }
    }

    fn end(self, head: Vec<OsString>) -> Result<Given, Failure> {
        if !self.refused.is_empty() {
            return Err(Failure::new(format!(
                "settings of etcd that are not served, and must not be passed over:\n  {}",
                self.refused.join("\n  ")
            )));
        }
        let variables = self.environment.iter();
        let variables = variables
            .map(|(setting, variable)| (setting.flag.clone(), variable.clone()))
            .collect();
        let environment = self.environment.into_iter().map(|(setting, _)| setting);
        // Only what stands on the command line may come twice, and clap takes the last.
        let settings = environment.chain(self.line).map(Setting::arg);
        Ok(Given {
            args: head.into_iter().chain(settings).chain(self.rest).collect(),
            notices: self.notices,
            variables,
        })
    }
}

/// Name and value of `--name`, `--name=value`, and with `single_dashes` of `-name` too (Go's flag package).
fn split(arg: &OsStr, single_dashes: bool) -> Option<(String, Option<OsString>)> {
    let bytes = arg.as_bytes();
    let text = match bytes.strip_prefix(b"--") {
        Some(text) => text,
        // One letter is one of clap's own, such as -h.
        None if single_dashes && bytes.len() > 2 => bytes.strip_prefix(b"-")?,
        None => return None,
    };
    let (name, value) = match text.iter().position(|b| *b == b'=') {
        Some(at) => (
            &text[..at],
            Some(OsStr::from_bytes(&text[at + 1..]).to_owned()),
        ),
        None => (text, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        .then(|| (name.to_owned(), value))
}

#[cfg(test)]
mod tests;

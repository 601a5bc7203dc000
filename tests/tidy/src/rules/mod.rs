//! The rules about what code may name, and how they are kept.
//! A rule has a scope (paths), what it forbids there, exceptions with reasons, and examples to prove itself on.
//! Not here: the rules themselves (`list`).

use crate::Breach;
use crate::names::{Name, names};
use crate::source::Source;

mod list;

pub use list::{PURE, RULES};

/// A path that may break the rule, and why.
pub struct Exception {
    pub path: &'static str,
    pub reason: &'static str,
}

pub struct Rule {
    pub name: &'static str,
    pub why: &'static str,
    /// Paths (prefixes; `*` stands for one part) that it is about.
    pub scope: &'static [&'static str],
    /// Whether test code has to keep it too.
    pub tests_too: bool,
    pub forbids: fn(&Name) -> bool,
    pub exceptions: &'static [Exception],
    /// Code that breaks it, at a path in its scope.
    pub catches: &'static [(&'static str, &'static str)],
    /// Code that looks alike and keeps it.
    pub lets_pass: &'static [(&'static str, &'static str)],
}

impl Rule {
    fn is_about(&self, path: &str) -> bool {
        self.scope.iter().any(|scope| covers(scope, path))
    }

    fn breaches(&self, source: &Source) -> Vec<Breach> {
        if !self.is_about(&source.path) {
            return Vec::new();
        }
        let code = if self.tests_too {
            &source.code
        } else {
            &source.shipped
        };
        let found = names(code).into_iter().filter(|name| (self.forbids)(name));
        found
            .map(|name| Breach {
                path: source.path.clone(),
                line: name.line,
                what: format!("names `{}`. {}: {}", name.path, self.name, self.why),
            })
            .collect()
    }

    /// Breaches in the sources, exceptions left out; an exception that nothing needs is one.
    pub fn check(&self, sources: &[Source]) -> Vec<Breach> {
        let all: Vec<Breach> = sources
            .iter()
            .flat_map(|source| self.breaches(source))
            .collect();
        let unneeded = self.exceptions.iter().filter(|exception| {
            !all.iter()
                .any(|breach| breach.path.starts_with(exception.path))
        });
        let unneeded = unneeded.map(|exception| Breach {
            path: exception.path.to_owned(),
            line: 0,
            what: format!(
                "is an exception ({}) to \"{}\" that nothing needs any more",
                exception.reason, self.name
            ),
        });
        let mut out: Vec<Breach> = unneeded.collect();
        out.extend(all.into_iter().filter(|breach| {
            !self
                .exceptions
                .iter()
                .any(|exception| breach.path.starts_with(exception.path))
        }));
        out
    }
}

/// Whether `path` lies under the pattern, a prefix in which `*` stands for one part.
pub fn covers(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => path.starts_with(pattern),
        Some((front, back)) => path
            .strip_prefix(front)
            .and_then(|rest| rest.find('/').map(|end| &rest[end..]))
            .is_some_and(|rest| rest.starts_with(back)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exceptions are about real files; an example stands for a file that has none.
    fn breaks(rule: &Rule, path: &str, text: &str) -> bool {
        !rule.breaches(&Source::new(path, text)).is_empty()
    }

    #[test]
    fn every_rule_catches_what_was_planted_and_nothing_else() {
        for rule in RULES {
            assert!(
                !rule.catches.is_empty(),
                "\"{}\" has nothing planted",
                rule.name
            );
            for (path, text) in rule.catches {
                assert!(
                    breaks(rule, path, text),
                    "\"{}\" lets pass {path}: {text}",
                    rule.name
                );
            }
            for (path, text) in rule.lets_pass {
                let allowed = rule.exceptions.iter().any(|e| path.starts_with(e.path));
                assert!(
                    allowed || !breaks(rule, path, text),
                    "\"{}\" catches {path}: {text}",
                    rule.name
                );
            }
        }
    }

    #[test]
    fn exceptions_hold_where_they_are_made_and_must_be_needed() {
        let rule = RULES
            .iter()
            .find(|rule| rule.name.contains("openraft"))
            .unwrap();
        let good = Source::new("store/consensus/src/a.rs", "use openraft::Raft;");
        let bad = Source::new("store/node/src/a.rs", "use openraft::Raft;");
        assert_eq!(rule.check(std::slice::from_ref(&good)), []);
        assert_eq!(rule.check(&[good, bad.clone()]).len(), 1);
        let breaches = rule.check(&[bad]);
        assert!(breaches[0].what.contains("nothing needs"), "{breaches:?}");
    }

    #[test]
    fn a_star_is_one_part() {
        assert!(covers("agents/*/src/core/", "agents/kubelet/src/core/a.rs"));
        assert!(!covers(
            "agents/*/src/core/",
            "agents/kubelet/x/src/core/a.rs"
        ));
        assert!(!covers("agents/*/src/core/", "agents/kubelet/src/run.rs"));
    }
}

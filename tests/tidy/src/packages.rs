//! The rules about packages: names, and what may depend on what.

use crate::Breach;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Development,
    Build,
}

/// A package of the workspace.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: String,
    /// Its directory from the root of the workspace.
    pub dir: String,
    pub dependencies: Vec<(String, Kind)>,
}

/// A pattern of directories (`*` at the end stands for the rest) must not depend on packages of these names (same).
struct Ban {
    dirs: &'static [&'static str],
    except: &'static [&'static str],
    on: &'static [&'static str],
    tests_too: bool,
    why: &'static str,
}

/// Crates that are pure as a whole.
const PURE: &[&str] = &[
    "store/state",
    "store/watch",
    "apiserver/schema",
    "apiserver/rules",
    "apiserver/registry",
];

const BANS: &[Ban] = &[
    Ban {
        dirs: &["*"],
        except: &["store/consensus"],
        on: &["openraft*"],
        tests_too: true,
        why: "only store/consensus names openraft",
    },
    Ban {
        dirs: &["*"],
        except: &["store/engine"],
        on: &["sled", "redb", "fjall", "rocksdb", "heed", "rusqlite"],
        tests_too: true,
        why: "only store/engine names a storage engine",
    },
    Ban {
        dirs: &["*"],
        except: &[],
        on: &["bincode"],
        tests_too: true,
        why: "unmaintained, and its format cannot evolve",
    },
    Ban {
        dirs: PURE,
        except: &[],
        on: &[
            "tokio*",
            "futures*",
            "async-*",
            "h2",
            "hyper*",
            "tonic*",
            "rustls*",
            "rand",
            "getrandom",
            "nix",
            "libc",
            "barque-store-env",
        ],
        tests_too: false,
        why: "pure code has no world",
    },
    Ban {
        dirs: &["agents/*"],
        except: &[],
        on: &["barque-store-*", "barque-apiserver-*", "barque"],
        tests_too: true,
        why: "agents see neither store nor gateway",
    },
    Ban {
        dirs: &["store/*"],
        except: &[],
        on: &["barque-apiserver-*", "barque-agents-*", "barque"],
        tests_too: true,
        why: "the store does not know who uses it",
    },
    Ban {
        dirs: &["apiserver/schema", "apiserver/rules", "apiserver/registry"],
        except: &[],
        on: &["barque-store-*", "barque-agents-*", "barque-proto"],
        tests_too: true,
        why: "what objects mean does not depend on where they are kept",
    },
    Ban {
        dirs: &["apiserver/gateway"],
        except: &[],
        on: &[
            "barque-agents-*",
            "barque-store-consensus",
            "barque-store-wal",
            "barque-store-server",
        ],
        tests_too: false,
        why: "the gateway sees the store through one trait, and agents only as clients",
    },
    Ban {
        dirs: &["store/*", "agents/*"],
        except: &["store/server", "store/consensus", "agents/client"],
        on: &["barque-proto"],
        tests_too: false,
        why: "wire types stop at the edge",
    },
    Ban {
        dirs: &["store/env", "store/state", "proto"],
        except: &[],
        on: &["barque-*"],
        tests_too: true,
        why: "it is the ground the others stand on",
    },
];

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => pattern == text,
    }
}

fn any(patterns: &[&str], text: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, text))
}

/// A crate's name is its path with dashes and the project's prefix; the program alone bears the project's own name.
pub fn expected_name(dir: &str) -> String {
    match dir {
        "apiserver/main" => "barque".to_owned(),
        _ => format!("barque-{}", dir.replace('/', "-")),
    }
}

pub fn check(packages: &[Package]) -> Vec<Breach> {
    let mut out = Vec::new();
    for package in packages {
        let mut breach = |what: String| {
            out.push(Breach {
                path: format!("{}/Cargo.toml", package.dir),
                line: 0,
                what,
            });
        };
        let expected = expected_name(&package.dir);
        if package.name != expected {
            breach(format!(
                "is called {}; its path makes it {expected}",
                package.name
            ));
        }
        for ban in BANS {
            if !any(ban.dirs, &package.dir) || any(ban.except, &package.dir) {
                continue;
            }
            for (dependency, kind) in &package.dependencies {
                let counts = *kind != Kind::Development || ban.tests_too;
                // A package may use itself with other features in its own tests.
                if counts && any(ban.on, dependency) && *dependency != package.name {
                    breach(format!("depends on {dependency}: {}", ban.why));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(dir: &str, dependencies: &[(&str, Kind)]) -> Package {
        Package {
            name: expected_name(dir),
            dir: dir.to_owned(),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| ((*name).to_owned(), *kind))
                .collect(),
        }
    }

    #[test]
    fn planted_dependencies_are_caught() {
        for (dir, on, kind) in [
            ("store/node", "openraft", Kind::Normal),
            ("tests/sim", "openraft-rt", Kind::Normal),
            ("store/node", "openraft", Kind::Development),
            ("store/node", "sled", Kind::Normal),
            ("store/wal", "bincode", Kind::Normal),
            ("store/state", "tokio", Kind::Normal),
            ("apiserver/rules", "rand", Kind::Normal),
            ("agents/kubelet", "barque-store-state", Kind::Normal),
            (
                "agents/client",
                "barque-apiserver-gateway",
                Kind::Development,
            ),
            ("store/server", "barque-apiserver-schema", Kind::Normal),
            ("apiserver/schema", "barque-proto", Kind::Normal),
            ("apiserver/gateway", "barque-store-wal", Kind::Normal),
            ("agents/scheduler", "barque-proto", Kind::Normal),
            ("store/env", "barque-store-state", Kind::Normal),
        ] {
            assert_eq!(
                check(&[package(dir, &[(on, kind)])]).len(),
                1,
                "{dir} on {on}"
            );
        }
        for (dir, on, kind) in [
            ("store/consensus", "openraft", Kind::Normal),
            ("store/state", "tokio", Kind::Development),
            ("agents/scheduler", "barque-agents-client", Kind::Normal),
            ("store/server", "barque-proto", Kind::Normal),
            ("apiserver/main", "barque-store-node", Kind::Normal),
        ] {
            assert_eq!(check(&[package(dir, &[(on, kind)])]), [], "{dir} on {on}");
        }
    }

    #[test]
    fn names_follow_paths() {
        let mut wrong = package("store/wal", &[]);
        wrong.name = "wal".to_owned();
        assert_eq!(check(&[wrong]).len(), 1);
        assert_eq!(
            check(&[package("apiserver/main", &[]), package("bench", &[])]),
            []
        );
    }
}

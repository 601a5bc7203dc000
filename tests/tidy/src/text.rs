//! How files look: rules on the text itself.

use crate::Breach;
use crate::source::Source;

/// A file longer than this hides more than one thing.
pub const LINES_MAX: usize = 800;

fn breach(path: &str, line: usize, what: impl Into<String>) -> Breach {
    Breach {
        path: path.to_owned(),
        line,
        what: what.into(),
    }
}

/// Each Rust file opens by saying what it owns, promises and does not do.
pub fn opens_with_its_purpose(source: &Source) -> Option<Breach> {
    let said = source.text.lines().next().is_some_and(|line| {
        line.strip_prefix("//!")
            .is_some_and(|rest| rest.trim().len() > 10)
    });
    (!said).then(|| {
        breach(
            &source.path,
            1,
            "does not open with a `//!` line that says what it is",
        )
    })
}

pub fn is_short_enough(source: &Source) -> Option<Breach> {
    let lines = source.text.lines().count();
    (lines > LINES_MAX).then(|| {
        breach(
            &source.path,
            0,
            format!("has {lines} lines; at most {LINES_MAX}"),
        )
    })
}

/// The size of a queue is a constant with a derivation, not a number at its making. Shipped code only.
pub fn queues_have_named_bounds(source: &Source) -> Vec<Breach> {
    let mut out = Vec::new();
    for (at, line) in source.shipped.lines().enumerate() {
        for maker in ["channel", "Semaphore::new"] {
            for (start, _) in line.match_indices(maker) {
                // A watch channel holds one value, whatever it begins with.
                if line[..start].ends_with("watch::") {
                    continue;
                }
                let mut rest = line[start + maker.len()..].trim_start();
                if let Some(turbofish) = rest.strip_prefix("::<") {
                    rest = turbofish.split_once(">(").map_or("", |(_, rest)| rest);
                } else {
                    rest = rest.strip_prefix('(').unwrap_or_default();
                }
                let bound = rest.trim_start();
                // A queue of one is a rendezvous, not a guess.
                let one = bound.starts_with("1)");
                if bound.starts_with(|c: char| c.is_ascii_digit()) && !one {
                    out.push(breach(
                        &source.path,
                        at + 1,
                        "a queue bounded by a bare number; name it in limits.rs",
                    ));
                }
            }
        }
    }
    out
}

/// Host names of package registries and of their mirrors: where a machine gets its packages is its own setting. The
/// list is kept in parts, so that this file keeps the rule.
pub fn registry_hosts() -> Vec<String> {
    [
        ["deb.", "debian.org"],
        ["security.", "debian.org"],
        ["snapshot.", "debian.org"],
        ["archive.", "ubuntu.com"],
        ["index.", "crates.io"],
        ["static.", "crates.io"],
        ["proxy.", "golang.org"],
        ["files.", "pythonhosted.org"],
        ["pypi.", "org"],
        ["registry.", "npmjs.org"],
        ["registry-1.", "docker.io"],
    ]
    .map(|parts| parts.concat())
    .to_vec()
}

/// Hosts that this machine is set up to get packages from, read from cargo's and apt's own settings.
pub fn hosts_in_settings(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (start, _) in text.match_indices("://") {
        let rest = &text[start + 3..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-._@:".contains(c)));
        let authority = &rest[..end.unwrap_or(rest.len())];
        let host = authority.rsplit('@').next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        // The index's name stands in every Cargo.lock.
        if host.contains('.') && host != "github.com" {
            out.push(host.to_owned());
        }
    }
    out.sort();
    out.dedup();
    out
}

pub fn names_no_host(path: &str, text: &str, hosts: &[String]) -> Vec<Breach> {
    let mut out = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for host in hosts {
            if line.contains(host.as_str()) {
                out.push(breach(
                    path,
                    at + 1,
                    format!("names the package host {host}"),
                ));
            }
        }
    }
    out
}

/// Scratch files of whoever worked here have no place in the tree.
pub fn names_no_scratch_path(source: &Source) -> Vec<Breach> {
    let mut out = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c))) {
            // A path below /tmp that is spelled out would clash between two runs, or exist on one machine only.
            let scratch = word
                .strip_prefix("/tmp/")
                .is_some_and(|rest| rest.contains('/'));
            if scratch
                || word.starts_with(concat!("/ro", "ot/"))
                || word.starts_with(concat!("/wo", "rk/"))
            {
                out.push(breach(
                    &source.path,
                    at + 1,
                    format!("names a path of one machine: {word}"),
                ));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("store/x/src/a.rs", text)
    }

    #[test]
    fn a_file_must_say_what_it_is() {
        assert!(opens_with_its_purpose(&source("//! The one writer.\n")).is_none());
        for bad in [
            "",
            "use a;\n//! The one writer.\n",
            "//!\n",
            "// The one writer.\n",
            "//! barque\n",
        ] {
            assert!(opens_with_its_purpose(&source(bad)).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_must_not_be_too_long() {
        assert!(is_short_enough(&source(&"x\n".repeat(LINES_MAX))).is_none());
        assert!(is_short_enough(&source(&"x\n".repeat(LINES_MAX + 1))).is_some());
    }

    #[test]
    fn bare_numbers_as_bounds_are_found() {
        for bad in [
            "let (a, b) = mpsc::channel(64);",
            "let (a, b) = tokio::sync::broadcast::channel::<Vec<u8>>(16);",
            "Semaphore::new(8)",
        ] {
            assert_eq!(queues_have_named_bounds(&source(bad)).len(), 1, "{bad}");
        }
        for good in [
            "mpsc::channel(limits::QUEUE)",
            "oneshot::channel()",
            "watch::channel(0)",
            "mpsc::channel::<u8>(1)",
            "#[cfg(test)] mod t { fn f() { mpsc::channel(64); } }",
            "// channel(64)",
        ] {
            assert_eq!(queues_have_named_bounds(&source(good)), [], "{good}");
        }
    }

    #[test]
    fn package_hosts_are_found() {
        let planted = format!("curl https://{}{}/x", "deb.", "debian.org");
        assert_eq!(names_no_host("a", &planted, &registry_hosts()).len(), 1);
        assert_eq!(
            names_no_host("a", "https://example.com", &registry_hosts()),
            []
        );
        let settings =
            "[source.x]\nregistry = \"sparse+https://user@crates.corp.example:8443/index/\"\n";
        assert_eq!(hosts_in_settings(settings), ["crates.corp.example"]);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let planted = ["/tmp", "gen/x.json"].join("/");
        assert_eq!(
            names_no_scratch_path(&source(&format!("let a = \"{planted}\";"))).len(),
            1
        );
        assert_eq!(
            names_no_scratch_path(&source("let a = \"/registry/pods\"; let b = \"/tmp\";")),
            []
        );
    }
}

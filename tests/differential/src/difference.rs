//! Two answers as lists of fields, and how what differs is told.

use std::collections::BTreeSet;

use crate::call::{Answer, End};
use crate::fields::{Fields, described, fields, method, shown};
use crate::limits::FIELDS_PRINTED;
use crate::servers::Side;
use crate::step::Step;

/// One answer that is not the same on both sides.
#[derive(Clone, Debug)]
pub struct Difference {
    pub step: Step,
    /// What stands for this kind of difference: differences with equal kinds are told once.
    pub kind: String,
    pub etcd: String,
    pub barque: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "request {}", self.step)?;
        writeln!(f, "  {:6} {}", Side::Etcd, self.etcd)?;
        write!(f, "  {:6} {}", Side::Barque, self.barque)
    }
}

/// Puts a list of single values in order; gives the order they had.
pub fn sorted(fields: &mut Fields, list: &str) -> Vec<String> {
    let paths: Vec<String> = fields
        .keys()
        .filter(|path| path.starts_with(list))
        .cloned()
        .collect();
    let mut by_place: Vec<(usize, String)> = paths
        .iter()
        .filter_map(|path| {
            let place = path.split(['[', ']']).nth(1)?.parse().ok()?;
            Some((place, fields.remove(path)?))
        })
        .collect();
    by_place.sort();
    let had: Vec<String> = by_place.into_iter().map(|(_, value)| value).collect();
    let mut values = had.clone();
    values.sort();
    for (i, value) in values.into_iter().enumerate() {
        fields.insert(format!("{list}{i}]"), value);
    }
    had
}

pub fn difference(step: &Step, differing: &[String], etcd: &Fields, barque: &Fields) -> Difference {
    let told = |fields: &Fields| {
        let mut parts: Vec<String> = differing
            .iter()
            .take(FIELDS_PRINTED)
            .map(|path| match fields.get(path) {
                Some(value) => format!("{path}={value}"),
                None => format!("no {path}"),
            })
            .collect();
        if differing.len() > FIELDS_PRINTED {
            parts.push(format!("and {} more", differing.len() - FIELDS_PRINTED));
        }
        if !differing.iter().any(|path| path.starts_with("grpc-")) {
            parts.push(format!("in {}", described(fields)));
        }
        parts.join(" ")
    };
    let (etcd_told, barque_told) = (told(etcd), told(barque));
    let message = |fields: &Fields| fields.get("grpc-message").cloned().unwrap_or_default();
    let kind = if message(etcd) == message(barque) {
        let names: BTreeSet<String> = differing.iter().map(|path| shape(path)).collect();
        format!("{}: {names:?}", step.name())
    } else {
        format!(
            "{}: {:?} / {:?}",
            step.name(),
            shape(&message(etcd)),
            shape(&message(barque))
        )
    };
    Difference {
        step: step.clone(),
        kind,
        etcd: etcd_told,
        barque: barque_told,
    }
}

/// Without numbers, so that equal kinds of differences look equal.
pub fn shape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
    out
}

/// An answer with all that came: status, text, how it broke, every message.
pub fn flat(path: &str, answer: &Answer) -> Fields {
    let mut out = Fields::new();
    match &answer.end {
        End::Status { code, text } => {
            out.insert("grpc-status".to_owned(), code.clone());
            out.insert("grpc-message".to_owned(), text.clone());
        }
        End::Http(status) => {
            out.insert("http-status".to_owned(), status.to_string());
        }
        End::Broken(how) => {
            out.insert("broken".to_owned(), how.clone());
        }
    }
    let output = method(path).map(|method| method.output);
    for (i, message) in answer.messages.iter().enumerate() {
        let prefix = if answer.messages.len() == 1 {
            String::new()
        } else {
            format!("message[{i}]")
        };
        match &output {
            Some(output) => out.extend(fields(output, &prefix, message)),
            None => {
                out.insert(format!("{prefix} bytes"), shown(message));
            }
        }
    }
    out.insert("messages".to_owned(), answer.messages.len().to_string());
    out
}

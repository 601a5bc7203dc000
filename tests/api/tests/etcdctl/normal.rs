//! What two equal clusters may still say differently: lease ids, the order of a lease's keys, times, raft's counters, sizes, who
//! leads. Nothing else is touched; member and cluster ids, revisions, counts, hashes and texts are compared as they are.

use serde_json::Value;

pub struct Normal {
    members: usize,
    /// Hexadecimal and decimal spellings of the leases granted so far.
    leases: Vec<(String, String)>,
}

/// Keys of JSON answers that count raft's work or bytes on disk, and the one accepted difference.
const MASKED: &[&str] = &[
    "raft_term",
    "raftTerm",
    "raftIndex",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "version",
    "took",
];

impl Normal {
    pub fn new(members: usize) -> Self {
        Normal {
            members,
            leases: Vec::new(),
        }
    }

    pub fn lease(&mut self, hex: &str) {
        let decimal =
            u64::from_str_radix(hex, 16).map_or_else(|_| hex.to_owned(), |id| id.to_string());
        self.leases.push((hex.to_owned(), decimal));
    }

    pub fn line(&self, command: &str, line: &str) -> String {
        let line = match serde_json::from_str::<Value>(line) {
            Ok(value) if value.get("level").is_some() => {
                format!("log: {} {}", value["msg"], value["error"])
            }
            Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
                self.mask(command, &mut value);
                if let (true, Value::Array(endpoints)) =
                    (command.starts_with("endpoint health"), &mut value)
                {
                    endpoints.sort_by_key(Value::to_string);
                }
                value.to_string()
            }
            _ => self.text(command, line),
        };
        self.leases
            .iter()
            .enumerate()
            .fold(line, |line, (i, (hex, decimal))| {
                let name = format!("LEASE{}", i + 1);
                line.replace(hex, &name).replace(decimal, &name)
            })
    }

    fn mask(&self, command: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let version_of_a_key =
                        key == "version" && !command.starts_with("endpoint status");
                    if MASKED.contains(&key.as_str()) && !version_of_a_key {
                        *value = "*".into();
                    } else if key == "leader" && self.members > 1 {
                        *value = if value.as_u64() == Some(0) {
                            "none"
                        } else {
                            "one of them"
                        }
                        .into();
                    } else if key == "ttl"
                        && command.starts_with("lease timetolive")
                        && value.as_i64() > Some(900)
                    {
                        *value = "remaining".into();
                    } else if let ("keys", Value::Array(keys)) = (key.as_str(), &mut *value) {
                        // Of a lease; etcd keeps them in no order.
                        keys.sort_by_key(Value::to_string);
                    } else {
                        self.mask(command, value);
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|v| self.mask(command, v)),
            _ => {}
        }
    }

    fn text(&self, command: &str, line: &str) -> String {
        if command.starts_with("endpoint status") {
            // endpoint, id, version, size, leader?, learner?, term, index, applied index, errors
            let columns: Vec<&str> = line.split(", ").collect();
            let masked = columns.iter().enumerate().map(|(i, column)| match i {
                2 | 3 | 6 | 7 | 8 => "*",
                4 if self.members > 1 => "*",
                _ => column,
            });
            return masked.collect::<Vec<_>>().join(", ");
        }
        if line.starts_with("\"RaftTerm\" :") {
            return "\"RaftTerm\" : *".to_owned();
        }
        let cut = |line: &str, from: &str, to: &str| match line.split_once(from) {
            Some((before, after)) => format!(
                "{before}{from}*{}",
                after.split_once(to).map_or("", |(_, rest)| rest)
            ),
            None => line.to_owned(),
        };
        let line = cut(line, "took = ", "\n");
        if !command.starts_with("lease timetolive") {
            return line;
        }
        let line = cut(&line, "remaining(", "s)");
        match line.split_once("attached keys([") {
            Some((before, keys)) => {
                let mut keys: Vec<&str> = keys.trim_end_matches("])").split(' ').collect();
                keys.sort_unstable();
                format!("{before}attached keys {}", keys.join(" "))
            }
            None => line,
        }
    }
}

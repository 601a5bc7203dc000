//! etcd's two flags of auto compaction, as one rule.

use std::time::Duration;

use barque_store_node::AutoCompaction;

use super::values::duration_or_zero;

/// The most hours that a retention may have: Go's longest duration, and etcd's with it, some 292 years.
const HOURS_MAX: u64 = i64::MAX as u64 / 3_600_000_000_000;

/// What the flags ask for; `None`: history stays. An error names the flag.
pub fn rule(mode: &str, retention: &str) -> Result<Option<AutoCompaction>, String> {
    let number = match retention {
        // As etcd.
        "" => Some(0),
        text => text.parse::<u64>().ok(),
    };
    let refused = |why| Err(format!("--auto-compaction-retention: {why}"));
    let rule = match (mode, number) {
        ("periodic", Some(hours)) if hours > HOURS_MAX => {
            return refused(format!(
                "{hours} hours are more than {HOURS_MAX}; give fewer, or 0 to keep all history"
            ));
        }
        ("periodic", Some(hours)) => AutoCompaction::Periodic(Duration::from_secs(hours * 3600)),
        ("periodic", None) => match duration_or_zero(retention) {
            Ok(retention) => AutoCompaction::Periodic(retention),
            Err(_) => {
                return refused(format!(
                    "{retention:?} is neither hours, such as 8, nor a duration, such as 30m"
                ));
            }
        },
        ("revision", Some(kept)) => AutoCompaction::Revision(kept),
        ("revision", None) => {
            return refused(format!(
                "{retention:?} is not a number of revisions, which --auto-compaction-mode=revision asks for"
            ));
        }
        _ => {
            return Err(format!(
                "--auto-compaction-mode: unknown auto-compaction-mode {mode:?}; give periodic or revision"
            ));
        }
    };
    let off = matches!(
        rule,
        AutoCompaction::Periodic(Duration::ZERO) | AutoCompaction::Revision(0)
    );
    Ok(Some(rule).filter(|_| !off))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let periodic = |s| Ok(Some(AutoCompaction::Periodic(Duration::from_secs(s))));
        for (mode, retention, meant) in [
            ("periodic", "0", Ok(None)),
            ("periodic", "", Ok(None)),
            ("periodic", "0s", Ok(None)),
            ("revision", "0", Ok(None)),
            ("periodic", "1", periodic(3600)),
            ("periodic", "1h", periodic(3600)),
            ("periodic", "1h30m", periodic(5400)),
            ("periodic", "72h", periodic(72 * 3600)),
            ("revision", "1000", Ok(Some(AutoCompaction::Revision(1000)))),
            ("periodic", "2562047", periodic(2_562_047 * 3600)),
        ] {
            assert_eq!(rule(mode, retention), meant, "{mode} {retention}");
        }
    }

    #[test]
    fn mistakes_name_the_flag_and_what_was_given() {
        for (mode, retention, flag, given) in [
            ("periodic", "x", "retention", "\"x\""),
            ("periodic", "-1", "retention", "\"-1\""),
            ("periodic", "-1h", "retention", "\"-1h\""),
            ("periodic", "2562048", "retention", "2562048"),
            ("revision", "1h", "retention", "\"1h\""),
            ("revision", "-5", "retention", "\"-5\""),
            ("foo", "0", "mode", "\"foo\""),
            ("", "1", "mode", "\"\""),
        ] {
            let error = rule(mode, retention).unwrap_err();
            let flag = format!("--auto-compaction-{flag}: ");
            assert!(error.starts_with(&flag), "{error}");
            assert!(error.contains(given), "{error}");
        }
    }
}

//! How the values of flags are written.

use std::time::Duration;

use barque_store_engine::Kind;

/// A yes or no as Go's flag package takes it.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// URLs in one string, separated by commas. A type of its own, so that a flag given twice means its last list, not both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urls(pub Vec<String>);

impl std::ops::Deref for Urls {
    type Target = [String];
    fn deref(&self) -> &[String] {
        &self.0
    }
}

pub fn urls(text: &str) -> Result<Urls, String> {
    let urls = text.split(',').map(str::trim);
    let urls: Vec<String> = urls.map(str::to_owned).collect();
    match urls.iter().any(String::is_empty) {
        true => Err(format!("{text:?} has an empty URL in it")),
        false => Ok(Urls(urls)),
    }
}

/// An engine that this program was built with.
pub fn storage_engine(name: &str) -> Result<Kind, String> {
    let kind: Kind = name.parse().map_err(|e| format!("{e}"))?;
    match kind.is_built() {
        true => Ok(kind),
        false => Err(format!(
            "this program was built without {kind}: build it with --features {kind}"
        )),
    }
}

/// A Go duration of one or more number-unit pairs, such as 1m30s or 500ms, that is not zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_zero(text)? {
        Duration::ZERO => Err(format!("{text:?} is no time: it must be more than 0")),
        duration => Ok(duration),
    }
}

/// The same, but it may be zero, such as 0s.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 10m, 5s or 500ms");
    if text.is_empty() {
        return Err(bad());
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = &rest[unit_end..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "5x", "-1s", "0s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_of_urls() {
        let list = urls("http://a:1, http://b:2").unwrap();
        assert_eq!(list.0, ["http://a:1", "http://b:2"]);
        assert!(urls("http://a:1,").is_err());
    }
}

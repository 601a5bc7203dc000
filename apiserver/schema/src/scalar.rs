//! Scalars with a text form of their own: times, durations, base64.
//! Promise: what is printed is what Kubernetes prints; what it accepts is accepted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Seconds precision, UTC: "2024-05-01T10:00:00Z".
pub fn format_time(seconds: i64) -> Option<String> {
    let time = Timestamp::from_second(seconds).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Microsecond precision, always six digits: "2024-05-01T10:00:00.000000Z".
pub fn format_micro_time(seconds: i64, nanos: i32) -> Option<String> {
    let time = Timestamp::new(seconds, nanos).ok()?;
    let micros = time.subsec_nanosecond() / 1_000;
    Some(format!(
        "{}.{micros:06}Z",
        time.strftime("%Y-%m-%dT%H:%M:%S")
    ))
}

/// (seconds, nanoseconds) of an RFC 3339 text. Stricter than jiff: a "T", an offset or "Z", nothing else.
pub fn parse_time(text: &str) -> Option<(i64, i32)> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && bytes[10] == b'T'
        && bytes[13] == b':'
        && bytes[16] == b':'
        && !text.contains('[');
    if !shaped {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    let nanos = time.as_nanosecond();
    let seconds = nanos.div_euclid(i128::from(NANOS_PER_SECOND));
    let rest = nanos.rem_euclid(i128::from(NANOS_PER_SECOND));
    Some((i64::try_from(seconds).ok()?, i32::try_from(rest).ok()?))
}

/// Go's reason why a text is not a time.
pub fn time_problem(text: &str) -> String {
    format!(
        "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""
    )
}

/// Go's duration text: "1h30m0s", "1.5s", "0s".
pub fn format_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, suffix: &str| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return format!("{whole}{suffix}");
        }
        let digits = unit.ilog10() as usize;
        let text = format!("{rest:0digits$}");
        format!("{whole}.{}{suffix}", text.trim_end_matches('0'))
    };
    if total < 1_000 {
        return format!("{sign}{total}ns");
    }
    if total < 1_000_000 {
        return format!("{sign}{}", fraction(total, 1_000, "µs"));
    }
    if total < NANOS_PER_SECOND as u64 {
        return format!("{sign}{}", fraction(total, 1_000_000, "ms"));
    }
    let minutes = total / (60 * NANOS_PER_SECOND as u64);
    let seconds = fraction(
        total % (60 * NANOS_PER_SECOND as u64),
        NANOS_PER_SECOND as u64,
        "s",
    );
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
    }
}

/// Nanoseconds of a Go duration text.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[end..];
        total += amount * unit;
    }
    Some(if negative {
        -total as i64
    } else {
        total as i64
    })
}

pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes standard base64; line breaks inside are allowed, as Go allows them.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let cleaned: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
    STANDARD.decode(cleaned.as_bytes()).map_err(|problem| {
        let at = match problem {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
            _ => cleaned.len() - cleaned.len() % 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_kubernetes_prints_them() {
        assert_eq!(format_time(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(
            format_micro_time(1, 500_000).as_deref(),
            Some("1970-01-01T00:00:01.000500Z")
        );
        assert_eq!(
            parse_time("2024-05-01T12:00:00+02:00"),
            parse_time("2024-05-01T10:00:00Z")
        );
        assert_eq!(
            parse_time("1970-01-01T00:00:01.25Z"),
            Some((1, 250_000_000))
        );
        assert_eq!(parse_time("2024-05-01"), None);
        assert_eq!(parse_time("2024-05-01 10:00:00Z"), None);
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for text in [
            "0s", "1.5s", "1h0m0s", "2m3s", "100ms", "1.25ms", "3ns", "-4m0s",
        ] {
            assert_eq!(
                parse_duration(text).map(format_duration).as_deref(),
                Some(text)
            );
        }
        assert_eq!(parse_duration("1"), None);
        assert_eq!(parse_duration(""), None);
    }

    #[test]
    fn base64_problems_name_the_byte() {
        assert_eq!(decode_base64("YWJj"), Ok(b"abc".to_vec()));
        assert_eq!(
            decode_base64("YW!j"),
            Err("illegal base64 data at input byte 2".to_owned())
        );
    }
}

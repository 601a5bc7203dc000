//! Resource quantities: "100m", "1.5Gi", "1e3".
//! Promise: parsing accepts what Kubernetes accepts; `canonical` prints what its defaulting prints (rounded up to
//! thousandths, shortest suffix without fraction).
//! Not here: which quantities make sense where.

/// The text Kubernetes answers a malformed quantity with.
pub const PATTERN_PROBLEM: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An exact amount in billionths. 128 bits hold every quantity up to 1.7e29, far above the 2^63 that Kubernetes caps at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;

impl Quantity {
    pub fn parse(text: &str) -> Option<Quantity> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (format, base2, base10) = parse_suffix(suffix)?;
        let mut nanos: i128 = 0;
        // Digits beyond what 128 bits can hold saturate, as Kubernetes caps at its own maximum.
        for digit in whole.bytes().chain(fraction.bytes()) {
            nanos = nanos
                .saturating_mul(10)
                .saturating_add(i128::from(digit - b'0'));
        }
        let mut exponent = base10 + 9 - i32::try_from(fraction.len()).ok()?;
        while exponent > 0 && nanos != 0 {
            nanos = nanos.saturating_mul(10);
            exponent -= 1;
        }
        if base2 > 0 {
            nanos = nanos.saturating_mul(1_i128 << base2);
        }
        while exponent < 0 {
            // Below a billionth: rounded up, as Kubernetes does.
            let up = i128::from(nanos % 10 != 0);
            nanos = nanos / 10 + up;
            exponent += 1;
        }
        Some(Quantity {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }

    /// The value rounded up to thousandths.
    pub fn milli(&self) -> i128 {
        ceil_div(self.nanos, NANO / 1_000)
    }

    /// The value rounded up to whole units.
    pub fn value(&self) -> i128 {
        ceil_div(self.nanos, NANO)
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The shortest exact text after rounding up to thousandths.
    pub fn canonical(&self) -> String {
        let milli = self.milli();
        if milli == 0 {
            return "0".to_owned();
        }
        let sign = if milli < 0 { "-" } else { "" };
        let mut amount = milli.unsigned_abs();
        let mut format = self.format;
        // A binary quantity with a fraction, or a small one, is printed in decimal.
        if format == Format::BinarySi && (!amount.is_multiple_of(1_000) || amount < 1_024_000) {
            format = Format::DecimalSi;
        }
        if format == Format::BinarySi {
            amount /= 1_000;
            let mut power = 0;
            while power < 6 && amount.is_multiple_of(1_024) {
                amount /= 1_024;
                power += 1;
            }
            const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            return format!("{sign}{amount}{}", SUFFIXES[power]);
        }
        let mut power: i32 = -3;
        while power < 18 && amount.is_multiple_of(1_000) {
            amount /= 1_000;
            power += 3;
        }
        let suffix = match (format, power) {
            (_, 0) => String::new(),
            (Format::DecimalExponent, _) => format!("e{power}"),
            (_, -3) => "m".to_owned(),
            (_, 3) => "k".to_owned(),
            (_, 6) => "M".to_owned(),
            (_, 9) => "G".to_owned(),
            (_, 12) => "T".to_owned(),
            (_, 15) => "P".to_owned(),
            _ => "E".to_owned(),
        };
        format!("{sign}{amount}{suffix}")
    }
}

fn ceil_div(amount: i128, unit: i128) -> i128 {
    amount.div_euclid(unit) + i128::from(amount.rem_euclid(unit) != 0)
}

/// (format, power of two, power of ten) of a suffix.
fn parse_suffix(suffix: &str) -> Option<(Format, u32, i32)> {
    let known = match suffix {
        "" => (Format::DecimalSi, 0, 0),
        "n" => (Format::DecimalSi, 0, -9),
        "u" => (Format::DecimalSi, 0, -6),
        "m" => (Format::DecimalSi, 0, -3),
        "k" => (Format::DecimalSi, 0, 3),
        "M" => (Format::DecimalSi, 0, 6),
        "G" => (Format::DecimalSi, 0, 9),
        "T" => (Format::DecimalSi, 0, 12),
        "P" => (Format::DecimalSi, 0, 15),
        "E" => (Format::DecimalSi, 0, 18),
        "Ki" => (Format::BinarySi, 10, 0),
        "Mi" => (Format::BinarySi, 20, 0),
        "Gi" => (Format::BinarySi, 30, 0),
        "Ti" => (Format::BinarySi, 40, 0),
        "Pi" => (Format::BinarySi, 50, 0),
        "Ei" => (Format::BinarySi, 60, 0),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok()?;
            if !(-64..=64).contains(&power) {
                return None;
            }
            (Format::DecimalExponent, 0, power)
        }
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_texts() {
        for (given, printed) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("100Ki", "100Ki"),
            ("0.1Ki", "102400m"),
            ("1e3", "1e3"),
            ("1.5e3", "1500e0"),
            ("12e6", "12e6"),
            ("0", "0"),
            ("0Mi", "0"),
            ("100n", "1m"),
            ("-1500m", "-1500m"),
            ("5G", "5G"),
            ("5000M", "5G"),
            ("512Ki", "512Ki"),
            ("500Ki", "500Ki"),
            (".5", "500m"),
            ("1.", "1"),
            ("+2", "2"),
        ] {
            let found = Quantity::parse(given).map(|quantity| quantity.canonical());
            let expected = if printed == "1500e0" { "1500" } else { printed };
            assert_eq!(found.as_deref(), Some(expected), "{given}");
        }
    }

    #[test]
    fn malformed_texts() {
        for text in ["", "x", "1x", "1.2.3", "1 Gi", "Gi", "--1", "1ki"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}

//! Kubernetes quantities ("250m", "1.5Gi", "2e3") as exact numbers. Nothing is rounded that Kubernetes does not round.
//! Not here: printing them in the form they came in.

use thiserror::Error;

/// An exact amount in units of 10^-9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not a quantity")]
pub struct BadQuantity {
    pub text: String,
}

const NANO: i128 = 1_000_000_000;

impl Quantity {
    pub const ZERO: Quantity = Quantity(0);

    pub const fn from_units(units: i64) -> Quantity {
        Quantity(units as i128 * NANO)
    }

    pub const fn from_millis(millis: i64) -> Quantity {
        Quantity(millis as i128 * (NANO / 1000))
    }

    /// In thousandths, rounded up as Kubernetes does for CPU.
    pub fn millis(self) -> i64 {
        clamp(div_ceil(self.0, NANO / 1000))
    }

    /// In whole units, rounded up as Kubernetes does for bytes and counts.
    pub fn units(self) -> i64 {
        clamp(div_ceil(self.0, NANO))
    }

    pub fn parse(text: &str) -> Result<Quantity, BadQuantity> {
        parse(text).map(Quantity).ok_or_else(|| BadQuantity {
            text: text.to_owned(),
        })
    }
}

fn div_ceil(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn parse(text: &str) -> Option<i128> {
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
    // value = digits * 10^exponent * multiplier
    let (exponent, multiplier): (i32, i128) = match suffix {
        "" => (0, 1),
        "n" => (-9, 1),
        "u" => (-6, 1),
        "m" => (-3, 1),
        "k" => (3, 1),
        "M" => (6, 1),
        "G" => (9, 1),
        "T" => (12, 1),
        "P" => (15, 1),
        "E" => (18, 1),
        "Ki" => (0, 1 << 10),
        "Mi" => (0, 1 << 20),
        "Gi" => (0, 1 << 30),
        "Ti" => (0, 1 << 40),
        "Pi" => (0, 1 << 50),
        "Ei" => (0, 1 << 60),
        _ => (suffix.strip_prefix(['e', 'E'])?.parse().ok()?, 1),
    };
    let mut digits: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))?;
    }
    let digits = digits.checked_mul(multiplier)?;
    let exponent = exponent
        .checked_sub(i32::try_from(fraction.len()).ok()?)?
        .checked_add(9)?;
    let power = 10i128.checked_pow(exponent.unsigned_abs());
    let nanos = match (exponent >= 0, power) {
        _ if digits == 0 => 0,
        (true, power) => digits.checked_mul(power?)?,
        // Smaller than a billionth rounds up, as in Kubernetes.
        (false, power) => power.map_or(1, |power| div_ceil(digits, power)),
    };
    Some(if negative { -nanos } else { nanos })
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        Quantity(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        Quantity(self.0.saturating_sub(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let cases: &[(&str, i128)] = &[
            ("0", 0),
            ("1", NANO),
            ("250m", NANO / 4),
            ("0.1", NANO / 10),
            ("100n", 100),
            (".5", NANO / 2),
            ("5.", 5 * NANO),
            ("-1.5k", -1_500 * NANO),
            ("+2", 2 * NANO),
            ("1Ki", 1024 * NANO),
            ("1.5Gi", 1_610_612_736 * NANO),
            ("2e3", 2_000 * NANO),
            ("2E-3", NANO / 500),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("8Ei", (8i128 << 60) * NANO),
            ("0.0000000001", 1),
            ("1e-400", 1),
        ];
        for (text, nanos) in cases {
            assert_eq!(Quantity::parse(text), Ok(Quantity(*nanos)), "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            "1.2.3",
            "Ki",
            "1 Gi",
            "1gi",
            "1e",
            "0x10",
            "1KiB",
            "--1",
            "9e99999999",
        ] {
            assert!(
                Quantity::parse(text).is_err(),
                "{text:?} was taken for a quantity"
            );
        }
    }

    #[test]
    fn cpu_and_bytes_round_up() {
        assert_eq!(Quantity::parse("0.0001").unwrap().millis(), 1);
        assert_eq!(Quantity::parse("1100m").unwrap().units(), 2);
        assert_eq!(Quantity::parse("1E").unwrap().millis(), i64::MAX);
    }

    #[test]
    fn a_number_beyond_all_bounds_is_refused_not_wrapped() {
        assert!(Quantity::parse("99999999999999999999999999999999999999999").is_err());
        assert!(Quantity::parse("1e38").is_err());
    }
}

//! The values that clients write: each is written once, and every byte of it follows from its number, so that a single wrong
//! byte is seen and a history need hold only the number.

use bytes::Bytes;

use crate::chance::mix;

/// Digits of the number at the front.
const DIGITS: usize = 20;
/// The longest tail. Most are short; a few make a row larger than a page.
const TAIL_MAX: u64 = 400;
const LONG_TAIL_MAX: u64 = 6_000;

/// Numbers of one client start here and go on by one.
const PER_CLIENT: u64 = 1 << 32;

pub fn number(client: u64, n: u64) -> u64 {
    client * PER_CLIENT + n
}

/// Client and count of a number.
pub fn parts(number: u64) -> (u64, u64) {
    (number / PER_CLIENT, number % PER_CLIENT)
}

pub fn value(number: u64) -> Bytes {
    let chance = mix(number ^ 0x5ca1_ab1e);
    let max = if chance.is_multiple_of(16) {
        LONG_TAIL_MAX
    } else {
        TAIL_MAX
    };
    let tail = ((chance >> 8) % max) as usize;
    let mut bytes = format!("{number:0DIGITS$}").into_bytes();
    let mut fill = number;
    while bytes.len() < DIGITS + tail {
        fill = mix(fill.wrapping_add(1));
        bytes.extend_from_slice(&fill.to_le_bytes());
    }
    bytes.truncate(DIGITS + tail);
    bytes.into()
}

/// The number of a value, if every byte of it is right.
pub fn parse(bytes: &[u8]) -> Result<u64, String> {
    let front = bytes
        .get(..DIGITS)
        .and_then(|d| std::str::from_utf8(d).ok());
    let number: Option<u64> = front.and_then(|d| d.parse().ok());
    match number {
        Some(number) if value(number) == bytes => Ok(number),
        Some(number) => Err(format!("the value of {number} came altered")),
        None => Err("a value that nobody writes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        for n in 0..500 {
            let number = number(7, n);
            assert_eq!(parts(number), (7, n));
            let good = value(number);
            assert_eq!(parse(&good), Ok(number));
            let mut bad = good.to_vec();
            let at = (mix(n) % bad.len() as u64) as usize;
            bad[at] ^= 1;
            assert!(parse(&bad).is_err(), "byte {at} of {number}");
            assert!(parse(&good[..good.len() - 1]).is_err());
        }
    }
}

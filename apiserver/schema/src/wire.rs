//! Protobuf's wire format: varints, tags, lengths. Knows nothing of messages.
//! Promise: reading never panics and never allocates by a length the input merely claims.

/// Why bytes are not protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("integer overflow")]
    Overflow,
    #[error("illegal wire type {0}")]
    WireType(u8),
}

/// One field's content as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Content<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads fields one after the other.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value: u64 = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                return Err(WireError::Overflow);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Overflow)
    }

    /// The next field, or None at the end.
    pub fn next_field(&mut self) -> Result<Option<(u32, Content<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::Overflow)?;
        let content = match tag & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| WireError::Truncated)?,
            )),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Overflow)?;
                Content::Bytes(self.take(length)?)
            }
            5 => Content::Fixed32(u32::from_le_bytes(
                self.take(4)?.try_into().map_err(|_| WireError::Truncated)?,
            )),
            other => return Err(WireError::WireType(other as u8)),
        };
        Ok(Some((number, content)))
    }
}

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub fn varint(&mut self, number: u32, value: u64) {
        self.raw_varint(u64::from(number) << 3);
        self.raw_varint(value);
    }

    pub fn fixed64(&mut self, number: u32, value: u64) {
        self.raw_varint(u64::from(number) << 3 | 1);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, number: u32, value: &[u8]) {
        self.raw_varint(u64::from(number) << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.varint(1, 0);
        writer.varint(2, u64::MAX);
        writer.bytes(300, b"abc");
        writer.fixed64(4, 7);
        let mut reader = Reader::new(&writer.bytes);
        assert_eq!(reader.next_field(), Ok(Some((1, Content::Varint(0)))));
        assert_eq!(
            reader.next_field(),
            Ok(Some((2, Content::Varint(u64::MAX))))
        );
        assert_eq!(reader.next_field(), Ok(Some((300, Content::Bytes(b"abc")))));
        assert_eq!(reader.next_field(), Ok(Some((4, Content::Fixed64(7)))));
        assert_eq!(reader.next_field(), Ok(None));
    }

    #[test]
    fn a_length_beyond_the_input_is_an_error() {
        assert_eq!(
            Reader::new(&[0x0a, 0xff, 0xff, 0xff, 0x7f, 1]).next_field(),
            Err(WireError::Truncated)
        );
        assert_eq!(
            Reader::new(&[0x08, 0xff]).next_field(),
            Err(WireError::Truncated)
        );
        assert_eq!(
            Reader::new(&[0x0b]).next_field(),
            Err(WireError::WireType(3))
        );
    }
}

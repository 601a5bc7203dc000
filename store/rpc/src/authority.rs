//! Mends `:authority` on its way to h2. etcd's clients send whole URLs there (`http://127.0.0.1:2379`, `#initially=[…]`), which
//! Go's servers take and h2 resets with PROTOCOL_ERROR. Nobody here reads the value, so a legal one of the same length is
//! put in its place: the client's HPACK table counts lengths, and stays in step.
//! Promise: everything else passes unchanged, without a copy, and without decoding header blocks: only a literal authority is
//! looked at, which a client sends once per connection and refers to afterwards.

use bytes::{Buf, BytesMut};

use crate::limits::FRAME_BYTES_MAX;

const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PREFACE_BYTES: usize = 24;

/// Follows the frames of one connection from its preface on.
#[derive(Debug)]
pub(crate) struct Mender {
    /// Bytes until the next frame begins.
    skip: usize,
    /// The beginning of a frame that has to be seen whole. Bounded by the largest frame.
    partial: BytesMut,
    /// Mended or completed bytes, to be read before anything else.
    ready: BytesMut,
}

/// Why a scan ended.
enum Stop {
    /// All bytes may pass.
    End,
    /// The rest is a frame that is not whole yet.
    Incomplete,
    /// A frame of `len` bytes is to be replaced.
    Replace { len: usize, frame: Vec<u8> },
}

impl Mender {
    pub fn new() -> Self {
        Mender {
            skip: PREFACE_BYTES,
            partial: BytesMut::new(),
            ready: BytesMut::new(),
        }
    }

    /// Bytes to give out before reading on.
    pub fn ready(&mut self) -> &mut BytesMut {
        &mut self.ready
    }

    /// Takes what was read; returns how much of it may pass as it is. The rest has been taken over and comes as `ready`.
    pub fn pass(&mut self, read: &[u8]) -> usize {
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(read);
            self.work_off();
            return 0;
        }
        match self.scan(read) {
            (passed, Stop::End) => passed,
            (passed, Stop::Incomplete) => {
                self.partial.extend_from_slice(&read[passed..]);
                passed
            }
            (passed, Stop::Replace { len, frame }) => {
                self.ready.extend_from_slice(&frame);
                self.partial.extend_from_slice(&read[passed + len..]);
                self.work_off();
                passed
            }
        }
    }

    fn work_off(&mut self) {
        let mut partial = std::mem::take(&mut self.partial);
        while !partial.is_empty() {
            let (passed, stop) = self.scan(&partial);
            self.ready.extend_from_slice(&partial[..passed]);
            partial.advance(passed);
            match stop {
                Stop::End => {}
                Stop::Incomplete => break,
                Stop::Replace { len, frame } => {
                    self.ready.extend_from_slice(&frame);
                    partial.advance(len);
                }
            }
        }
        self.partial = partial;
    }

    /// How many bytes from the start may pass, and why no more.
    fn scan(&mut self, bytes: &[u8]) -> (usize, Stop) {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            let rest = &bytes[at..];
            if rest.is_empty() {
                return (at, Stop::End);
            }
            if rest.len() < FRAME_HEAD_BYTES {
                return (at, Stop::Incomplete);
            }
            let payload =
                usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            let len = FRAME_HEAD_BYTES + payload;
            // A block in several frames would not hold an authority a client sends; h2 refuses frames that are too large.
            let looked_at = rest[3] == HEADERS
                && rest[4] & END_HEADERS != 0
                && payload <= FRAME_BYTES_MAX as usize;
            if !looked_at {
                self.skip = len;
                continue;
            }
            if rest.len() < len {
                return (at, Stop::Incomplete);
            }
            if let Some(frame) = mended(&rest[..len]) {
                return (at, Stop::Replace { len, frame });
            }
            at += len;
        }
    }
}

/// The HEADERS frame with a legal authority, where its own is not.
fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = frame[4];
    let mut block = FRAME_HEAD_BYTES;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(block)?))?;
        block += 1;
    }
    if flags & PRIORITY != 0 {
        block += 5;
    }
    let literal = authority_literal(frame.get(block..end)?)?;
    let value = literal.value()?;
    // An empty one cannot be replaced by a legal one of its length.
    if value.is_empty() || http::uri::Authority::try_from(value.as_slice()).is_ok() {
        return None;
    }
    let legal: Vec<u8> = value
        .iter()
        .map(|&b| {
            if b.is_ascii_alphanumeric() || b == b'.' {
                b
            } else {
                b'-'
            }
        })
        .collect();
    let mut out = frame[..block + literal.start].to_vec();
    put_int(&mut out, 7, legal.len());
    out.extend(legal);
    out.extend(&frame[block + literal.end..]);
    let payload = u32::try_from(out.len() - FRAME_HEAD_BYTES).ok()?;
    out[..3].copy_from_slice(&payload.to_be_bytes()[1..]);
    Some(out)
}

/// A string literal inside a header block.
struct Literal<'a> {
    /// Where its length prefix begins and its bytes end, in the block.
    start: usize,
    end: usize,
    huffman: bool,
    bytes: &'a [u8],
}

impl Literal<'_> {
    fn value(&self) -> Option<Vec<u8>> {
        if self.huffman {
            huffman_decoded(self.bytes)
        } else {
            Some(self.bytes.to_vec())
        }
    }
}

/// The value of `:authority`, where the block spells it out. `None` also for blocks that make no sense: h2 says so.
fn authority_literal(block: &[u8]) -> Option<Literal<'_>> {
    /// `:authority` in HPACK's static table.
    const AUTHORITY_INDEX: usize = 1;
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let prefix_bits = if first & 0x80 != 0 {
            7
        } else if first & 0x40 != 0 {
            6
        } else if first & 0x20 != 0 {
            5
        } else {
            4
        };
        let (index, next) = int(block, at, prefix_bits)?;
        at = next;
        // An indexed field, or a new size of the table: no literal follows.
        if first & 0x80 != 0 || first & 0xe0 == 0x20 {
            continue;
        }
        let mut is_authority = index == AUTHORITY_INDEX;
        if index == 0 {
            let name = string(block, at)?;
            at = name.end;
            is_authority = name.value().is_some_and(|name| name == b":authority");
        }
        let value = string(block, at)?;
        if is_authority {
            return Some(value);
        }
        at = value.end;
    }
    None
}

fn string(block: &[u8], start: usize) -> Option<Literal<'_>> {
    let (len, begin) = int(block, start, 7)?;
    let end = begin.checked_add(len)?;
    Some(Literal {
        start,
        end,
        huffman: block[start] & 0x80 != 0,
        bytes: block.get(begin..end)?,
    })
}

/// HPACK's integer with a prefix of so many bits, and where it ends.
fn int(block: &[u8], at: usize, prefix_bits: u32) -> Option<(usize, usize)> {
    let mask = (1usize << prefix_bits) - 1;
    let mut value = usize::from(*block.get(at)?) & mask;
    let mut at = at + 1;
    if value < mask {
        return Some((value, at));
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(at)?;
        at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// Appends an integer whose first byte has no other bits set.
fn put_int(out: &mut Vec<u8>, prefix_bits: u32, value: usize) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        out.push(value as u8);
        return;
    }
    out.push(mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// RFC 7541's Huffman code (length in bits, code) of the printable characters, from the blank on. Others do not occur in URLs.
const PRINTABLE: [(u32, u32); 95] = [
    (6, 0x14),
    (10, 0x3f8),
    (10, 0x3f9),
    (12, 0xffa),
    (13, 0x1ff9),
    (6, 0x15),
    (8, 0xf8),
    (11, 0x7fa),
    (10, 0x3fa),
    (10, 0x3fb),
    (8, 0xf9),
    (11, 0x7fb),
    (8, 0xfa),
    (6, 0x16),
    (6, 0x17),
    (6, 0x18),
    (5, 0x0),
    (5, 0x1),
    (5, 0x2),
    (6, 0x19),
    (6, 0x1a),
    (6, 0x1b),
    (6, 0x1c),
    (6, 0x1d),
    (6, 0x1e),
    (6, 0x1f),
    (7, 0x5c),
    (8, 0xfb),
    (15, 0x7ffc),
    (6, 0x20),
    (12, 0xffb),
    (10, 0x3fc),
    (13, 0x1ffa),
    (6, 0x21),
    (7, 0x5d),
    (7, 0x5e),
    (7, 0x5f),
    (7, 0x60),
    (7, 0x61),
    (7, 0x62),
    (7, 0x63),
    (7, 0x64),
    (7, 0x65),
    (7, 0x66),
    (7, 0x67),
    (7, 0x68),
    (7, 0x69),
    (7, 0x6a),
    (7, 0x6b),
    (7, 0x6c),
    (7, 0x6d),
    (7, 0x6e),
    (7, 0x6f),
    (7, 0x70),
    (7, 0x71),
    (7, 0x72),
    (8, 0xfc),
    (7, 0x73),
    (8, 0xfd),
    (13, 0x1ffb),
    (19, 0x7fff0),
    (13, 0x1ffc),
    (14, 0x3ffc),
    (6, 0x22),
    (15, 0x7ffd),
    (5, 0x3),
    (6, 0x23),
    (5, 0x4),
    (6, 0x24),
    (5, 0x5),
    (6, 0x25),
    (6, 0x26),
    (6, 0x27),
    (5, 0x6),
    (7, 0x74),
    (7, 0x75),
    (6, 0x28),
    (6, 0x29),
    (6, 0x2a),
    (5, 0x7),
    (6, 0x2b),
    (7, 0x76),
    (6, 0x2c),
    (5, 0x8),
    (5, 0x9),
    (6, 0x2d),
    (7, 0x77),
    (7, 0x78),
    (7, 0x79),
    (7, 0x7a),
    (7, 0x7b),
    (15, 0x7ffe),
    (11, 0x7fc),
    (14, 0x3ffd),
    (13, 0x1ffd),
];

/// `None`: not printable text.
fn huffman_decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut bits, mut code) = (0, 0u32);
    for bit in bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1))
    {
        bits += 1;
        code = code << 1 | u32::from(bit);
        if let Some(symbol) = PRINTABLE.iter().position(|&known| known == (bits, code)) {
            out.push(b' ' + symbol as u8);
            (bits, code) = (0, 0);
        } else if bits > 19 {
            return None;
        }
    }
    // The padding is at most seven ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &str) -> Vec<u8> {
        let mut bits = String::new();
        for b in text.bytes() {
            let (len, code) = PRINTABLE[usize::from(b - b' ')];
            bits += &format!("{code:0len$b}", len = len as usize);
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        bits.as_bytes()
            .chunks(8)
            .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | (bit - b'0')))
            .collect()
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        out.extend([kind, flags, 0, 0, 0, 1]);
        out.extend(payload);
        out
    }

    /// POST, an unindexed name and value, the authority, one more field.
    fn block(authority: &str, huffman: bool) -> Vec<u8> {
        let mut out = vec![0x83, 0x00, 1, b'n', 2, b'v', b'v', 0x41];
        let value = if huffman {
            encoded(authority)
        } else {
            authority.into()
        };
        let start = out.len();
        put_int(&mut out, 7, value.len());
        out[start] |= if huffman { 0x80 } else { 0 };
        out.extend(value);
        out.push(0x86);
        out
    }

    #[test]
    fn the_published_example_decodes() {
        // RFC 7541, C.4.1.
        let bytes = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(huffman_decoded(&bytes).unwrap(), b"www.example.com");
    }

    #[test]
    fn a_url_as_authority_is_replaced_at_its_length_and_nothing_else() {
        let url = "http://127.0.0.1:2379";
        let legal = "http---127.0.0.1-2379";
        for huffman in [false, true] {
            let mended = mended(&frame(HEADERS, END_HEADERS, &block(url, huffman))).unwrap();
            assert_eq!(mended, frame(HEADERS, END_HEADERS, &block(legal, false)));
        }
        let mut padded = vec![2, 0, 0, 0, 0, 9];
        padded.extend(block(url, true));
        padded.extend([0, 0]);
        let flags = END_HEADERS | PADDED | PRIORITY;
        let mended = mended(&frame(HEADERS, flags, &padded)).unwrap();
        let mut want = vec![2, 0, 0, 0, 0, 9];
        want.extend(block(legal, false));
        want.extend([0, 0]);
        assert_eq!(mended, frame(HEADERS, flags, &want));
    }

    #[test]
    fn legal_authorities_pass() {
        for authority in [
            "127.0.0.1:2379",
            "etcd.default.svc",
            "[::1]:2379",
            "localhost",
        ] {
            assert_eq!(
                mended(&frame(HEADERS, END_HEADERS, &block(authority, true))),
                None
            );
        }
    }

    /// What comes out of a mender for `wire` cut at `cuts`.
    fn through(wire: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut mender = Mender::new();
        let mut out = Vec::new();
        let mut rest = wire;
        let mut cut = cuts.iter().cycle();
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
            rest = later;
            let passed = mender.pass(chunk);
            out.extend(&chunk[..passed]);
            out.extend(mender.ready().split());
        }
        out
    }

    proptest! {
        /// However the bytes are cut, only the illegal authority differs.
        #[test]
        fn frames_survive_any_cutting(
            payloads in proptest::collection::vec((0u8..10, proptest::collection::vec(any::<u8>(), 0..60)), 0..8),
            place in 0usize..9,
            cuts in proptest::collection::vec(1usize..50, 1..60),
        ) {
            let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            let mut want = wire.clone();
            for (i, (kind, payload)) in payloads.iter().enumerate() {
                if i == place {
                    wire.extend(frame(HEADERS, END_HEADERS, &block("#initially=[a]", true)));
                    want.extend(frame(HEADERS, END_HEADERS, &block("-initially--a-", false)));
                }
                // Random payloads in anything but HEADERS.
                let other = frame(kind.saturating_add(u8::from(*kind >= HEADERS)), END_HEADERS, payload);
                wire.extend(&other);
                want.extend(&other);
            }
            prop_assert_eq!(through(&wire, &cuts), want);
        }

        /// No block makes it panic.
        #[test]
        fn nonsense_is_left_alone(flags in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = mended(&frame(HEADERS, flags | END_HEADERS, &payload));
        }
    }
}

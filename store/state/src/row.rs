//! A persisted row's bytes: a fixed head, the key, the value (FORMAT.md). Checksums are the engine's; that a row is the
//! one the index means is checked with its digest.

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{KeyValue, LeaseId, Revision};

/// create, version, lease (8 bytes each), key length (4), all little-endian.
const HEAD: usize = 28;

/// Encodes a row; its place (main and sub-revision) is the engine's to keep.
pub fn encode(kv: &KeyValue) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + kv.key.len() + kv.value.len());
    out.put_u64_le(kv.create_revision.0);
    out.put_u64_le(kv.version);
    out.put_i64_le(kv.lease.0);
    out.put_u32_le(u32::try_from(kv.key.len()).expect("keys are bounded by the request size"));
    out.put_slice(&kv.key);
    out.put_slice(&kv.value);
    out.freeze()
}

/// The row at `main`; `None` when the bytes are none. Key and value share `bytes`.
pub fn decode(main: Revision, bytes: &Bytes) -> Option<KeyValue> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let key_len = u32::from_le_bytes(head[24..28].try_into().expect("four bytes")) as usize;
    let key_end = HEAD.checked_add(key_len)?;
    if key_end > bytes.len() {
        return None;
    }
    Some(KeyValue {
        key: bytes.slice(HEAD..key_end),
        value: bytes.slice(key_end..),
        create_revision: Revision(word(0)),
        mod_revision: main,
        version: word(8),
        lease: LeaseId(word(16).cast_signed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_and_a_cut_one_does_not() {
        let kv = KeyValue {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            create_revision: Revision(3),
            mod_revision: Revision(9),
            version: 2,
            lease: LeaseId(-7),
        };
        let bytes = encode(&kv);
        assert_eq!(decode(Revision(9), &bytes), Some(kv));
        for len in 0..HEAD + 3 {
            assert_eq!(
                decode(Revision(9), &bytes.slice(..len)),
                None,
                "{len} bytes"
            );
        }
    }
}

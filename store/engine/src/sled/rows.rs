//! Keys and pieces in sled's database, reading them, and images of it. sled has no snapshots, so an image is a copy of
//! everything in memory: as much as the whole store, for as long as it is pinned.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::RwLock;

use crate::codec::{self, ROW_HEADER, check_row};
use crate::held::Held;
use crate::limits::SLED_PIECE_BYTES;
use crate::{Image, Images, Reader, RowId, Unreadable};

/// First bytes of keys.
const ROW: u8 = b'r';
const META: u8 = b'm';
pub const COMMITS: &[u8] = b"c";
pub const LAST: &[u8] = b"l";

/// The id that named values are checksummed with. No revision is that high.
pub const NO_ROW: RowId = RowId {
    main: u64::MAX,
    sub: u32::MAX,
};

/// The database, as readers see it.
pub struct Rows {
    pub db: ::sled::Db,
    /// Held while a batch is taken in: a copy of the whole must not have half of it.
    pub changing: RwLock<()>,
    pub path: PathBuf,
    pub store_id: u64,
}

/// Runs a call into sled, which panics where others return errors.
pub fn guarded<T>(call: impl FnOnce() -> ::sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let text = (panic.downcast_ref::<String>().map(String::as_str))
                .or(panic.downcast_ref::<&str>().copied());
            Err(format!("it panicked: {}", text.unwrap_or("no text")))
        }
    }
}

pub fn row_key(id: RowId, piece: u16) -> Vec<u8> {
    let mut key = vec![ROW];
    key.extend_from_slice(&id.main.to_be_bytes());
    key.extend_from_slice(&id.sub.to_be_bytes());
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

pub fn meta_key(name: &str, piece: u16) -> Vec<u8> {
    let mut key = vec![META];
    key.extend_from_slice(&(name.len() as u16).to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

/// The row a key belongs to, and its piece.
pub fn row_of(key: &[u8]) -> Option<(RowId, u16)> {
    let main = key.get(1..9)?.try_into().ok()?;
    let sub = key.get(9..13)?.try_into().ok()?;
    let piece = key.get(13..15)?.try_into().ok()?;
    let id = RowId {
        main: u64::from_be_bytes(main),
        sub: u32::from_be_bytes(sub),
    };
    Some((id, u16::from_be_bytes(piece)))
}

/// How many pieces a record of so many bytes takes; at least one.
pub fn pieces(bytes: usize) -> u16 {
    // `ROW_BYTES_MAX` and `BATCH_BYTES_MAX` keep it below 65,536.
    bytes.div_ceil(SLED_PIECE_BYTES).max(1) as u16
}

impl Rows {
    fn unreadable(&self, id: RowId, reason: impl Into<String>) -> Unreadable {
        Unreadable {
            file: self.path.clone(),
            offset: 0,
            reason: format!("row {id}: {}", reason.into()),
        }
    }

    fn get(&self, key: Vec<u8>) -> Result<Option<::sled::IVec>, String> {
        guarded(|| self.db.get(key))
    }

    /// The row with its header, unchecked.
    pub fn record(&self, id: RowId) -> Result<Option<Bytes>, Unreadable> {
        // A row of several pieces may be freed between two of them: then the first one is gone, too, when asked again.
        for _ in 0..2 {
            let first = self.get(row_key(id, 0));
            let Some(first) = first.map_err(|why| self.unreadable(id, why))? else {
                return Ok(None);
            };
            if first.len() < ROW_HEADER {
                return Err(self.unreadable(id, "it is shorter than its header"));
            }
            let len = ROW_HEADER + codec::u32_at(&first, 12) as usize;
            let mut record = BytesMut::from(&first[..]);
            for piece in 1..pieces(len) {
                match self.get(row_key(id, piece)) {
                    Ok(Some(more)) => record.put_slice(&more),
                    Ok(None) => break,
                    Err(why) => return Err(self.unreadable(id, why)),
                }
            }
            if record.len() == len {
                return Ok(Some(record.freeze()));
            }
        }
        Err(self.unreadable(id, "a piece of it is missing"))
    }
}

impl Rows {
    /// The named values, and how many pieces each takes.
    pub fn named(&self) -> Result<BTreeMap<String, (u16, Bytes)>, Unreadable> {
        let damaged = |what: String| Unreadable {
            file: self.path.clone(),
            offset: 0,
            reason: what,
        };
        let mut values: BTreeMap<String, (u16, BytesMut)> = BTreeMap::new();
        let mut keys = self.db.range(vec![META]..vec![META + 1]);
        while let Some((key, value)) = guarded(|| keys.next().transpose()).map_err(damaged)? {
            let name = key.get(3..key.len().saturating_sub(2));
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            let name = name.ok_or_else(|| damaged("a name is not UTF-8".into()))?;
            let (count, bytes) = values.entry(name.to_owned()).or_default();
            *count += 1;
            bytes.put_slice(&value);
        }
        let mut out = BTreeMap::new();
        for (name, (count, mut bytes)) in values {
            // The record's own checksum, as rows have one: under the id of no row.
            let whole = bytes.split().freeze();
            let value = check_row(&whole, self.store_id, NO_ROW)
                .map_err(|why| damaged(format!("named value {name}: {why}")))?;
            let value = Bytes::copy_from_slice(value);
            out.insert(name, (count, value));
        }
        Ok(out)
    }
}

impl Images for Rows {
    fn pin(&self) -> Result<Arc<dyn Image>, Unreadable> {
        let _whole = self.changing.read();
        let rows = self.scan(RowId { main: 0, sub: 0 }, usize::MAX, usize::MAX)?;
        let mut copy = Held::default();
        for (id, row) in rows {
            copy.insert(id, row);
        }
        let named = self.named()?.into_iter();
        copy.meta = named.map(|(name, (_, value))| (name, value)).collect();
        Ok(Arc::new(copy))
    }
}

impl Reader for Rows {
    fn read(&self, id: RowId) -> Result<Option<Bytes>, Unreadable> {
        let Some(record) = self.record(id)? else {
            return Ok(None);
        };
        check_row(&record, self.store_id, id).map_err(|why| self.unreadable(id, why))?;
        Ok(Some(record.slice(ROW_HEADER..)))
    }

    fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let mut keys = self.db.range(row_key(from, 0)..vec![ROW + 1]);
        while out.len() < max_rows && (out.is_empty() || bytes < max_bytes) {
            let next = guarded(|| keys.next().transpose());
            let Some((key, _)) = next.map_err(|why| self.unreadable(from, why))? else {
                break;
            };
            // Only first pieces name a row; one that was freed meanwhile is passed over.
            if let Some((id, 0)) = row_of(&key)
                && let Some(row) = self.read(id)?
            {
                bytes += row.len();
                out.push((id, row));
            }
        }
        Ok(out)
    }
}

//! What a state looks like on its way to another member: rows in order, then named values in order, cut into pieces.
//! Promise: a piece that was changed or cut does not parse, or gives a state that is not the one offered, which is found
//! before anything counts on it.
//! Not here: who sends (`consensus`), where it is put (`staging`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use barque_store_consensus::{Image, Piece};
use barque_store_engine::{self as engine, RowId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::staging::INSTALLED;

/// Named values with these beginnings are the receiver's own.
const LOCAL: &str = "staging/";

const ROW: u8 = 1;
const NAME: u8 = 2;

/// Where a piece begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Rows(RowId),
    /// The first name after this one.
    Names(String),
}

impl Place {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Place::Rows(id) => {
                out.put_u8(ROW);
                out.put_u64_le(id.main);
                out.put_u32_le(id.sub);
            }
            Place::Names(after) => {
                out.put_u8(NAME);
                out.put_slice(after.as_bytes());
            }
        }
        out.freeze()
    }
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Place::Rows(RowId { main: 0, sub: 0 }));
        }
        Some(match bytes.get_u8() {
            ROW => Place::Rows(RowId {
                main: bytes.try_get_u64_le().ok()?,
                sub: bytes.try_get_u32_le().ok()?,
            }),
            NAME => Place::Names(std::str::from_utf8(bytes).ok()?.to_owned()),
            _ => return None,
        })
    }
}

/// The row that may follow this one.
fn next(id: RowId) -> RowId {
    match id.sub.checked_add(1) {
        Some(sub) => RowId { main: id.main, sub },
        None => RowId {
            main: id.main + 1,
            sub: 0,
        },
    }
}

/// The state of a moment, among those that are exchanged for one another.
pub(crate) struct Present {
    exchanges: Arc<AtomicU64>,
    number: u64,
}

impl Present {
    pub(crate) fn now(exchanges: &Arc<AtomicU64>) -> Self {
        Present {
            exchanges: exchanges.clone(),
            number: exchanges.load(Ordering::Relaxed),
        }
    }
    pub(crate) fn is_still(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) == self.number
    }
}

/// A pinned state, as it is sent.
pub(crate) struct Sent {
    pub(crate) image: Arc<dyn engine::Image>,
    pub(crate) present: Present,
    pub(crate) piece_bytes: usize,
}

impl Image for Sent {
    fn is_present(&self) -> bool {
        self.present.is_still()
    }
    fn piece(&self, from: &[u8]) -> Result<Option<Piece>, String> {
        let Some(place) = Place::decode(from) else {
            return Ok(None);
        };
        let mut body = BytesMut::with_capacity(self.piece_bytes + (64 << 10));
        let after = match place {
            Place::Rows(from) => {
                // Rows count with their headers, so that many small ones are no more than few long ones.
                let rows = self
                    .image
                    .rows(from, self.piece_bytes / 32 + 1, self.piece_bytes)
                    .map_err(|row| row.to_string())?;
                if let Some((last, _)) = rows.last() {
                    let following = Place::Rows(next(*last)).encode();
                    for (id, row) in rows {
                        body.put_u8(ROW);
                        body.put_u64_le(id.main);
                        body.put_u32_le(id.sub);
                        body.put_u32_le(row.len() as u32);
                        body.put_slice(&row);
                    }
                    return Ok(Some(Piece {
                        body: body.freeze(),
                        next: Some(following),
                    }));
                }
                Bound::Unbounded
            }
            Place::Names(after) => Bound::Excluded(after),
        };
        let names = self.image.meta().range((after, Bound::Unbounded));
        let mut names = names
            .filter(|(name, _)| !name.starts_with(LOCAL) && *name != INSTALLED)
            .peekable();
        let mut last = None;
        while let Some((name, value)) = names.next() {
            body.put_u8(NAME);
            body.put_u16_le(name.len() as u16);
            body.put_u32_le(value.len() as u32);
            body.put_slice(name.as_bytes());
            body.put_slice(value);
            if body.len() >= self.piece_bytes && names.peek().is_some() {
                last = Some(Place::Names(name.clone()).encode());
                break;
            }
        }
        Ok(Some(Piece {
            body: body.freeze(),
            next: last,
        }))
    }
}

/// What a piece holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) rows: Vec<(RowId, Bytes)>,
    pub(crate) names: BTreeMap<String, Bytes>,
}

impl Contents {
    pub(crate) fn of(mut body: Bytes) -> Result<Self, String> {
        let mut out = Contents::default();
        while !body.is_empty() {
            out.one(&mut body)
                .ok_or("a piece of a state does not parse")?;
        }
        Ok(out)
    }

    fn one(&mut self, body: &mut Bytes) -> Option<()> {
        let part = |body: &mut Bytes, len: usize| (len <= body.len()).then(|| body.split_to(len));
        match body.try_get_u8().ok()? {
            ROW => {
                let main = body.try_get_u64_le().ok()?;
                let sub = body.try_get_u32_le().ok()?;
                let len = body.try_get_u32_le().ok()?;
                self.rows
                    .push((RowId { main, sub }, part(body, len as usize)?));
            }
            NAME => {
                let name = body.try_get_u16_le().ok()?;
                let value = body.try_get_u32_le().ok()?;
                let name = part(body, name.into())?;
                let name = std::str::from_utf8(&name).ok()?.to_owned();
                let value = part(body, value as usize)?;
                // Copied: it must not keep the whole piece.
                self.names.insert(name, Bytes::copy_from_slice(&value));
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barque_store_engine::Unreadable;

    struct Held {
        rows: BTreeMap<RowId, Bytes>,
        meta: BTreeMap<String, Bytes>,
    }

    impl engine::Image for Held {
        fn meta(&self) -> &BTreeMap<String, Bytes> {
            &self.meta
        }
        fn bytes(&self) -> u64 {
            0
        }
        fn rows(
            &self,
            from: RowId,
            max_rows: usize,
            max_bytes: usize,
        ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
            let mut bytes = 0;
            let rows = self.rows.range(from..).take(max_rows);
            let rows = rows.take_while(|(_, row)| {
                let take = bytes == 0 || bytes < max_bytes;
                bytes += row.len().max(1);
                take
            });
            Ok(rows.map(|(id, row)| (*id, row.clone())).collect())
        }
    }

    /// The piece that begins at a place of the state's own.
    fn piece(sent: &Sent, from: &[u8]) -> Piece {
        let piece = sent.piece(from).expect("readable");
        piece.expect("it begins there")
    }

    fn row(main: u64, sub: u32, len: usize) -> (RowId, Bytes) {
        (RowId { main, sub }, Bytes::from(vec![main as u8; len]))
    }

    fn all() -> Held {
        let names = (0..40).map(|n| (format!("name-{n}"), Bytes::from(vec![n; usize::from(n)])));
        Held {
            rows: BTreeMap::from([
                row(2, 0, 10),
                row(2, u32::MAX, 0),
                row(3, 1, 5000),
                row(9, 0, 1),
                row(u64::MAX - 1, 7, 80),
            ]),
            meta: names.collect(),
        }
    }

    #[test]
    fn the_pieces_are_the_whole_whatever_their_size() {
        for piece_bytes in [1, 33, 200, 4096, 1 << 20] {
            for (with_rows, with_names) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let Held { mut rows, mut meta } = all();
                if !with_rows {
                    rows.clear();
                }
                if !with_names {
                    meta.clear();
                }
                let mut held = Held {
                    rows: rows.clone(),
                    meta: meta.clone(),
                };
                for own in ["staging/next", INSTALLED] {
                    held.meta.insert(own.into(), "not for others".into());
                }
                let sent = Sent {
                    present: Present::now(&Arc::default()),
                    image: Arc::new(held),
                    piece_bytes,
                };
                let mut got = Contents::default();
                let mut at = Some(Bytes::new());
                let mut pieces = 0;
                while let Some(from) = at {
                    let Piece { body, next } = piece(&sent, &from);
                    let contents = Contents::of(body).expect("its own piece");
                    got.rows.extend(contents.rows);
                    got.names.extend(contents.names);
                    at = next;
                    pieces += 1;
                }
                assert!(got.rows.into_iter().eq(rows), "{piece_bytes}");
                assert_eq!(got.names, meta, "{piece_bytes}");
                assert!(piece_bytes > 1 || !with_names || pieces >= 40, "{pieces}");
            }
        }
    }

    /// It was told as an error, which is damage of this member's.
    #[test]
    fn a_place_that_is_none_has_no_piece_and_is_no_damage() {
        let sent = Sent {
            present: Present::now(&Arc::default()),
            image: Arc::new(all()),
            piece_bytes: 1 << 20,
        };
        for place in [vec![9], vec![ROW, 1], vec![NAME, 0xff]] {
            assert_eq!(sent.piece(&place), Ok(None), "{place:?}");
        }
    }

    #[test]
    fn what_is_cut_does_not_parse() {
        let sent = Sent {
            present: Present::now(&Arc::default()),
            image: Arc::new(all()),
            piece_bytes: 1 << 20,
        };
        let whole = piece(&sent, &[]);
        let names = piece(&sent, &whole.next.expect("the names follow"));
        for body in [whole.body, names.body] {
            let entire = Contents::of(body.clone()).expect("its own");
            for cut in 1..body.len() {
                // Between two rows a cut leaves fewer of them; inside one it is no piece.
                if let Ok(fewer) = Contents::of(body.slice(..cut)) {
                    assert!(
                        fewer.rows.len() + fewer.names.len()
                            < entire.rows.len() + entire.names.len()
                    );
                }
            }
        }
        assert!(Contents::of(Bytes::from_static(&[7])).is_err());
    }
}

//! What stands at a place of a segment: a batch, the end, a write that a crash cut off, or damage. Owns the evidence
//! that tells the last two apart.
//! Promise: a batch that was synced is never taken for a cut-off write because of one flipped bit, nor because a
//! cut-off write follows it; the work is linear in the bytes looked at.
//! Not here: files, the chain from batch to batch (`recover`).
//!
//! What is known: a segment was zeros before it was written to, so each sector of a cut-off write is new or zero, and
//! a write cut off at a byte has zeros after it. A batch is begun only after the sync of the one before it returned.

use crate::codec::{self, ALIGN, BATCH_HEADER, BATCH_TRAILER, Batch, Place, SECTOR};

/// What stands where a batch could begin.
#[derive(Debug)]
pub enum Found<'a> {
    Batch(Batch<'a>),
    /// Nothing but zeros up to the end of the segment.
    End,
    /// It may be a write that a crash cut off, unless there is [`later`] evidence.
    Torn {
        why: &'static str,
        /// Where the batch ends, if that can be known.
        end: Option<u64>,
    },
    /// No crash leaves this.
    Damaged(&'static str),
}

/// Looks for a batch at `place.offset` of the segment whose bytes are `segment`.
pub fn read_batch(segment: &[u8], place: Place) -> Found<'_> {
    let from = usize::try_from(place.offset).unwrap_or(usize::MAX);
    let rest = segment.get(from..).unwrap_or_default();
    let Some(head) = codec::head(rest, place) else {
        return without_head(segment, rest, place);
    };
    if let Some(batch) = codec::open(rest, place, &head) {
        return Found::Batch(batch);
    }
    let end = Some(place.offset + head.len as u64);
    let there = &rest[..head.len.min(rest.len())];
    // What lies beyond the end of the file was not written either.
    if rest.get(head.len - 1).is_none_or(|last| *last == 0) {
        let why = "the batch was not written to its end";
        return Found::Torn { why, end };
    }
    if codec::zero_sectors(there, place.offset) > head.zero_sectors {
        let why = "a part of the batch was not written";
        return Found::Torn { why, end };
    }
    Found::Damaged("the batch was written whole, but its checksum is wrong")
}

fn without_head<'a>(segment: &[u8], rest: &[u8], place: Place) -> Found<'a> {
    if codec::all_zero(rest) {
        return Found::End;
    }
    let why = if rest[0] == 0 {
        "the batch's first sector was not written"
    } else if codec::all_zero(&rest[BATCH_HEADER.min(rest.len())..]) {
        "the batch was not written beyond its header"
    } else if half_a_header(rest, place.offset) {
        "the batch's second sector was not written"
    } else {
        return Found::Damaged("the header of the batch is damaged");
    };
    Found::Torn {
        why,
        end: own_trailer(segment, place),
    }
}

/// The header goes on into a second sector, and that one is zero.
fn half_a_header(rest: &[u8], offset: u64) -> bool {
    let second = SECTOR - (offset % SECTOR as u64) as usize;
    second < BATCH_HEADER
        && codec::all_zero(&rest[second.min(rest.len())..(second + SECTOR).min(rest.len())])
}

/// The end of the batch at `place`, told by its trailer.
fn own_trailer(segment: &[u8], place: Place) -> Option<u64> {
    let first = usize::try_from(place.offset).ok()?.checked_add(ALIGN)?;
    (first..segment.len())
        .step_by(ALIGN)
        .find(|at| codec::trailer_start(segment, *at, place) == Some(place.offset))
        .map(|at| (at + BATCH_TRAILER) as u64)
}

/// Evidence, in the same segment, that the batch at `place` was followed by another: its own write had been synced
/// then. Tells where the evidence lies.
pub fn later(segment: &[u8], place: Place, end: Option<u64>) -> Option<u64> {
    let len = segment.len();
    if let Some(end) = end.and_then(|end| usize::try_from(end).ok())
        && let Some(at) = codec::first_nonzero(segment.get(end..).unwrap_or_default())
    {
        return Some((end + at) as u64);
    }
    let from = usize::try_from(place.offset).unwrap_or(len);
    // Each offset costs a look at its first bytes, and a checksum over at most a header if they look right: a client
    // that fills its values with what looks like headers cannot make this slow.
    for at in (from.saturating_add(ALIGN)..len).step_by(ALIGN) {
        let here = Place {
            offset: at as u64,
            ..place
        };
        if codec::head(&segment[at..], here).is_some() {
            return Some(here.offset);
        }
        if let Some(start) = codec::trailer_start(segment, at, place)
            && start > place.offset
        {
            return Some(start);
        }
    }
    None
}

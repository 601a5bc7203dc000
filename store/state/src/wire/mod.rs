//! Entries, commands and outcomes as bytes: protobuf inside a `{format, min_reader}` header (FORMAT.md).
//! Promise: what was encoded decodes to the same; what this binary is too old for is an error, never a guess. Decoding
//! shares the given buffer instead of copying it.
//! Not here: checksums and framing (the log's and the transport's).

mod alarms;
mod commands;
mod members;
mod outcomes;
mod pb;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::command::{Command, Entry, Outcome};
use crate::read_since::read_since;
use crate::version::ClusterVersion;

/// How the bytes after the header are laid out. 1: protobuf.
pub const FORMAT: u8 = 1;
/// Of each reader, from reader 1 on, the first cluster version whose programs are it. Grows when a reader must know something
/// new to carry entries out alike.
pub const READERS: [ClusterVersion; 1] = [ClusterVersion::EVERY];
/// The version of this reader.
pub const READER: u16 = READERS.len() as u16;
/// The oldest reader there is; it understands the answers this binary writes.
pub const OLDEST_READER: u16 = 1;
/// format u8, min_reader u16 (little-endian).
pub const HEADER_BYTES: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{bytes} bytes are too few to carry a header")]
    Truncated { bytes: usize },
    #[error("written in format {format}, which this binary does not know; it must be upgraded")]
    UnknownFormat { format: u8 },
    #[error(
        "needs a reader of version {min_reader} or newer, this binary has {READER}; it must be upgraded"
    )]
    TooNew { min_reader: u16 },
    #[error("malformed: {reason}")]
    Malformed { reason: String },
}
impl WireError {
    fn malformed(reason: impl Into<String>) -> Self {
        WireError::Malformed {
            reason: reason.into(),
        }
    }
}

pub fn encode_entry(entry: &Entry) -> Bytes {
    let body = pb::Entry {
        time: entry.time.0,
        commands: entry.commands.iter().map(commands::to_pb).collect(),
        origins: entry.origins.iter().map(commands::origin_to_pb).collect(),
    };
    encode(&body, min_reader(&entry.commands))
}

pub fn decode_entry(bytes: &Bytes) -> Result<Entry, WireError> {
    let entry: pb::Entry = decode(bytes)?;
    Ok(Entry {
        time: crate::ClusterTime(entry.time),
        commands: all(entry.commands, commands::from_pb)?,
        origins: entry.origins.iter().map(commands::origin_from_pb).collect(),
    })
}

pub fn encode_commands(commands: &[Command]) -> Bytes {
    let body = pb::Commands {
        commands: commands.iter().map(commands::to_pb).collect(),
    };
    encode(&body, min_reader(commands))
}

pub fn decode_commands(bytes: &Bytes) -> Result<Vec<Command>, WireError> {
    let commands: pb::Commands = decode(bytes)?;
    all(commands.commands, commands::from_pb)
}

pub fn encode_outcomes(outcomes: &[Outcome]) -> Bytes {
    let body = pb::Outcomes {
        outcomes: outcomes.iter().map(outcomes::to_pb).collect(),
    };
    encode(&body, OLDEST_READER)
}

pub fn decode_outcomes(bytes: &Bytes) -> Result<Vec<Outcome>, WireError> {
    let outcomes: pb::Outcomes = decode(bytes)?;
    all(outcomes.outcomes, outcomes::from_pb)
}

/// The oldest reader of all these commands.
fn min_reader(commands: &[Command]) -> u16 {
    let needs = commands.iter().map(read_since).max();
    reader_of(needs.unwrap_or_default(), &READERS)
}

/// Which reader the programs of this version are.
fn reader_of(version: ClusterVersion, readers: &[ClusterVersion]) -> u16 {
    let so_far = readers.iter().filter(|first| **first <= version);
    so_far.fold(0, |reader, _| reader + 1)
}

fn encode(message: &impl Message, min_reader: u16) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + message.encoded_len());
    out.put_u8(FORMAT);
    out.put_u16_le(min_reader);
    message.encode_raw(&mut out);
    out.freeze()
}

fn decode<M: Message + Default>(bytes: &Bytes) -> Result<M, WireError> {
    let mut rest = bytes.clone();
    if rest.len() < HEADER_BYTES {
        return Err(WireError::Truncated { bytes: rest.len() });
    }
    let (format, min_reader) = (rest.get_u8(), rest.get_u16_le());
    // The reader's version first: a newer format may come with a newer minimum, and that is the better advice.
    if min_reader > READER {
        return Err(WireError::TooNew { min_reader });
    }
    if format != FORMAT {
        return Err(WireError::UnknownFormat { format });
    }
    M::decode(rest).map_err(|error| WireError::malformed(error.to_string()))
}

/// Converts each, or says why one cannot be.
fn all<A, B>(
    list: Vec<A>,
    convert: impl Fn(A) -> Result<B, WireError>,
) -> Result<Vec<B>, WireError> {
    list.into_iter().map(convert).collect()
}

/// A oneof that is not set: a kind newer than this binary whose writer forgot to raise `min_reader`, or damage.
fn known<T>(kind: Option<T>, what: &str) -> Result<T, WireError> {
    kind.ok_or_else(|| WireError::malformed(format!("a {what} of no known kind")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_asks_for_the_reader_that_the_newest_command_needs() {
        let version = |minor| ClusterVersion { major: 3, minor };
        let readers = [ClusterVersion::EVERY, version(8), version(11)];
        for (needs, reader) in [
            (ClusterVersion::EVERY, 1),
            (version(7), 1),
            (version(8), 2),
            (version(10), 2),
            (version(11), 3),
        ] {
            assert_eq!(reader_of(needs, &readers), reader, "{needs}");
        }
        // What this program writes it reads.
        assert!(READERS.is_sorted() && READERS[0] == ClusterVersion::EVERY);
        assert_eq!(reader_of(ClusterVersion::NEWEST, &READERS), READER);
        assert_eq!(min_reader(&[]), OLDEST_READER);
    }
}

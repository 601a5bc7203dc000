//! Rows and changes as clients see them, with values as numbers.

use barque_proto::mvccpb::{Event, KeyValue, event::EventType};

use crate::value;

/// A key and its value's number as a client knows them from its own request; `None` when deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    pub key: Box<str>,
    pub value: Option<u64>,
}

/// A row or, without a value, a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: Box<str>,
    pub value: Option<u64>,
    pub create: u64,
    pub modified: u64,
    pub version: u64,
    pub lease: i64,
}

impl Row {
    pub fn plain(&self) -> Plain {
        Plain {
            key: self.key.clone(),
            value: self.value,
        }
    }

    /// The row of a range answer; an error when it is none that clients here write.
    pub fn of(kv: &KeyValue) -> Result<Row, String> {
        let key = text(&kv.key)?;
        let number = value::parse(&kv.value).map_err(|e| format!("{key}: {e}"))?;
        Ok(Row {
            value: Some(number),
            ..Row::tombstone(key, kv)?
        })
    }

    fn tombstone(key: Box<str>, kv: &KeyValue) -> Result<Row, String> {
        let positive =
            |n: i64, what: &str| u64::try_from(n).map_err(|_| format!("{key}: {what} {n}"));
        Ok(Row {
            value: None,
            create: positive(kv.create_revision, "create_revision")?,
            modified: positive(kv.mod_revision, "mod_revision")?,
            version: positive(kv.version, "version")?,
            lease: kv.lease,
            key,
        })
    }

    pub fn of_event(event: &Event) -> Result<Row, String> {
        let kv = event.kv.as_ref().ok_or("an event without a row")?;
        if event.r#type() == EventType::Put {
            return Row::of(kv);
        }
        let row = Row::tombstone(text(&kv.key)?, kv)?;
        if kv.value.is_empty() && (row.create, row.version, row.lease) == (0, 0, 0) {
            Ok(row)
        } else {
            Err(format!("a deletion that carries more than its key: {kv:?}"))
        }
    }
}

fn text(key: &[u8]) -> Result<Box<str>, String> {
    let text = std::str::from_utf8(key).map_err(|_| format!("a key nobody writes: {key:?}"))?;
    Ok(text.into())
}

//! Where rows are once they are persisted. The state keeps the newest ones in memory and reads the rest from here.
//! Promise needed: a row given to the engine and not freed is found, whole and checked, or an error says where it is not.

use bytes::Bytes;

use crate::command::Refusal;
use crate::types::RowId;

/// Reads persisted rows, synchronously and from any thread; called under the state's lock, so it must not take long.
pub trait Archive: Send + Sync {
    /// The row's bytes as they were persisted; `None`: it is not held.
    fn read(&self, id: RowId) -> Result<Option<Bytes>, Unreadable>;
    /// Held rows from `from` on, in order; none at all only when there are no more.
    fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable>;
}

/// A persisted row that cannot be had as it was written. The member must stop serving: its data is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

impl Unreadable {
    pub(crate) fn row(id: RowId, what: &str) -> Self {
        Unreadable(format!(
            "the row of revision {} (operation {}) {what}",
            id.main.0, id.sub
        ))
    }
}

/// Why a read has no answer: the client asked for what there is not, or this member's data is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

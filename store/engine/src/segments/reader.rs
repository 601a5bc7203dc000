//! Reading rows: look up under the lock, read without it, check every checksum.

use std::collections::BTreeMap;
use std::sync::Arc;

use barque_store_env::Disk;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::codec::{ROW_HEADER, check_row};
use crate::limits::{READ_GAP, READ_SPAN};
use crate::{Reader, RowId, Unreadable};

use super::files::{Dir, ReadError, SegmentFile};
use super::pinned::View;
use super::table::{Row, Table};

/// What the engine and its readers share.
#[derive(Debug)]
pub struct Shared<D> {
    pub dir: Dir<D>,
    pub state: RwLock<State>,
}

/// Invariant: each segment that the table names has its file here.
#[derive(Debug, Default)]
pub struct State {
    pub table: Table,
    pub files: BTreeMap<u32, Arc<SegmentFile>>,
    /// The named values.
    pub meta: Arc<BTreeMap<String, Bytes>>,
    /// While a large batch is taken in piece by piece: what there was before it.
    pub before: Option<View>,
}

impl State {
    fn file(&self, row: &Row) -> Arc<SegmentFile> {
        let file = self.files.get(&row.segment);
        file.expect("a row's segment has a file").clone()
    }
}

/// A row and where to read it.
pub type Found = (Row, Arc<SegmentFile>);

impl<D: Disk> Shared<D> {
    fn find(&self, id: RowId) -> Option<Found> {
        let state = self.state.read();
        let row = state.table.get(id)?;
        let file = state.file(&row);
        Some((row, file))
    }

    /// Rows in ascending order of their ids. Those that lie near one another are read together.
    pub fn read_all(&self, rows: &[Found]) -> Result<Vec<(RowId, Bytes)>, ReadError> {
        let mut out = Vec::with_capacity(rows.len());
        let mut rest = rows;
        while let Some((first, file)) = rest.first() {
            let start = u64::from(first.offset);
            let mut end = start + first.file_len();
            let mut count = 1;
            while let Some((row, _)) = rest.get(count)
                && row.segment == first.segment
                && u64::from(row.offset) >= end
                && u64::from(row.offset) - end <= READ_GAP
                && u64::from(row.offset) + row.file_len() - start <= READ_SPAN
            {
                end = u64::from(row.offset) + row.file_len();
                count += 1;
            }
            let mut buf = vec![0; (end - start) as usize];
            file.read(&self.dir.disk, start, &mut buf)?;
            let buf = Bytes::from(buf);
            for (row, _) in &rest[..count] {
                let at = (u64::from(row.offset) - start) as usize;
                let record = buf.slice(at..at + row.file_len() as usize);
                check_row(&record, self.dir.store_id, row.id())
                    .map_err(|why| ReadError::Bad(file.unreadable(row.offset.into(), why)))?;
                out.push((row.id(), record.slice(ROW_HEADER..)));
            }
            rest = &rest[count..];
        }
        Ok(out)
    }

    fn one(&self, found: &Found) -> Result<Bytes, ReadError> {
        let mut rows = self.read_all(std::slice::from_ref(found))?;
        Ok(rows.pop().expect("one row was asked for").1)
    }

    /// A row that is about to be moved.
    pub fn files_of(&self, rows: &[Row]) -> Vec<Found> {
        let state = self.state.read();
        rows.iter().map(|row| (*row, state.file(row))).collect()
    }
}

impl<D: Disk> Reader for Shared<D> {
    fn read(&self, id: RowId) -> Result<Option<Bytes>, Unreadable> {
        let mut found = self.find(id);
        while let Some(at) = found {
            match self.one(&at) {
                Ok(row) => return Ok(Some(row)),
                Err(ReadError::Bad(unreadable)) => return Err(unreadable),
                // Its file was dropped between the look-up and the opening: then the row has moved or is freed.
                Err(ReadError::Gone(unreadable)) => {
                    found = self.find(id);
                    if found.as_ref().is_some_and(|(row, _)| *row == at.0) {
                        return Err(unreadable);
                    }
                }
            }
        }
        Ok(None)
    }

    fn scan(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
        let mut before: Option<Vec<Found>> = None;
        loop {
            let mut found: Vec<Found> = Vec::new();
            {
                let state = self.state.read();
                let mut bytes = 0;
                for row in state.table.from(from).take(max_rows) {
                    if !found.is_empty() && bytes >= max_bytes {
                        break;
                    }
                    bytes += row.len as usize;
                    found.push((*row, state.file(row)));
                }
            }
            match self.read_all(&found) {
                Ok(rows) => return Ok(rows),
                Err(ReadError::Bad(unreadable)) => return Err(unreadable),
                // As in `read`: look again, unless nothing has changed.
                Err(ReadError::Gone(unreadable)) => {
                    let places = |found: &[Found]| found.iter().map(|f| f.0).collect::<Vec<_>>();
                    if (before.as_deref()).is_some_and(|old| places(old) == places(&found)) {
                        return Err(unreadable);
                    }
                    before = Some(found);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

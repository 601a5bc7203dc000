//! Rows and named values in memory: what the memory engine holds, and an image of an engine that has no cheaper one.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::codec::row_len;
use crate::{Image, RowId, Unreadable};

#[derive(Clone, Default)]
pub struct Held {
    rows: BTreeMap<RowId, Bytes>,
    /// Of `rows`, as a frame has them.
    row_bytes: u64,
    pub meta: BTreeMap<String, Bytes>,
}

impl Held {
    pub fn get(&self, id: RowId) -> Option<&Bytes> {
        self.rows.get(&id)
    }
    /// Each row comes once.
    pub fn insert(&mut self, id: RowId, row: Bytes) {
        self.row_bytes += row_len(row.len());
        self.rows.insert(id, row);
    }
    pub fn remove(&mut self, id: RowId) {
        if let Some(row) = self.rows.remove(&id) {
            self.row_bytes -= row_len(row.len());
        }
    }
    /// As [`crate::Reader::scan`].
    pub fn scan(&self, from: RowId, max_rows: usize, max_bytes: usize) -> Vec<(RowId, Bytes)> {
        let mut out = Vec::new();
        let mut bytes = 0;
        for (id, row) in self.rows.range(from..) {
            if out.len() >= max_rows || !out.is_empty() && bytes >= max_bytes {
                break;
            }
            bytes += row.len();
            out.push((*id, row.clone()));
        }
        out
    }
}

impl Image for Held {
    fn meta(&self) -> &BTreeMap<String, Bytes> {
        &self.meta
    }
    fn bytes(&self) -> u64 {
        let meta = self.meta.iter();
        let meta: usize = meta.map(|(name, value)| name.len() + value.len()).sum();
        self.row_bytes + meta as u64
    }
    fn rows(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
        Ok(self.scan(from, max_rows, max_bytes))
    }
}

//! Where each row lies. Owns the sorted table of rows and the accounting of what each segment still holds.
//! Promise: 24 bytes a row and no node per row; a snapshot costs a pointer per block, and what is changed later is
//! copied block by block.
//! Not here: files, locks.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::RowId;
use crate::codec::row_len;

/// Rows in a block: 24 KiB, which is what a change copies at most while a snapshot is alive.
pub const BLOCK_ROWS: usize = 1024;
/// The length of a row that was freed.
const FREED: u32 = u32::MAX;

/// One row's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub main: u64,
    pub sub: u32,
    pub segment: u32,
    /// Of its header, in the segment's file.
    pub offset: u32,
    /// Of its bytes, header not counted.
    pub len: u32,
}
const _: () = assert!(size_of::<Row>() == 24);

impl Row {
    pub fn id(&self) -> RowId {
        RowId {
            main: self.main,
            sub: self.sub,
        }
    }
    /// Its bytes in the file, header included.
    pub fn file_len(&self) -> u64 {
        row_len(self.len as usize)
    }
}

/// Consecutive rows.
/// Invariant: ascending, never empty, `freed` of them are freed.
#[derive(Clone, Debug, Default)]
pub struct Block {
    rows: Vec<Row>,
    freed: usize,
}

impl Block {
    pub fn live(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.len != FREED)
    }
    fn last(&self) -> RowId {
        self.rows.last().expect("a block is not empty").id()
    }
    fn find(&self, id: RowId) -> Option<usize> {
        let found = self.rows.binary_search_by_key(&id, Row::id).ok()?;
        (self.rows[found].len != FREED).then_some(found)
    }
}

/// What a segment holds of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub rows: u64,
    /// In the file, headers included.
    pub bytes: u64,
    /// No row outside of these was ever put into it.
    pub first: RowId,
    pub last: RowId,
}

/// All rows held.
#[derive(Debug, Default)]
pub struct Table {
    blocks: Vec<Arc<Block>>,
    usage: BTreeMap<u32, Usage>,
    live_bytes: u64,
    last: Option<RowId>,
}

impl Table {
    /// The last row ever given, held or not.
    pub fn last(&self) -> Option<RowId> {
        self.last
    }
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }
    #[cfg(test)]
    pub fn live_rows(&self) -> u64 {
        self.usage.values().map(|usage| usage.rows).sum()
    }
    /// What the segment holds; `None` when it holds no row.
    pub fn usage(&self, segment: u32) -> Option<Usage> {
        self.usage.get(&segment).copied()
    }
    /// Segments that hold rows.
    pub fn used(&self) -> impl Iterator<Item = (u32, Usage)> + '_ {
        self.usage.iter().map(|(segment, usage)| (*segment, *usage))
    }

    /// Only grows: a checkpoint may know of a later row than it holds.
    pub fn note_last(&mut self, last: Option<RowId>) {
        self.last = self.last.max(last);
    }

    fn used_more(&mut self, rows: &[Row]) {
        // Neighbours mostly lie in the same segment: one look-up for each run of them.
        for run in rows.chunk_by(|a, b| a.segment == b.segment) {
            let bytes: u64 = run.iter().map(Row::file_len).sum();
            let (first, last) = (run[0].id(), run[run.len() - 1].id());
            let usage = self.usage.entry(run[0].segment).or_insert(Usage {
                rows: 0,
                bytes: 0,
                first,
                last,
            });
            usage.rows += run.len() as u64;
            usage.bytes += bytes;
            usage.first = usage.first.min(first);
            usage.last = usage.last.max(last);
            self.live_bytes += bytes;
        }
    }

    fn used_less(&mut self, row: &Row) {
        let bytes = row.file_len();
        self.live_bytes -= bytes;
        let usage = self.usage.get_mut(&row.segment);
        let usage = usage.expect("a row's segment is accounted for");
        usage.rows -= 1;
        usage.bytes -= bytes;
        if usage.rows == 0 {
            self.usage.remove(&row.segment);
        }
    }

    /// Appends rows: ascending, and above every row ever given.
    pub fn append(&mut self, rows: &[Row]) {
        self.used_more(rows);
        let mut rest = rows;
        while !rest.is_empty() {
            if (self.blocks.last()).is_none_or(|block| block.rows.len() >= BLOCK_ROWS) {
                self.blocks.push(Arc::default());
            }
            let block = Arc::make_mut(self.blocks.last_mut().expect("just made"));
            let (now, later) = rest.split_at(rest.len().min(BLOCK_ROWS - block.rows.len()));
            block.rows.extend_from_slice(now);
            rest = later;
        }
        self.note_last(rows.last().map(Row::id));
    }

    /// The block in which the row would be.
    fn block_of(&self, id: RowId) -> usize {
        self.blocks.partition_point(|block| block.last() < id)
    }

    pub fn get(&self, id: RowId) -> Option<Row> {
        let block = self.blocks.get(self.block_of(id))?;
        Some(block.rows[block.find(id)?])
    }

    /// Whether the row was held.
    pub fn free(&mut self, id: RowId) -> bool {
        let at = self.block_of(id);
        let Some(block) = self.blocks.get_mut(at) else {
            return false;
        };
        let Some(found) = block.find(id) else {
            return false;
        };
        let block = Arc::make_mut(block);
        let row = block.rows[found];
        block.rows[found].len = FREED;
        block.freed += 1;
        if block.freed * 2 >= block.rows.len() {
            block.rows.retain(|row| row.len != FREED);
            block.rows.shrink_to_fit();
            block.freed = 0;
            if block.rows.is_empty() {
                self.blocks.remove(at);
            } else {
                self.join(at);
            }
        }
        self.used_less(&row);
        true
    }

    /// Joins a block that has become small with the one before, lest many small ones be left.
    fn join(&mut self, at: usize) {
        if at > 0 && self.blocks[at - 1].rows.len() + self.blocks[at].rows.len() <= BLOCK_ROWS / 2 {
            let block = self.blocks.remove(at);
            let before = Arc::make_mut(&mut self.blocks[at - 1]);
            before.rows.extend_from_slice(&block.rows);
            before.freed += block.freed;
        }
    }

    /// The row lies somewhere else now. False when it is not held.
    pub fn relocate(&mut self, to: Row) -> bool {
        let at = self.block_of(to.id());
        let Some(block) = self.blocks.get_mut(at) else {
            return false;
        };
        let Some(found) = block.find(to.id()) else {
            return false;
        };
        let old = std::mem::replace(&mut Arc::make_mut(block).rows[found], to);
        self.used_less(&old);
        self.used_more(&[to]);
        true
    }

    /// Rows held, from `from` on.
    pub fn from(&self, from: RowId) -> impl Iterator<Item = &Row> {
        rows_from(&self.blocks, from)
    }

    /// Rows of one segment, looked for in at most `max_blocks` blocks from `from` on, up to `max_bytes` but at least one;
    /// and from where to go on, `None` at the end.
    pub fn rows_of(
        &self,
        segment: u32,
        from: RowId,
        max_blocks: usize,
        max_bytes: u64,
    ) -> (Vec<Row>, Option<RowId>) {
        let (mut out, mut bytes) = (Vec::new(), 0);
        let first = self.block_of(from);
        for (looked, block) in self.blocks[first..].iter().enumerate() {
            if looked == max_blocks {
                return (out, Some(block.rows[0].id()));
            }
            for row in block
                .live()
                .filter(|row| row.segment == segment && row.id() >= from)
            {
                if !out.is_empty() && bytes + row.file_len() > max_bytes {
                    return (out, Some(row.id()));
                }
                bytes += row.file_len();
                out.push(*row);
            }
        }
        (out, None)
    }

    /// The rows as they are now.
    pub fn snapshot(&self) -> Vec<Arc<Block>> {
        self.blocks.clone()
    }
}

/// Rows held of consecutive blocks, from `from` on.
pub fn rows_from(blocks: &[Arc<Block>], from: RowId) -> impl Iterator<Item = &Row> {
    let first = blocks.partition_point(|block| block.last() < from);
    let rows = blocks[first..].iter().flat_map(|block| block.live());
    rows.skip_while(move |row| row.id() < from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(main: u64, segment: u32, len: u32) -> Row {
        Row {
            main,
            sub: 0,
            segment,
            offset: main as u32,
            len,
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Append(u16, u32),
        /// From, how many, every which.
        Free(u16, u16, u16),
        Relocate(u16, u16),
        Snapshot,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1..3000u16, 0..4u32).prop_map(|(n, s)| Op::Append(n, s)),
            (any::<u16>(), 0..4000u16, 1..4u16).prop_map(|(f, n, e)| Op::Free(f % 9000, n, e)),
            (any::<u16>(), 0..50u16).prop_map(|(f, n)| Op::Relocate(f % 9000, n)),
            Just(Op::Snapshot),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
        #[test]
        fn the_table_is_a_map(ops in proptest::collection::vec(op(), 1..25)) {
            let mut table = Table::default();
            let mut model = BTreeMap::<u64, Row>::new();
            let mut next = 1;
            let mut snapshots = Vec::new();
            for op in ops {
                match op {
                    Op::Append(count, segment) => {
                        let rows: Vec<_> = (next..next + u64::from(count))
                            .map(|main| row(main * 2, segment, (main % 50) as u32)).collect();
                        next += u64::from(count);
                        table.append(&rows);
                        model.extend(rows.iter().map(|row| (row.main, *row)));
                    }
                    Op::Free(first, count, every) => {
                        for main in (first..first.saturating_add(count)).step_by(every.into()) {
                            let main = u64::from(main);
                            let held = table.free(RowId { main, sub: 0 });
                            prop_assert_eq!(held, model.remove(&main).is_some());
                        }
                    }
                    Op::Relocate(first, count) => {
                        for main in first..first.saturating_add(count) {
                            let to = row(main.into(), 9, 5);
                            let held = table.relocate(to);
                            prop_assert_eq!(held, model.contains_key(&to.main));
                            if held {
                                model.insert(to.main, to);
                            }
                        }
                    }
                    Op::Snapshot => {
                        let rows: Vec<Row> = model.values().copied().collect();
                        snapshots.push((table.snapshot(), rows));
                    }
                }
                prop_assert_eq!(table.live_rows(), model.len() as u64);
                prop_assert_eq!(table.live_bytes(), model.values().map(Row::file_len).sum::<u64>());
                for probe in [0, 1, 2, next, next * 2 - 2, 777, 2048] {
                    let id = RowId { main: probe, sub: 0 };
                    prop_assert_eq!(table.get(id), model.get(&probe).copied());
                    let first = table.from(id).next().copied();
                    prop_assert_eq!(first, model.range(probe..).next().map(|(_, row)| *row));
                }
                for segment in [0, 1, 2, 3, 9] {
                    let of: Vec<Row> = model.values().filter(|row| row.segment == segment).copied().collect();
                    let usage = table.usage(segment);
                    prop_assert_eq!(usage.map_or(0, |u| u.rows), of.len() as u64);
                    prop_assert_eq!(usage.map_or(0, |u| u.bytes), of.iter().map(Row::file_len).sum::<u64>());
                    let mut from = usage.map(|u| u.first);
                    let mut found = Vec::new();
                    while let Some(id) = from {
                        let (rows, on) = table.rows_of(segment, id, 2, 300);
                        found.extend(rows);
                        from = on;
                    }
                    prop_assert_eq!(found, of);
                }
            }
            let all: Vec<Row> = table.from(RowId { main: 0, sub: 0 }).copied().collect();
            prop_assert_eq!(all, model.values().copied().collect::<Vec<_>>());
            for (blocks, rows) in snapshots {
                let then: Vec<Row> = blocks.iter().flat_map(|block| block.live()).copied().collect();
                prop_assert_eq!(then, rows, "a snapshot does not change");
            }
            // Not many more blocks than rows need.
            prop_assert!(table.blocks.len() <= 2 + 4 * model.len() / BLOCK_ROWS + model.len().min(2));
        }
    }
}

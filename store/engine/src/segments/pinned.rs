//! Images: the rows and named values of one moment, kept readable while the engine goes on.
//! Promise: an image is that of whole commits; neither relocation nor the dropping of files reaches it, because its files
//! are open from the moment it is pinned, and what was once written to a segment stays where it is.
//! Costs: a pointer per block of rows, copies of the blocks changed later, and the disk space of files dropped meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use barque_store_env::Disk;
use bytes::Bytes;

use crate::{Image, Images, RowId, Unreadable};

use super::files::{ReadError, SegmentFile};
use super::reader::{Found, Shared, State};
use super::set;
use super::table::{Block, rows_from};

/// What there is at one moment.
#[derive(Clone, Debug)]
pub struct View {
    blocks: Vec<Arc<Block>>,
    /// Those that hold rows.
    files: BTreeMap<u32, Arc<SegmentFile>>,
    meta: Arc<BTreeMap<String, Bytes>>,
    row_bytes: u64,
}

impl State {
    pub fn view(&self) -> View {
        let used = self.table.used().map(|(segment, _)| {
            let file = self.files.get(&segment);
            (segment, file.expect("a row's segment has a file").clone())
        });
        View {
            files: used.collect(),
            blocks: self.table.snapshot(),
            meta: self.meta.clone(),
            row_bytes: self.table.live_bytes(),
        }
    }

    /// Sets and deletes named values; returns their bytes, which were `bytes` before.
    pub fn name(&mut self, values: Vec<(String, Option<Bytes>)>, mut bytes: u64) -> u64 {
        if !values.is_empty() {
            // Copied once for each image that is pinned, else changed in place.
            let meta = Arc::make_mut(&mut self.meta);
            for (name, value) in values {
                set(meta, &mut bytes, name, value);
            }
        }
        bytes
    }
}

/// Pins images.
pub struct Pinner<D>(pub Arc<Shared<D>>);

impl<D: Disk> Images for Pinner<D> {
    fn pin(&self) -> Result<Arc<dyn Image>, Unreadable> {
        let shared = &self.0;
        let mut gone: Option<Unreadable> = None;
        loop {
            let view = {
                let state = shared.state.read();
                state.before.clone().unwrap_or_else(|| state.view())
            };
            let opened = view.files.values().try_for_each(|file| {
                let held = file.hold(&shared.dir.disk);
                held.map(|_| ())
            });
            match opened {
                Ok(()) => {
                    let shared = shared.clone();
                    return Ok(Arc::new(Pinned { shared, view }));
                }
                Err(ReadError::Bad(unreadable)) => return Err(unreadable),
                // It was dropped between the look and the opening: then the next look does not have it.
                Err(ReadError::Gone(unreadable)) => {
                    if gone.as_ref().is_some_and(|old| old.file == unreadable.file) {
                        return Err(unreadable);
                    }
                    gone = Some(unreadable);
                }
            }
        }
    }
}

struct Pinned<D> {
    /// For reading alone: its table is that of another moment.
    shared: Arc<Shared<D>>,
    view: View,
}

impl<D: Disk> Image for Pinned<D> {
    fn meta(&self) -> &BTreeMap<String, Bytes> {
        &self.view.meta
    }

    fn bytes(&self) -> u64 {
        let meta = self.view.meta.iter();
        let meta: usize = meta.map(|(name, value)| name.len() + value.len()).sum();
        self.view.row_bytes + meta as u64
    }

    fn rows(
        &self,
        from: RowId,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<(RowId, Bytes)>, Unreadable> {
        let mut found: Vec<Found> = Vec::new();
        let mut bytes = 0;
        for row in rows_from(&self.view.blocks, from).take(max_rows) {
            if !found.is_empty() && bytes >= max_bytes {
                break;
            }
            bytes += row.len as usize;
            let file = self.view.files.get(&row.segment);
            found.push((*row, file.expect("its files were taken with it").clone()));
        }
        let rows = self.shared.read_all(&found);
        rows.map_err(|error| match error {
            ReadError::Gone(unreadable) | ReadError::Bad(unreadable) => unreadable,
        })
    }
}

//! What an engine should hold, kept in the plainest way, and a caller that puts its index together from what a start
//! tells it, as the state machine does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use barque_store_env::{Disk, Env};
use bytes::Bytes;

use crate::*;

/// Small files, so that tests rotate, relocate and drop often.
pub const SMALL: Options = Options {
    segment_bytes: 2_048,
    tail_bytes: 4_096,
    step_bytes: 600,
    index_kept_bytes: 200,
};

pub fn id(main: u64, sub: u32) -> RowId {
    RowId { main, sub }
}

/// A small random generator, the same in both worlds.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The whole of what is persisted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub rows: BTreeMap<RowId, Bytes>,
    pub meta: BTreeMap<String, Bytes>,
    pub last: RowIdOrNone,
}
type RowIdOrNone = Option<RowId>;

impl State {
    pub fn apply(&mut self, batch: &Batch) {
        for (id, row) in &batch.rows {
            self.rows.insert(*id, row.clone());
            self.last = Some(*id);
        }
        for id in &batch.freed {
            self.rows.remove(id);
        }
        for (name, value) in &batch.meta {
            match value {
                Some(value) => drop(self.meta.insert(name.clone(), value.clone())),
                None => drop(self.meta.remove(name)),
            }
        }
    }

    /// A batch that could follow: new rows, frees of some old ones (runs and single ones, unknown ones too), names.
    pub fn batch(&self, chance: &mut Chance) -> Batch {
        let mut batch = Batch::default();
        let mut next = self.last.map_or(1, |last| last.main + 1);
        for _ in 0..chance.below(12) {
            let sub = match batch.rows.last() {
                Some((last, _)) if last.main == next && chance.one_in(3) => last.sub + 1,
                Some((last, _)) if last.main == next => {
                    next += 1 + chance.below(2);
                    0
                }
                _ => chance.below(2) as u32,
            };
            // Lengths that leave every kind of padding; now and then one larger than a segment.
            let len = match chance.below(80) {
                0 => 3_000,
                1..20 => 0,
                _ => chance.below(120),
            };
            let fill = chance.next() as u8;
            batch
                .rows
                .push((id(next, sub), Bytes::from(vec![fill; len as usize])));
        }
        let held: Vec<RowId> = self.rows.keys().copied().collect();
        if !held.is_empty() && chance.one_in(2) {
            let first = chance.below(held.len() as u64) as usize;
            let count = chance.below(24) as usize;
            batch.freed.extend(held.iter().skip(first).take(count));
        }
        for _ in 0..chance.below(4) {
            let known = chance.below(4) != 0 && !held.is_empty();
            batch.freed.push(match known {
                true => held[chance.below(held.len() as u64) as usize],
                false => id(chance.below(next + 5), chance.below(3) as u32),
            });
        }
        for _ in 0..chance.below(3) {
            let name = format!("name-{}", chance.below(6));
            let value = (!chance.one_in(4))
                .then(|| Bytes::from(vec![chance.next() as u8; chance.below(40) as usize]));
            batch.meta.push((name, value));
        }
        // As the persister does; it also makes every state another one.
        let applied = self.meta.get("applied").map_or(0, |value| {
            u64::from_le_bytes(value[..].try_into().expect("eight bytes"))
        });
        let next = Bytes::copy_from_slice(&(applied + 1 + chance.below(3)).to_le_bytes());
        batch.meta.push(("applied".into(), Some(next)));
        // What the batch frees of its own rows as well.
        if let Some((id, _)) = batch.rows.first()
            && chance.one_in(6)
        {
            batch.freed.push(*id);
        }
        batch
    }

    /// The caller's index, for a checkpoint: here simply the ids, in chunks.
    pub fn index(&self) -> Vec<Bytes> {
        let ids: Vec<RowId> = self.rows.keys().copied().collect();
        ids.chunks(7).map(encode_ids).collect()
    }
}

fn encode_ids(ids: &[RowId]) -> Bytes {
    let mut out = Vec::new();
    for id in ids {
        out.extend_from_slice(&id.main.to_le_bytes());
        out.extend_from_slice(&id.sub.to_le_bytes());
    }
    out.into()
}

/// An index put together from what a start tells.
#[derive(Debug, Default)]
pub struct Rebuilt {
    pub ids: BTreeSet<RowId>,
    pub chunks: u64,
    pub rows: u64,
    pub freed: u64,
    last_told: Option<RowId>,
}

impl Restore for Rebuilt {
    fn index(&mut self, chunk: Bytes) -> Result<(), String> {
        if self.rows + self.freed > 0 {
            return Err("the index came after rows".into());
        }
        self.chunks += 1;
        for one in chunk.chunks_exact(12) {
            let main = u64::from_le_bytes(one[..8].try_into().unwrap());
            let sub = u32::from_le_bytes(one[8..].try_into().unwrap());
            if !self.ids.insert(id(main, sub)) {
                return Err(format!("row {main}/{sub} is twice in the index"));
            }
        }
        Ok(())
    }
    fn row(&mut self, id: RowId, _: Bytes) -> Result<(), String> {
        self.rows += 1;
        if self.last_told >= Some(id) {
            return Err(format!("row {id} was told after {:?}", self.last_told));
        }
        self.last_told = Some(id);
        if !self.ids.insert(id) {
            return Err(format!("row {id} was told though the index has it"));
        }
        Ok(())
    }
    fn freed(&mut self, id: RowId) -> Result<(), String> {
        self.freed += 1;
        self.ids.remove(&id);
        Ok(())
    }
}

/// An engine just opened, and what it told.
pub struct Start<E: Env> {
    pub engine: AnyEngine<E>,
    pub meta: BTreeMap<String, Bytes>,
    pub told: Rebuilt,
}

impl<E: Env> Start<E> {
    pub async fn new(
        kind: Kind,
        disk: E::Disk,
        dir: &Path,
        options: Options,
    ) -> Result<Self, Error> {
        let mut told = Rebuilt::default();
        let opened = open_with::<E>(kind, disk, dir, &mut told, options).await?;
        Ok(Start {
            engine: opened.engine,
            meta: opened.meta,
            told,
        })
    }

    /// What the caller would now believe, and what the reader serves.
    pub fn is(&self, state: &State) -> Result<(), String> {
        if self.meta != state.meta {
            return Err(format!("meta is {:?}, not {:?}", self.meta, state.meta));
        }
        if !self.told.ids.iter().eq(state.rows.keys()) {
            return Err(format!(
                "index of {:?}, not {:?}",
                self.told.ids,
                state.rows.keys()
            ));
        }
        serves(&*self.engine.reader(), state).map_err(|e| e.to_string())?
    }
}

/// Whether the reader has exactly the state's rows.
pub fn serves(reader: &dyn Reader, state: &State) -> Result<Result<(), String>, Unreadable> {
    let all = reader.scan(id(0, 0), usize::MAX, usize::MAX)?;
    if !all.iter().map(|(id, row)| (id, row)).eq(state.rows.iter()) {
        let ids: Vec<_> = all.iter().map(|(id, _)| *id).collect();
        return Ok(Err(format!(
            "rows {ids:?}, not {:?} (or their bytes differ)",
            state.rows.keys()
        )));
    }
    Ok(Ok(()))
}

/// Reads and scans at random places.
pub fn sample(reader: &dyn Reader, state: &State, chance: &mut Chance) {
    let top = state.last.map_or(1, |last| last.main) + 3;
    for _ in 0..6 {
        let at = id(chance.below(top), chance.below(3) as u32);
        assert_eq!(reader.read(at).unwrap(), state.rows.get(&at).cloned());
        let (max_rows, max_bytes) = (chance.below(9) as usize, chance.below(300) as usize);
        let mut expect = Vec::new();
        let mut bytes = 0;
        for (id, row) in state.rows.range(at..) {
            if expect.len() >= max_rows || !expect.is_empty() && bytes >= max_bytes {
                break;
            }
            bytes += row.len();
            expect.push((*id, row.clone()));
        }
        assert_eq!(reader.scan(at, max_rows, max_bytes).unwrap(), expect);
    }
}

/// Any of the calls a persister makes. `before` hears each batch before it is committed, `after` when it is durable.
pub async fn step<E: Env>(
    engine: &mut AnyEngine<E>,
    state: &mut State,
    chance: &mut Chance,
    before: &mut (dyn FnMut(&State) + Send),
    after: &mut (dyn FnMut() + Send),
) -> Result<(), Error> {
    match chance.below(10) {
        0..6 => commit(engine, state, chance, before, after).await?,
        6 => {
            let index = state.index();
            engine.begin_checkpoint().await?;
            for chunk in index {
                engine.checkpoint_chunk(chunk).await?;
                if chance.one_in(3) {
                    commit(engine, state, chance, before, after).await?;
                }
                if chance.one_in(6) {
                    engine.maintain().await?;
                }
                // Given up half-way: the next one, or a restart, clears it away.
                if chance.one_in(12) {
                    return Ok(());
                }
            }
            engine.finish_checkpoint().await?;
        }
        _ => {
            for _ in 0..chance.below(5) {
                if !engine.maintain().await? {
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn commit<E: Env>(
    engine: &mut AnyEngine<E>,
    state: &mut State,
    chance: &mut Chance,
    before: &mut (dyn FnMut(&State) + Send),
    after: &mut (dyn FnMut() + Send),
) -> Result<(), Error> {
    let batch = state.batch(chance);
    state.apply(&batch);
    before(state);
    engine.commit(batch).await?;
    after();
    Ok(())
}

/// Bytes of all files in the directory.
pub async fn files<D: Disk>(disk: &D, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    use barque_store_env::{File, Open};
    let mut out = BTreeMap::new();
    for name in disk.list(dir).await.unwrap() {
        if name == crate::files::LOCK {
            continue;
        }
        let file = disk.open(&dir.join(&name), Open::Read).await.unwrap();
        let bytes = file.read_at(0, usize::MAX).await.unwrap();
        out.insert(name, bytes.to_vec());
    }
    out
}

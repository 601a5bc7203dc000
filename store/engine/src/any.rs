//! One type for all engines.

use std::path::Path;
use std::sync::Arc;

use barque_store_env::Env;
use bytes::Bytes;

use crate::memory::Memory;
use crate::segments::{self, Segments};
#[cfg(feature = "sled")]
use crate::sled::Sled;
use crate::{Batch, Engine, Error, Images, Kind, Lock, Opened, Options, Reader, Restore, Space};

/// Any of the engines.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per member, and it is never moved about"
)]
pub enum AnyEngine<E: Env> {
    Segments(Segments<E>),
    Memory(Memory<E>),
    #[cfg(feature = "sled")]
    Sled(Sled<E>),
}

pub async fn open<E: Env>(
    kind: Kind,
    disk: E::Disk,
    lock: Lock<E>,
    dir: &Path,
    restore: &mut (dyn Restore + Send),
    options: Options,
) -> Result<Opened<AnyEngine<E>>, Error> {
    match kind {
        Kind::Memory => {
            let Opened { engine, meta } = Memory::open(disk, lock, dir, restore).await?;
            let engine = AnyEngine::Memory(engine);
            Ok(Opened { engine, meta })
        }
        Kind::Segments => {
            let Opened { engine, meta } = segments::open(disk, lock, dir, restore, options).await?;
            let engine = AnyEngine::Segments(engine);
            Ok(Opened { engine, meta })
        }
        #[cfg(feature = "sled")]
        Kind::Sled => {
            let Opened { engine, meta } = Sled::open(disk, lock, dir, restore).await?;
            let engine = AnyEngine::Sled(engine);
            Ok(Opened { engine, meta })
        }
        #[cfg(not(feature = "sled"))]
        Kind::Sled => Err(Error::NotBuilt {
            kind: "sled",
            feature: "sled",
        }),
    }
}

/// Calls the same method of whichever engine it is.
macro_rules! each {
    ($any:expr, $engine:ident => $call:expr) => {
        match $any {
            AnyEngine::Segments($engine) => $call,
            AnyEngine::Memory($engine) => $call,
            #[cfg(feature = "sled")]
            AnyEngine::Sled($engine) => $call,
        }
    };
}

impl<E: Env> Engine<E> for AnyEngine<E> {
    async fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        each!(self, engine => engine.commit(batch).await)
    }
    fn reader(&self) -> Arc<dyn Reader> {
        each!(self, engine => engine.reader())
    }
    fn images(&self) -> Arc<dyn Images> {
        each!(self, engine => engine.images())
    }
    async fn begin_checkpoint(&mut self) -> Result<(), Error> {
        each!(self, engine => engine.begin_checkpoint().await)
    }
    async fn checkpoint_chunk(&mut self, chunk: Bytes) -> Result<(), Error> {
        each!(self, engine => engine.checkpoint_chunk(chunk).await)
    }
    async fn finish_checkpoint(&mut self) -> Result<(), Error> {
        each!(self, engine => engine.finish_checkpoint().await)
    }
    fn keeps_checkpoints(&self) -> bool {
        each!(self, engine => engine.keeps_checkpoints())
    }
    fn wants_checkpoint(&self) -> bool {
        each!(self, engine => engine.wants_checkpoint())
    }
    async fn maintain(&mut self) -> Result<bool, Error> {
        each!(self, engine => engine.maintain().await)
    }
    fn space(&self) -> Space {
        each!(self, engine => engine.space())
    }
}

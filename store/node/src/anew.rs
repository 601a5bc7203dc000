//! What a start goes on with: the persisted state, or, when that is not to be used, one that is taken anew from another member
//! before this one runs. It keeps its identity, its log, its vote and its place in the membership.
//! Promise: the mark goes last, when the new state is the current one, durably: a crash before that has the next start take
//! it anew again, from where the transfer was. A damaged log, a damaged identity and a member without others are refused.
//! Not here: from whom, and why that is safe (`consensus::refetch`), where the state is put (`staging`, `places`).

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use barque_store_consensus::{self as consensus, Refetch, RefetchError};
use barque_store_env::{Disk, Env};
use futures::future::{Either, select};

use crate::identity::{Claim, Owner};
use crate::persister::{self, Restored};
use crate::places::Places;
use crate::space::with_advice;
use crate::staging::Depot;
use crate::trouble::Trouble;
use crate::{Config, StartError, membership, peers, refetch};

/// A directory that is being opened.
pub(crate) struct Opening<'a, E: Env> {
    pub(crate) config: &'a Config,
    pub(crate) owner: Owner,
    pub(crate) disk: &'a E::Disk,
    pub(crate) net: &'a E::Net,
    /// `member` in the data directory.
    pub(crate) dir: &'a Path,
}

/// What was opened.
pub(crate) struct Found<E: Env> {
    pub(crate) restored: Restored<E>,
    pub(crate) depot: Arc<Depot<E>>,
    /// Where the state is.
    pub(crate) rows: PathBuf,
    /// It was taken anew.
    pub(crate) renewed: bool,
}

/// Which of the directories has the rows, before they are opened.
pub(crate) struct Located<D: Disk> {
    places: Places<D>,
    /// The rows are not to be used.
    anew: bool,
}

impl<D: Disk> Located<D> {
    /// Reads it, in a directory whose lock is held, and takes away what is left there of states that are nobody's.
    pub(crate) async fn find(config: &Config, disk: &D, dir: &Path) -> Result<Self, StartError> {
        let failed = |reason: String| StartError::DataDir {
            dir: dir.to_owned(),
            reason: with_advice(reason),
        };
        let anew = refetch::is_marked(disk, dir).await.map_err(failed)?;
        match Places::open(disk.clone(), dir, anew).await {
            Ok(places) => Ok(Located { places, anew }),
            Err(Trouble::Other(why)) => Err(failed(why)),
            Err(Trouble::Damage(why)) => {
                give_up(config, disk, dir, dir, &why).await?;
                let places = Places::open(disk.clone(), dir, true).await;
                let places = places.map_err(|trouble| failed(trouble.to_string()))?;
                Ok(Located { places, anew: true })
            }
        }
    }

    /// Takes away what was received of another member's state, which can be had again. False: there is none.
    pub(crate) async fn make_room(&mut self) -> Result<bool, String> {
        if !self.places.is_staged().await? {
            return Ok(false);
        }
        tracing::warn!("what was received of another member's state is removed, to make room");
        self.places.discard().await?;
        Ok(true)
    }
}

impl<E: Env> Opening<'_, E> {
    pub(crate) async fn state(&self, located: Located<E::Disk>) -> Result<Found<E>, StartError> {
        let Located { places, anew } = located;
        let rows = places.current();
        let depot = Arc::new(Depot::<E>::new(
            self.config.engine,
            self.config.sizes.engine,
            self.disk.clone(),
            places,
            self.config.value_cache_bytes,
            self.config.images,
            self.config.guards.image_resumed,
        ));
        if !anew {
            let (kind, sizes) = (self.config.engine, self.config.sizes.engine);
            match persister::restore::<E>(kind, self.disk.clone(), &rows, sizes).await {
                Ok(restored) => {
                    return Ok(Found {
                        restored,
                        depot,
                        rows,
                        renewed: false,
                    });
                }
                Err(Trouble::Other(why)) => {
                    return Err(StartError::DataDir {
                        dir: rows,
                        reason: with_advice(why),
                    });
                }
                Err(Trouble::Damage(why)) => {
                    give_up(self.config, self.disk, self.dir, &rows, &why).await?;
                }
            }
        }
        depot.spend();
        let restored = self.taken_anew(&depot).await?;
        let rows = depot.places().await.current();
        Ok(Found {
            restored,
            depot,
            rows,
            renewed: true,
        })
    }

    fn failed(&self, reason: String) -> StartError {
        StartError::DataDir {
            dir: self.dir.to_owned(),
            reason: with_advice(reason),
        }
    }

    async fn taken_anew(&self, depot: &Arc<Depot<E>>) -> Result<Restored<E>, StartError> {
        if self.config.force_new_cluster {
            return Err(self.failed(format!("{}; {}", refetch::MARKED, refetch::NOT_WHOLE)));
        }
        let addresses = peers::known(self.config, self.disk, self.dir).await?;
        if addresses.is_empty() {
            let why = format!("{}; {}", refetch::MARKED, refetch::ALONE);
            return Err(self.failed(why));
        }
        tracing::warn!("{}: it is taken anew from another member", refetch::MARKED);
        // Refuses a directory without its log: what was promised with it is forgotten.
        let claim = Claim::<E>::begin(self.owner, self.disk, self.dir).await?;
        let wanted = Refetch {
            member: self.owner.member,
            cluster_id: self.owner.cluster_id,
            incarnation: claim.incarnation,
            dir: self.dir.join("wal"),
            log: self.config.sizes.log,
            images: self.config.images,
            addresses,
            address_of: |urls| membership::peer(urls).map(|peer| peer.addr),
        };
        let stage =
            |offer: consensus::Offer| -> consensus::Working<'static, Box<dyn consensus::Staging>> {
                Box::pin(depot.clone().stage(offer))
            };
        let fetched = {
            let fetching = consensus::refetch::<E>(&wanted, self.disk.clone(), self.net, &stage);
            match select(pin!(fetching), pin!(depot.failed())).await {
                Either::Left((fetched, _)) => fetched,
                Either::Right((why, _)) => return Err(self.failed(why)),
            }
        };
        let staged = fetched.map_err(|error| match error {
            RefetchError::Log(_) => self.failed(error.to_string()),
            RefetchError::Removed(why) => StartError::Removed(why),
            RefetchError::Refused(why) => StartError::Other(why),
        })?;
        let restored = depot.adopt(staged).await.map_err(|why| self.failed(why))?;
        let unmarked = refetch::unmark(self.disk, self.dir).await;
        unmarked.map_err(|why| self.failed(why))?;
        tracing::info!(
            index = restored.state.applied().0,
            "the state was taken anew; this member returns"
        );
        Ok(restored)
    }
}

/// What is in `place`, a file or directory of the member's, is damaged: from now on every start takes the state anew. Refused, when
/// there is nobody to take it from.
pub(crate) async fn give_up<D: Disk>(
    config: &Config,
    disk: &D,
    dir: &Path,
    place: &Path,
    why: &str,
) -> Result<(), StartError> {
    let alone = match config.force_new_cluster {
        true => Some(refetch::NOT_WHOLE),
        false => {
            let nobody = peers::known(config, disk, dir).await?.is_empty();
            nobody.then_some(refetch::ALONE)
        }
    };
    if let Some(alone) = alone {
        return Err(StartError::DataDir {
            dir: place.to_owned(),
            reason: format!("{why}; {alone}"),
        });
    }
    tracing::error!("{why}: this member's state is not used any more");
    let marked = refetch::mark(disk, dir).await;
    marked.map_err(|why| StartError::DataDir {
        dir: dir.to_owned(),
        reason: with_advice(why),
    })
}

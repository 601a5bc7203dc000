//! What every scenario begins with: the two programs, the machine, a place for data, clusters of both sides, and whose turn it is.
//! Promise: both sides get the same size, flags and disk, and neither always comes after the other.
//! Not here: what is measured.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::Void;
use crate::cluster::{Cluster, Side};
use crate::find::{self, Asked, Programs};
use crate::machine::{self, Machine};
use crate::table::Table;
use crate::work::{Keys, write_all};

/// For developing one side; a comparison wants both.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Sides {
    /// Measure one side only; the report then has no ratios
    #[arg(long, value_enum)]
    only: Option<Side>,
}

impl Sides {
    pub fn both() -> Sides {
        Sides { only: None }
    }

    pub fn has(self, side: Side) -> bool {
        self.only.is_none_or(|only| only == side)
    }
}

/// What is compared, and how it is started. A scenario of one timing has these flags; `election` takes several timings.
#[derive(Clone, Debug, clap::Args)]
pub struct Servers {
    /// HEARTBEAT/ELECTION in milliseconds, for both sides
    #[arg(long, default_value_t = Timing::DEFAULT)]
    pub flags: Timing,
    #[command(flatten)]
    pub sides: Sides,
    #[command(flatten)]
    pub asked: Asked,
}

impl Servers {
    /// The flags of both sides, for a table.
    pub fn in_words(&self) -> String {
        format!("heartbeat/election ms {}", self.flags)
    }
}

pub struct Bench {
    pub programs: Programs,
    pub machine: Machine,
    home: TempDir,
}

impl Bench {
    pub async fn new(asked: &Asked) -> Result<Bench, Void> {
        let programs = find::programs(asked).await?;
        let machine = machine::describe(asked.dir.as_deref())?;
        eprintln!("{machine}");
        let home = asked.home()?;
        Ok(Bench {
            programs,
            machine,
            home,
        })
    }

    pub async fn start(
        &self,
        side: Side,
        members: usize,
        flags: &[String],
    ) -> Result<Cluster, Void> {
        let program: PathBuf = self.programs.of(side).to_owned();
        Cluster::start(side, &program, members, self.home.path(), flags).await
    }

    /// A cluster of each side, Barque's first, up at the same time.
    pub async fn start_each(
        &self,
        sides: Sides,
        members: usize,
        flags: &[String],
    ) -> Result<Vec<Cluster>, Void> {
        let mut clusters = Vec::new();
        for side in [Side::Barque, Side::Etcd] {
            if sides.has(side) {
                clusters.push(self.start(side, members, flags).await?);
            }
        }
        Ok(clusters)
    }

    /// `flags`: those of both sides, in words.
    pub fn table(&self, what: &str, flags: &str) -> Table {
        Table::new(what, &self.machine, &self.programs, flags)
    }
}

/// Writes every key once, as fast as it goes.
pub async fn fill(cluster: &Cluster, keys: Keys) -> Result<(), Void> {
    let written = write_all(cluster.addr(0), keys, 0).await;
    written.map_err(|why| cluster.load_error(why))
}

pub async fn stop_each(clusters: Vec<Cluster>) -> Result<(), Void> {
    for cluster in clusters {
        cluster.stop().await?;
    }
    Ok(())
}

/// In which order they have turn `n`: turned around each time.
pub fn turn(n: usize, count: usize) -> Vec<usize> {
    match n % 2 {
        0 => (0..count).collect(),
        _ => (0..count).rev().collect(),
    }
}

/// Something of each side.
#[derive(Clone, Debug, Default)]
pub struct Each<T> {
    pub barque: T,
    pub etcd: T,
}

impl<T> Each<T> {
    pub fn of(&mut self, side: Side) -> &mut T {
        match side {
            Side::Barque => &mut self.barque,
            Side::Etcd => &mut self.etcd,
        }
    }

    pub fn map<U>(&self, figure: impl Fn(&T) -> U) -> Each<U> {
        Each {
            barque: figure(&self.barque),
            etcd: figure(&self.etcd),
        }
    }
}

/// The servers' timing, as etcd's flags have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u32,
    pub election_ms: u32,
}

impl Timing {
    pub const DEFAULT: Timing = Timing {
        heartbeat_ms: 100,
        election_ms: 1000,
    };

    pub fn flags(self) -> Vec<String> {
        vec![
            format!("--heartbeat-interval={}", self.heartbeat_ms),
            format!("--election-timeout={}", self.election_ms),
        ]
    }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.heartbeat_ms, self.election_ms)
    }
}

impl std::str::FromStr for Timing {
    type Err = String;

    fn from_str(text: &str) -> Result<Timing, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((heartbeat_ms, election_ms)) if heartbeat_ms > 0 => Ok(Timing {
                heartbeat_ms,
                election_ms,
            }),
            _ => Err("HEARTBEAT/ELECTION in milliseconds, such as 100/1000".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_turned_around() {
        assert_eq!(turn(0, 2), [0, 1]);
        assert_eq!(turn(1, 2), [1, 0]);
        assert_eq!(turn(1, 1), [0]);
    }

    #[test]
    fn timings_are_read_as_they_are_written() {
        assert_eq!("100/1000".parse(), Ok(Timing::DEFAULT));
        assert_eq!("100/1000", Timing::DEFAULT.to_string());
        for bad in ["100", "0/10", "a/b", "100/"] {
            assert!(bad.parse::<Timing>().is_err(), "{bad}");
        }
    }
}

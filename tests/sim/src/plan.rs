//! What a seed draws before it begins: how many members, their flags and sizes, which faults and how often, which clients.
//! Each seed leaves most faults out, so that what only shows without the others' noise shows too (swarm testing).

use std::fmt;
use std::time::Duration;

use barque_store_consensus::ImageRules;
use barque_store_engine as engine;
use barque_store_env::sim;
use barque_store_wal as wal;

use crate::faults::Kind;
use crate::run::Options;

const MS: Duration = Duration::from_millis(1);

/// Who works on the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Clients of the registers.
    pub registrars: u64,
    pub registers: u64,
    pub bankers: u64,
    pub lessees: u64,
    /// Who only asks, every member in turn, with little patience.
    pub observers: u64,
    pub watchers: u64,
    /// The longest pause of a client between two requests.
    pub pause: Duration,
    /// Bytes that each register's value is filled up to.
    pub value_bytes: usize,
    /// The mean time between two compactions; `None`: there are none.
    pub compaction: Option<Duration>,
}

/// One seed's draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub members: u32,
    pub heartbeat: Duration,
    pub election: Duration,
    pub value_cache_bytes: u64,
    pub engine: engine::Kind,
    pub engine_sizes: engine::Options,
    pub log: wal::Options,
    /// How soon members need the state instead of the log.
    pub images: ImageRules,
    /// The faults of this run and their shares.
    pub faults: Vec<(Kind, u64)>,
    /// The longest pause between two faults.
    pub calm: Duration,
    pub work: Work,
}

fn one_of<T: Copy>(choices: &[T]) -> T {
    choices[sim::below(choices.len() as u64) as usize]
}

impl Plan {
    /// Draws from the world's seed; `options` may have decided some of it.
    pub fn draw(options: &Options) -> Self {
        // The usual cluster most of the time: it has the most to lose to one more fault.
        let members = one_of(&[3, 3, 3, 3, 3, 5, 5, 1]);
        let members = options.members.unwrap_or(members);
        // The pairs of flags the elections are tested at, but for the slowest: a run has no time for them.
        let (heartbeat, election) = one_of(&[(20, 200), (50, 500), (100, 1_000)]);
        let segment = one_of(&[8 << 10, 64 << 10, 1 << 20]);
        let tail = one_of(&[4 << 10, 64 << 10, 1 << 20]);
        let busy = sim::chance(0.3);
        Plan {
            members,
            heartbeat: heartbeat * MS,
            election: election * MS,
            value_cache_bytes: one_of(&[0, 2 << 10, 64 << 10, 16 << 20]),
            engine: one_of(&[
                engine::Kind::Segments,
                engine::Kind::Segments,
                engine::Kind::Segments,
                engine::Kind::Memory,
            ]),
            engine_sizes: engine::Options {
                segment_bytes: segment,
                tail_bytes: tail,
                step_bytes: one_of(&[1 << 10, 64 << 10]),
                index_kept_bytes: one_of(&[0, 1 << 20]),
            },
            log: wal::Options {
                segment_bytes: one_of(&[16 << 10, 128 << 10, 1 << 20]),
                ..wal::Options::default()
            },
            images: draw_images(),
            faults: draw_faults(members),
            calm: one_of(&[600, 1_200, 1_200, 3_000]) * MS,
            work: Work {
                registrars: one_of(&[2, 4, 6]),
                registers: one_of(&[1, 3, 5, 8]),
                bankers: one_of(&[0, 1, 2]),
                lessees: one_of(&[0, 1, 2, 3]),
                observers: one_of(&[1, 2]),
                watchers: one_of(&[1, 3, 4]),
                pause: if busy { 15 * MS } else { 50 * MS },
                value_bytes: one_of(&[0, 0, 100, 2_000]),
                compaction: one_of(&[None, Some(200), Some(1_000), Some(4_000)]).map(|ms| ms * MS),
            },
        }
    }

    /// How long a follower waits for a leader it has heard from.
    pub fn lease(&self) -> Duration {
        self.election / 2
    }

    pub fn nodes(&self) -> Vec<sim::NodeId> {
        (1..=self.members).map(sim::NodeId).collect()
    }

    /// How many members may be lost for good while the rest still is a majority.
    pub fn expendable(&self) -> usize {
        (self.members as usize - 1) / 2
    }
}

fn draw_images() -> ImageRules {
    let kept = one_of(&[0, 0, 4 << 10, 64 << 10, 64 << 20]);
    ImageRules {
        log_kept_min: kept,
        log_kept_max: kept.max(8 << 10),
        log_kept_hard: one_of(&[16 << 10, 256 << 10]),
        piece_bytes: one_of(&[1_000, 8_000, 64 << 10]),
        bytes_per_second: one_of(&[1 << 20, 10 << 20]),
    }
}

fn draw_faults(members: u32) -> Vec<(Kind, u64)> {
    // In some runs nearly everything, in others one or two kinds.
    let share = one_of(&[0.15, 0.35, 0.35, 0.6, 0.9]);
    let mut faults: Vec<(Kind, u64)> = Vec::new();
    for kind in Kind::ALL {
        if sim::chance(share) && (members > 1 || kind.suits_one()) {
            faults.push((kind, 1 + sim::below(kind.weight())));
        }
    }
    // Who is lost for good counts against the members there are: with members that come and go the two do not mix.
    let comes_and_goes = [Kind::AddMember, Kind::RemoveMember];
    let loses = [Kind::FlippedBit, Kind::RottenRows, Kind::WipedDisk];
    let any = |kinds: &[Kind]| faults.iter().any(|(kind, _)| kinds.contains(kind));
    if any(&comes_and_goes) && any(&loses) {
        let without = if sim::chance(0.35) {
            &comes_and_goes[..]
        } else {
            &loses
        };
        faults.retain(|(kind, _)| !without.contains(kind));
    }
    if faults.is_empty() {
        faults.push((Kind::Kill, 1));
    }
    faults
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (w, e) = (&self.work, &self.engine_sizes);
        write!(
            f,
            "{} members {}/{} ms, {} cache {} segment {} tail {} log {} kept {} piece {}; {} registrars on {} registers of {} B, {} bankers, \
             {} lessees, {} observers, {} watchers, pause {} ms, compaction {}; faults within {} ms:",
            self.members,
            self.heartbeat.as_millis(),
            self.election.as_millis(),
            self.engine,
            self.value_cache_bytes,
            e.segment_bytes,
            e.tail_bytes,
            self.log.segment_bytes,
            self.images.log_kept_min,
            self.images.piece_bytes,
            w.registrars,
            w.registers,
            w.value_bytes,
            w.bankers,
            w.lessees,
            w.observers,
            w.watchers,
            w.pause.as_millis(),
            w.compaction
                .map_or("none".to_owned(), |d| format!("{} ms", d.as_millis())),
            self.calm.as_millis(),
        )?;
        for (kind, share) in &self.faults {
            write!(f, " {}*{share}", kind.name())?;
        }
        Ok(())
    }
}

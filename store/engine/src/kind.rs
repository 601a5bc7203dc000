//! Which engine; the value of a flag.

use std::fmt;
use std::str::FromStr;

/// Which engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Append-only segment files; ours.
    #[default]
    Segments,
    /// Everything in memory and a plain log beside it; the model the others are tested against.
    Memory,
    /// sled 0.34; only with the cargo feature `sled`.
    Sled,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Segments, Kind::Memory, Kind::Sled];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Segments => "segments",
            Kind::Memory => "memory",
            Kind::Sled => "sled",
        }
    }

    /// Whether this program was built with it.
    pub fn is_built(self) -> bool {
        self != Kind::Sled || cfg!(feature = "sled")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not an engine's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no engine is called {0:?}: choose segments, memory or sled")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

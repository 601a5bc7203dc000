//! What can be wrong with the persisted state: it is damaged, and another member has it; or anything else.
//! Not here: what follows (`anew`, `persister`).

use std::fmt;

use barque_store_engine as engine;

/// The text names file and offset, where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Bytes are not what was written, or gone. The same can be had again from another member.
    Damage(String),
    /// The disk refuses, the program is too old, another process has it, a bug: another state would not help.
    Other(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Trouble::Other(why)
    }
}
impl From<engine::Error> for Trouble {
    fn from(error: engine::Error) -> Self {
        match error.is_damage() {
            true => Trouble::Damage(error.to_string()),
            false => Trouble::Other(error.to_string()),
        }
    }
}
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Trouble::Damage(why) | Trouble::Other(why)) = self;
        f.write_str(why)
    }
}

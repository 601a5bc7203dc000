//! The rules of the house as tests: what may depend on what, what may name what, how files look.
//! Promise: each rule carries examples it must catch and examples it must let pass, which are tested too; each
//! exception states its reason and must still be needed.
//! Not here: what the compiler, clippy and rustfmt check already.
//!
//! Names are read from the source text (comments, literals and test code taken out, `use` trees unfolded), not from
//! the compiler: an alias can hide one. That is enough against accidents, which is what these rules are for.

pub mod names;
pub mod packages;
pub mod rules;
pub mod source;
pub mod text;
pub mod tree;

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breach {
    /// Path from the root of the workspace.
    pub path: String,
    /// From 1; 0 when it is about the whole file.
    pub line: usize,
    pub what: String,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

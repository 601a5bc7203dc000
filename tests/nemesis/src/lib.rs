//! Real processes, one member or several, under faults, judged by the history their clients saw: kills, pauses, partitions, power cuts,
//! disk errors, flipped bits, a busy machine, a lost majority, rolling restarts.
//! Promise: a run that passed has looked at every answer and every event; one that did not fails with evidence and its seed; no
//! process, mount, namespace or directory outlives a run, not even one that panics.
//! Not here: the judges (`tests/checkers`), virtual time (`tests/sim`).

pub mod alike;
pub mod calm;
pub mod chance;
pub mod clients;
pub mod disk_error;
pub mod flip;
pub mod history;
pub mod journal;
pub mod judge;
pub mod keeper;
pub mod kills;
pub mod lessees;
pub mod limits;
pub mod line;
pub mod member;
pub mod model;
pub mod mount;
pub mod netns;
pub mod partitions;
pub mod pauses;
pub mod picture;
pub mod power;
pub mod probes;
pub mod quorum;
pub mod report;
pub mod rolling;
pub mod run;
pub mod shim;
pub mod standing;
pub mod value;
pub mod watchers;

/// Why a run did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{what}: {cause}")]
    Io { what: String, cause: std::io::Error },
    /// Nothing was proved: too little load, no program to test.
    #[error("void: {0}")]
    Void(String),
    /// This machine cannot do it.
    #[error("skipped: {0}")]
    Skip(String),
    /// The program under test broke a promise.
    #[error("{}", .0.join("\n"))]
    Violated(Vec<String>),
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
        let what = what.into();
        move |cause| Failure::Io { what, cause }
    }

    pub fn violated(what: impl Into<String>) -> Failure {
        Failure::Violated(vec![what.into()])
    }
}

//! The guards by name, for the command line.

use barque_store_consensus::Guards;

type Field = fn(&mut Guards) -> &mut bool;

const NAMES: [(&str, Field); 24] = [
    ("no-leader-restore", |g| &mut g.no_leader_restore),
    ("vote-after-lease", |g| &mut g.vote_after_lease),
    ("pre-vote", |g| &mut g.pre_vote),
    ("quorum-loss-probe", |g| &mut g.quorum_loss_probe),
    ("leads-by-acks", |g| &mut g.leads_by_acks),
    ("answers-in-order", |g| &mut g.answers_in_order),
    ("identity", |g| &mut g.identity),
    ("input-first", |g| &mut g.input_first),
    ("pump-tied", |g| &mut g.pump_tied),
    ("purged-reads-empty", |g| &mut g.purged_reads_empty),
    ("flatten", |g| &mut g.flatten),
    ("caught-up", |g| &mut g.caught_up),
    ("admission", |g| &mut g.admission),
    ("small-chunks", |g| &mut g.small_chunks),
    ("hung-disk", |g| &mut g.hung_disk),
    ("log-before-rows", |g| &mut g.log_before_rows),
    ("install-barrier", |g| &mut g.install_barrier),
    ("image-pinned", |g| &mut g.image_pinned),
    ("image-resumed", |g| &mut g.image_resumed),
    ("slow-cut", |g| &mut g.slow_cut),
    ("live-majority", |g| &mut g.live_majority),
    ("heard-successor", |g| &mut g.heard_successor),
    ("resend-once", |g| &mut g.resend_once),
    ("own-term", |g| &mut g.own_term),
];

pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// All guards but these. The error is the name that nobody has.
pub fn without<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Guards, &'a str> {
    let mut guards = Guards::default();
    for name in names {
        let (_, field) = NAMES.iter().find(|(known, _)| *known == name).ok_or(name)?;
        *field(&mut guards) = false;
    }
    Ok(guards)
}

/// Those that are off.
pub fn off(guards: &Guards) -> Vec<&'static str> {
    let mut guards = *guards;
    let off = |(name, field): &(&'static str, Field)| (!*field(&mut guards)).then_some(*name);
    NAMES.iter().filter_map(off).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_switch_their_guard_off_and_are_told_again() {
        assert_eq!(without([]), Ok(Guards::default()));
        assert_eq!(without(["pre-vote", "nothing"]), Err("nothing"));
        for name in names() {
            let guards = without([name]).expect("a name of a guard");
            assert_ne!(guards, Guards::default());
            assert_eq!(off(&guards), [name]);
        }
    }
}

//! No lease may end before its time: its last acknowledged renewal, and the TTL that the store answered with.

/// One lease of one client. Nanoseconds of one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub lease: i64,
    pub ttl: u64,
    /// When the last grant or renewal that was acknowledged was asked for: it can have begun no earlier.
    pub renewed: u64,
    /// When its client first asked for its end, whatever the answer.
    pub revoke_called: Option<u64>,
    /// When anybody first saw that it is gone: its key deleted, its renewal refused.
    pub gone: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{life:?} ended {early} ns before its time")]
pub struct EndedEarly {
    pub life: Life,
    pub early: u64,
}

/// Checks every life; `slack` is what two clocks may differ by over a TTL.
pub fn check_lives(lives: &[Life], slack: u64) -> Result<(), EndedEarly> {
    for life in lives {
        let Some(gone) = life.gone else { continue };
        if life.revoke_called.is_some_and(|called| called <= gone) {
            continue;
        }
        let early = (life.renewed + life.ttl).saturating_sub(gone);
        if early > slack {
            return Err(EndedEarly { life: *life, early });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_nobody_asked_for_is_judged() {
        let life = |gone, revoke_called| Life {
            lease: 1,
            ttl: 100,
            renewed: 50,
            revoke_called,
            gone,
        };
        assert!(check_lives(&[life(None, None), life(Some(150), None)], 0).is_ok());
        assert!(check_lives(&[life(Some(60), Some(55))], 0).is_ok());
        assert!(check_lives(&[life(Some(145), None)], 5).is_ok());
        let early = check_lives(&[life(Some(149), None)], 0).unwrap_err();
        assert_eq!(early.early, 1);
        assert!(check_lives(&[life(Some(60), Some(61))], 0).is_err());
    }
}

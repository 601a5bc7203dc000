//! At no instant may two members believe that they may act as the leader.

/// What one member believed at the moment it was asked: that it may act until `until`. One time for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub member: u64,
    pub term: u64,
    pub until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {at} both {a:?} and {b:?} say they lead")]
pub struct TwoHolders {
    pub at: u64,
    pub a: Claim,
    pub b: Claim,
}

/// Checks the claims of all members taken at one instant.
pub fn check_claims(at: u64, claims: &[Claim]) -> Result<(), TwoHolders> {
    let mut holding = claims.iter().filter(|claim| claim.until > at);
    match (holding.next(), holding.next()) {
        (Some(a), Some(b)) => Err(TwoHolders { at, a: *a, b: *b }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_claims_that_still_run_count() {
        let claim = |member, until| Claim {
            member,
            term: member,
            until,
        };
        assert!(check_claims(10, &[claim(1, 10), claim(2, 30)]).is_ok());
        let both = check_claims(9, &[claim(1, 10), claim(2, 30)]).unwrap_err();
        assert_eq!((both.a.member, both.b.member), (1, 2));
    }
}

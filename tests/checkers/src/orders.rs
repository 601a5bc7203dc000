//! Order by the store's own revisions: what began after another had ended stands at no earlier revision, and a write at a
//! later one; no revision is given to two writes. Exact, and cheap for any number of operations, because the store says
//! where each of them took effect.

/// An operation with a known outcome. One time for all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub client: u64,
    pub called: u64,
    pub returned: u64,
    /// The revision its answer carried: a write's own, or the one a linearizable read was served at.
    pub revision: u64,
    pub write: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderFault {
    #[error("{later:?} began after {earlier:?} had ended, but does not stand after it")]
    Backwards { earlier: Placed, later: Placed },
    #[error("revision {} was given to two writes: {a:?} and {b:?}", a.revision)]
    Reused { a: Placed, b: Placed },
}

/// Checks all operations of a run, in any order.
pub fn check_orders(placed: &[Placed]) -> Result<(), OrderFault> {
    let mut writes: Vec<&Placed> = placed.iter().filter(|p| p.write).collect();
    writes.sort_by_key(|p| (p.revision, p.called));
    if let Some(two) = writes.windows(2).find(|w| w[0].revision == w[1].revision) {
        let (a, b) = (*two[0], *two[1]);
        return Err(OrderFault::Reused { a, b });
    }
    let mut calls: Vec<&Placed> = placed.iter().collect();
    calls.sort_by_key(|p| p.called);
    let mut returns = calls.clone();
    returns.sort_by_key(|p| p.returned);
    let mut ended = returns.into_iter().peekable();
    let mut furthest: Option<&Placed> = None;
    for later in calls {
        // At the same instant counts as concurrent.
        while let Some(earlier) = ended.next_if(|p| p.returned < later.called) {
            if furthest.is_none_or(|f| f.revision < earlier.revision) {
                furthest = Some(earlier);
            }
        }
        if let Some(earlier) = furthest
            && later.revision < earlier.revision + u64::from(later.write)
        {
            return Err(OrderFault::Backwards {
                earlier: *earlier,
                later: *later,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(called: u64, returned: u64, revision: u64, write: bool) -> Placed {
        Placed {
            client: called,
            called,
            returned,
            revision,
            write,
        }
    }

    #[test]
    fn concurrent_operations_may_stand_in_any_order() {
        let run = [
            placed(0, 10, 3, true),
            placed(1, 9, 2, true),
            placed(10, 20, 3, false),
            placed(11, 12, 3, false),
            placed(13, 15, 4, true),
        ];
        assert_eq!(check_orders(&run), Ok(()));
    }

    #[test]
    fn stale_reads_reused_revisions_and_writes_into_the_past_are_found() {
        let base = [placed(0, 10, 3, true), placed(0, 5, 2, true)];
        for (more, reused) in [
            (placed(11, 12, 2, false), false),
            (placed(11, 12, 3, true), true),
            (placed(11, 12, 2, true), true),
            (placed(6, 12, 1, true), false),
        ] {
            let mut run = base.to_vec();
            run.push(more);
            let fault = check_orders(&run).unwrap_err();
            assert_eq!(
                matches!(fault, OrderFault::Reused { .. }),
                reused,
                "{fault}"
            );
        }
        let read_then_write = [placed(0, 1, 5, false), placed(2, 3, 5, true)];
        assert!(matches!(
            check_orders(&read_then_write),
            Err(OrderFault::Backwards { .. })
        ));
    }
}

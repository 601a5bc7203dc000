//! What the log says of who leads: one line each time a leader is found or lost.
//! Not here: who leads (`member`).

use barque_store_state::MemberId;

use crate::View;

/// What is worth a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Found { leader: MemberId, term: u64 },
    Lost { leader: MemberId, term: u64 },
}

/// The leader that was told of last, and its term.
#[derive(Debug, Default)]
pub struct Leaders(Option<(MemberId, u64)>);

impl Leaders {
    /// Says what is new in this look.
    pub fn look(&mut self, view: &View) {
        match self.news(view) {
            Some(News::Found { leader, term }) => {
                tracing::info!(%leader, term, "leader found");
            }
            Some(News::Lost { leader, term }) => {
                tracing::warn!(%leader, term, "leader lost");
            }
            None => {}
        }
    }

    fn news(&mut self, view: &View) -> Option<News> {
        let now = view.leader.map(|leader| (leader, view.term));
        if now == self.0 {
            return None;
        }
        match (std::mem::replace(&mut self.0, now), now) {
            // The one before is lost with it.
            (_, Some((leader, term))) => Some(News::Found { leader, term }),
            (Some((leader, term)), None) => Some(News::Lost { leader, term }),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut leaders = Leaders::default();
        let mut at = |leader: Option<u64>, term| {
            leaders.news(&View {
                leader: leader.map(MemberId),
                term,
                ..View::default()
            })
        };
        let found = |id, term| {
            Some(News::Found {
                leader: MemberId(id),
                term,
            })
        };
        assert_eq!(at(None, 1), None);
        assert_eq!(at(Some(1), 1), found(1, 1));
        assert_eq!(at(Some(1), 1), None);
        let lost = News::Lost {
            leader: MemberId(1),
            term: 1,
        };
        assert_eq!(at(None, 1), Some(lost), "named with the term it led in");
        assert_eq!(at(None, 2), None);
        assert_eq!(at(Some(1), 3), found(1, 3));
        assert_eq!(at(Some(2), 4), found(2, 4), "one after the other");
        assert_eq!(at(Some(2), 5), found(2, 5), "elected anew");
    }
}

//! How many times what is filmed did not go on, before a list of it begins: players who heard longer ago of the same segments
//! count them on (`EXT-X-DISCONTINUITY-SEQUENCE`, RFC 8216, 4.3.3.3). Derived from the lists themselves, one for each open
//! stream, and gone with it. Never: what a break is, how a list is written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::locked;

/// So many breaks are known one by one: more than any list has.
const BREAKS_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Known {
    /// Of those that are not known one by one any more.
    older: u64,
    /// Sequence numbers of segments that do not go on from the one before, in order.
    at: VecDeque<u64>,
}

/// See the module. Only lists that end with what is newest may be told: what is older than a known break is never added, so
/// the number of a segment stays what it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Breaks(Arc<Mutex<Known>>);

impl Breaks {
    /// A list begins with segment `first` and has these breaks, in order: how many there were up to its beginning.
    pub(super) fn handle_list(&self, first: u64, breaks: impl Iterator<Item = u64>) -> u64 {
        let mut known = locked(&self.0);
        for sequence in breaks {
            if known.at.back().is_none_or(|newest| *newest < sequence) {
                known.at.push_back(sequence);
            }
        }
        while known.at.len() > BREAKS_MAX {
            known.at.pop_front();
            known.older += 1;
        }
        known.older + known.at.partition_point(|at| *at <= first) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_break_that_leaves_the_list_counts_once_whatever_the_length_of_the_list() {
        let (breaks, broken) = (Breaks::default(), [3, 4, 9, 20]);
        let list = |first: u64, last: u64| {
            let number =
                breaks.handle_list(first, broken.into_iter().filter(|at| (first + 1..=last).contains(at)));
            // What a player makes of it: of each segment the number of the list and the breaks up to it.
            (first..=last)
                .map(|at| {
                    (at, number + broken.iter().filter(|b| (first + 1..=at).contains(*b)).count() as u64)
                })
                .collect::<Vec<_>>()
        };
        let mut heard = std::collections::BTreeMap::new();
        for newest in 2..30 {
            for window in [2, 6, 12] {
                let told = list(newest.max(window + 1) - window, newest);
                for (segment, number) in told {
                    assert_eq!(
                        *heard.entry(segment).or_insert(number),
                        number,
                        "segment {segment} at {newest}"
                    );
                }
            }
        }
        assert_eq!(heard[&29], 4);
    }

    /// Reaches `BREAKS_MAX`.
    #[test]
    fn so_many_breaks_are_known_and_older_ones_only_counted() {
        let breaks = Breaks::default();
        let most = BREAKS_MAX as u64;
        for at in 0..most + 10 {
            breaks.handle_list(at, std::iter::once(at + 1));
        }
        assert_eq!(locked(&breaks.0).at.len(), BREAKS_MAX);
        assert_eq!(breaks.handle_list(most + 10, std::iter::empty()), most + 10);
    }
}

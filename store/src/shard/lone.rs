//! Whether a stream has one writer that waits for each answer: then its commits may run where its batches come. Pure.
//! Never: threads, clocks.

use std::time::Duration;

/// Commits in a row of one batch each, after which the next one is taken for a lone writer's.
const COMMITS: u32 = 4;
/// ... none of which took longer: whoever waits for a slow disk keeps nobody else waiting.
const LONGEST: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lone {
    commits: u32,
}

impl Lone {
    /// A commit has answered so many, after so long.
    pub(super) fn handle_commit(&mut self, answered: usize, took: Duration) {
        let is_one = answered == 1 && took <= LONGEST;
        self.commits = if is_one { self.commits.saturating_add(1) } else { 0 };
    }

    /// Whether a batch that is alone now comes from a lone writer.
    pub(super) fn is_lone(&self) -> bool {
        self.commits >= COMMITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_alone_after_some_quick_commits_of_one_batch_and_no_longer_after_any_other() {
        let quick = Duration::from_micros(100);
        for (answered, took) in [(2, quick), (0, quick), (1, LONGEST + quick)] {
            let mut lone = Lone::default();
            for _ in 0..COMMITS {
                assert!(!lone.is_lone());
                lone.handle_commit(1, quick);
            }
            assert!(lone.is_lone());
            lone.handle_commit(answered, took);
            assert!(!lone.is_lone(), "after {answered} in {took:?}");
        }
    }
}

//! What happened, as lines for people and as one number to compare two runs with. Pure.

use protocol::time::Mono;

/// Every event of a run, folded into a hash; and printed where somebody wants to read it.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    verbose: bool,
}

impl Trace {
    /// An empty one; `verbose` prints every line to standard error.
    #[must_use]
    pub fn new(verbose: bool) -> Trace {
        Trace { verbose, ..Trace::default() }
    }

    /// Notes an event. `detail` is only made for people.
    pub fn note(
        &mut self,
        now: Mono,
        what: &'static str,
        numbers: [u64; 3],
        detail: impl FnOnce() -> String,
    ) {
        self.events += 1;
        for value in what.bytes().map(u64::from).chain(numbers).chain([now.0]) {
            self.hash = (self.hash ^ value).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
        if self.verbose {
            let [a, b, c] = numbers;
            eprintln!("{:>12.3} ms  {what:<14} {a} {b} {c}  {}", now.0 as f64 / 1000.0, detail());
        }
    }

    /// One number for the whole history.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }
}

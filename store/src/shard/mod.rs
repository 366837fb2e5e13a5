//! Order: shards, sequence numbers, duplicates, throttles, and the commits that make them durable.
//!
//! [`state`] is what a stream knows and how it is kept; [`sequencer`] decides what becomes of a batch (pure);
//! [`group`] collects what one commit writes (pure); [`commit`] says what a commit is and its steps (pure); [`driver`]
//! runs them against the log. Never in here:
//! a wire format beyond the frame, names of streams, who is allowed what.

pub mod busy;
pub mod commit;
pub mod driver;
pub mod group;
mod lone;
pub mod sequencer;
pub mod state;

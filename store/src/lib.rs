//! The Kinesin store: ordered, durable shards behind one TLS port. `store/DESIGN.md` has the formats, the
//! numbered invariants and the procedures that keep them; `store/README.md` is for who operates it.
//!
//! Requests flow down and never up: `api` (wire formats) → `service` (our nouns) → `shard` (order, throttles,
//! acks) → `log` (engine) → `disk`. Nothing below `api` knows a wire format; nothing in here names `agent`.

pub mod api;
pub mod auth;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod client;
pub mod clock;
pub mod closed;
pub mod config;
pub mod log;
pub mod principal;
pub mod retain;
pub mod scale;
pub mod service;
pub mod shard;
pub mod yardstick;

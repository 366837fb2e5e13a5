//! The agent: tails files and MQTT topics, takes cameras and films, batches, spools durably, and forwards to a Kinesin store.
//!
//! [`Agent::start`] runs one in this process. The machines that decide (templates, batcher, spool, outbox, file
//! identity) are public and free of clocks and sockets, for the simulator; threads and I/O are in `agent`,
//! `pipeline`, `spooler`, `send::native` and the sources' drivers.

mod agent;
mod aggregate;
pub mod batcher;
pub mod clock;
pub mod config;
pub mod hub;
pub mod lane;
pub mod log;
pub mod loss;
pub mod partition;
mod pipeline;
pub mod routes;
pub mod send;
pub mod source;
pub mod spool;
mod spooler;
pub mod status;
mod watch;

pub use agent::{Agent, AgentHandle, StartError};
pub use config::Config;
pub use status::Snapshot;

//! The agent: tails files and MQTT topics, batches, spools durably, and forwards to a Kinesin store.

pub mod batcher;
pub mod config;
pub mod lane;
pub mod loss;
pub mod partition;
pub mod spool;

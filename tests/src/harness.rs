//! Real sockets, real files, real processes: what the suites and the demo run against.
//!
//! Nothing here knows the product's insides; it stands where a user's broker, files and shell stand.

pub mod broker;
pub mod cgroup;
pub mod chaos;
pub mod consumer;
pub mod corpus;
pub mod link;
pub mod mosquitto;
pub mod mounts;
pub mod process;
pub mod rig;

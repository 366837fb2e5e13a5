//! Sending: what to send next ([`outbox`], pure) and over what ([`native`], the driver).

pub mod identity;
pub mod lane_queue;
pub mod native;
pub mod outbox;
pub mod policy;
pub mod session;
pub mod tls;

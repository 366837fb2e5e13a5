//! The native wire: messages between an agent, an operator's command or a consumer, and the store. Pure.
//!
//! [`message`] is the envelope and the hot messages (binary); [`call`] is everything that is rare (JSON);
//! [`url`] is how a store is named.

pub mod call;
pub mod message;
pub mod url;

/// The protocol's name in TLS (ALPN, RFC 7301). A version that can't talk to this one gets another name.
pub const ALPN: &[u8] = b"kinesin/1";

/// The port that a store listens on unless told otherwise.
pub const PORT_DEFAULT: u16 = 4567;

//! Where records come from. A source hands on lines or messages with their origin, and cursors that say how far it
//! may be forgotten once the spool has them; nothing here batches, spools or sends.

pub mod file;
pub mod mqtt;
pub mod stdin;

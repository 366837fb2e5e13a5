//! Where records come from. A source hands on lines, messages or fragments of video with their origin, and cursors that say how far it
//! may be forgotten once the spool has them; nothing here batches, spools or sends.

pub mod file;
pub mod intake;
pub mod mqtt;
pub mod stdin;
pub mod video;

//! The words that agent and store both use: bytes in, values out.
//!
//! In here: names, hash keys, sequence numbers, limits, the batch frame, compression, the native wire, the Kinesis API's wire and its signatures.
//! Never in here: tokio, files, sockets, clocks, threads, ambient randomness, or anything of `agent` or
//! `store`. It must run in a fuzzer, in a simulator and in a browser.
//!
//! The wire, byte by byte, is in `protocol/README.md`.

pub mod backoff;
pub mod batch;
pub mod bucket;
pub mod bytes;
pub mod compress;
pub mod frame;
pub mod hash;
pub mod kinesis;
pub mod kpl;
pub mod limit;
pub mod name;
pub mod native;
pub mod outcome;
pub mod rng;
pub mod sequence;
pub mod sigv4;
pub mod stream;
pub mod time;

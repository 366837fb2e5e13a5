//! What the suites, the demo and the benchmark share.
//!
//! `harness` runs real things on real sockets; `world` runs the same machines in virtual time. Nothing in here is
//! linked into the product.

pub mod bench;
pub mod clock;
pub mod decoders;
pub mod demo;
pub mod harness;
pub mod hot;
pub mod kinesis_bench;
pub mod video_bench;
pub mod world;

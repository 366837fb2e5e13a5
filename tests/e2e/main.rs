//! The real programs as a user runs them: processes, TLS, files, a real mosquitto, the command line. Each promise is
//! checked from outside, record by record.
//!
//! Where the programs are not built or mosquitto is not installed, a test says so and passes; with
//! `KINESIN_TESTS_ALL=1` it fails. Slow ones are ignored, and run by `tests/all`.

mod bad_input;
mod cameras;
mod commands;
mod common;
mod damage;
mod edge;
mod ends;
mod outage;
mod path;
mod policies;
mod pressure;
mod rtsp;
mod video;
mod video_limits;

use tests::eventually;

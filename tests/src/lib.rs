//! The simulated world and the harness.

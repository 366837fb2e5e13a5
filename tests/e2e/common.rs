//! What every test of this suite asks again and again.

pub(crate) use tests::harness::rig::{FILES, PATIENCE, Rig, Writer, made, wait_until};

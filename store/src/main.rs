//! The store process.
fn main() {}

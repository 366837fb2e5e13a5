//! Real processes on real disks, and what goes wrong with both: killed, full, damaged, cut off, overloaded. One file for
//! each family of failure.
//!
//! Where the programs are not built, or the machine does not allow what a test needs, it says so and passes. What takes
//! minutes is ignored, and run by `tests/all`; what takes hours is asked for by variables (`tests/README.md`).

mod clocks;
mod disks;
mod full_disk;
mod kills;
mod ledger;
mod load;
mod namespaces;
mod network;
mod overload;
mod reshard;

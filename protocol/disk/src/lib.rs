//! Files: the `Disk` trait and segmented logs.

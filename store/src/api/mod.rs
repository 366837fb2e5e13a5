//! The store's faces: one folder or file a wire format, each a thin translation to [`crate::service`]. Nothing below
//! names anything in here.

pub mod calls;

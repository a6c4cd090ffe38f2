//! π0 in TTNN's terms.

pub mod format;

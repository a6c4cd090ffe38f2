//! π0 on a Tenstorrent card through TTNN.
//!
//! The graph is written once, in TTNN's own terms, over the trait [`runtime::Runtime`]; what runs it is a choice. May be called by
//! `policy` and `cli`; knows nothing of sensors, robots or ROS.

pub mod coverage;
pub mod format;
pub mod graph;
mod inputs;
pub mod op;
pub mod pack;
pub mod plan;
pub mod record;
mod resident;
pub mod runtime;
pub mod terms;
pub mod weights;

pub use resident::{Dispatch, Resident};

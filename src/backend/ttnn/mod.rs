//! π0 on a Tenstorrent card through TTNN.
//!
//! The graph is written once, in TTNN's own terms, over the trait [`runtime::Runtime`]; what runs it is a choice. May be called by
//! `policy` and `cli`; knows nothing of sensors, robots or ROS.

pub mod cache;
#[cfg(feature = "ttnn")]
mod card;
pub mod coverage;
#[cfg(feature = "ttnn")]
pub mod device;
pub mod format;
pub mod graph;
pub mod host;
mod inputs;
pub mod op;
pub mod pack;
pub mod plan;
pub mod record;
mod resident;
pub mod runtime;
#[cfg(feature = "ttnn")]
mod shim;
pub mod terms;
#[cfg(test)]
mod tests;
pub mod weights;

pub use resident::{Dispatch, Resident, TRACE_REGION_BYTES, check_model};

//! From observations that may be used to commands that may be sent: pure rules, no I/O.
//!
//! Time is always an argument ([`Stamp`]), so every rule is tested in virtual time. Called by the node and by replay; knows nothing of
//! ROS, models or wall clocks.

mod chunk;
mod drift;
mod freshness;
mod joint;
mod limits;
mod stamp;

pub use crate::robot::JointLimits;
pub use chunk::{ChunkError, CommandRows};
pub use drift::{Drift, DriftWatch};
pub use freshness::{AgeLimit, NotUsable};
pub use joint::JointControl;
pub use limits::{Cut, CutCount, LimitCounts, LimitError, LimitKind, Limiter, Motion};
pub use stamp::Stamp;

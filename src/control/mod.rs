//! From observations that may be used to commands that may be sent: pure rules, no I/O.
//!
//! Time is always an argument ([`Stamp`]), so every rule is tested in virtual time. Called by the node and by replay; knows nothing of
//! ROS, models or wall clocks.

mod blend;
mod chunk;
mod clock;
mod commanded;
mod config;
mod controller;
mod delay;
mod drift;
mod exchange;
mod freshness;
mod joint;
mod limits;
mod plan;
mod stamp;
mod status;
mod synchronizer;
mod track;

pub use crate::robot::JointLimits;
pub use chunk::{ChunkError, CommandRows};
pub use clock::{ClockJump, ClockWatch};
pub use config::{Chunking, ControlConfig, ControlError, OnInstruction, Replan, StallAction};
pub use controller::Controller;
pub use drift::{Drift, DriftWatch};
pub use exchange::{ComputedChunk, GuidanceRequest, Installed, Join, Measured, Tick, Ticket, Trajectory};
pub use freshness::{AgeLimit, NotUsable};
pub use joint::JointControl;
pub use limits::{Cut, CutCount, LimitCounts, LimitError, LimitKind, Limiter, Motion};
pub use stamp::Stamp;
pub use status::{ControlCounts, ControlState, ControlStatus, Latch};
pub use synchronizer::{Aligned, CameraRules, JOINT_STATES, Rules, StampSource, Synchronizer};
pub use track::{Arrival, StateAt, Verdict};

//! From observations that may be used to commands that may be sent: pure rules, no I/O.
//!
//! Time is always an argument ([`Stamp`]), so every rule is tested in virtual time. Called by the node and by replay; knows nothing of
//! ROS, models or wall clocks.

mod chunk;
mod clock;
mod freshness;
mod stamp;
mod synchronizer;
mod track;

pub use chunk::{ChunkError, CommandRows};
pub use clock::{ClockJump, ClockWatch};
pub use freshness::{AgeLimit, NotUsable};
pub use stamp::Stamp;
pub use synchronizer::{Aligned, CameraRules, JOINT_STATES, Rules, StampSource, Synchronizer};
pub use track::{Arrival, StateAt, Verdict};

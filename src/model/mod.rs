//! π0 as mathematics that every backend shares: geometry, masks, positions, time embedding, Euler schedule, guidance, noise.
//!
//! Knows nothing of files, devices, ROS or clocks.

mod cost;
mod geometry;
mod inputs;
pub mod layout;
mod noise;
mod rope;
mod rtc;
mod schedule;
mod sequence;

pub use cost::Flops;
pub use geometry::{GemmaGeometry, Geometry, VisionGeometry};
pub use inputs::{Camera, Chunk, DenoiseRequest, ModelInputs, Prompt, StageTimes};
pub use layout::TensorSpec;
pub use noise::noise;
pub use rope::Rope;
pub use rtc::{Guidance, PrefixSchedule, guidance_weight};
pub use schedule::{EulerSchedule, time_embedding};
pub use sequence::{Mask, Rows, Sequence};

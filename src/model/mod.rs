//! π0 as mathematics that every backend shares: geometry, masks, positions, time embedding, Euler schedule, noise.
//!
//! Knows nothing of files, devices, ROS or clocks.

mod geometry;
mod inputs;
pub mod layout;

pub use geometry::{GemmaGeometry, Geometry, VisionGeometry};
pub use inputs::{Camera, Chunk, DenoiseRequest, ModelInputs, Prompt, StageTimes};
pub use layout::TensorSpec;

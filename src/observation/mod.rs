//! Sensor values to model inputs, and a chunk back to robot actions.
//!
//! Pure: no ROS types, no files, no clock. Every function refuses bad input whole and names it; none panics on it.

mod compressed;
mod error;
mod image;
mod instruction;
mod joints;
mod pipeline;
mod resize;

use std::collections::BTreeMap;

pub use self::{
    compressed::CompressedImageView,
    error::ObservationError,
    image::{ImageView, RgbImage},
    instruction::{InstructionError, check_instruction},
    joints::JointSelector,
    pipeline::{Pipeline, PreparedInputs, RobotActions},
    resize::{ResizeKernel, Resizer},
};

/// One synchronised look at the robot, in robot units and the profile's order.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Image of each camera slot that is not declared absent, by the checkpoint's slot name.
    pub images: BTreeMap<String, RgbImage>,
    /// Joint values in the profile's state order, as `sensor_msgs/JointState` gives them (rad or m).
    pub joints: Vec<f64>,
    pub instruction: String,
}

//! Sensor values to model inputs, and a chunk back to robot actions.
//!
//! Pure: no ROS types, no files, no clock.

use std::collections::BTreeMap;

/// An 8-bit RGB image, rows tight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    /// `[height, width, 3]`
    pixels: Vec<u8>,
}

/// Which resize the checkpoint was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeKernel {
    /// Pillow's antialiased bilinear on uint8, bit-exact.
    Openpi,
    /// torch bilinear without antialiasing on float.
    Lerobot,
}

/// One synchronised look at the robot, in robot units and the profile's order.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Image of each camera slot that is not declared absent.
    pub images: BTreeMap<String, RgbImage>,
    /// Joint values in the profile's state order, as `sensor_msgs/JointState` gives them (rad or m).
    pub joints: Vec<f64>,
    pub instruction: String,
}

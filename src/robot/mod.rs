//! Declared robot profiles: which joints in which order and unit, gripper maps, delta masks, camera slots, control rate. And the limits of
//! joints that a robot's own description has.
//!
//! A checkpoint knows columns of numbers; a robot has named joints. A profile (`config/robots/*.yaml`) says which column is which joint
//! and how its values convert. Knows nothing of checkpoints, ROS or clocks.

mod file;
mod installed;
mod limits;
mod map;
mod urdf;

use std::{collections::BTreeMap, path::Path, path::PathBuf};

pub use installed::find;
pub use limits::JointLimits;
pub use map::{Affine, Horn, StateMap};
pub use urdf::{UrdfError, UrdfLimits};

use crate::observation::ResizeKernel;

/// A validated robot profile; only [`Self::load`] and [`Self::from_yaml`] make one.
#[derive(Clone, Debug, PartialEq)]
pub struct RobotProfile {
    pub name: String,
    /// Rows of an action chunk per second.
    pub control_rate_hz: f64,
    /// Columns of the checkpoint's state; the joints are distinct.
    pub state: Vec<StateColumn>,
    /// Columns of the checkpoint's actions; the joints are distinct.
    pub actions: Vec<ActionColumn>,
    /// By the checkpoint's slot name. At least one is present.
    pub cameras: BTreeMap<String, CameraSlot>,
    /// Overrides the resize of the checkpoint's family.
    pub resize: Option<ResizeKernel>,
    pub default_instruction: Option<String>,
    /// Rows of a chunk to execute before the next one replaces it, at least 1; `None` leaves it to the caller.
    pub execution_horizon: Option<usize>,
}

/// One entry of the state vector.
#[derive(Clone, Debug, PartialEq)]
pub struct StateColumn {
    pub joint: String,
    pub map: StateMap,
}

/// One entry of an action row.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionColumn {
    pub joint: String,
    pub kind: CommandKind,
    pub map: Affine,
    /// The state column (an index) that the policy's value is relative to, as observed when the chunk was computed.
    pub delta: Option<usize>,
    /// The policy's absolute value becomes 1 above this and 0 otherwise.
    pub threshold: Option<f64>,
    /// Least and largest of the policy's absolute value.
    pub clip: Option<[f64; 2]>,
    /// The joint opens and closes a gripper: it is commanded at once where an arm's joint is blended, and may be kept from its command by
    /// what it holds.
    pub gripper: bool,
}

/// What a command value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandKind {
    /// rad or m
    Position,
    /// rad/s or m/s
    Velocity,
}

/// What a camera slot of the checkpoint is on this robot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CameraSlot {
    /// The robot has no such camera: the model does not attend to the slot.
    Absent,
    Present {
        /// What the camera is called on this robot, for people; topics carry the slot.
        name: String,
        /// The camera hangs upside down, or the checkpoint was trained on rotated images.
        rotate_180: bool,
    },
}

impl RobotProfile {
    /// Reads and validates a profile file.
    pub fn load(path: &Path) -> Result<Self, RobotError> {
        let yaml = std::fs::read_to_string(path).map_err(|source| RobotError::Read { path: path.to_owned(), source })?;
        Self::from_yaml(&yaml).map_err(|error| RobotError::File { path: path.to_owned(), error: Box::new(error) })
    }

    /// Reads and validates the text of a profile. Every problem with its values is listed in one error.
    pub fn from_yaml(yaml: &str) -> Result<Self, RobotError> {
        let file: file::ProfileFile = serde_saphyr::from_str(yaml).map_err(|error| RobotError::Yaml(error.to_string()))?;
        file.validate().map_err(RobotError::Invalid)
    }

    /// Joint names in the order of the state columns.
    pub fn state_joints(&self) -> impl Iterator<Item = &str> {
        self.state.iter().map(|column| column.joint.as_str())
    }
}

impl ActionColumn {
    /// The policy's absolute value to what the robot is commanded: threshold, clip, map.
    pub fn to_robot(&self, policy: f64) -> f64 {
        let mut value = policy;
        if let Some(threshold) = self.threshold {
            value = if value > threshold { 1.0 } else { 0.0 };
        }
        if let Some([least, largest]) = self.clip {
            value = value.clamp(least, largest);
        }
        self.map.to_robot(value)
    }
}

/// Why a robot profile was refused.
#[derive(Debug, thiserror::Error)]
pub enum RobotError {
    #[error("Cannot read the robot profile {path}: {source}. Profiles that come with the package are in config/robots")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("Robot profile {name} is not installed. Installed are: {}. A path ending in .yaml works too", names(.known))]
    NotInstalled { name: String, known: Vec<String> },
    #[error("{path}: {error}")]
    File { path: PathBuf, error: Box<RobotError> },
    #[error("The robot profile is not as expected. {0}")]
    Yaml(String),
    #[error("Cannot read the URDF {path}: {source}")]
    ReadUrdf { path: PathBuf, source: std::io::Error },
    #[error("{path} cannot be used: {source}")]
    Urdf { path: PathBuf, source: UrdfError },
    #[error("The robot profile has {} problem{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, list(.0))]
    Invalid(Vec<String>),
}

fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n- {problem}")).collect()
}

fn names(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

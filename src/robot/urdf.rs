//! Limits of joints from the robot's description (URDF).

use std::{collections::BTreeMap, path::Path};

use urdf_rs::{Joint, JointLimit, JointType};

use super::{JointLimits, RobotError};

/// The limits that a URDF gives the joints of a robot.
#[derive(Clone, Debug, PartialEq)]
pub struct UrdfLimits {
    limits: BTreeMap<String, JointLimits>,
    missing: Vec<String>,
}

/// Why a URDF was refused.
#[derive(Debug, thiserror::Error)]
pub enum UrdfError {
    #[error("it is not a URDF. {0}")]
    Xml(#[from] urdf_rs::UrdfError),
    #[error("it is not expanded. Make a URDF of it first: xacro robot.urdf.xacro > robot.urdf")]
    Xacro,
    #[error("it describes two joints {0}")]
    Twice(String),
    #[error("none of the joints {} moves in it. Does the robot profile have a prefix that the URDF has not?", .0.join(", "))]
    NoJoint(Vec<String>),
}

impl UrdfLimits {
    /// Reads the limits of `joints` from a URDF file, see [`Self::from_xml`].
    pub fn load<'a>(path: &Path, joints: impl Iterator<Item = &'a str>) -> Result<Self, RobotError> {
        let refused = |source| RobotError::Urdf { path: path.to_owned(), source };
        let xml = std::fs::read_to_string(path).map_err(|source| RobotError::ReadUrdf { path: path.to_owned(), source })?;
        Self::from_xml(&xml, joints).map_err(refused)
    }

    /// Reads the limits of `joints`: position, velocity and, from version 1.2 of the format on, acceleration. A continuous joint has no
    /// limits of position. Soft limits (`safety_controller`) are the controller's and not read.
    ///
    /// The numbers are as in the file: a limit that no robot has is refused where it is used, unless it was replaced until then. A joint that
    /// the URDF lacks or does not move has no limits ([`Self::missing`]); if it has none of them, it is refused.
    pub fn from_xml<'a>(xml: &str, joints: impl Iterator<Item = &'a str>) -> Result<Self, UrdfError> {
        let refused = |error| if has_macros(xml) { UrdfError::Xacro } else { error };
        let robot = urdf_rs::read_from_string(xml).map_err(|error| refused(error.into()))?;
        let (mut limits, mut missing) = (BTreeMap::new(), Vec::new());
        for name in joints {
            let mut described = robot.joints.iter().filter(|joint| joint.name == name);
            match (described.next().and_then(limits_of), described.next()) {
                (_, Some(_)) => return Err(UrdfError::Twice(name.to_owned())),
                (Some(found), None) => drop(limits.insert(name.to_owned(), found)),
                (None, None) => missing.push(name.to_owned()),
            }
        }
        if limits.is_empty() && !missing.is_empty() {
            return Err(refused(UrdfError::NoJoint(missing)));
        }
        Ok(Self { limits, missing })
    }

    /// The limits of a joint; none of one that was not asked for or is missing.
    pub fn of(&self, joint: &str) -> JointLimits {
        self.limits.get(joint).copied().unwrap_or_default()
    }

    /// Joints that were asked for and that the URDF lacks or does not move.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }
}

/// Whether xacro has not been run over a file. It leaves comments as they are.
fn has_macros(xml: &str) -> bool {
    let mut parts = xml.split("<!--").map(|part| part.split_once("-->").map_or(part, |(_, rest)| rest));
    parts.any(|part| part.contains("<xacro:") || part.contains("${"))
}

/// `None` for a joint that does not turn about or slide along one axis.
fn limits_of(joint: &Joint) -> Option<JointLimits> {
    let limit = &joint.limit;
    let finite = |value: f64| (value != f64::INFINITY).then_some(value);
    let continuous = joint.joint_type == JointType::Continuous;
    let position = match joint.joint_type {
        // A continuous joint may go without a <limit>, which is read as zeros.
        JointType::Continuous if *limit == JointLimit::default() => {
            return Some(JointLimits { continuous, ..Default::default() });
        }
        JointType::Continuous => None,
        JointType::Revolute | JointType::Prismatic => Some([limit.lower, limit.upper]),
        JointType::Fixed | JointType::Floating | JointType::Planar | JointType::Spherical => return None,
    };
    Some(JointLimits {
        position: position.filter(|&ends| ends != [f64::NEG_INFINITY, f64::INFINITY]),
        step: None,
        velocity: finite(limit.velocity),
        acceleration: finite(limit.acceleration.min(limit.deceleration)),
        continuous,
    })
}

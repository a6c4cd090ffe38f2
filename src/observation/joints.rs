//! Joint values of a `sensor_msgs/JointState` by name, in the order of a robot profile.

use super::ObservationError;

/// Picks a fixed list of joints out of messages that may order them differently and may have more.
#[derive(Clone, Debug)]
pub struct JointSelector {
    joints: Vec<String>,
}

impl JointSelector {
    /// `joints` are distinct: a robot profile guarantees that.
    pub fn new(joints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { joints: joints.into_iter().map(Into::into).collect() }
    }

    /// Names in the order of the values that [`Self::select`] returns.
    pub fn joints(&self) -> &[String] {
        &self.joints
    }

    /// The positions of the selected joints. Joints that were not asked for are ignored, whatever their values.
    pub fn select(&self, names: &[impl AsRef<str>], positions: &[f64]) -> Result<Vec<f64>, ObservationError> {
        if names.len() != positions.len() {
            return Err(ObservationError::JointLengths { names: names.len(), positions: positions.len() });
        }
        if names.is_empty() {
            return Err(ObservationError::NoJoints);
        }
        let mut values = Vec::with_capacity(self.joints.len());
        let mut missing = Vec::new();
        for joint in &self.joints {
            let mut found = names.iter().zip(positions).filter(|(name, _)| name.as_ref() == joint).map(|(_, &value)| value);
            match (found.next(), found.next()) {
                (None, _) => missing.push(joint.clone()),
                (Some(_), Some(_)) => return Err(ObservationError::DuplicateJoint { joint: joint.clone() }),
                (Some(value), None) if !value.is_finite() => {
                    return Err(ObservationError::JointNotFinite { joint: joint.clone(), value });
                }
                (Some(value), None) => values.push(value),
            }
        }
        if missing.is_empty() {
            Ok(values)
        } else {
            let found = names.iter().map(|name| name.as_ref().to_owned()).collect();
            Err(ObservationError::MissingJoints { missing, found })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector() -> JointSelector {
        JointSelector::new(["shoulder", "elbow", "gripper"])
    }

    #[test]
    fn values_come_in_the_profile_order_and_other_joints_are_ignored() {
        let values = selector().select(&["gripper", "wheel", "shoulder", "elbow"], &[3.0, f64::NAN, 1.0, 2.0]);
        assert_eq!(values.unwrap(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn every_missing_joint_is_named() {
        let error = selector().select(&["elbow", "wheel"], &[0.0, 0.0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Joints shoulder, gripper are missing from the JointState message, which has: elbow, wheel. Compare with the robot profile"
        );
    }

    #[test]
    fn bad_messages_are_refused_by_name() {
        let names = ["shoulder", "elbow", "gripper"];
        let refused = |names: &[&str], positions: &[f64]| selector().select(names, positions).unwrap_err();
        assert!(matches!(refused(&[], &[]), ObservationError::NoJoints));
        assert!(matches!(refused(&names, &[0.0; 2]), ObservationError::JointLengths { names: 3, positions: 2 }));
        assert!(matches!(refused(&names, &[]), ObservationError::JointLengths { names: 3, positions: 0 }));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = refused(&names, &[0.0, value, 0.0]);
            assert!(matches!(error, ObservationError::JointNotFinite { joint, .. } if joint == "elbow"));
        }
        let error = refused(&["shoulder", "elbow", "gripper", "elbow"], &[0.0; 4]);
        assert!(matches!(error, ObservationError::DuplicateJoint { joint } if joint == "elbow"));
    }
}

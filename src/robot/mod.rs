//! Declared robot profiles: which joints in which order and unit, gripper maps, delta masks, camera slots, control rate.

/// A validated `config/robots/*.yaml`.
#[derive(Clone, Debug)]
pub struct RobotProfile {}

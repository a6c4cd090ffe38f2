//! What the control knows of a commanded joint.

use crate::robot::CommandKind;

/// One column of the commands.
#[derive(Clone, Debug, PartialEq)]
pub struct JointControl {
    pub name: String,
    pub kind: CommandKind,
    /// A gripper switches at once where an arm's joint is blended, and what it holds may keep it from where it was commanded to.
    pub gripper: bool,
    pub limits: JointLimits,
}

/// What a joint may be commanded; `None` does not limit. Lengths are rad for turning joints and m for sliding ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JointLimits {
    /// Least and largest position; an infinite end is open.
    pub position: Option<[f64; 2]>,
    /// Largest change of position from one row to the next.
    pub step: Option<f64>,
    /// Per second.
    pub velocity: Option<f64>,
    /// Per second squared.
    pub acceleration: Option<f64>,
}

//! What the control knows of a commanded joint.

use crate::robot::{CommandKind, JointLimits};

/// One column of the commands.
#[derive(Clone, Debug, PartialEq)]
pub struct JointControl {
    pub name: String,
    pub kind: CommandKind,
    /// A gripper switches at once where an arm's joint is blended, and what it holds may keep it from where it was commanded to.
    pub gripper: bool,
    pub limits: JointLimits,
}

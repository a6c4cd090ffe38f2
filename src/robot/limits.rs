//! What a joint may be commanded.

/// Limits of a joint, of its commands or of the robot itself; `None` does not limit. Lengths are rad for turning joints and m for sliding
/// ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JointLimits {
    /// Least and largest position; an infinite end is open.
    pub position: Option<[f64; 2]>,
    /// Largest change of position from one row of commands to the next.
    pub step: Option<f64>,
    /// Per second.
    pub velocity: Option<f64>,
    /// Per second squared.
    pub acceleration: Option<f64>,
    /// The joint turns without an end: any number of turns is a position of it.
    pub continuous: bool,
}

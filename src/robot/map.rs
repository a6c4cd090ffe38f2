//! Conversions between a joint's value on the robot (rad, m, or what its driver reports) and the policy's value (as in its training data).

/// `policy = scale * robot + offset`; the scale is finite and not zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    pub scale: f64,
    pub offset: f64,
}

impl Affine {
    pub fn to_policy(&self, robot: f64) -> f64 {
        self.scale * robot + self.offset
    }

    pub fn to_robot(&self, policy: f64) -> f64 {
        (policy - self.offset) / self.scale
    }
}

/// From a finger's place to the normalized angle of the horn that moves it.
///
/// The gripper of Interbotix arms (ViperX, WidowX, ALOHA): a motor turns a horn, a rod connects the horn to the finger's slide. openpi's
/// base model was trained on the motor's angle, ALOHA reports the finger's place (openpi `aloha_policy.py`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Horn {
    /// Place of the finger at the robot's values 0 and 1, in m.
    pub finger_travel: [f64; 2],
    /// In m.
    pub arm_length: f64,
    /// In m.
    pub horn_radius: f64,
    /// Angles of the horn that are the policy's values 0 and 1, in rad.
    pub angle_range: [f64; 2],
}

impl Horn {
    /// A finger where the rod cannot reach counts as being at the end of its travel.
    pub fn to_policy(&self, robot: f64) -> f64 {
        let [near, far] = self.finger_travel;
        let finger = near + robot * (far - near);
        let sine = (self.horn_radius.powi(2) + finger.powi(2) - self.arm_length.powi(2)) / (2.0 * self.horn_radius * finger);
        let [zero, one] = self.angle_range;
        (sine.clamp(-1.0, 1.0).asin() - zero) / (one - zero)
    }
}

/// From a joint's value to a state entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StateMap {
    Affine(Affine),
    Horn(Horn),
}

impl StateMap {
    pub fn to_policy(&self, robot: f64) -> f64 {
        match self {
            Self::Affine(affine) => affine.to_policy(robot),
            Self::Horn(horn) => horn.to_policy(robot),
        }
    }
}

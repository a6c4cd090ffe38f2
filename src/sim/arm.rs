//! A robot that follows its commands a little late.

use crate::{control::JointControl, robot::CommandKind};

/// Joints of first order: each closes the same share of its distance from the command in the same time.
#[derive(Clone, Debug)]
pub struct Arm {
    kinds: Vec<CommandKind>,
    positions: Vec<f64>,
    /// rad/s or m/s
    velocities: Vec<f64>,
    command: Option<Vec<f64>>,
    /// Seconds after which a joint has closed 63 % of the distance.
    lag: f64,
}

impl Arm {
    /// Joints at rest at `positions`, one for each of `joints`.
    pub fn new(joints: &[JointControl], positions: Vec<f64>, lag: f64) -> Self {
        let velocities = vec![0.0; positions.len()];
        Self { kinds: joints.iter().map(|joint| joint.kind).collect(), positions, velocities, command: None, lag }
    }

    /// rad or m
    pub fn positions(&self) -> &[f64] {
        &self.positions
    }

    /// Lets `seconds` pass after a new command, or with the one before.
    pub fn follow(&mut self, command: Option<&[f64]>, seconds: f64) {
        if let Some(command) = command {
            self.command = Some(command.to_vec());
        }
        let Some(command) = &self.command else { return };
        let share = -(-seconds / self.lag).exp_m1();
        for (((kind, position), velocity), command) in
            self.kinds.iter().zip(&mut self.positions).zip(&mut self.velocities).zip(command)
        {
            match kind {
                CommandKind::Position => *position += (command - *position) * share,
                CommandKind::Velocity => {
                    *velocity += (command - *velocity) * share;
                    *position += *velocity * seconds;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::JointLimits;

    fn joint(kind: CommandKind) -> JointControl {
        JointControl { name: "joint".to_owned(), kind, gripper: false, limits: JointLimits::default() }
    }

    #[test]
    fn a_joint_closes_the_same_share_in_the_same_time_however_often_it_is_told() {
        let mut often = Arm::new(&[joint(CommandKind::Position)], vec![0.0], 0.05);
        let mut seldom = often.clone();
        (0..5).for_each(|_| often.follow(Some(&[1.0]), 0.01));
        seldom.follow(Some(&[1.0]), 0.05);
        assert!((often.positions()[0] - seldom.positions()[0]).abs() < 1e-12);
        assert!((seldom.positions()[0] - (1.0 - 1.0 / std::f64::consts::E)).abs() < 1e-12);
    }

    #[test]
    fn a_joint_keeps_its_last_command_and_rests_before_the_first() {
        let mut arm = Arm::new(&[joint(CommandKind::Position), joint(CommandKind::Velocity)], vec![0.3, 0.0], 0.02);
        arm.follow(None, 1.0);
        assert_eq!(arm.positions(), [0.3, 0.0]);
        arm.follow(Some(&[1.0, 0.5]), 0.01);
        (0..1000).for_each(|_| arm.follow(None, 0.01));
        assert!((arm.positions()[0] - 1.0).abs() < 1e-9 && (arm.positions()[1] - 5.0).abs() < 0.02, "{:?}", arm.positions());
    }
}

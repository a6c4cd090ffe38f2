//! A robot that follows its commands a little late.

use crate::{
    control::{JointControl, Stamp, Tick, Trajectory},
    robot::CommandKind,
};

/// What the controller of an arm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executes {
    /// A row, until there is another one: a forward command controller.
    Rows,
    /// A trajectory, until there is another one, whether control steps happen meanwhile or not: a joint trajectory controller.
    Trajectories,
}

/// Joints of first order: each closes the same share of its distance from the command in the same time.
#[derive(Clone, Debug)]
pub struct Arm {
    kinds: Vec<CommandKind>,
    positions: Vec<f64>,
    /// rad/s or m/s
    velocities: Vec<f64>,
    executes: Executes,
    command: Option<Vec<f64>>,
    trajectory: Option<Trajectory>,
    /// Seconds after which a joint has closed 63 % of the distance.
    lag: f64,
}

impl Arm {
    /// Joints at rest at `positions`, one for each of `joints`.
    pub fn new(joints: &[JointControl], positions: Vec<f64>, lag: f64, executes: Executes) -> Self {
        let velocities = vec![0.0; positions.len()];
        let kinds = joints.iter().map(|joint| joint.kind).collect();
        Self { kinds, positions, velocities, executes, command: None, trajectory: None, lag }
    }

    /// rad or m
    pub fn positions(&self) -> &[f64] {
        &self.positions
    }

    /// Takes what the control step of `now` tells, if it happens and tells anything, and lets its period of `seconds` pass. Returns the row
    /// that is new in it.
    pub fn follow(&mut self, tick: &Tick, now: Stamp, seconds: f64) -> Option<Vec<f64>> {
        let row = match self.executes {
            Executes::Rows => tick.command.clone(),
            Executes::Trajectories => {
                if let Some(trajectory) = &tick.trajectory {
                    self.trajectory = Some(trajectory.clone());
                }
                self.trajectory.as_ref().and_then(|trajectory| {
                    let index = (now.seconds_since(trajectory.start) / trajectory.period).round();
                    // The cast saturates, and a trajectory that begins later has no row yet.
                    (index >= 0.0).then(|| trajectory.rows.get(index as usize).cloned()).flatten()
                })
            }
        };
        self.go(row.as_deref(), seconds);
        row
    }

    /// Lets `seconds` pass after a new command, or with the one before.
    fn go(&mut self, command: Option<&[f64]>, seconds: f64) {
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
        let mut often = Arm::new(&[joint(CommandKind::Position)], vec![0.0], 0.05, Executes::Rows);
        let mut seldom = often.clone();
        (0..5).for_each(|_| often.go(Some(&[1.0]), 0.01));
        seldom.go(Some(&[1.0]), 0.05);
        assert!((often.positions()[0] - seldom.positions()[0]).abs() < 1e-12);
        assert!((seldom.positions()[0] - (1.0 - 1.0 / std::f64::consts::E)).abs() < 1e-12);
    }

    #[test]
    fn a_joint_keeps_its_last_command_and_rests_before_the_first() {
        let joints = [joint(CommandKind::Position), joint(CommandKind::Velocity)];
        let mut arm = Arm::new(&joints, vec![0.3, 0.0], 0.02, Executes::Rows);
        arm.go(None, 1.0);
        assert_eq!(arm.positions(), [0.3, 0.0]);
        arm.go(Some(&[1.0, 0.5]), 0.01);
        (0..1000).for_each(|_| arm.go(None, 0.01));
        assert!((arm.positions()[0] - 1.0).abs() < 1e-9 && (arm.positions()[1] - 5.0).abs() < 0.02, "{:?}", arm.positions());
    }

    #[test]
    fn a_trajectory_is_executed_to_its_end_or_until_the_next_one_though_nothing_more_is_told() {
        let mut arm = Arm::new(&[joint(CommandKind::Position)], vec![0.0], 0.02, Executes::Trajectories);
        let at = |step: i64| Stamp::from_nanoseconds(step * 20_000_000);
        let told = |step, rows: &[f64]| Tick {
            command: Some(vec![9.0]),
            trajectory: Some(Trajectory { start: at(step), period: 0.02, rows: rows.iter().map(|&row| vec![row]).collect() }),
        };
        assert_eq!(arm.follow(&told(1, &[1.0, 2.0, 3.0]), at(0), 0.02), None, "it begins later");
        let rows: Vec<_> = (1..3).map(|step| arm.follow(&Tick::default(), at(step), 0.02)).collect();
        assert_eq!(rows, [Some(vec![1.0]), Some(vec![2.0])]);
        assert_eq!(arm.follow(&told(3, &[7.0]), at(3), 0.02), Some(vec![7.0]));
        assert_eq!(arm.follow(&Tick::default(), at(4), 0.02), None);
        (5..100).for_each(|step| drop(arm.follow(&Tick::default(), at(step), 0.02)));
        assert!((arm.positions()[0] - 7.0).abs() < 1e-9, "{:?}", arm.positions());
    }
}

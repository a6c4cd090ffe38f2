//! Whether the robot is where it was commanded to be.

use std::{collections::VecDeque, fmt};

use super::{JointControl, Stamp};
use crate::robot::CommandKind;

/// For how long commands are remembered, in s. Older measurements are not judged.
const HISTORY: f64 = 2.0;

/// Compares measured positions with what was commanded at the time of the measurement, so that late measurements of a moving joint are
/// not drift. Grippers are left out, because what they hold keeps them from closing, and so are joints that are commanded velocities.
///
/// Once a joint has drifted, the watch says so until [`Self::reset`].
#[derive(Clone, Debug)]
pub struct DriftWatch {
    /// Name and column of the joints that are watched.
    joints: Vec<(String, usize)>,
    /// rad or m.
    limit: f64,
    /// When rows were to be reached, the one of a trajectory and the one that was sent by itself, oldest first.
    commanded: VecDeque<(Stamp, [Vec<f64>; 2])>,
    drift: Option<Drift>,
}

/// A joint that is not where it was commanded to be; rad or m.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    pub joint: String,
    pub commanded: f64,
    pub measured: f64,
    pub limit: f64,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { joint, commanded, measured, limit } = self;
        write!(f, "{joint} is at {measured:.3} and was commanded to be at {commanded:.3}, the limit of drift is {limit}")
    }
}

impl DriftWatch {
    /// Lets the joints be `limit` away from their commands (rad or m, above 0).
    pub fn new(joints: &[JointControl], limit: f64) -> Self {
        let watched = joints.iter().enumerate().filter(|(_, joint)| joint.kind == CommandKind::Position && !joint.gripper);
        let joints = watched.map(|(column, joint)| (joint.name.clone(), column)).collect();
        Self { joints, limit, commanded: VecDeque::new(), drift: None }
    }

    /// Notes a row of commands that is to be reached at `stamp`: `told` by a controller that executes trajectories, `sent` by one that takes
    /// row after row. They differ for a while after late control steps. Replaces rows that were to be reached then or later.
    pub fn command(&mut self, stamp: Stamp, told: &[f64], sent: &[f64]) {
        self.commanded.truncate(self.commanded.partition_point(|(reached, _)| *reached < stamp));
        // The row that is held at the beginning of the history stays.
        while self.commanded.get(1).is_some_and(|(second, _)| stamp.seconds_since(*second) > HISTORY) {
            self.commanded.pop_front();
        }
        self.commanded.push_back((stamp, [told.to_vec(), sent.to_vec()]));
    }

    /// Judges positions measured at `stamp` (rad or m, one for each commanded joint; `None` for a joint that is not measured).
    pub fn measure(&mut self, stamp: Stamp, positions: &[Option<f64>]) {
        if self.drift.is_some() {
            return;
        }
        // The rows before and after the stamp: a row is approached in a straight line, and the newest one is held.
        let after = self.commanded.partition_point(|(reached, _)| *reached <= stamp);
        let Some((start, before)) = after.checked_sub(1).and_then(|before| self.commanded.get(before)) else { return };
        let (share, after) = match self.commanded.get(after) {
            Some((end, row)) => (stamp.seconds_since(*start) / end.seconds_since(*start), row),
            None => (0.0, before),
        };
        self.drift = self.joints.iter().find_map(|(joint, column)| {
            let at = |way: usize| {
                let (before, after) = (before[way].get(*column)?, after[way].get(*column)?);
                Some(before + share * (after - before))
            };
            let (told, sent) = (at(0)?, at(1)?);
            let measured = (*positions.get(*column)?)?;
            // The nearest of what either controller may be at.
            let commanded = measured.clamp(told.min(sent), told.max(sent));
            let drift = Drift { joint: joint.clone(), commanded, measured, limit: self.limit };
            ((measured - commanded).abs() > self.limit).then_some(drift)
        });
    }

    /// The drift that was found since the last reset.
    pub fn drift(&self) -> Option<&Drift> {
        self.drift.as_ref()
    }

    /// Forgets the commands: the clock has jumped, or the robot is no longer to follow them. A drift that was found stays.
    pub fn forget(&mut self) {
        self.commanded.clear();
    }

    /// Forgets the commands and the drift.
    pub fn reset(&mut self) {
        self.forget();
        self.drift = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::JointLimits;

    fn joint(name: &str, kind: CommandKind, gripper: bool) -> JointControl {
        JointControl { name: name.to_owned(), kind, gripper, limits: JointLimits::default() }
    }

    fn watch() -> DriftWatch {
        let joints = [joint("elbow", CommandKind::Position, false), joint("wrist", CommandKind::Position, false)];
        DriftWatch::new(&joints, 0.5)
    }

    /// Both ways of commanding tell the same.
    fn command(watch: &mut DriftWatch, stamp: Stamp, row: &[f64]) {
        watch.command(stamp, row, row);
    }

    fn at(milliseconds: i64) -> Stamp {
        Stamp::from_nanoseconds(1_763_640_000_000_000_000 + milliseconds * 1_000_000)
    }

    /// 3 rad/s in 0.06 rad a row, from 0 ms on.
    fn moving() -> DriftWatch {
        let mut watch = watch();
        for row in 0..200 {
            command(&mut watch, at(20 * row), &[0.06 * row as f64, 0.0]);
        }
        watch
    }

    #[test]
    fn a_joint_that_is_half_a_radian_from_its_command_drifts_and_is_named() {
        let mut watch = watch();
        command(&mut watch, at(0), &[0.2, 1.0]);
        watch.measure(at(10), &[Some(0.69), Some(0.51)]);
        assert_eq!(watch.drift(), None);
        watch.measure(at(20), &[Some(0.2), Some(0.49)]);
        let drift = watch.drift().unwrap().to_string();
        assert_eq!(drift, "wrist is at 0.490 and was commanded to be at 1.000, the limit of drift is 0.5");
    }

    #[test]
    fn a_drift_stays_until_the_reset_even_if_the_joint_comes_back() {
        let mut watch = watch();
        command(&mut watch, at(0), &[0.0, 0.0]);
        watch.measure(at(0), &[Some(0.6), Some(0.0)]);
        let drift = watch.drift().cloned();
        assert!(drift.is_some());
        watch.measure(at(20), &[Some(0.0), Some(0.7)]);
        watch.forget();
        assert_eq!(watch.drift(), drift.as_ref());
        watch.reset();
        assert_eq!(watch.drift(), None);
    }

    #[test]
    fn a_measurement_is_compared_with_the_command_of_its_own_time() {
        // 0.3 s late at 3 rad/s is 0.9 rad behind the newest command, and where it was commanded to be.
        let mut watch = moving();
        for milliseconds in [2000, 3005, 3690] {
            watch.measure(at(milliseconds), &[Some(0.003 * milliseconds as f64 + 0.49), Some(0.0)]);
            assert_eq!(watch.drift(), None, "{milliseconds}");
        }
        watch.measure(at(3690), &[Some(0.003 * 3690.0 + 0.51), Some(0.0)]);
        let drift = watch.drift().unwrap();
        assert!((drift.commanded - 0.003 * 3690.0).abs() < 1e-9, "{drift}");
    }

    #[test]
    fn a_measurement_from_before_the_commands_that_are_remembered_is_not_judged() {
        let mut watch = moving();
        watch.measure(at(-1), &[Some(9.0), Some(9.0)]);
        watch.measure(at(1900), &[Some(99.0), Some(9.0)]);
        assert_eq!(watch.drift(), None);
        watch.measure(at(2000), &[Some(99.0), Some(9.0)]);
        assert!(watch.drift().is_some());
    }

    #[test]
    fn what_was_held_before_a_new_command_is_remembered_however_long_it_was_held() {
        let mut watch = watch();
        command(&mut watch, at(0), &[0.0, 0.0]);
        command(&mut watch, at(60_000), &[0.0, 0.0]);
        watch.measure(at(59_990), &[Some(0.6), Some(0.0)]);
        assert!(watch.drift().is_some());
    }

    #[test]
    fn a_new_plan_replaces_the_rows_that_were_not_reached_yet() {
        let mut watch = moving();
        command(&mut watch, at(3000), &[0.0, 0.0]);
        watch.measure(at(3500), &[Some(0.0), Some(0.0)]);
        assert_eq!(watch.drift(), None);
    }

    #[test]
    fn a_robot_between_what_was_told_and_what_was_sent_does_not_drift() {
        let mut watch = watch();
        watch.command(at(0), &[1.0, 0.0], &[-1.0, 0.0]);
        for position in [1.49, 0.0, -1.49] {
            watch.measure(at(0), &[Some(position), Some(0.0)]);
            assert_eq!(watch.drift(), None, "{position}");
        }
        watch.measure(at(0), &[Some(-1.51), Some(0.0)]);
        assert_eq!(watch.drift().unwrap().commanded, -1.0);
    }

    #[test]
    fn grippers_velocity_joints_and_joints_that_are_not_measured_are_not_watched() {
        let joints = [
            joint("gripper", CommandKind::Position, true),
            joint("wheel", CommandKind::Velocity, false),
            joint("elbow", CommandKind::Position, false),
        ];
        let mut watch = DriftWatch::new(&joints, 0.5);
        command(&mut watch, at(0), &[0.0, 0.0, 0.0]);
        watch.measure(at(0), &[Some(9.0), Some(9.0), None]);
        assert_eq!(watch.drift(), None);
        watch.measure(at(0), &[Some(0.0), Some(0.0), Some(9.0)]);
        assert_eq!(watch.drift().unwrap().joint, "elbow");
    }

    #[test]
    fn nothing_is_judged_before_the_first_command_and_after_the_commands_were_forgotten() {
        let mut watch = watch();
        watch.measure(at(0), &[Some(9.0), Some(9.0)]);
        command(&mut watch, at(0), &[0.0, 0.0]);
        watch.forget();
        watch.measure(at(0), &[Some(9.0), Some(9.0)]);
        assert_eq!(watch.drift(), None);
    }
}

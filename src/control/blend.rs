//! Crossfade from the commands of one plan to those of the next.

use super::JointControl;

/// Goes over from `old` to `new` in a straight line within `count` rows, the first of which is already on the way. Behind its last row `old`
/// keeps it. Grippers switch at once: a value between open and closed is neither.
pub(super) fn crossfade(joints: &[JointControl], old: &[Vec<f64>], new: &mut [Vec<f64>], count: usize) {
    let Some(last) = old.last() else { return };
    for (index, row) in new.iter_mut().take(count).enumerate() {
        let share = (index + 1) as f64 / (count + 1) as f64;
        for ((value, old), joint) in row.iter_mut().zip(old.get(index).unwrap_or(last)).zip(joints) {
            if !joint.gripper {
                *value = old + (*value - old) * share;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::JointLimits, robot::CommandKind};

    fn joints() -> Vec<JointControl> {
        let joint = |name: &str, gripper| JointControl {
            name: name.to_owned(),
            kind: CommandKind::Position,
            gripper,
            limits: JointLimits::default(),
        };
        vec![joint("elbow", false), joint("gripper", true)]
    }

    #[test]
    fn commands_go_over_in_a_straight_line_and_grippers_switch_at_once() {
        let mut new = vec![vec![1.0, 1.0]; 6];
        crossfade(&joints(), &vec![vec![0.0, 0.0]; 6], &mut new, 4);
        let elbow: Vec<_> = new.iter().map(|row| row[0]).collect();
        for (found, wanted) in elbow.iter().zip([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]) {
            assert!((found - wanted).abs() < 1e-15, "{elbow:?}");
        }
        assert!(new.iter().all(|row| row[1] == 1.0));
    }

    #[test]
    fn an_old_plan_that_ends_within_the_crossfade_keeps_its_last_row() {
        let mut new = vec![vec![1.0, 1.0]; 4];
        crossfade(&joints(), &[vec![0.0, 0.0], vec![0.5, 0.0]], &mut new, 3);
        let elbow: Vec<_> = new.iter().map(|row| row[0]).collect();
        assert_eq!(elbow, [0.25, 0.75, 0.875, 1.0]);
    }

    #[test]
    fn without_an_old_plan_the_new_one_is_left_as_it_is() {
        let mut new = vec![vec![1.0, 1.0]; 4];
        crossfade(&joints(), &[], &mut new, 3);
        assert_eq!(new, vec![vec![1.0, 1.0]; 4]);
    }
}

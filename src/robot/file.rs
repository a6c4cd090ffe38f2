//! The shape of a profile file, and what is checked before it becomes a [`RobotProfile`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{ActionColumn, Affine, CameraSlot, CommandKind, Horn, RobotProfile, StateColumn, StateMap};
use crate::observation::ResizeKernel;

/// Above this a rate is a slip of the pen: a chunk of 50 rows would last 50 ms.
const MAX_RATE_HZ: f64 = 1000.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileFile {
    name: String,
    control_rate_hz: f64,
    state: Vec<StateEntry>,
    actions: Vec<ActionEntry>,
    cameras: BTreeMap<String, CameraEntry>,
    resize: Option<ResizeKernel>,
    default_instruction: Option<String>,
    execution_horizon: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateEntry {
    joint: String,
    unit: Unit,
    sign: Option<i64>,
    linear: Option<LinearEntry>,
    horn: Option<HornEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionEntry {
    joint: String,
    command: CommandKind,
    unit: Unit,
    sign: Option<i64>,
    linear: Option<LinearEntry>,
    #[serde(default)]
    delta: bool,
    threshold: Option<f64>,
    clip: Option<[f64; 2]>,
    gripper: Option<bool>,
}

/// Unit of the policy's value. The robot's is ROS's own: rad or m, and with `normalized` what the driver reports.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Rad,
    Deg,
    M,
    Normalized,
}

/// Two pairs of values that belong together.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinearEntry {
    robot: [f64; 2],
    policy: [f64; 2],
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct HornEntry {
    finger_travel: [f64; 2],
    arm_length: f64,
    horn_radius: f64,
    angle_range: [f64; 2],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CameraEntry {
    name: Option<String>,
    #[serde(default)]
    rotate_180: bool,
    #[serde(default)]
    absent: bool,
}

/// Problems found so far.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, good: bool, problem: impl FnOnce() -> String) {
        if !good {
            self.0.push(problem());
        }
    }

    /// Two finite and different values.
    fn check_ends(&mut self, ends: [f64; 2], what: impl FnOnce() -> String) {
        self.check((ends[1] - ends[0]).is_normal(), || format!("{} must be two different finite values, not {ends:?}", what()));
    }

    fn check_distinct<'a>(&mut self, joints: impl Iterator<Item = &'a str>, list: &str) {
        let mut seen = BTreeSet::new();
        for joint in joints {
            self.check(!joint.trim().is_empty(), || format!("{list}: a joint has no name"));
            self.check(seen.insert(joint), || format!("{list}: joint {joint} is listed twice"));
        }
        self.check(!seen.is_empty(), || format!("{list} lists no joints"));
    }

    /// The affine map of a column, from its unit, sign and `linear`.
    fn affine(&mut self, place: &str, unit: Unit, sign: Option<i64>, linear: Option<LinearEntry>) -> Affine {
        let sign = sign.unwrap_or(1);
        self.check(matches!(sign, 1 | -1), || format!("{place}: sign must be 1 or -1, not {sign}"));
        if unit == Unit::Normalized {
            self.check(sign == 1, || format!("{place}: a normalized value has no sign. Swap the ends of linear instead"));
        } else {
            self.check(linear.is_none(), || format!("{place}: linear needs unit: normalized"));
        }
        match (unit, linear) {
            (Unit::Normalized, Some(LinearEntry { robot, policy })) => {
                self.check_ends(robot, || format!("{place}: linear.robot"));
                self.check_ends(policy, || format!("{place}: linear.policy"));
                let scale = (policy[1] - policy[0]) / (robot[1] - robot[0]);
                Affine { scale, offset: policy[0] - scale * robot[0] }
            }
            (Unit::Deg, _) => Affine { scale: (sign as f64).to_degrees(), offset: 0.0 },
            (Unit::Rad | Unit::M | Unit::Normalized, _) => Affine { scale: sign as f64, offset: 0.0 },
        }
    }

    fn horn(&mut self, place: &str, entry: HornEntry) -> Horn {
        let HornEntry { finger_travel, arm_length, horn_radius, angle_range } = entry;
        self.check_ends(finger_travel, || format!("{place}: horn.finger_travel"));
        self.check_ends(angle_range, || format!("{place}: horn.angle_range"));
        for (name, length) in [("arm_length", arm_length), ("horn_radius", horn_radius)] {
            self.check(length.is_finite() && length > 0.0, || {
                format!("{place}: horn.{name} must be positive metres, not {length}")
            });
        }
        Horn { finger_travel, arm_length, horn_radius, angle_range }
    }

    fn state_column(&mut self, entry: StateEntry) -> StateColumn {
        let StateEntry { joint, unit, sign, linear, horn } = entry;
        let place = format!("state joint {joint}");
        let affine = self.affine(&place, unit, sign, linear);
        let map = match horn {
            None => StateMap::Affine(affine),
            Some(horn) => {
                self.check(unit == Unit::Normalized, || format!("{place}: horn needs unit: normalized"));
                self.check(linear.is_none(), || format!("{place}: give linear or horn, not both"));
                StateMap::Horn(self.horn(&place, horn))
            }
        };
        StateColumn { joint, map }
    }

    fn action_column(&mut self, entry: ActionEntry, state: &[StateColumn]) -> ActionColumn {
        let ActionEntry { joint, command: kind, unit, sign, linear, delta, threshold, clip, gripper } = entry;
        let place = format!("action joint {joint}");
        let map = self.affine(&place, unit, sign, linear);
        let origin = state.iter().position(|column| column.joint == joint);
        if delta {
            self.check(kind == CommandKind::Position, || format!("{place}: only a position can be a delta"));
            match origin {
                None => self.0.push(format!("{place}: a delta needs the joint in state, where it starts from")),
                Some(origin) => self.check(state[origin].map == StateMap::Affine(map), || {
                    format!("{place}: a delta needs the same unit, sign and map as the joint has in state")
                }),
            }
        }
        self.check(threshold.is_none_or(f64::is_finite), || format!("{place}: threshold must be finite"));
        if let Some([least, largest]) = clip {
            self.check(least.is_finite() && largest.is_finite() && least < largest, || {
                format!("{place}: clip must be [least, largest], not [{least}, {largest}]")
            });
        }
        // Arms are in rad or deg, or in velocities; what is left in values of its own, or switched, is a gripper.
        let switched = threshold.is_some() || (unit == Unit::Normalized && kind == CommandKind::Position);
        ActionColumn { joint, kind, map, delta: origin.filter(|_| delta), threshold, clip, gripper: gripper.unwrap_or(switched) }
    }

    fn camera(&mut self, slot: &str, entry: CameraEntry) -> CameraSlot {
        let CameraEntry { name, rotate_180, absent } = entry;
        if absent {
            self.check(name.is_none() && !rotate_180, || {
                format!("camera slot {slot} is absent and cannot have a name or a rotation")
            });
            return CameraSlot::Absent;
        }
        let Some(name) = name else {
            self.0.push(format!("camera slot {slot} needs the camera's name, or absent: true"));
            return CameraSlot::Absent;
        };
        let topic_token =
            name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
        self.check(!name.is_empty() && topic_token, || {
            format!("camera slot {slot}: the name \"{name}\" must be letters, digits and underscores and not begin with a digit")
        });
        CameraSlot::Present { name, rotate_180 }
    }
}

impl ProfileFile {
    /// The profile, or everything that is wrong with it.
    pub fn validate(self) -> Result<RobotProfile, Vec<String>> {
        let Self { name, control_rate_hz, state, actions, cameras, resize, default_instruction, execution_horizon } = self;
        let mut problems = Problems::default();
        problems.check(!name.trim().is_empty(), || "name is empty".to_owned());
        problems.check(control_rate_hz > 0.0 && control_rate_hz <= MAX_RATE_HZ, || {
            format!("control_rate_hz must be above 0 and at most {MAX_RATE_HZ}, not {control_rate_hz}")
        });
        problems.check_distinct(state.iter().map(|entry| entry.joint.as_str()), "state");
        problems.check_distinct(actions.iter().map(|entry| entry.joint.as_str()), "actions");
        let state: Vec<_> = state.into_iter().map(|entry| problems.state_column(entry)).collect();
        let actions = actions.into_iter().map(|entry| problems.action_column(entry, &state)).collect();

        problems.check(cameras.values().any(|entry| !entry.absent), || "cameras: at least one slot must be present".to_owned());
        let cameras: BTreeMap<_, _> =
            cameras.into_iter().map(|(slot, entry)| (slot.clone(), problems.camera(&slot, entry))).collect();
        let mut names = BTreeSet::new();
        for slot in cameras.values() {
            if let CameraSlot::Present { name, .. } = slot {
                problems.check(names.insert(name), || format!("cameras: two slots have the camera {name}"));
            }
        }

        problems.check(default_instruction.as_ref().is_none_or(|text| !text.trim().is_empty()), || {
            "default_instruction is empty".to_owned()
        });
        problems.check(execution_horizon != Some(0), || "execution_horizon must be at least 1".to_owned());
        if !problems.0.is_empty() {
            return Err(problems.0);
        }
        Ok(RobotProfile { name, control_rate_hz, state, actions, cameras, resize, default_instruction, execution_horizon })
    }
}

//! The parameters that decide how chunks become commands.

use std::path::PathBuf;

use rclrs::{MandatoryParameter, NodeState, ReadOnlyParameter};

use super::parameters::{Choice, ParameterError, Text, TextParameter, boolean, integer, number, parsed, read_only_number};
use crate::{
    control::{Chunking, ControlConfig, JointControl, JointLimits, OnInstruction, Replan, StallAction},
    model::PrefixSchedule,
    robot::{ActionColumn, UrdfLimits},
};

/// The parameters that every robot has.
pub struct ControlParameters {
    pub dry_run: ReadOnlyParameter<bool>,
    pub forward_commands: ReadOnlyParameter<bool>,
    /// Takes effect at once, when the trigger is `rate`.
    pub rate_hz: MandatoryParameter<f64>,
    trigger: TextParameter,
    execution_horizon: ReadOnlyParameter<i64>,
    deadline_s: ReadOnlyParameter<f64>,
    mode: TextParameter,
    crossfade_ms: ReadOnlyParameter<f64>,
    schedule: TextParameter,
    max_guidance_weight: ReadOnlyParameter<f64>,
    on_instruction: TextParameter,
    stall: TextParameter,
    urdf: TextParameter,
    max_drift: ReadOnlyParameter<f64>,
}

/// What starts an inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    Drain,
    Rate,
}

/// How a chunk is joined to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Rtc,
    Crossfade,
    None,
}

/// The limits of one joint; NaN: none, or the URDF's.
struct LimitParameters([ReadOnlyParameter<f64>; 5]);

/// The limits of the policy's joints. Declared when the robot profile has told which joints there are.
pub struct JointParameters(Vec<LimitParameters>);

impl ControlParameters {
    pub fn declare(node: &NodeState) -> Result<Self, ParameterError> {
        Ok(Self {
            dry_run: boolean(node, "dry_run", false, "Publish commands to ~/preview only. Everything else is as in earnest.")?,
            forward_commands: boolean(
                node,
                "forward_commands",
                false,
                "Send every row to ~/position_commands and ~/velocity_commands too, for forward command controllers.",
            )?,
            rate_hz: number(
                node,
                "inference.rate_hz",
                1.0,
                (0.01, 200.0),
                "How often an inference is started when inference.trigger is rate. One that finds the one before still running is skipped.",
            )?,
            trigger: Text::new("inference.trigger", "What starts an inference: rows executed (drain) or time (rate).")
                .default("drain")
                .one_of::<Trigger>()
                .read_only(node)?,
            execution_horizon: integer(
                node,
                "inference.execution_horizon",
                0,
                0,
                1000,
                "Rows of a chunk to execute before the next one replaces it. 0: the robot profile's, else half of the chunk.",
            )?,
            deadline_s: read_only_number(
                node,
                "inference.deadline_s",
                60.0,
                (0.05, 600.0),
                "A chunk that took longer than this is refused: the scene it was computed from is too old.",
            )?,
            mode: Text::new("chunking.mode", "How a chunk is joined to the one before.")
                .default("rtc")
                .one_of::<Mode>()
                .read_only(node)?,
            crossfade_ms: read_only_number(
                node,
                "chunking.crossfade_ms",
                100.0,
                (50.0, 150.0),
                "Time in which crossfade goes over to the new chunk. Grippers switch at once.",
            )?,
            schedule: Text::new("chunking.rtc.schedule", "How fast the guidance towards the chunk before fades behind the delay.")
                .default("linear")
                .one_of::<PrefixSchedule>()
                .read_only(node)?,
            max_guidance_weight: read_only_number(
                node,
                "chunking.rtc.max_guidance_weight",
                10.0,
                (0.001, 1000.0),
                "Largest weight of the guidance in a denoise step.",
            )?,
            on_instruction: Text::new(
                "instruction.on_change",
                "What a new instruction does to the chunk that is executed: flush stops at once and plans anew, finish keeps it until the next.",
            )
            .default("flush")
            .one_of::<OnInstruction>()
            .read_only(node)?,
            stall: Text::new(
                "stall.action",
                "What is commanded when chunks run out: hold the pose, zero velocities, or nothing. A chunk that is cut short is always braked.",
            )
            .default("hold")
            .one_of::<StallAction>()
            .read_only(node)?,
            urdf: Text::new("urdf", "URDF file of the robot: position and velocity limits of joints that joint_limits says nothing of.")
                .default("")
                .noted("a path, or empty: only joint_limits")
                .read_only(node)?,
            max_drift: read_only_number(
                node,
                "max_drift",
                0.5,
                (0.0, 100.0),
                "Largest distance of a joint from its command, in rad or m, before the robot is stopped until ~/reset. 0: not watched.",
            )?,
        })
    }

    /// How chunks of `horizon` rows become commands of these joints; `profile_horizon` is the profile's execution horizon.
    pub fn config(
        &self,
        node: &NodeState,
        joints: &[ActionColumn],
        (horizon, period, profile_horizon): (usize, f64, Option<usize>),
    ) -> Result<(ControlConfig, JointParameters), ParameterError> {
        let limits = JointParameters::declare(node, joints)?;
        // The cast keeps the value: the range begins at 0.
        let chosen = Some(self.execution_horizon.get() as usize).filter(|&rows| rows > 0);
        let config = ControlConfig {
            joints: limits.joints(joints, &self.urdf_limits(joints)?),
            period,
            horizon,
            chunking: match parsed("chunking.mode", &self.mode)? {
                Mode::None => Chunking::None,
                Mode::Crossfade => Chunking::Crossfade { seconds: self.crossfade_ms.get() * 1e-3 },
                Mode::Rtc => Chunking::Rtc,
            },
            replan: match parsed("inference.trigger", &self.trigger)? {
                Trigger::Drain => Replan::Drain,
                Trigger::Rate => Replan::Rate(self.rate_hz.get()),
            },
            execution_horizon: chosen.or(profile_horizon).unwrap_or((horizon / 2).max(1)),
            stall: parsed("stall.action", &self.stall)?,
            deadline: self.deadline_s.get(),
            // Nobody follows the commands of a dry run.
            drift: Some(self.max_drift.get()).filter(|&limit| limit > 0.0 && !self.dry_run.get()),
            on_instruction: parsed("instruction.on_change", &self.on_instruction)?,
        };
        Ok((config, limits))
    }

    /// Form of the guidance towards the chunk before, for [`Chunking::Rtc`].
    pub fn guidance(&self) -> Result<(PrefixSchedule, f64), ParameterError> {
        Ok((parsed("chunking.rtc.schedule", &self.schedule)?, self.max_guidance_weight.get()))
    }

    fn urdf_limits(&self, joints: &[ActionColumn]) -> Result<Option<UrdfLimits>, ParameterError> {
        let path = PathBuf::from(&*self.urdf.get());
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let names = joints.iter().map(|joint| joint.joint.as_str());
        let limits = UrdfLimits::load(&path, names)?;
        if !limits.missing().is_empty() {
            tracing::warn!(
                "{} says nothing of {}: its limits are those of joint_limits alone",
                path.display(),
                limits.missing().join(", ")
            );
        }
        Ok(Some(limits))
    }
}

impl JointParameters {
    fn declare(node: &NodeState, joints: &[ActionColumn]) -> Result<Self, ParameterError> {
        Ok(Self(joints.iter().map(|joint| LimitParameters::declare(node, &joint.joint)).collect::<Result<_, _>>()?))
    }

    /// The joints with their limits: what a parameter says goes before what the URDF says.
    fn joints(&self, columns: &[ActionColumn], urdf: &Option<UrdfLimits>) -> Vec<JointControl> {
        let joint = |(column, parameters): (&ActionColumn, &LimitParameters)| JointControl {
            name: column.joint.clone(),
            kind: column.kind,
            gripper: column.gripper,
            limits: parameters.limits(urdf.as_ref().map(|urdf| urdf.of(&column.joint)).unwrap_or_default()),
        };
        columns.iter().zip(&self.0).map(joint).collect()
    }
}

impl LimitParameters {
    fn declare(node: &NodeState, joint: &str) -> Result<Self, ParameterError> {
        let declare = |limit: &str, lower, description| {
            read_only_number(node, &format!("joint_limits.{joint}.{limit}"), f64::NAN, (lower, 1e6), description)
        };
        Ok(Self([
            declare("min_position", -1e6, "Least position in rad or m. nan: the URDF's, else none.")?,
            declare("max_position", -1e6, "Largest position in rad or m. nan: the URDF's, else none.")?,
            declare("max_step", 0.0, "Largest change of position from one row to the next, in rad or m. nan: none.")?,
            declare("max_velocity", 0.0, "Largest velocity in rad/s or m/s. nan: the URDF's, else none.")?,
            declare("max_acceleration", 0.0, "Largest acceleration in rad/s^2 or m/s^2. nan: none.")?,
        ]))
    }

    fn limits(&self, urdf: JointLimits) -> JointLimits {
        let [min, max, step, velocity, acceleration] =
            self.0.each_ref().map(|parameter| Some(parameter.get()).filter(|limit| !limit.is_nan()));
        let [urdf_min, urdf_max] = urdf.position.map_or([None; 2], |ends| ends.map(Some));
        let ends = (min.or(urdf_min), max.or(urdf_max));
        JointLimits {
            position: (ends != (None, None)).then(|| [ends.0.unwrap_or(f64::NEG_INFINITY), ends.1.unwrap_or(f64::INFINITY)]),
            step: step.or(urdf.step),
            velocity: velocity.or(urdf.velocity),
            acceleration: acceleration.or(urdf.acceleration),
            continuous: urdf.continuous,
        }
    }
}

impl Choice for Trigger {
    const CHOICES: &'static [(&'static str, Self)] = &[("drain", Self::Drain), ("rate", Self::Rate)];
}

impl Choice for Mode {
    const CHOICES: &'static [(&'static str, Self)] = &[("rtc", Self::Rtc), ("crossfade", Self::Crossfade), ("none", Self::None)];
}

impl Choice for PrefixSchedule {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("linear", Self::Linear), ("exp", Self::Exp), ("ones", Self::Ones), ("zeros", Self::Zeros)];
}

impl Choice for OnInstruction {
    const CHOICES: &'static [(&'static str, Self)] = &[("flush", Self::Flush), ("finish", Self::Finish)];
}

impl Choice for StallAction {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("hold", Self::Hold), ("zero_velocity", Self::ZeroVelocity), ("none", Self::None)];
}

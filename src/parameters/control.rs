//! The parameters that decide how chunks become commands.

use std::{path::PathBuf, sync::Arc};

use super::{Choice, Handle, ParameterError, Source, Spec, chosen};
use crate::{
    control::{Chunking, ControlConfig, JointControl, JointLimits, OnInstruction, Replan, StallAction},
    model::PrefixSchedule,
    robot::{ActionColumn, UrdfLimits},
};

/// The parameters that every robot has.
pub struct ControlParameters {
    pub dry_run: Handle<bool>,
    pub forward_commands: Handle<bool>,
    /// Takes effect at once, when the trigger is `rate`.
    pub rate_hz: Handle<f64>,
    trigger: Handle<Arc<str>>,
    execution_horizon: Handle<i64>,
    deadline_s: Handle<f64>,
    mode: Handle<Arc<str>>,
    crossfade_ms: Handle<f64>,
    schedule: Handle<Arc<str>>,
    max_guidance_weight: Handle<f64>,
    on_instruction: Handle<Arc<str>>,
    stall: Handle<Arc<str>>,
    urdf: Handle<Arc<str>>,
    max_drift: Handle<f64>,
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
struct LimitParameters([Handle<f64>; 5]);

/// The limits of the policy's joints. Declared when the robot profile has told which joints there are.
pub struct JointParameters(Vec<LimitParameters>);

impl ControlParameters {
    pub fn declare(source: &mut dyn Source) -> Result<Self, ParameterError> {
        Ok(Self {
            dry_run: source.boolean(
                Spec::boolean("dry_run", false, "Publish commands to ~/preview only. Everything else is as in earnest.").aside(),
            )?,
            forward_commands: source.boolean(
                Spec::boolean(
                    "forward_commands",
                    false,
                    "Send every row to ~/position_commands and ~/velocity_commands too, for forward command controllers.",
                )
                .aside(),
            )?,
            rate_hz: source.number(
                Spec::number(
                    "inference.rate_hz",
                    1.0,
                    (0.01, 200.0),
                    "How often an inference is started when inference.trigger is rate. One that finds the one before still running is skipped.",
                )
                .settable(),
            )?,
            trigger: source.text(
                Spec::text("inference.trigger", "What starts an inference: rows executed (drain) or time (rate).")
                    .default("drain")
                    .one_of::<Trigger>(),
            )?,
            execution_horizon: source.integer(Spec::integer(
                "inference.execution_horizon",
                0,
                (0, 1000),
                "Rows of a chunk to execute before the next one replaces it. 0: the robot profile's, else half of the chunk.",
            ))?,
            deadline_s: source.number(Spec::number(
                "inference.deadline_s",
                60.0,
                (0.05, 600.0),
                "A chunk that took longer than this is refused: the scene it was computed from is too old.",
            ))?,
            mode: source.text(
                Spec::text("chunking.mode", "How a chunk is joined to the one before.").default("rtc").one_of::<Mode>(),
            )?,
            crossfade_ms: source.number(Spec::number(
                "chunking.crossfade_ms",
                100.0,
                (50.0, 150.0),
                "Time in which crossfade goes over to the new chunk. Grippers switch at once.",
            ))?,
            schedule: source.text(
                Spec::text("chunking.rtc.schedule", "How fast the guidance towards the chunk before fades behind the delay.")
                    .default("linear")
                    .one_of::<PrefixSchedule>(),
            )?,
            max_guidance_weight: source.number(Spec::number(
                "chunking.rtc.max_guidance_weight",
                10.0,
                (0.001, 1000.0),
                "Largest weight of the guidance in a denoise step.",
            ))?,
            on_instruction: source.text(
                Spec::text(
                    "instruction.on_change",
                    "What a new instruction does to the chunk that is executed: flush stops at once and plans anew, finish keeps it until the next.",
                )
                .default("flush")
                .one_of::<OnInstruction>(),
            )?,
            stall: source.text(
                Spec::text(
                    "stall.action",
                    "What is commanded when chunks run out: hold the pose, zero velocities, or nothing. A chunk that is cut short is always braked.",
                )
                .default("hold")
                .one_of::<StallAction>(),
            )?,
            urdf: source.text(
                Spec::text("urdf", "URDF file of the robot: position and velocity limits of joints that joint_limits says nothing of.")
                    .default("")
                    .noted("a path, or empty: only joint_limits")
                    .aside(),
            )?,
            max_drift: source.number(
                Spec::number(
                    "max_drift",
                    0.5,
                    (0.0, 100.0),
                    "Largest distance of a joint from its command, in rad or m, before the robot is stopped until ~/reset. 0: not watched.",
                ),
            )?,
        })
    }

    /// How chunks of `horizon` rows become commands of these joints; `profile_horizon` is the profile's execution horizon.
    pub fn config(
        &self,
        limits: &JointParameters,
        joints: &[ActionColumn],
        (horizon, period, profile_horizon): (usize, f64, Option<usize>),
    ) -> Result<ControlConfig, ParameterError> {
        // The cast keeps the value: the range begins at 0.
        let wanted = Some(self.execution_horizon.get() as usize).filter(|&rows| rows > 0);
        Ok(ControlConfig {
            joints: limits.joints(joints, &self.urdf_limits(joints)?),
            period,
            horizon,
            chunking: match chosen("chunking.mode", &self.mode)? {
                Mode::None => Chunking::None,
                Mode::Crossfade => Chunking::Crossfade { seconds: self.crossfade_ms.get() * 1e-3 },
                Mode::Rtc => Chunking::Rtc,
            },
            replan: match chosen("inference.trigger", &self.trigger)? {
                Trigger::Drain => Replan::Drain,
                Trigger::Rate => Replan::Rate(self.rate_hz.get()),
            },
            execution_horizon: wanted.or(profile_horizon).unwrap_or((horizon / 2).max(1)),
            stall: chosen("stall.action", &self.stall)?,
            deadline: self.deadline_s.get(),
            // Nobody follows the commands of a dry run.
            drift: Some(self.max_drift.get()).filter(|&limit| limit > 0.0 && !self.dry_run.get()),
            on_instruction: chosen("instruction.on_change", &self.on_instruction)?,
        })
    }

    /// Form of the guidance towards the chunk before, for [`Chunking::Rtc`].
    pub fn guidance(&self) -> Result<(PrefixSchedule, f64), ParameterError> {
        Ok((chosen("chunking.rtc.schedule", &self.schedule)?, self.max_guidance_weight.get()))
    }

    /// The URDF that the limits come from, when there is one.
    pub fn urdf(&self) -> Option<PathBuf> {
        Some(PathBuf::from(&*self.urdf.get())).filter(|path| !path.as_os_str().is_empty())
    }

    fn urdf_limits(&self, joints: &[ActionColumn]) -> Result<Option<UrdfLimits>, ParameterError> {
        let Some(path) = self.urdf() else { return Ok(None) };
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
    pub fn declare(source: &mut dyn Source, joints: &[ActionColumn]) -> Result<Self, ParameterError> {
        Ok(Self(joints.iter().map(|joint| LimitParameters::declare(source, &joint.joint)).collect::<Result<_, _>>()?))
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
    fn declare(source: &mut dyn Source, joint: &str) -> Result<Self, ParameterError> {
        let mut declare = |limit: &str, lower, description| {
            source.number(Spec::number(format!("joint_limits.{joint}.{limit}"), f64::NAN, (lower, 1e6), description))
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

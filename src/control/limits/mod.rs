//! Limits of position, step, velocity and acceleration, applied to one row of commands after the other.
//!
//! Each limit is a range of values that depends on the rows before alone, and a value is moved into one range after the other. The ranges
//! always have a value in common: towards a position limit a joint is never let faster than it can brake before it. So the last range
//! does not undo the first, and a row that is within its limits comes out bit by bit as it went in.

use std::{cmp::Ordering, f64::consts::PI, fmt};

use super::{JointControl, JointLimits};
use crate::robot::CommandKind;

/// A robot that stands further than this beyond a position limit reports another unit than the limit has (rad or m).
const OTHER_UNIT: f64 = 0.5;
/// A joint that is not declared continuous is not turned or moved further than this (rad or m): twice around in each direction.
const FAR: f64 = 4.0 * PI;
/// A measured position may be this share of the joint's range beyond a limit: calibrations and folded arms are.
const START_TOLERANCE: f64 = 0.02;
/// Values of a first chunk further beyond a position limit than this share of the joint's range are suspicious: what is nearer may be an
/// arm at the end of its range, or a gripper that squeezes.
const SUSPICIOUS: f64 = 0.1;
/// No tolerance is less than this (rad or m): ranges may be small, or open on one side.
const LEAST_TOLERANCE: f64 = 0.02;
/// Brakes before a position limit use this share of the acceleration limit: the rest outweighs rounding.
const BRAKE_SHARE: f64 = 0.999;
/// A step that changes by less from row to row is beyond the precision of positions.
const LEAST_STEP_CHANGE: f64 = 1e-9;

/// Keeps commands within the limits of their joints.
#[derive(Clone, Debug)]
pub struct Limiter {
    joints: Vec<LimitedJoint>,
}

/// What was commanded last: where each joint is and how it moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Motion(Vec<JointMotion>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct JointMotion {
    /// `None` until it was measured or commanded. Of a joint that is commanded velocities it is predicted.
    position: Option<f64>,
    /// The newest row's change of position.
    step: f64,
}

impl Motion {
    /// Position of each joint, rad or m; `None` where it was neither measured nor commanded.
    pub fn positions(&self) -> impl ExactSizeIterator<Item = Option<f64>> {
        self.0.iter().map(|joint| joint.position)
    }

    pub fn at_rest(&self) -> bool {
        self.0.iter().all(|joint| joint.step == 0.0)
    }
}

/// A limit that cut a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    Position,
    Step,
    Velocity,
    Acceleration,
    /// The position limit ahead, which could not be kept later within the acceleration limit. Counted as acceleration.
    Braking,
}

/// A command that was cut. Values are in the unit of the limit: rad or m, per row, per second, per second squared.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    pub joint: String,
    pub kind: LimitKind,
    pub wanted: f64,
    pub limit: f64,
}

/// As many digits as a person can use.
fn short(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { joint, kind, wanted, limit } = self;
        let (wanted, limit) = (short(*wanted), short(*limit));
        match kind {
            LimitKind::Position => write!(f, "{joint} wanted {wanted}, position limit {limit}"),
            LimitKind::Step => write!(f, "{joint} wanted a step of {wanted}, step limit {limit}"),
            LimitKind::Velocity => write!(f, "{joint} wanted a velocity of {wanted}, velocity limit {limit}"),
            LimitKind::Acceleration => write!(f, "{joint} wanted an acceleration of {wanted}, acceleration limit {limit}"),
            LimitKind::Braking => write!(f, "{joint} wanted {wanted}, too fast to stop before position limit {limit}"),
        }
    }
}

/// Values that one limit cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CutCount {
    /// Values of rows; never goes back.
    pub values: u64,
    pub last: Option<Cut>,
}

/// Values that each limit cut. A value that several limits cut counts with each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitCounts {
    pub position: CutCount,
    pub step: CutCount,
    pub velocity: CutCount,
    pub acceleration: CutCount,
}

impl LimitCounts {
    fn note(&mut self, cut: Cut) {
        let count = match cut.kind {
            LimitKind::Position => &mut self.position,
            LimitKind::Step => &mut self.step,
            LimitKind::Velocity => &mut self.velocity,
            LimitKind::Acceleration | LimitKind::Braking => &mut self.acceleration,
        };
        count.values += 1;
        count.last = Some(cut);
    }
}

/// Why limits, a pose to start from, or a first chunk were refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LimitError {
    #[error("The control period must be a positive number of seconds, not {0}")]
    Period(f64),
    #[error(
        "The position limits of joint {joint} must be the least and the largest, not [{least}, {largest}]. Correct the URDF or set joint_limits.{joint}"
    )]
    Range { joint: String, least: f64, largest: f64 },
    #[error(
        "The {what} limit of joint {joint} must be above 0 and finite, not {value}. Correct the URDF or set joint_limits.{joint}"
    )]
    NotPositive { joint: String, what: &'static str, value: f64 },
    #[error(
        "The acceleration limit {value} of joint {joint} changes its step by {change:e} from row to row. It must be at least {LEAST_STEP_CHANGE:e}"
    )]
    TooSlow { joint: String, value: f64, change: f64 },
    #[error("{found} joints were measured and {expected} are commanded")]
    Width { found: usize, expected: usize },
    #[error("Joint {joint} is measured as {position}")]
    NotFinite { joint: String, position: f64 },
    #[error("Joint {joint} is not measured, so its limits cannot be kept. Publish it in the joint states or remove its limits")]
    NotMeasured { joint: String },
    #[error(
        "Joint {joint} stands at {position} and its position limits are [{least}, {largest}]. Move the robot within its limits, or correct them"
    )]
    Outside { joint: String, position: f64, least: f64, largest: f64 },
    #[error(
        "Joint {joint} stands at {position}, far beyond its position limits [{least}, {largest}]. \
         Joint states and limits must be in rad and m: does the driver report degrees or millimetres?"
    )]
    MeasuredUnit { joint: String, position: f64, least: f64, largest: f64 },
    #[error(
        "{outside} of the first chunk's {rows} values for joint {joint} are far beyond its position limits [{least}, {largest}], such as {example}. \
         Do the robot profile's units fit the checkpoint?"
    )]
    CommandedUnit { joint: String, outside: usize, rows: usize, least: f64, largest: f64, example: f64 },
    #[error(
        "Joint {joint} stands at {position}, more than two turns from 0. Joint states must be in rad and m: does the driver report degrees or \
         millimetres? For a joint that turns without an end set joint_limits.{joint} or let the URDF say continuous"
    )]
    FarMeasured { joint: String, position: f64 },
    #[error(
        "The first chunk commands joint {joint} to {example}, more than two turns from 0. Do the robot profile's units fit the checkpoint? \
         For a joint that turns without an end set joint_limits.{joint} or let the URDF say continuous"
    )]
    FarCommanded { joint: String, example: f64 },
}

impl Limiter {
    /// Checks the limits of `joints`, which get one row every `period` seconds.
    pub fn new(joints: Vec<JointControl>, period: f64) -> Result<Self, LimitError> {
        if !(period.is_finite() && period > 0.0) {
            return Err(LimitError::Period(period));
        }
        let joints = joints.into_iter().map(|control| LimitedJoint::new(control, period)).collect::<Result<_, _>>()?;
        Ok(Self { joints })
    }

    /// The motion of a robot that holds the measured pose (rad or m; `None` for a joint that is not measured).
    ///
    /// A joint slightly beyond a position limit is held there and may only come back; one that is further away is refused, and so is one
    /// without a measurement whose limits depend on it.
    pub fn start(&self, measured: &[Option<f64>]) -> Result<Motion, LimitError> {
        if measured.len() != self.joints.len() {
            return Err(LimitError::Width { found: measured.len(), expected: self.joints.len() });
        }
        let joints = self.joints.iter().zip(measured).map(|(joint, &position)| joint.start(position));
        joints.collect::<Result<_, _>>().map(Motion)
    }

    /// Refuses a first chunk `[rows, joints]` that commands another unit than the position limits have: more than half of a joint's values
    /// are far beyond them, or one is so far away that only a continuous joint gets there.
    pub fn check_units(&self, rows: &[f64]) -> Result<(), LimitError> {
        self.joints
            .iter()
            .enumerate()
            .try_for_each(|(column, joint)| joint.check_units(rows.iter().skip(column).step_by(self.joints.len()).copied()))
    }

    /// Moves the next row of commands within the limits, in the order position, step, velocity, acceleration. The values are finite (see
    /// [`CommandRows`](super::CommandRows)).
    pub fn limit(&self, motion: &mut Motion, row: &mut [f64], counts: &mut LimitCounts) {
        for ((joint, motion), value) in self.joints.iter().zip(&mut motion.0).zip(row) {
            for (kind, range) in joint.ranges(motion) {
                let Some([least, largest]) = range else { continue };
                let within = value.max(least).min(largest);
                if within != *value {
                    counts.note(joint.cut(motion, kind, *value, *value > largest));
                    *value = within;
                }
            }
            *motion = joint.moved(motion, *value);
        }
    }

    /// Notes a row that is commanded as it is: one that [`Self::limit`] or [`Self::brake`] gave after this motion.
    pub fn follow(&self, motion: &mut Motion, row: &[f64]) {
        for ((joint, motion), value) in self.joints.iter().zip(&mut motion.0).zip(row) {
            *motion = joint.moved(motion, *value);
        }
    }

    /// The next row after `motion` on the way to `row`, which follows `lead` within the limits: `row` itself when the two motions are the
    /// same, else one that closes the gap between them as fast as the limits allow and without overshooting where `lead` comes to rest.
    pub fn chase(&self, motion: &mut Motion, lead: &Motion, row: &[f64]) -> Vec<f64> {
        let joints = self.joints.iter().zip(motion.0.iter().zip(&lead.0)).zip(row);
        let mut row: Vec<_> = joints.map(|((joint, (motion, lead)), &value)| joint.chase(motion, lead, value)).collect();
        // What the limits cut of the row was counted when they did.
        self.limit(motion, &mut row, &mut LimitCounts::default());
        row
    }

    /// Lets `rows` periods pass without a row: joints that take positions wait, those that take velocities go on.
    pub fn wait(&self, motion: &mut Motion, rows: u64) {
        for (joint, motion) in self.joints.iter().zip(&mut motion.0) {
            if joint.control.kind == CommandKind::Velocity {
                motion.position = motion.position.map(|position| position + motion.step * rows as f64);
            }
        }
    }

    /// The next row of the quickest stop within the limits, and whether the robot rests with it. `None` while the position of a joint
    /// that takes positions is not known: then there is nothing to stop.
    pub fn brake(&self, motion: &mut Motion) -> Option<(Vec<f64>, bool)> {
        let row: Vec<_> = self.joints.iter().zip(&motion.0).map(|(joint, motion)| joint.brake(motion)).collect::<Option<_>>()?;
        self.follow(motion, &row);
        Some((row, motion.at_rest()))
    }

    /// The motion when nothing is sent any more: joints that take positions stay where they were commanded to, those that take
    /// velocities go on.
    pub fn rested(&self, mut motion: Motion) -> Motion {
        for (joint, motion) in self.joints.iter().zip(&mut motion.0) {
            if joint.control.kind == CommandKind::Position {
                motion.step = 0.0;
            }
        }
        motion
    }

    /// Takes over the measured positions (rad or m) of joints that are commanded velocities, whose position is otherwise a prediction.
    ///
    /// When one is nearer to its position limit than predicted and too fast to stop before it, it brakes as fast as its acceleration limit
    /// lets it.
    pub fn measure(&self, motion: &mut Motion, measured: &[Option<f64>]) {
        for ((joint, motion), &position) in self.joints.iter().zip(&mut motion.0).zip(measured) {
            if joint.control.kind == CommandKind::Velocity && position.is_some_and(f64::is_finite) {
                motion.position = position;
            }
        }
    }
}

/// A joint and its limits per row.
#[derive(Clone, Debug)]
struct LimitedJoint {
    control: JointControl,
    /// Seconds between two rows.
    period: f64,
    /// Largest change of position from row to row by the velocity limit.
    velocity_step: Option<f64>,
    /// Largest change of that change by the acceleration limit.
    step_change: Option<f64>,
}

impl LimitedJoint {
    fn new(control: JointControl, period: f64) -> Result<Self, LimitError> {
        let JointLimits { position, step, velocity, acceleration, .. } = control.limits;
        let joint = || control.name.clone();
        if let Some([least, largest]) = position
            && least.partial_cmp(&largest) != Some(Ordering::Less)
        {
            return Err(LimitError::Range { joint: joint(), least, largest });
        }
        for (what, value) in [("step", step), ("velocity", velocity), ("acceleration", acceleration)] {
            if let Some(value) = value
                && !(value.is_finite() && value > 0.0)
            {
                return Err(LimitError::NotPositive { joint: joint(), what, value });
            }
        }
        let step_change = acceleration.map(|value| value * period * period);
        if let (Some(value), Some(change)) = (acceleration, step_change)
            && change < LEAST_STEP_CHANGE
        {
            return Err(LimitError::TooSlow { joint: joint(), value, change });
        }
        Ok(Self { velocity_step: velocity.map(|value| value * period), step_change, control, period })
    }

    fn start(&self, measured: Option<f64>) -> Result<JointMotion, LimitError> {
        let joint = || self.control.name.clone();
        let JointLimits { position: range, step, velocity, acceleration, .. } = self.control.limits;
        let position = match (measured, self.control.kind) {
            (Some(position), _) if !position.is_finite() => return Err(LimitError::NotFinite { joint: joint(), position }),
            (Some(position), _) => {
                if let Some([least, largest]) = range {
                    let beyond = (least - position).max(position - largest);
                    if beyond > OTHER_UNIT {
                        return Err(LimitError::MeasuredUnit { joint: joint(), position, least, largest });
                    }
                    if beyond > tolerance(START_TOLERANCE, [least, largest]) {
                        return Err(LimitError::Outside { joint: joint(), position, least, largest });
                    }
                }
                if self.is_far(position) {
                    return Err(LimitError::FarMeasured { joint: joint(), position });
                }
                Some(position)
            }
            (None, CommandKind::Position) if step.or(velocity).or(acceleration).is_some() => {
                return Err(LimitError::NotMeasured { joint: joint() });
            }
            (None, CommandKind::Velocity) if range.is_some() => return Err(LimitError::NotMeasured { joint: joint() }),
            (None, _) => None,
        };
        Ok(JointMotion { position, step: 0.0 })
    }

    /// Whether a joint that says nothing else of itself cannot be at a position.
    fn is_far(&self, position: f64) -> bool {
        let JointControl { kind, gripper, limits, .. } = &self.control;
        let within = |[least, largest]: [f64; 2]| if position < 0.0 { least.is_finite() } else { largest.is_finite() };
        let limited = limits.position.is_some_and(within);
        *kind == CommandKind::Position && !gripper && !limits.continuous && !limited && position.abs() > FAR
    }

    fn check_units(&self, values: impl Iterator<Item = f64> + Clone) -> Result<(), LimitError> {
        if let Some(example) = values.clone().find(|&value| self.is_far(value)) {
            return Err(LimitError::FarCommanded { joint: self.control.name.clone(), example });
        }
        let (CommandKind::Position, Some([least, largest])) = (self.control.kind, self.control.limits.position) else {
            return Ok(());
        };
        let tolerance = tolerance(SUSPICIOUS, [least, largest]);
        let (mut rows, mut outside, mut example) = (0, 0, 0.0);
        for value in values {
            rows += 1;
            if value < least - tolerance || value > largest + tolerance {
                outside += 1;
                example = value;
            }
        }
        if 2 * outside > rows {
            return Err(LimitError::CommandedUnit { joint: self.control.name.clone(), outside, rows, least, largest, example });
        }
        Ok(())
    }

    /// The values that each limit allows in the row after `motion`, in the order in which they are applied.
    fn ranges(&self, motion: &JointMotion) -> [(LimitKind, Option<[f64; 2]>); 5] {
        // Steps to values of the row: a position cannot be limited in its steps before it is known.
        let values = |[least, largest]: [f64; 2]| match (self.control.kind, motion.position) {
            (CommandKind::Position, Some(position)) => Some([position + least, position + largest]),
            (CommandKind::Position, None) => None,
            (CommandKind::Velocity, _) => Some([least / self.period, largest / self.period]),
        };
        let symmetric = |step: Option<f64>| step.and_then(|step| values([-step, step]));
        // How far the position may change in each direction. Never the wrong way round: a joint beyond a limit may come back.
        let room = motion.position.zip(self.control.limits.position);
        let room = room.map(|(position, [least, largest])| [(least - position).min(0.0), (largest - position).max(0.0)]);
        let position = match self.control.kind {
            // From the position itself and not from the room: rounding must not move what is at a limit.
            CommandKind::Position => self.control.limits.position.map(|[least, largest]| {
                motion.position.map_or([least, largest], |position| [least.min(position), largest.max(position)])
            }),
            CommandKind::Velocity => room.and_then(values),
        };
        let braking = room
            .zip(self.step_change)
            .and_then(|([backward, forward], change)| values([-braking_step(-backward, change), braking_step(forward, change)]));
        let acceleration = self.step_change.and_then(|change| values([motion.step - change, motion.step + change]));
        [
            (LimitKind::Position, position),
            (LimitKind::Step, symmetric(self.control.limits.step)),
            (LimitKind::Velocity, symmetric(self.velocity_step)),
            (LimitKind::Braking, braking),
            (LimitKind::Acceleration, acceleration),
        ]
    }

    /// What to say of a value that was cut.
    fn cut(&self, motion: &JointMotion, kind: LimitKind, value: f64, above: bool) -> Cut {
        let moved = self.moved(motion, value);
        let JointLimits { position, step, velocity, acceleration, .. } = self.control.limits;
        let end = position.map(|ends| ends[usize::from(above)]);
        let (wanted, limit) = match kind {
            LimitKind::Position | LimitKind::Braking => (moved.position.unwrap_or(value), end),
            LimitKind::Step => (moved.step.abs(), step),
            LimitKind::Velocity => (moved.step.abs() / self.period, velocity),
            LimitKind::Acceleration => ((moved.step - motion.step).abs() / (self.period * self.period), acceleration),
        };
        Cut { joint: self.control.name.clone(), kind, wanted, limit: limit.unwrap_or(f64::INFINITY) }
    }

    /// The motion after a row with this value.
    fn moved(&self, motion: &JointMotion, value: f64) -> JointMotion {
        match self.control.kind {
            CommandKind::Position => {
                JointMotion { position: Some(value), step: motion.position.map_or(0.0, |position| value - position) }
            }
            CommandKind::Velocity => {
                let step = value * self.period;
                JointMotion { position: motion.position.map(|position| position + step), step }
            }
        }
    }

    /// The value on the way to `value`, which follows `lead`; the limits are not in it.
    fn chase(&self, motion: &JointMotion, lead: &JointMotion, value: f64) -> f64 {
        let (CommandKind::Position, Some(position), Some(ahead)) = (self.control.kind, motion.position, lead.position) else {
            return value;
        };
        // Relative to the lead this is the way to a limit: it is braked before it.
        let gap = ahead - position;
        let step = self.step_change.map_or(f64::INFINITY, |change| braking_step(gap.abs(), change));
        if step >= gap.abs() { value } else { value - gap + step.copysign(gap) }
    }

    /// The row's value that stops the joint or brings it nearest to rest.
    fn brake(&self, motion: &JointMotion) -> Option<f64> {
        let step = self.step_change.map_or(0.0, |change| (motion.step.abs() - change).max(0.0).copysign(motion.step));
        match self.control.kind {
            CommandKind::Position => motion.position.map(|position| position + step),
            CommandKind::Velocity => Some(step / self.period),
        }
    }
}

/// How far beyond a range a value may be, as a share of the range.
fn tolerance(share: f64, [least, largest]: [f64; 2]) -> f64 {
    let range = largest - least;
    if range.is_finite() { (share * range).max(LEAST_TOLERANCE) } else { LEAST_TOLERANCE }
}

/// The largest step after which a joint that has `room` until its limit can still stop before it, when its step changes by at most
/// `change` per row.
///
/// With `b` for the change that brakes use, a step `s` is followed by `s - b`, `s - 2b` ... until the joint rests. With `n` steps above 0
/// that is `n s - b n (n - 1) / 2` in all, which is `room` for the step that is looked for; `n` is the number of steps for which it lies in
/// `((n - 1) b, n b]`.
fn braking_step(room: f64, change: f64) -> f64 {
    let change = BRAKE_SHARE * change;
    // A range that is open on this side.
    if room.is_infinite() {
        return room;
    }
    let steps = (((1.0 + 8.0 * room / change).sqrt() - 1.0) / 2.0).ceil().max(1.0);
    room / steps + change * (steps - 1.0) / 2.0
}

#[cfg(test)]
mod tests;

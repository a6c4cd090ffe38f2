//! What decides how chunks become commands.

use super::{JointControl, LimitError};

/// How a robot is commanded. Checked by [`Controller::new`](super::Controller::new).
#[derive(Clone, Debug, PartialEq)]
pub struct ControlConfig {
    /// The commanded joints, in the order of every row.
    pub joints: Vec<JointControl>,
    /// Seconds between two rows.
    pub period: f64,
    /// Rows of a chunk.
    pub horizon: usize,
    pub chunking: Chunking,
    pub replan: Replan,
    /// Rows of a chunk to execute before the next one replaces it. Moved to where the delay leaves room for it: see
    /// [`ControlStatus::execution_horizon`](super::ControlStatus::execution_horizon).
    pub execution_horizon: usize,
    pub stall: StallAction,
    /// A chunk that took longer than this many seconds is refused.
    pub deadline: f64,
    /// Largest distance of a joint from its command, in rad or m; `None`: not watched.
    pub drift: Option<f64>,
    pub on_instruction: OnInstruction,
}

/// How a chunk is joined to the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Chunking {
    /// The new chunk takes over at once.
    None,
    /// The commands go over from the old chunk to the new one in a straight line. Grippers switch at once.
    Crossfade {
        /// 0.05 to 0.15
        seconds: f64,
    },
    /// The new chunk is guided, while it is denoised, towards what is left of the old one.
    Rtc,
}

/// What starts an inference. When nothing is planned the next one starts at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Replan {
    /// So many executed rows that the new chunk arrives when the execution horizon is reached.
    Drain,
    /// Time: so many a second. One that would start while another runs is skipped.
    Rate(f64),
}

/// What is sent last when the plan runs out. A plan that is cut short (by a stop, a new instruction, drift, a clock that jumps, a
/// deactivation) is always replaced by the way to rest: a controller that executes trajectories would go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallAction {
    /// Joints that take positions keep the last one, those that take velocities get 0; both as fast as their limits allow.
    Hold,
    /// The same for a robot that has joints which take velocities, nothing for any other.
    ZeroVelocity,
    /// Nothing: the robot's controllers decide, which hold the last row or the last velocity.
    None,
}

/// What a new instruction does to the chunk that is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInstruction {
    /// It is dropped, the robot brakes, and a chunk for the new instruction is asked for at once.
    Flush,
    /// It is executed until the next one, which is for the new instruction, replaces it.
    Finish,
}

/// Why a robot cannot be commanded like this.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ControlError {
    #[error("A chunk of no rows or no joints commands nothing")]
    Empty,
    #[error("The execution horizon of {rows} rows must be at least 1 and at most the chunk's {horizon} rows")]
    ExecutionHorizon { rows: usize, horizon: usize },
    #[error("A crossfade takes 0.05 s to 0.15 s, not {0} s")]
    Crossfade(f64),
    #[error("The rate of inferences must be above 0 and finite, not {0} Hz")]
    Rate(f64),
    #[error("The deadline of an inference must be above 0, not {0} s")]
    Deadline(f64),
    #[error("The largest drift must be above 0 and finite, not {0}")]
    Drift(f64),
    #[error(transparent)]
    Limits(#[from] LimitError),
}

impl ControlConfig {
    /// Everything but the limits and the period, which [`Limiter::new`](super::Limiter::new) checks.
    pub(super) fn check(&self) -> Result<(), ControlError> {
        if self.joints.is_empty() || self.horizon == 0 {
            return Err(ControlError::Empty);
        }
        if !(1..=self.horizon).contains(&self.execution_horizon) {
            return Err(ControlError::ExecutionHorizon { rows: self.execution_horizon, horizon: self.horizon });
        }
        if let Chunking::Crossfade { seconds } = self.chunking
            && !(0.05..=0.15).contains(&seconds)
        {
            return Err(ControlError::Crossfade(seconds));
        }
        if let Replan::Rate(hz) = self.replan {
            check_rate(hz)?;
        }
        // NaN is not above 0.
        if self.deadline.is_nan() || self.deadline <= 0.0 {
            return Err(ControlError::Deadline(self.deadline));
        }
        match self.drift {
            Some(drift) if !(drift.is_finite() && drift > 0.0) => Err(ControlError::Drift(drift)),
            _ => Ok(()),
        }
    }
}

pub(super) fn check_rate(hz: f64) -> Result<(), ControlError> {
    if hz.is_finite() && hz > 0.0 { Ok(()) } else { Err(ControlError::Rate(hz)) }
}

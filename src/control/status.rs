//! What the controller tells about itself.

use std::collections::BTreeMap;

use super::{Drift, LimitCounts, LimitError};

/// What the controller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlState {
    /// Nothing is commanded: before activation, and after deactivation once the robot rests.
    Inactive,
    /// Nothing was commanded yet: a measured pose or the first chunk is missing.
    Waiting,
    /// The robot holds its pose until there is a chunk.
    Holding,
    /// Rows of a chunk are commanded.
    Executing,
    /// The robot comes to rest.
    Braking,
    /// The robot was stopped and stays so until it is reset.
    Latched,
}

/// Why the robot was stopped. Ends with [`Controller::reset`](super::Controller::reset) alone.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Latch {
    #[error("Stopped by the operator")]
    Stopped,
    /// The pose to start from, or the first chunk, does not fit the position limits.
    #[error(transparent)]
    Limits(LimitError),
    #[error("The robot does not follow its commands: {0}")]
    Drift(Drift),
}

impl Latch {
    /// The cause in one word, for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Limits(LimitError::MeasuredUnit { .. } | LimitError::FarMeasured { .. }) => "measured_unit",
            Self::Limits(LimitError::CommandedUnit { .. } | LimitError::FarCommanded { .. }) => "commanded_unit",
            Self::Limits(_) => "pose",
            Self::Drift(_) => "drift",
        }
    }
}

/// The controller at this moment. Counters never go back.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlStatus {
    pub state: ControlState,
    pub latch: Option<Latch>,
    /// Why there is no pose to start from yet.
    pub waiting: Option<LimitError>,
    /// Rows of the plan that are not commanded yet.
    pub rows_left: usize,
    /// 95 % of the newest inferences took at most so many control steps; `None` until one was measured.
    pub delay_p95: Option<usize>,
    /// Control steps of the newest inference that was measured.
    pub last_delay: Option<usize>,
    /// Rows to execute of each chunk: the configured number, moved to where the delay leaves room for it.
    pub execution_horizon: usize,
    /// Chunks are to be guided and are not: an inference takes so many of a chunk's rows that none are left to guide with.
    pub unguided: bool,
    pub counts: ControlCounts,
    pub limits: LimitCounts,
}

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlCounts {
    /// Chunks that were taken over.
    pub chunks: u64,
    /// Refused chunks by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// The newest refusal in a sentence.
    pub last_refusal: Option<String>,
    /// Inferences that failed.
    pub abandoned: u64,
    /// Inferences that were due while another ran.
    pub overruns: u64,
    /// Plans that ran out before the next chunk came.
    pub stalls: u64,
    /// Rows that were not commanded because a control step came late.
    pub skipped_rows: u64,
    /// Plans that were broken off because the robot was not measured any more.
    pub blind: u64,
    /// Latches by reason.
    pub latches: BTreeMap<&'static str, u64>,
}

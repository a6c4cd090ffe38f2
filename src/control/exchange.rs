//! What the controller is told and what it answers.

use std::fmt;

use super::{CommandRows, Stamp};

/// A sample of the robot's joints.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub stamp: Stamp,
    /// Position of each commanded joint, rad or m; `None` for those that are not measured.
    pub positions: Vec<Option<f64>>,
}

/// What is to be sent to the robot now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tick {
    /// The row for a controller that takes row after row.
    pub command: Option<Vec<f64>>,
    /// The rows from this one on, when they are others than those told before.
    pub trajectory: Option<Trajectory>,
}

/// Rows of the control steps from `start` on: row `k` is commanded at `start + k * period` and to be reached one period later.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    pub start: Stamp,
    /// Seconds
    pub period: f64,
    /// `[rows][joints]`
    pub rows: Vec<Vec<f64>>,
}

/// An inference that is to be made from an observation of now.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    pub id: u64,
    /// `None`: the chunk is not guided.
    pub guidance: Option<GuidanceRequest>,
}

/// What a chunk is to be guided by.
#[derive(Clone, Debug, PartialEq)]
pub struct GuidanceRequest {
    /// The model's output for the rows that are not executed yet `[rows, action_dim]`: row 0 is the next one.
    pub previous: Vec<f32>,
    /// What relative actions of `previous` count from.
    pub previous_anchor: Vec<f32>,
    /// Rows that will be executed until the chunk is there.
    pub delay: usize,
    /// Rows to guide; those behind are free.
    pub horizon: usize,
}

/// What came of a [`Ticket`].
#[derive(Clone, Debug, PartialEq)]
pub struct ComputedChunk {
    pub rows: CommandRows,
    /// Normalized model output `[rows, action_dim]`.
    pub model_actions: Vec<f32>,
    pub action_dim: usize,
    /// What relative actions count from: the state of the observation, in the policy's units.
    pub anchor: Vec<f32>,
}

/// How a chunk was taken over.
#[derive(Clone, Debug, PartialEq)]
pub struct Installed {
    /// The time of the chunk's row 0.
    pub start: Stamp,
    /// The first row that is commanded: those before it had passed.
    pub delay_rows: usize,
    /// Leading rows that were guided.
    pub guided_rows: usize,
    pub mode: Join,
}

/// How a chunk was joined to what was commanded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    None,
    Crossfade,
    Rtc,
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Crossfade => "crossfade",
            Self::Rtc => "rtc",
        })
    }
}

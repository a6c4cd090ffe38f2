//! Two runs over the same bag, held against each other: whether they are the same within a tier's tolerances, where they part, and what
//! changed.
//!
//! ```text
//! Trace (baseline) ─┐
//! Trace (current)  ─┼─► Comparison: verdict, differences per chunk and joint, first divergence ─► findings: the cause first
//! Tolerances       ─┘
//! ```
//!
//! What goes into the model does not depend on the backend: it has to be the same in every tier, bit for bit or up to the rounding of
//! float32. What comes out has the tier's tolerances, over the rows that were executed. Pure; knows nothing of files and command lines.

mod cameras;
mod change;
mod diagnosis;
mod finding;
mod inside;
mod pair;
mod sentence;
mod setup;
mod tolerances;
mod values;

use serde::{Deserialize, Serialize};

pub use finding::{AffineColumn, ArrayChange, Finding, Limit, SetupItem, Side};
pub use tolerances::{Bound, JointBounds, JointTolerances, Tier, TierTolerances, ToleranceError, Tolerances};

/// How two runs differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub verdict: Verdict,
    pub tier: Tier,
    /// Why this tier: `the same build on the same machine`, `another build`, `asked for`, ...
    pub tier_reason: String,
    /// Bounds of the model actions: relative RMS and least correlation; 0 and 1 in the tier `exact`.
    pub relative_rms: f64,
    pub pcc: f64,
    /// Bounds of each commanded joint, in the order of the baseline's [`Setup::joints`](crate::replay::trace::Setup::joints); all 0 in the
    /// tier `exact`.
    pub joints: Vec<JointBounds>,
    pub counts: Counts,
    /// Chunks of both runs, in order.
    pub chunks: Vec<ChunkComparison>,
    pub commands: CommandComparison,
    /// The first value beyond its bound, in the order of computation.
    pub first: Option<Divergence>,
    /// Index into [`Self::chunks`]: the first that differs in anything. Only this one has a cause of its own: a chunk may depend on the
    /// chunk before, and the commands depend on all of them.
    pub first_chunk: Option<usize>,
    /// Index into [`Self::chunks`]: the chunk whose actions are furthest from the baseline's, measured in bounds.
    pub worst_chunk: Option<usize>,
    /// What changed. When the runs differ the cause comes first, then what follows from it; differences of the setup alone are listed too
    /// when the runs are the same.
    pub findings: Vec<Finding>,
}

/// What a comparison says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No chunk was compared.
    #[default]
    NotTested,
    Same,
    Different,
}

/// Numbers of chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub baseline: usize,
    pub current: usize,
    /// In both, with the same index and time of observation.
    pub compared: usize,
    /// Of these, the ones that differ in anything.
    pub different: usize,
}

/// A chunk that both runs have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChunkComparison {
    pub index: u64,
    /// Nanoseconds
    pub observed: i64,
    /// Where it is in the chunks of the baseline and of the current trace.
    pub baseline: usize,
    pub current: usize,
    /// First row and number of rows that were compared: those that the baseline executed, or all of them when it executed none and in the
    /// tier `exact`.
    pub first_row: usize,
    pub rows: usize,
    /// Of the model actions in the columns that the robot uses: root mean square of the difference over that of the baseline.
    pub relative_rms: f64,
    /// Pearson's correlation of the same values; `None` when a side is constant, where there is none and the other bounds decide.
    pub pcc: Option<f64>,
    /// Of the actions in the robot's units, for each joint.
    pub joints: Vec<Difference>,
    /// The first action beyond its largest difference.
    pub first: Option<Divergence>,
    /// Stages of the data flow in which this chunk differs, in their order; empty: the same.
    pub stages: Vec<Stage>,
    /// Bounds that were not held, as sentences.
    pub exceeded: Vec<String>,
}

impl ChunkComparison {
    pub fn is_same(&self) -> bool {
        self.stages.is_empty()
    }
}

/// Where along the data flow something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Samples,
    Instruction,
    Tokens,
    Positions,
    Cameras,
    State,
    Noise,
    Guidance,
    ModelActions,
    Actions,
    Outcome,
}

/// Differences of one joint in its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Largest absolute difference; infinite when a side is not finite and the other has other bits.
    pub max: f64,
    /// Mean absolute difference.
    pub mean: f64,
}

/// The commands of both runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CommandComparison {
    /// Stamps that both runs have.
    pub compared: usize,
    /// Stamps in nanoseconds that one run has alone.
    pub only_baseline: Vec<i64>,
    pub only_current: Vec<i64>,
    /// For each joint.
    pub joints: Vec<Difference>,
    /// The first command beyond its largest difference.
    pub first: Option<Divergence>,
    /// Bounds that were not held, as sentences.
    pub exceeded: Vec<String>,
}

/// One value beyond its bound.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Nanoseconds: the time of the row, or of the observation for a chunk that was refused.
    pub stamp: i64,
    /// The chunk and its row; `None` for a command.
    pub chunk: Option<u64>,
    pub row: Option<usize>,
    pub joint: String,
    pub baseline: f64,
    pub current: f64,
    /// Largest difference that is allowed.
    pub tolerance: f64,
}

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
mod text;
mod tolerances;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::{diagnosis::Compared, pair::Pair};
use super::trace::{BagInput, Trace};

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

impl Comparison {
    /// Compares `current` with `baseline`, in the strictest tier that their setups allow unless `tier` is given.
    pub fn new(baseline: &Trace, current: &Trace, tolerances: &Tolerances, tier: Option<Tier>) -> Result<Self, ToleranceError> {
        tolerances.check_joints(&baseline.setup.joints)?;
        let (tier, tier_reason) = match tier {
            Some(tier) => (tier, "asked for".to_owned()),
            None => Tier::of(&baseline.setup, &current.setup),
        };
        let bounds = tolerances.tier(tier);
        let mut out = Self {
            verdict: Verdict::NotTested,
            tier,
            tier_reason,
            relative_rms: bounds.map_or(0.0, |bounds| bounds.relative_rms),
            pcc: bounds.map_or(1.0, |bounds| bounds.pcc),
            joints: Vec::new(),
            counts: Counts { baseline: baseline.chunks.len(), current: current.chunks.len(), ..Counts::default() },
            chunks: Vec::new(),
            commands: CommandComparison::default(),
            first: None,
            first_chunk: None,
            worst_chunk: None,
            findings: Vec::new(),
        };
        let (decisive, names): (Vec<_>, Vec<_>) =
            setup::differences(&baseline.setup, &current.setup).into_iter().partition(|finding| match finding {
                Finding::Setup { item, .. } => item.decides(),
                _ => true,
            });
        out.findings = decisive;
        out.findings.extend(messages(baseline, current));
        match Pair::new(baseline, current, bounds) {
            Some(pair) => out.compare(&pair),
            // Nothing can be subtracted; the setup says why.
            None if !baseline.chunks.is_empty() && !current.chunks.is_empty() => out.verdict = Verdict::Different,
            None => {}
        }
        out.findings.extend(names);
        Ok(out)
    }

    fn compare(&mut self, pair: &Pair) {
        let (matched, only_baseline, only_current) = pair.matched();
        self.joints = pair.joints.clone();
        self.chunks = matched.into_iter().map(|positions| values::chunk(pair, positions)).collect();
        self.counts.compared = self.chunks.len();
        self.counts.different = self.chunks.iter().filter(|chunk| !chunk.is_same()).count();
        self.commands = values::commands(pair);
        self.first_chunk = self.chunks.iter().position(|chunk| !chunk.is_same());
        self.worst_chunk = (0..self.chunks.len()).max_by(|a, b| self.badness(*a).total_cmp(&self.badness(*b)));
        self.first = self.first_divergence(pair.baseline);

        let compared = Compared {
            pair,
            chunks: &self.chunks,
            only_baseline: &only_baseline,
            only_current: &only_current,
            commands: &self.commands,
        };
        let (values, events) = (compared.values(), compared.events());
        self.verdict = match self.counts.compared {
            0 => Verdict::NotTested,
            _ if self.counts.different == 0 && self.commands.exceeded.is_empty() && events.is_empty() => Verdict::Same,
            _ => Verdict::Different,
        };
        // Runs usually part at a chunk that differs and then have other chunks. When they have other chunks first, what happened is the cause.
        let alone = only_baseline.first().map(|&at| pair.baseline.chunks[at].observed);
        let alone = alone.into_iter().chain(only_current.first().map(|&at| pair.current.chunks[at].observed)).min();
        let differs = self.first_chunk.map(|first| self.chunks[first].observed);
        let events_first = alone.is_some_and(|alone| differs.is_none_or(|differs| alone < differs));
        let (first, then) = if events_first { (events, values) } else { (values, events) };
        self.findings.extend(first);
        self.findings.extend(then);
    }

    /// How far a chunk's actions are from the baseline's: in bounds, or in units of the joints when there are none; then by the model's.
    fn badness(&self, chunk: usize) -> f64 {
        let chunk = &self.chunks[chunk];
        let joint = |(found, bounds): (&Difference, &JointBounds)| match bounds.actions.max {
            0.0 => found.max,
            bound => found.max / bound,
        };
        let actions = chunk.joints.iter().zip(&self.joints).map(joint).fold(0.0, f64::max);
        if actions > 0.0 { actions } else { chunk.relative_rms * f64::MIN_POSITIVE }
    }

    /// The first value beyond its bound: in the first chunk that differs, unless a command parted before that chunk was there.
    fn first_divergence(&self, baseline: &Trace) -> Option<Divergence> {
        let chunk = self.first_chunk.map(|first| &self.chunks[first]);
        let command = self.commands.first.as_ref();
        match (chunk, command) {
            (Some(chunk), Some(command)) if command.stamp >= baseline.chunks[chunk.baseline].ready => {
                chunk.first.clone().or_else(|| Some(command.clone()))
            }
            (_, Some(command)) => Some(command.clone()),
            (chunk, None) => chunk.and_then(|chunk| chunk.first.clone()),
        }
    }
}

/// Inputs of which the bags have other messages.
fn messages(baseline: &Trace, current: &Trace) -> Vec<Finding> {
    let of = |trace: &Trace| trace.inputs.iter().map(|input| (input.name.clone(), words(input))).collect::<BTreeMap<_, _>>();
    let (before, after) = (of(baseline), of(current));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let words = |inputs: &BTreeMap<String, String>, name| inputs.get(name).cloned().unwrap_or_else(|| "none".to_owned());
    names
        .into_iter()
        .map(|name| Finding::Messages { input: name.clone(), baseline: words(&before, name), current: words(&after, name) })
        .filter(|finding| !matches!(finding, Finding::Messages { baseline, current, .. } if baseline == current))
        .collect()
}

/// An input's messages: `250 of sensor_msgs/msg/Image, 3 refused (late)`.
fn words(input: &BagInput) -> String {
    let refused: Vec<String> = input.refused.iter().map(|(reason, count)| format!("{count} refused ({reason})")).collect();
    [vec![format!("{} of {}", input.messages, input.type_name)], refused].concat().join(", ")
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

#[cfg(test)]
mod tests;

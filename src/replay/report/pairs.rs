//! The values of one joint that two runs both have.

use crate::replay::{
    compare::{ChunkComparison, Divergence},
    trace::{ChunkTrace, Command, Outcome, Setup, Trace},
};

/// A value of both runs at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Nanoseconds
    pub stamp: i64,
    /// `None` for a command.
    pub row: Option<usize>,
    pub baseline: f64,
    pub current: f64,
}

impl Pair {
    /// With its sign; not finite when one side is not.
    pub fn difference(&self) -> f64 {
        if self.baseline.to_bits() == self.current.to_bits() { 0.0 } else { self.current - self.baseline }
    }

    /// Whether they are further apart than `bound`, or not comparable.
    pub fn beyond(&self, bound: f64) -> bool {
        let difference = self.difference().abs();
        difference.is_nan() || difference > bound
    }

    pub fn divergence(&self, joint: &str, chunk: Option<u64>, tolerance: f64) -> Divergence {
        let Self { stamp, row, baseline, current } = *self;
        Divergence { stamp, chunk, row, joint: joint.to_owned(), baseline, current, tolerance }
    }
}

/// Where a joint is in the rows of a run.
pub fn column(setup: &Setup, joint: &str) -> Option<usize> {
    setup.joints.iter().position(|candidate| candidate.name == joint)
}

/// Commands with the same stamp, in order; none when a run does not command the joint.
pub fn commands(baseline: &Trace, current: &Trace, joint: &str) -> Vec<Pair> {
    let (Some(theirs), Some(ours)) = (column(&baseline.setup, joint), column(&current.setup, joint)) else { return Vec::new() };
    let mut rest = baseline.commands.as_slice();
    let pair = |command: &Command| {
        rest = &rest[rest.partition_point(|other| other.stamp < command.stamp)..];
        let other = rest.first().filter(|other| other.stamp == command.stamp)?;
        Some(Pair { stamp: command.stamp, row: None, baseline: *other.row.get(theirs)?, current: *command.row.get(ours)? })
    };
    current.commands.iter().filter_map(pair).collect()
}

/// Actions of a chunk in the rows that were compared.
pub fn actions(chunk: &ChunkComparison, baseline: &Trace, current: &Trace, joint: &str) -> Vec<Pair> {
    let find = |trace: &Trace, index: usize, row: usize| -> Option<f64> {
        let column = column(&trace.setup, joint)?;
        trace.chunks.get(index)?.actions.chunks(trace.setup.joints.len().max(1)).nth(row)?.get(column).copied()
    };
    let pair = |row| {
        let stamp = row_stamp(current.chunks.get(chunk.current)?, row, current.setup.period);
        let (theirs, ours) = (find(baseline, chunk.baseline, row)?, find(current, chunk.current, row)?);
        Some(Pair { stamp, row: Some(row), baseline: theirs, current: ours })
    };
    (chunk.first_row..chunk.first_row.saturating_add(chunk.rows)).map_while(pair).collect()
}

/// The time of a row in nanoseconds; of a refused chunk as if it had begun at its observation.
pub fn row_stamp(chunk: &ChunkTrace, row: usize, period: f64) -> i64 {
    let start = match chunk.outcome {
        Outcome::Installed { start, .. } => start,
        Outcome::Refused { .. } => chunk.observed,
    };
    start.saturating_add((row as f64 * period * 1e9).round() as i64)
}

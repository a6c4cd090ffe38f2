//! Two traces side by side with the scale that they are compared by.

use std::collections::BTreeMap;

use super::{Bound, JointBounds, TierTolerances};
use crate::replay::trace::{ChunkTrace, Joint, Setup, Trace};

/// What goes into the model is computed without the backend, so that only the rounding of float32 may differ between builds and machines.
/// Normalized values are of the size of 1, and a joint with a small spread magnifies its rounding.
const INPUT_ROUNDING: f64 = 1e-4;

/// Two traces of the same shape.
pub(super) struct Pair<'a> {
    pub baseline: &'a Trace,
    pub current: &'a Trace,
    /// `None`: bit for bit.
    pub tolerances: Option<&'a TierTolerances>,
    /// In the baseline's order.
    pub joints: Vec<JointBounds>,
    /// Columns of the current trace in the baseline's order: commanded joints and state joints.
    columns: Vec<usize>,
    state_columns: Vec<usize>,
}

impl<'a> Pair<'a> {
    /// `None` when the traces have other joints, cameras or shapes, so that no value of one belongs to a value of the other.
    pub fn new(baseline: &'a Trace, current: &'a Trace, tolerances: Option<&'a TierTolerances>) -> Option<Self> {
        let (b, c) = (&baseline.setup, &current.setup);
        let shape = |setup: &Setup| (setup.horizon, setup.action_dim, setup.cameras.len(), setup.joints.len());
        if shape(b) != shape(c) || b.state_joints.len() != c.state_joints.len() {
            return None;
        }
        let of_joint = |joint: &_| c.joints.iter().position(|other| other == joint);
        let of_state = |joint: &_| c.state_joints.iter().position(|other| other == joint);
        let bounds = |joint: &Joint| JointBounds {
            joint: joint.name.clone(),
            actions: tolerances.map_or(Bound::default(), |tier| tier.actions.of(joint)),
            commands: tolerances.map_or(Bound::default(), |tier| tier.commands.of(joint)),
        };
        Some(Self {
            baseline,
            current,
            tolerances,
            joints: b.joints.iter().map(bounds).collect(),
            columns: b.joints.iter().map(of_joint).collect::<Option<_>>()?,
            state_columns: b.state_joints.iter().map(of_state).collect::<Option<_>>()?,
        })
    }

    pub fn tier_is_exact(&self) -> bool {
        self.tolerances.is_none()
    }

    /// Chunks of both traces with the same index and time of observation, as positions in both; and the positions of those that one has
    /// alone.
    pub fn matched(&self) -> (Vec<(usize, usize)>, Vec<usize>, Vec<usize>) {
        let key = |chunk: &ChunkTrace| (chunk.index, chunk.observed);
        let mut left: BTreeMap<_, usize> = self.current.chunks.iter().enumerate().map(|(at, chunk)| (key(chunk), at)).collect();
        let (mut both, mut baseline) = (Vec::new(), Vec::new());
        for (at, chunk) in self.baseline.chunks.iter().enumerate() {
            match left.remove(&key(chunk)) {
                Some(other) => both.push((at, other)),
                None => baseline.push(at),
            }
        }
        let mut current: Vec<usize> = left.into_values().collect();
        current.sort_unstable();
        (both, baseline, current)
    }

    /// A row of commanded joints of the current trace in the baseline's order.
    pub fn joint_row(&self, row: &[f64]) -> Vec<f64> {
        pick(row, &self.columns)
    }

    /// Positions of the current trace in the baseline's order.
    pub fn positions(&self, row: &[f64]) -> Vec<f64> {
        pick(row, &self.state_columns)
    }

    /// Whether two values that the backend did not compute are the same.
    pub fn same_input(&self, a: f64, b: f64) -> bool {
        let rounding = INPUT_ROUNDING * a.abs().max(1.0);
        a.to_bits() == b.to_bits() || (!self.tier_is_exact() && (a - b).abs() <= rounding)
    }

    /// [`Self::same_input`] of arrays.
    pub fn same_inputs(&self, a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.same_input(*a, *b))
    }

    /// Whether two values in the robot's units are further apart than `bound`.
    pub fn beyond(&self, a: f64, b: f64, bound: f64) -> bool {
        a.to_bits() != b.to_bits() && (self.tier_is_exact() || difference(a, b) > bound)
    }
}

/// A column that the row lacks is not a number, which nothing equals.
fn pick(row: &[f64], columns: &[usize]) -> Vec<f64> {
    columns.iter().map(|&column| row.get(column).copied().unwrap_or(f64::NAN)).collect()
}

/// Absolute difference; infinite where one side is not a number and the other has other bits.
pub(super) fn difference(a: f64, b: f64) -> f64 {
    if a.to_bits() == b.to_bits() || a == b {
        return 0.0;
    }
    let distance = (a - b).abs();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

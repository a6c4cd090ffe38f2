//! Chunks and commands of both runs in numbers.

use std::{cmp::Ordering, collections::BTreeSet, ops::Range};

use super::{
    ChunkComparison, CommandComparison, Difference, Divergence, Stage,
    pair::{Pair, difference},
};
use crate::{
    replay::trace::{CameraTrace, ChunkTrace, Outcome},
    verify::{correlation, relative_rms, widen},
};

/// Compares a chunk that both runs have; the positions are those in the traces.
pub(super) fn chunk(pair: &Pair, (baseline, current): (usize, usize)) -> ChunkComparison {
    let (b, c) = (&pair.baseline.chunks[baseline], &pair.current.chunks[current]);
    let rows = compared_rows(pair, b);
    let mut out = ChunkComparison {
        index: b.index,
        observed: b.observed,
        baseline,
        current,
        first_row: rows.start,
        rows: rows.len(),
        relative_rms: 0.0,
        pcc: None,
        joints: Vec::new(),
        first: None,
        stages: input_stages(pair, b, c),
        exceeded: Vec::new(),
    };
    if model_actions(pair, b, c, rows.clone(), &mut out) {
        out.stages.push(Stage::ModelActions);
    }
    if actions(pair, b, c, rows, &mut out) {
        out.stages.push(Stage::Actions);
    }
    if !same_outcome(pair, &b.outcome, &c.outcome) {
        out.stages.push(Stage::Outcome);
    }
    out
}

/// The rows that the baseline executed; all of them when it executed none, and bit for bit.
fn compared_rows(pair: &Pair, chunk: &ChunkTrace) -> Range<usize> {
    let horizon = pair.baseline.setup.horizon;
    match chunk.outcome {
        Outcome::Installed { delay_rows, executed, .. } if executed > 0 && !pair.tier_is_exact() => {
            let first = delay_rows.min(horizon);
            first..first.saturating_add(executed).min(horizon)
        }
        _ => 0..horizon,
    }
}

/// Everything up to the model's inputs, in the order of [`Stage`].
fn input_stages(pair: &Pair, b: &ChunkTrace, c: &ChunkTrace) -> Vec<Stage> {
    let guidance = match pair.tier_is_exact() {
        true => b.model.guidance == c.model.guidance,
        // The rows that guide are those of the chunk before, which the other arithmetic computed as well.
        false => b.model.guidance.is_some() == c.model.guidance.is_some(),
    };
    let cameras = b.model.cameras.iter().zip(&c.model.cameras).all(|(b, c)| same_camera(pair, b, c));
    [
        (Stage::Samples, other_samples(b, c).is_empty()),
        (Stage::Instruction, b.instruction == c.instruction),
        (Stage::Tokens, b.model.tokens == c.model.tokens),
        (Stage::Positions, pair.same_inputs(&b.positions, &pair.positions(&c.positions))),
        (Stage::Cameras, cameras),
        (Stage::State, pair.same_inputs(&widen(&b.model.state), &widen(&c.model.state))),
        (Stage::Noise, b.model.noise == c.model.noise),
        (Stage::Guidance, guidance),
    ]
    .into_iter()
    .filter_map(|(stage, same)| (!same).then_some(stage))
    .collect()
}

/// Inputs of which the chunks have other samples, or samples of another age.
pub(super) fn other_samples(b: &ChunkTrace, c: &ChunkTrace) -> Vec<String> {
    let names: BTreeSet<&String> = b.samples.keys().chain(c.samples.keys()).collect();
    let same = |name: &String| match (b.samples.get(name), c.samples.get(name)) {
        (Some(b), Some(c)) => b.digest == c.digest && (b.age - c.age).abs() < 1e-9,
        _ => false,
    };
    names.into_iter().filter(|name| !same(name)).cloned().collect()
}

pub(super) fn same_camera(pair: &Pair, b: &CameraTrace, c: &CameraTrace) -> bool {
    match (b, c) {
        (CameraTrace::Masked, CameraTrace::Masked) => true,
        (
            CameraTrace::Present { digest, mean, deviation, fields },
            CameraTrace::Present { digest: other, mean: other_mean, deviation: other_deviation, fields: other_fields },
        ) => {
            let close = |a: f32, b: f32| pair.same_input(a.into(), b.into());
            let summary = close(*mean, *other_mean) && close(*deviation, *other_deviation);
            digest == other || !pair.tier_is_exact() && summary && pair.same_inputs(&widen(fields), &widen(other_fields))
        }
        _ => false,
    }
}

/// Times and rows are those of the bag in every tier; the words of a refusal may name values.
fn same_outcome(pair: &Pair, b: &Outcome, c: &Outcome) -> bool {
    match (b, c) {
        (Outcome::Refused { .. }, Outcome::Refused { .. }) if !pair.tier_is_exact() => true,
        _ => b == c,
    }
}

/// Whether the model's own output differs.
fn model_actions(pair: &Pair, b: &ChunkTrace, c: &ChunkTrace, rows: Range<usize>, out: &mut ChunkComparison) -> bool {
    let (width, used) = (pair.baseline.setup.action_dim, pair.joints.len());
    let cut = |values: &[f32]| -> Vec<f64> {
        let rows = values.chunks_exact(width.max(1)).skip(rows.start).take(rows.len());
        rows.flat_map(|row| row.iter().take(used).map(|&value| f64::from(value))).collect()
    };
    let (b_values, c_values) = (cut(&b.model_actions), cut(&c.model_actions));
    if b_values.len() != c_values.len() {
        let (found, expected) = (c.model_actions.len(), b.model_actions.len());
        out.relative_rms = f64::INFINITY;
        out.exceeded.push(format!("{found} model actions, and the baseline has {expected}"));
        return true;
    }
    let same_bits = |b: &[f32], c: &[f32]| b.len() == c.len() && b.iter().zip(c).all(|(b, c)| b.to_bits() == c.to_bits());
    let identical = same_bits(&b.model_actions, &c.model_actions);
    // Bits first: values that are not finite have no distance.
    let rms = if identical { 0.0 } else { relative_rms(&c_values, &b_values) };
    out.relative_rms = if rms.is_nan() { f64::INFINITY } else { rms };
    out.pcc = Some(correlation(&c_values, &b_values)).filter(|pcc| pcc.is_finite());
    let before = out.exceeded.len();
    match pair.tolerances {
        None if !identical => {
            out.exceeded.push(format!("model actions differ in their bits: relative RMS {:.3e}", out.relative_rms))
        }
        None => {}
        Some(bounds) => {
            if out.relative_rms > bounds.relative_rms {
                out.exceeded.push(format!(
                    "relative RMS of the model actions {:.3e}, bound {:.3e}",
                    out.relative_rms, bounds.relative_rms
                ));
            }
            if let Some(pcc) = out.pcc.filter(|pcc| *pcc < bounds.pcc && !identical) {
                out.exceeded.push(format!("correlation of the model actions {pcc:.6}, at least {}", bounds.pcc));
            }
        }
    }
    out.exceeded.len() > before
}

/// Whether the actions in the robot's units differ.
fn actions(pair: &Pair, b: &ChunkTrace, c: &ChunkTrace, rows: Range<usize>, out: &mut ChunkComparison) -> bool {
    let width = pair.joints.len().max(1);
    if b.actions.len() != c.actions.len() {
        out.joints = vec![Difference { max: f64::INFINITY, mean: f64::INFINITY }; pair.joints.len()];
        out.exceeded.push(format!("{} actions, and the baseline has {}", c.actions.len(), b.actions.len()));
        return true;
    }
    let mut differences = Differences::new(pair.joints.len());
    let pairs = b.actions.chunks_exact(width).zip(c.actions.chunks_exact(width)).enumerate().skip(rows.start).take(rows.len());
    for (row, (b_row, c_row)) in pairs {
        let c_row = pair.joint_row(c_row);
        differences.add(b_row, &c_row);
        if out.first.is_none() {
            let beyond = |joint: &usize| pair.beyond(b_row[*joint], c_row[*joint], pair.joints[*joint].actions.max);
            out.first = (0..pair.joints.len()).find(beyond).map(|joint| Divergence {
                stamp: row_time(pair, b, row),
                chunk: Some(b.index),
                row: Some(row),
                joint: pair.joints[joint].joint.clone(),
                baseline: b_row[joint],
                current: c_row[joint],
                tolerance: pair.joints[joint].actions.max,
            });
        }
    }
    out.joints = differences.finish();
    let before = out.exceeded.len();
    exceeded(pair, &out.joints, "actions", out.first.is_some(), &mut out.exceeded);
    out.exceeded.len() > before
}

/// Nanoseconds: when a row was due, or the observation of a chunk that was refused.
fn row_time(pair: &Pair, chunk: &ChunkTrace, row: usize) -> i64 {
    match chunk.outcome {
        Outcome::Installed { start, .. } => start.saturating_add((row as f64 * pair.baseline.setup.period * 1e9).round() as i64),
        Outcome::Refused { .. } => chunk.observed,
    }
}

/// Sentences of the bounds that joints do not hold.
fn exceeded(pair: &Pair, joints: &[Difference], what: &str, bits: bool, sentences: &mut Vec<String>) {
    for (bounds, found) in pair.joints.iter().zip(joints) {
        let (name, bound) = (&bounds.joint, if what == "actions" { bounds.actions } else { bounds.commands });
        if found.max > bound.max {
            sentences.push(format!("{what} of {name} differ by up to {:.3e}, bound {:.3e}", found.max, bound.max));
        }
        if found.mean > bound.mean {
            sentences.push(format!("{what} of {name} differ by {:.3e} in the mean, bound {:.3e}", found.mean, bound.mean));
        }
    }
    if bits && sentences.is_empty() {
        // Zeros of either sign.
        sentences.push(format!("{what} differ in their bits"));
    }
}

/// Compares the commands step by step.
pub(super) fn commands(pair: &Pair) -> CommandComparison {
    let mut out = CommandComparison::default();
    let mut differences = Differences::new(pair.joints.len());
    let (mut left, mut right) = (pair.baseline.commands.iter().peekable(), pair.current.commands.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(b), Some(c)) => b.stamp.cmp(&c.stamp),
        };
        match order {
            Ordering::Less => out.only_baseline.extend(left.next().map(|command| command.stamp)),
            Ordering::Greater => out.only_current.extend(right.next().map(|command| command.stamp)),
            Ordering::Equal => {
                let (Some(b), Some(c)) = (left.next(), right.next()) else { break };
                let stamp = b.stamp;
                let row = pair.joint_row(&c.row);
                out.compared += 1;
                differences.add(&b.row, &row);
                if out.first.is_none() {
                    let mut joints = pair.joints.iter().zip(b.row.iter().zip(&row));
                    out.first =
                        joints.find(|(joint, (b, c))| pair.beyond(**b, **c, joint.commands.max)).map(|(joint, (b, c))| {
                            Divergence {
                                stamp,
                                chunk: None,
                                row: None,
                                joint: joint.joint.clone(),
                                baseline: *b,
                                current: *c,
                                tolerance: joint.commands.max,
                            }
                        });
                }
            }
        }
    }
    out.joints = differences.finish();
    exceeded(pair, &out.joints, "commands", out.first.is_some(), &mut out.exceeded);
    for (stamps, side) in [(&out.only_baseline, "baseline"), (&out.only_current, "current run")] {
        if !stamps.is_empty() {
            out.exceeded.push(format!("{} commands are in the {side} alone", stamps.len()));
        }
    }
    out
}

/// Sums the differences of rows, joint by joint.
struct Differences {
    rows: usize,
    joints: Vec<Difference>,
}

impl Differences {
    fn new(joints: usize) -> Self {
        Self { rows: 0, joints: vec![Difference::default(); joints] }
    }

    fn add(&mut self, b: &[f64], c: &[f64]) {
        self.rows += 1;
        for (sum, (b, c)) in self.joints.iter_mut().zip(b.iter().zip(c)) {
            let distance = difference(*b, *c);
            sum.max = sum.max.max(distance);
            sum.mean += distance;
        }
    }

    fn finish(mut self) -> Vec<Difference> {
        for joint in &mut self.joints {
            joint.mean /= self.rows.max(1) as f64;
        }
        self.joints
    }
}

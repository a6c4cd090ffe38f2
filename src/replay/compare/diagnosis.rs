//! Names the cause: walks the first chunk that differs along the data flow, and reports every difference that nothing before it explains.
//!
//! ```text
//! samples ─► positions ─► state ─┐
//!         └► cameras ────────────┼─► inside of the model ─► model actions ─► actions ─► outcome
//! instruction ─► tokens ─────────┤                                                         │
//! noise, guidance ───────────────┘                                     commands ◄──────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ArrayChange, ChunkComparison, CommandComparison, Finding, Side, Stage, cameras,
    change::{Columns, Line},
    inside,
    pair::{Pair, difference},
    values::other_samples,
};
use crate::{
    replay::trace::{ChunkTrace, Outcome, Trace},
    verify::widen,
};

/// What was compared of two traces.
pub(super) struct Compared<'a> {
    pub pair: &'a Pair<'a>,
    pub chunks: &'a [ChunkComparison],
    /// Positions of chunks that one trace has alone.
    pub only_baseline: &'a [usize],
    pub only_current: &'a [usize],
    pub commands: &'a CommandComparison,
}

impl Compared<'_> {
    /// Differences between the runs as a whole that are not values: messages, gaps, failures, a stop for good.
    pub fn events(&self) -> Vec<Finding> {
        let (b, c) = (self.pair.baseline, self.pair.current);
        let mut out = Vec::new();
        if gap_times(b) != gap_times(c) {
            out.push(Finding::Gaps { baseline: b.gaps.len(), current: c.gaps.len() });
        }
        let reasons: BTreeSet<&String> = b.failed.keys().chain(c.failed.keys()).collect();
        for reason in reasons {
            let [baseline, current] = [b, c].map(|trace| trace.failed.get(reason).copied().unwrap_or(0));
            if baseline != current {
                out.push(Finding::Failed { reason: reason.clone(), baseline, current });
            }
        }
        if b.latch.is_some() != c.latch.is_some() || self.pair.tier_is_exact() && b.latch != c.latch {
            out.push(Finding::Latch { baseline: b.latch.clone(), current: c.latch.clone() });
        }
        for (side, trace, alone) in
            [(Side::Baseline, self.pair.baseline, self.only_baseline), (Side::Current, self.pair.current, self.only_current)]
        {
            // Once the runs have parted, every later chunk is another.
            if let Some(chunk) = alone.first().and_then(|&at| trace.chunks.get(at)) {
                out.push(Finding::OnlyIn { side, index: chunk.index, observed: chunk.observed });
            }
        }
        out
    }

    /// What the values say, the cause first; empty when no value differs.
    pub fn values(&self) -> Vec<Finding> {
        let first = self.chunks.iter().position(|chunk| !chunk.is_same());
        let chunk = first.map(|at| (self.pair.baseline.chunks[self.chunks[at].baseline].ready, self.chunk(at)));
        let commands = self.commands_changed();
        match (chunk, commands) {
            // Commands from before that chunk cannot be its work.
            (Some((ready, mut findings)), Some((stamp, command))) => {
                match stamp < ready {
                    true => findings.insert(0, command),
                    false if findings.is_empty() => findings.push(command),
                    false => {}
                }
                findings
            }
            (Some((_, findings)), None) => findings,
            (None, Some((_, command))) => vec![command],
            (None, None) => Vec::new(),
        }
    }

    fn sides(&self, at: usize) -> (&ChunkTrace, &ChunkTrace) {
        let ChunkComparison { baseline, current, .. } = self.chunks[at];
        (&self.pair.baseline.chunks[baseline], &self.pair.current.chunks[current])
    }

    /// Every difference of a chunk that no difference before it in the data flow explains.
    fn chunk(&self, at: usize) -> Vec<Finding> {
        let (b, c) = self.sides(at);
        let chunk = b.index;
        let differs = |stage: Stage| self.chunks[at].stages.contains(&stage);
        let samples = other_samples(b, c);
        let sampled = |input: &str| samples.iter().any(|sample| sample == input);
        let mut out: Vec<Finding> = samples.iter().map(|input| Finding::Sample { chunk, input: input.clone() }).collect();

        if differs(Stage::Instruction) {
            out.push(Finding::Instruction { chunk, baseline: b.instruction.clone(), current: c.instruction.clone() });
        } else if differs(Stage::Tokens) {
            let (baseline, current) = (b.model.tokens.clone(), c.model.tokens.clone());
            let first = baseline.iter().zip(&current).take_while(|(b, c)| b == c).count();
            out.push(Finding::Tokens { chunk, first, baseline, current });
        }
        if differs(Stage::Positions) {
            if !sampled("joint_states") {
                out.extend(self.positions(at).map(|change| Finding::Positions { chunk, change }));
            }
        } else if differs(Stage::State) {
            out.extend(self.state(at).map(|change| Finding::State { chunk, change }));
        }
        if differs(Stage::Cameras) {
            let caused = |finding: &Finding| match finding {
                Finding::CameraImage { camera, .. } => sampled(camera),
                _ => false,
            };
            out.extend(cameras::changes(self.pair, b, c).into_iter().filter(|finding| !caused(finding)));
        }
        if differs(Stage::Noise) {
            out.push(Finding::Noise { chunk });
        }
        // What guides a chunk is re-anchored to its state.
        if differs(Stage::Guidance) && !differs(Stage::State) {
            let (baseline, current) = (b.model.guidance.is_some(), c.model.guidance.is_some());
            out.push(Finding::Guidance { chunk, baseline, current });
        }
        let same_inputs = self.chunks[at].stages.iter().all(|stage| *stage >= Stage::ModelActions);
        let explained = !differs(Stage::Actions) || self.actions_follow(at);
        if same_inputs && (differs(Stage::ModelActions) || differs(Stage::Actions) && explained) {
            out.extend(self.model(at));
        }
        if differs(Stage::Actions) && !explained {
            out.extend(self.actions(at).map(|change| Finding::Actions { chunk, change }));
        }
        if differs(Stage::Outcome) {
            out.extend(outcome(chunk, &b.outcome, &c.outcome));
        }
        out
    }

    /// Values of the chunks from `at` on: observations do not depend on the chunks before.
    fn observations(
        &self,
        at: usize,
        values: impl Fn(&ChunkTrace, &ChunkTrace) -> (Vec<f64>, Vec<f64>),
    ) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        (at..self.chunks.len()).map(|at| self.sides(at)).map(|(b, c)| values(b, c)).unzip()
    }

    fn positions(&self, at: usize) -> Option<ArrayChange> {
        let (baseline, current) = self.observations(at, |b, c| (b.positions.clone(), self.pair.positions(&c.positions)));
        let names = self.pair.baseline.setup.state_joints.clone();
        Columns::new(names, &baseline, &current).change(|_, b, c| !self.pair.same_input(b, c))
    }

    fn state(&self, at: usize) -> Option<ArrayChange> {
        let (b, c) = self.sides(at);
        let (found, expected) = (c.model.state.len(), b.model.state.len());
        if found != expected {
            return Some(ArrayChange::Length { baseline: expected, current: found });
        }
        let (baseline, current) = self.observations(at, |b, c| (widen(&b.model.state), widen(&c.model.state)));
        let (positions, _) = self.observations(at, |b, _| (b.positions.clone(), Vec::new()));
        let columns = Columns::new(self.pair.baseline.setup.state_joints.clone(), &baseline, &current).made_of(&positions);
        columns.change(|_, b, c| !self.pair.same_input(b, c))
    }

    /// The place inside of the model where the first chunk parts, else what became of the model actions.
    fn model(&self, at: usize) -> Option<Finding> {
        let (b, c) = self.sides(at);
        if let Some(place) = inside::change(self.pair, b, c) {
            return Some(place);
        }
        let (baseline, current) = (b.model_actions.len(), c.model_actions.len());
        let on_the_way = b.model.answer == c.model.answer;
        if baseline != current {
            return Some(Finding::ModelActions { chunk: b.index, on_the_way, change: ArrayChange::Length { baseline, current } });
        }
        // The columns that the robot uses, or the others when those are the same.
        let width = self.pair.baseline.setup.action_dim.max(1);
        let rows = |values: &[f32]| values.chunks_exact(width).map(widen).collect::<Vec<_>>();
        let names = self.pair.joints.iter().map(|joint| joint.joint.clone()).collect();
        let columns = Columns::new(names, &rows(&b.model_actions), &rows(&c.model_actions)).in_time();
        let scale = self.pair.tolerances.map_or(0.0, |bounds| bounds.relative_rms);
        let used = self.pair.joints.len();
        let beyond = |b: f64, c: f64| difference(b, c) > scale * b.abs().max(1.0);
        let change = columns
            .change(|column, b, c| column < used && beyond(b, c))
            .or_else(|| columns.change(|_, b, c| b.to_bits() != c.to_bits()));
        change.map(|change| Finding::ModelActions { chunk: b.index, on_the_way, change })
    }

    /// Whether the actions differ only as the model actions make them differ: each joint's actions are a scale and an offset of its
    /// model actions, nearly so where they are clipped, and the baseline tells which.
    fn actions_follow(&self, at: usize) -> bool {
        let (b, c) = self.sides(at);
        let stages = &self.chunks[at].stages;
        if stages.contains(&Stage::Positions) || stages.contains(&Stage::State) || b.actions.len() != c.actions.len() {
            // Relative actions are added to the state; a chunk without actions was refused.
            return true;
        }
        let identical = b.model_actions.iter().zip(&c.model_actions).all(|(b, c)| b.to_bits() == c.to_bits());
        if identical && b.model_actions.len() == c.model_actions.len() {
            return false;
        }
        let (width, joints) = (self.pair.baseline.setup.action_dim.max(1), self.pair.joints.len());
        let model = |chunk: &ChunkTrace, joint: usize| -> Vec<f64> {
            chunk.model_actions.chunks_exact(width).filter_map(|row| row.get(joint).map(|&value| f64::from(value))).collect()
        };
        let (b_rows, c_rows) = self.action_rows(b, c);
        let column = |rows: &[Vec<f64>], joint: usize| rows.iter().map(|row| row[joint]).collect::<Vec<f64>>();
        (0..joints).all(|joint| {
            let (before, after) = (column(&b_rows, joint), column(&c_rows, joint));
            let Some(line) = Line::fitting(&model(b, joint), &before) else { return true };
            let rest = |model: Vec<f64>, actions: &[f64]| {
                model.iter().zip(actions).map(|(value, action)| difference(line.at(*value), *action)).fold(0.0, f64::max)
            };
            let (fit, found) = (rest(model(b, joint), &before), rest(model(c, joint), &after));
            // float32 rounds what the map is fitted to.
            let rounding = 1e-5 * before.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
            found <= 2.0 * fit + self.pair.joints[joint].actions.max + rounding
        })
    }

    fn action_rows(&self, b: &ChunkTrace, c: &ChunkTrace) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let joints = self.pair.joints.len().max(1);
        let current = c.actions.chunks_exact(joints).map(|row| self.pair.joint_row(row)).collect();
        (b.actions.chunks_exact(joints).map(<[f64]>::to_vec).collect(), current)
    }

    fn joint_names(&self) -> Vec<String> {
        self.pair.joints.iter().map(|joint| joint.joint.clone()).collect()
    }

    fn actions(&self, at: usize) -> Option<ArrayChange> {
        let (b, c) = self.sides(at);
        let (baseline, current) = (b.actions.len(), c.actions.len());
        if baseline != current {
            return Some(ArrayChange::Length { baseline, current });
        }
        let (b_rows, c_rows) = self.action_rows(b, c);
        let columns = Columns::new(self.joint_names(), &b_rows, &c_rows).in_time();
        columns.change(|joint, b, c| self.pair.beyond(b, c, self.pair.joints[joint].actions.max))
    }

    /// What happened to the commands, and from which stamp on.
    fn commands_changed(&self) -> Option<(i64, Finding)> {
        let commands = self.commands;
        let alone = [(Side::Baseline, &commands.only_baseline), (Side::Current, &commands.only_current)]
            .into_iter()
            .filter_map(|(side, stamps)| {
                Some((*stamps.first()?, Finding::CommandTimes { side, count: stamps.len(), first: *stamps.first()? }))
            })
            .min_by_key(|(stamp, _)| *stamp);
        let first = commands.first.as_ref().map(|first| first.stamp);
        if let Some((stamp, finding)) = alone.filter(|(stamp, _)| first.is_none_or(|first| *stamp <= first)) {
            return Some((stamp, finding));
        }
        // Also those before the first difference: a limit shows in what a joint did all along.
        let by_stamp: BTreeMap<i64, &Vec<f64>> =
            self.pair.current.commands.iter().map(|command| (command.stamp, &command.row)).collect();
        let (b_rows, c_rows): (Vec<_>, Vec<_>) = self
            .pair
            .baseline
            .commands
            .iter()
            .filter_map(|command| Some((command.row.clone(), self.pair.joint_row(by_stamp.get(&command.stamp)?))))
            .unzip();
        let columns = Columns::new(self.joint_names(), &b_rows, &c_rows).in_time();
        let change = columns.change(|joint, b, c| self.pair.beyond(b, c, self.pair.joints[joint].commands.max))?;
        let stamp = first?;
        Some((stamp, Finding::Commands { stamp, change }))
    }
}

/// From when to when, and the inputs in the way. The words of a reason may name values.
fn gap_times(trace: &Trace) -> Vec<(i64, i64, Vec<&String>)> {
    trace.gaps.iter().map(|gap| (gap.from, gap.to, gap.inputs.keys().collect())).collect()
}

fn outcome(chunk: u64, b: &Outcome, c: &Outcome) -> Vec<Finding> {
    let mut out = Vec::new();
    match (b, c) {
        (
            Outcome::Installed { start, delay_rows, guided_rows, join, executed },
            Outcome::Installed {
                start: new_start,
                delay_rows: new_delay,
                guided_rows: new_guided,
                join: new_join,
                executed: new_executed,
            },
        ) => {
            if start != new_start {
                out.push(Finding::Start { chunk, baseline: *start, current: *new_start });
            }
            if delay_rows != new_delay {
                out.push(Finding::Delay { chunk, baseline: *delay_rows, current: *new_delay });
            }
            if guided_rows != new_guided {
                out.push(Finding::GuidedRows { chunk, baseline: *guided_rows, current: *new_guided });
            }
            if join != new_join {
                out.push(Finding::Joining { chunk, baseline: join.clone(), current: new_join.clone() });
            }
            if executed != new_executed {
                out.push(Finding::Executed { chunk, baseline: *executed, current: *new_executed });
            }
        }
        _ => {
            let [baseline, current] = [b, c].map(|outcome| match outcome {
                Outcome::Refused { reason } => Some(reason.clone()),
                Outcome::Installed { .. } => None,
            });
            out.push(Finding::Refused { chunk, baseline, current });
        }
    }
    out
}

//! The Euler loop of the action expert.

use std::ops::Range;

use super::{
    KeyValues, Model, Ops,
    model::{ExpertLayer, constant, suffix_rows},
    ops::Linear,
    prefill::{key_rows, padded_rows, rope_tables},
};
use crate::{
    backend::{
        BackendError,
        ttnn::{
            pack::pack,
            runtime::{Runtime, RuntimeError},
            terms::{Activation, DataType, MemoryConfig, Shape, TensorSpec},
            weights::{HeadLayout, StepWeights},
        },
    },
    checkpoint::Weights,
    model::{EulerSchedule, Geometry, Sequence, time_embedding},
};

const DRAM: MemoryConfig = MemoryConfig::DramInterleaved;
/// Added to the score of a key that must not be seen: its weight becomes zero, in bfloat16 too.
const HIDDEN: f32 = -1e9;

/// What the denoise loop over one kind of prefix needs besides the weights.
pub struct Denoise<T> {
    /// `[1, 1, suffix rows, key rows]`, added to the scores: the state token's block mask, and no padding.
    pub mask: T,
    /// RoPE tables of the suffix rows, then of the prefix rows.
    pub cos: T,
    pub sin: T,
    /// Rows of the keys that belong to the prefix.
    prefix_rows: Range<usize>,
}

/// What one number of steps needs.
pub struct Schedule<T> {
    /// `action_in` with the bias of each step.
    action_in: Vec<Linear<T>>,
    /// Gives `dt` times the velocity.
    action_out: Linear<T>,
}

impl<T: Clone> Denoise<T> {
    pub fn new<R: Runtime<Tensor = T>>(
        runtime: &mut R,
        geometry: &Geometry,
        cameras: usize,
        tokens: usize,
    ) -> Result<Self, RuntimeError> {
        let (suffix, keys) = (suffix_rows(geometry), key_rows(geometry, cameras, tokens));
        let prefix_rows = padded_rows(geometry, cameras, tokens);
        let valid = cameras * geometry.vision.tokens() + tokens;
        // The sequence as the model defines it; its suffix begins with the state token.
        let sequence = Sequence::new(&vec![true; valid], geometry.horizon);
        let suffix_row = |row: usize| match row {
            row if row < geometry.horizon => Some(row + 1),
            row if row == geometry.horizon => Some(0),
            _ => None,
        };
        let key = |column: usize| match column.checked_sub(suffix) {
            None => suffix_row(column).map(|row| valid + row),
            Some(row) => (row < valid).then_some(row),
        };
        let sees = |row: usize, column: usize| {
            // Rows of padding see what the first action sees: their softmax has keys.
            let row = suffix_row(row).unwrap_or(1);
            key(column).is_some_and(|key| sequence.suffix.mask.allows(row, key))
        };
        let mask: Vec<f32> = (0..suffix)
            .flat_map(|row| (0..keys).map(move |column| (row, column)))
            .map(|(row, column)| if sees(row, column) { 0.0 } else { HIDDEN })
            .collect();
        let positions: Vec<i64> = (0..keys)
            .map(|column| match column.checked_sub(suffix) {
                None => suffix_row(column).map_or(0, |row| sequence.suffix.positions[row]),
                Some(row) if row < prefix_rows => row as i64,
                Some(_) => 0,
            })
            .collect();
        runtime.enter("masks");
        let mask = constant(runtime, Shape::matrix(suffix, keys), DataType::Bfloat16, DRAM, &mask)?;
        runtime.leave();
        runtime.enter("suffix_tables");
        let layout = HeadLayout::gemma(&geometry.expert);
        let [cos, sin] = rope_tables(runtime, &positions, geometry.expert.head_dim, layout)?;
        runtime.leave();
        Ok(Self { mask, cos, sin, prefix_rows: suffix..suffix + valid })
    }
}

impl<T: Clone> Schedule<T> {
    /// `weights` may be absent for a runtime that holds no values.
    pub fn new<R: Runtime<Tensor = T>>(
        runtime: &mut R,
        model: &Model<T>,
        weights: Option<&Weights>,
        schedule: EulerSchedule,
    ) -> Result<Self, BackendError> {
        let geometry = &model.geometry;
        let (width, actions) = (geometry.expert.width, geometry.action_dim);
        let embedding = |step| time_embedding(schedule.time(step), width, geometry.min_period, geometry.max_period);
        let embeddings: Vec<Vec<f64>> = (0..schedule.steps()).map(embedding).collect();
        let made = weights.map(|weights| StepWeights::new(weights, geometry, &embeddings, schedule.dt())).transpose()?;
        runtime.enter("schedule");
        let mut upload = |rows, columns, values: &dyn Fn(&StepWeights) -> &[f32]| {
            let spec = TensorSpec::new(Shape::matrix(rows, columns), DataType::Bfloat16, DRAM);
            runtime.upload(spec, &mut || made.as_ref().map(|made| pack(&spec, values(made))).ok_or(RuntimeError::NoValues))
        };
        let action_in = (0..schedule.steps())
            .map(|step| {
                let bias = upload(1, width, &|made| &made.biases[step])?;
                Ok(Linear { weight: model.action_in.clone(), bias: Some(bias) })
            })
            .collect::<Result<_, RuntimeError>>()?;
        let action_out = Linear {
            weight: upload(width, actions, &|made| &made.action_out)?,
            bias: Some(upload(1, actions, &|made| &made.action_out_bias)?),
        };
        runtime.leave();
        Ok(Self { action_in, action_out })
    }
}

/// What a guided step needs: with it, `x + dt v` becomes `x_factor x + velocity_factor dt v + pull`. All are float32
/// `[1, 1, suffix rows, action_dim]`, inputs of the loop like the noise.
pub struct GuidedStep<T> {
    pub x_factor: T,
    pub velocity_factor: T,
    pub pull: T,
}

/// Inputs for each of `steps` guided steps.
pub fn guided_steps<R: Runtime>(
    runtime: &mut R,
    geometry: &Geometry,
    steps: usize,
) -> Result<Vec<GuidedStep<R::Tensor>>, RuntimeError> {
    let shape = Shape::matrix(suffix_rows(geometry), geometry.action_dim);
    let zeros = vec![0.0; shape.volume()];
    for scope in ["inputs", "guidance"] {
        runtime.enter(scope);
    }
    let mut input = || constant(runtime, shape, DataType::Float32, DRAM, &zeros);
    let step = |_| Ok(GuidedStep { x_factor: input()?, velocity_factor: input()?, pull: input()? });
    let made = (0..steps).map(step).collect();
    for _ in 0..2 {
        runtime.leave();
    }
    made
}

/// Integrates `noise` to actions, guided where there are `guided` steps. `noise` and `state` are float32 `[1, 1, suffix rows, n]`: actions in the first rows of one, the
/// state in the row behind them of the other.
pub fn denoise<R: Runtime>(
    ops: &mut Ops<'_, R>,
    model: &Model<R::Tensor>,
    (denoise, schedule): (&Denoise<R::Tensor>, &Schedule<R::Tensor>),
    guided: Option<&[GuidedStep<R::Tensor>]>,
    cache: &[KeyValues<R::Tensor>],
    [state, noise]: [&R::Tensor; 2],
) -> Result<R::Tensor, RuntimeError> {
    let horizon = model.geometry.horizon;
    let state_rows = ops.scope("state", |ops| ops.linear(state, &model.state, None, &[]))?;
    let mut x = noise.clone();
    for (step, action_in) in schedule.action_in.iter().enumerate() {
        x = ops.scope(format!("step.{step}"), |ops| {
            ops.show(|| format!("step.{step}.x_t"), &x, 0..horizon)?;
            let mut h = ops.scope("suffix", |ops| {
                let hidden = ops.linear(&x, action_in, Some(Activation::Silu), &[&state_rows])?;
                let actions = ops.linear(&hidden, &model.mlp_out, None, &[&state_rows])?;
                ops.choose(&model.action_rows, &actions, &state_rows)
            })?;
            ops.show(|| format!("step.{step}.suffix_embs"), &h, suffix_order(horizon))?;
            for (index, (layer, cache)) in model.expert.iter().zip(cache).enumerate() {
                h = ops.scope(format!("layer.{index}"), |ops| {
                    let seen = (step == 0).then(|| format!("prefix.kv.{index}"));
                    expert_layer(ops, (model, layer), denoise, cache, h, seen)
                })?;
                ops.show(|| format!("step.{step}.layer.{index}"), &h, suffix_order(horizon))?;
            }
            ops.scope("suffix", |ops| {
                let normed = ops.rms_norm(&h)?;
                let velocity =
                    ops.linear_as(&normed, &schedule.action_out, None, &[], DataType::Float32, MemoryConfig::L1Interleaved)?;
                match guided.map(|steps| &steps[step]) {
                    None => ops.add_f32(&x, &velocity),
                    Some(GuidedStep { x_factor, velocity_factor, pull }) => {
                        let pulled = ops.addcmul_f32(pull, x_factor, &x)?;
                        ops.addcmul_f32(&pulled, velocity_factor, &velocity)
                    }
                }
            })
        })?;
    }
    Ok(x)
}

/// One layer over `x`; `seen` names the prefix's keys and values for the probe.
fn expert_layer<R: Runtime>(
    ops: &mut Ops<'_, R>,
    (model, layer): (&Model<R::Tensor>, &ExpertLayer<R::Tensor>),
    denoise: &Denoise<R::Tensor>,
    cache: &KeyValues<R::Tensor>,
    x: R::Tensor,
    seen: Option<String>,
) -> Result<R::Tensor, RuntimeError> {
    let geometry = model.geometry.expert;
    let scale = (geometry.head_dim as f32).powf(-0.5);
    let attended = ops.scope("self_attn", |ops| {
        let normed = ops.rms_norm(&x)?;
        let qkv = ops.linear(&normed, &layer.qkv, None, &[&x])?;
        drop(normed);
        ops.heads_into(&qkv, geometry.heads, [&model.queries, &cache.keys, &cache.values])?;
        drop(qkv);
        let tables = [&denoise.cos, &denoise.sin];
        let (q, k) = (ops.rotate(&model.queries, tables)?, ops.rotate(&cache.keys, tables)?);
        if let Some(seen) = seen {
            ops.show(|| format!("{seen}.key"), &k, denoise.prefix_rows.clone())?;
            ops.show(|| format!("{seen}.value"), &cache.values, denoise.prefix_rows.clone())?;
        }
        let joined = ops.attention([q, k, cache.values.clone()], Some(&denoise.mask), scale, &[&x])?;
        ops.linear(&joined, &layer.o, None, &[&x])
    })?;
    let x = ops.add(&x, &attended)?;
    drop(attended);
    let down = ops.scope("mlp", |ops| {
        let normed = ops.rms_norm(&x)?;
        let [gate, up] = ops.split(&normed, &layer.gate_up, &[&x])?;
        drop(normed);
        ops.multiply(&gate, &up, Some(Activation::Gelu))?;
        drop(up);
        ops.linear(&gate, &layer.down, None, &[&x])
    })?;
    ops.add(&x, &down)
}

/// The suffix rows in the model's own order: state token, then actions.
fn suffix_order(horizon: usize) -> impl Iterator<Item = usize> {
    std::iter::once(horizon).chain(0..horizon)
}

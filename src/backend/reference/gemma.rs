//! The Gemma tower: language model of the prefix and action expert of the suffix.

use faer::{MatMut, MatRef};
use rayon::prelude::*;

use super::{
    Loader, Probe,
    attention::{Heads, KeyValues, attention},
    linear::{Linear, Product, products},
    vision::add_rows,
};
use crate::{
    backend::{
        BackendError,
        kernels::{
            elementwise::{gelu_times, multiply, rms_norm},
            gemm::{block, blocks},
        },
    },
    model::{GemmaGeometry, Rope, Rows},
};

/// `rms_norm_eps` of every Gemma.
const EPSILON: f32 = 1e-6;

/// RMSNorm with `1 + weight`.
struct RmsNorm {
    gain: Vec<f32>,
}

struct Layer {
    input_layernorm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// Keys (after RoPE) and values of one layer, each `[rows, kv_heads * head_dim]`.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// One Gemma tower.
pub struct Gemma {
    geometry: GemmaGeometry,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

/// How far a forward pass goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the output of the final norm.
    Output,
    /// To the keys and values of the last layer; nothing behind them is computed.
    LastKeyValues,
}

/// What one forward pass is.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub rows: &'a Rows,
    /// Keys and values that come before the rows' own, layer by layer; empty for the prefix.
    pub past: &'a [LayerCache],
    pub until: Until,
    /// Begins the names of the probe's tensors.
    pub tag: &'a str,
}

impl RmsNorm {
    fn load(loader: &Loader<'_>, name: &str) -> Result<Self, BackendError> {
        Ok(Self { gain: loader.vector(&format!("{name}.weight"))?.iter().map(|weight| 1.0 + weight).collect() })
    }

    fn forward(&self, x: &[f32], out: &mut [f32]) {
        let width = self.gain.len();
        out.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).for_each(|(out, x)| {
            rms_norm(x, EPSILON, out);
            multiply(out, &self.gain);
        });
    }
}

impl Gemma {
    pub fn load(loader: &Loader<'_>, prefix: &str, geometry: GemmaGeometry) -> Result<Self, BackendError> {
        let layer = |index: usize| {
            let name = |part: &str| format!("{prefix}.layers.{index}.{part}");
            Ok(Layer {
                input_layernorm: RmsNorm::load(loader, &name("input_layernorm"))?,
                q_proj: loader.linear(&name("self_attn.q_proj"))?,
                k_proj: loader.linear(&name("self_attn.k_proj"))?,
                v_proj: loader.linear(&name("self_attn.v_proj"))?,
                o_proj: loader.linear(&name("self_attn.o_proj"))?,
                post_attention_layernorm: RmsNorm::load(loader, &name("post_attention_layernorm"))?,
                gate_proj: loader.linear(&name("mlp.gate_proj"))?,
                up_proj: loader.linear(&name("mlp.up_proj"))?,
                down_proj: loader.linear(&name("mlp.down_proj"))?,
            })
        };
        Ok(Self {
            geometry,
            layers: (0..geometry.depth).map(layer).collect::<Result<_, BackendError>>()?,
            norm: RmsNorm::load(loader, &format!("{prefix}.norm"))?,
        })
    }

    /// Runs `h[rows, width]` through the tower; keys are those of `pass.past` followed by the rows' own.
    ///
    /// `h` becomes the output of the final norm, when the pass goes there. Each layer's own keys and values are handed to `keep`.
    pub fn forward(&self, h: &mut Vec<f32>, pass: Pass<'_>, probe: &mut dyn Probe, mut keep: impl FnMut(LayerCache)) {
        let Pass { rows, past, until, tag } = pass;
        let GemmaGeometry { width, heads, kv_heads, head_dim, mlp_width, .. } = self.geometry;
        let shape = Heads { heads, kv_heads, head_dim };
        let n = rows.positions.len();
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let rope = Rope::new(&rows.positions, head_dim);

        let mut normed = vec![0.0; n * width];
        let mut projected = vec![0.0; n * width];
        let (mut q, mut attended) = (vec![0.0; n * q_width], vec![0.0; n * q_width]);
        let mut hidden = vec![0.0; n * mlp_width];
        for (index, layer) in self.layers.iter().enumerate() {
            let last = until == Until::LastKeyValues && index + 1 == self.layers.len();
            let (mut k, mut v) = (vec![0.0; n * kv_width], vec![0.0; n * kv_width]);
            layer.input_layernorm.forward(h, &mut normed);
            let mut wanted = vec![Product { linear: &layer.k_proj, out: &mut k }, Product { linear: &layer.v_proj, out: &mut v }];
            if !last {
                wanted.push(Product { linear: &layer.q_proj, out: &mut q });
            }
            products(&normed, &mut wanted);
            if index == 0 {
                probe.tensor(&format!("{tag}.layer.0.input_layernorm"), width, &normed);
            }
            rotate(&rope, &mut k, kv_width);
            if last {
                keep(LayerCache { keys: k, values: v });
                return;
            }
            if index == 0 {
                probe.tensor(&format!("{tag}.layer.0.q_proj"), q_width, &q);
            }
            rotate(&rope, &mut q, q_width);
            let own = LayerCache { keys: k, values: v };
            let segments: Vec<KeyValues<'_>> = past
                .get(index)
                .into_iter()
                .chain([&own])
                .map(|cache| KeyValues { keys: &cache.keys, values: &cache.values })
                .collect();
            attention(shape, &q, &segments, &rows.mask, &mut attended);
            layer.o_proj.forward(&attended, &mut projected);
            if index == 0 {
                probe.tensor(&format!("{tag}.layer.0.self_attn"), width, &projected);
            }
            keep(own);
            add_rows(h, &projected);

            layer.post_attention_layernorm.forward(h, &mut normed);
            gated_hidden(layer, &normed, &mut hidden, width);
            layer.down_proj.forward(&hidden, &mut projected);
            if index == 0 {
                probe.tensor(&format!("{tag}.layer.0.mlp"), width, &projected);
            }
            add_rows(h, &projected);
            probe.tensor(&format!("{tag}.layer.{index}"), width, h);
        }
        self.norm.forward(h, &mut normed);
        std::mem::swap(h, &mut normed);
    }
}

/// `hidden = gelu(x gate^T) * (x up^T)`, one task for each block of features, so that gate and up meet in the cache.
fn gated_hidden(layer: &Layer, x: &[f32], hidden: &mut [f32], width: usize) {
    let n = x.len() / width;
    let x = MatRef::from_row_major_slice(x, n, width);
    let hidden = MatMut::from_row_major_slice_mut(hidden, n, layer.gate_proj.outputs);
    let tasks: Vec<_> = blocks(hidden).collect();
    tasks.into_par_iter().for_each(|(first, mut hidden)| {
        let features = hidden.ncols();
        let (mut gate, mut up) = (vec![0.0; n * features], vec![0.0; n * features]);
        block(&layer.gate_proj, x, first, MatMut::from_row_major_slice_mut(&mut gate, n, features));
        block(&layer.up_proj, x, first, MatMut::from_row_major_slice_mut(&mut up, n, features));
        gelu_times(&mut gate, &up);
        hidden.copy_from(MatRef::from_row_major_slice(&gate, n, features));
    });
}

fn rotate(rope: &Rope, x: &mut [f32], width: usize) {
    x.par_chunks_exact_mut(width).enumerate().for_each(|(row, heads)| rope.rotate(row, heads));
}

//! The Gemma tower: language model of the prefix and action expert of the suffix.

use rayon::prelude::*;

use super::{
    Loader, Probe, Workspace,
    attention::{Heads, Part, attention, pack, pack_attended},
    linear::Linear,
    vision::add_rows,
};
use crate::{
    backend::{
        BackendError,
        kernels::{
            attention::KeyValues,
            elementwise::{multiply, rms_norm},
            room,
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
    /// Keys, values, queries.
    kvq_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    gate_up_proj: Linear,
    down_proj: Linear,
}

/// One Gemma tower.
pub struct Gemma {
    geometry: GemmaGeometry,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

/// Keys (after RoPE) and values of one layer's heads.
pub type LayerCache = Vec<KeyValues>;

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
    /// The tables of `rows`.
    pub rope: &'a Rope,
    /// Keys and values that come before the rows' own, layer by layer; empty for the prefix.
    pub past: &'a [LayerCache],
    pub until: Until,
    /// Begins the names of the probe's tensors.
    pub tag: &'a str,
}

impl RmsNorm {
    fn load(loader: &mut Loader, name: &str) -> Result<Self, BackendError> {
        Ok(Self { gain: loader.vector(&format!("{name}.weight"))?.iter().map(|weight| 1.0 + weight).collect() })
    }

    /// `out` of one row `x`.
    fn apply(&self, x: &[f32], out: &mut [f32]) {
        rms_norm(x, EPSILON, out);
        multiply(out, &self.gain);
    }

    /// `out` of all rows `x`.
    fn forward(&self, x: &[f32], out: &mut [f32]) {
        let width = self.gain.len();
        out.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).for_each(|(out, x)| self.apply(x, out));
    }
}

impl Gemma {
    pub fn load(loader: &mut Loader, prefix: &str, geometry: GemmaGeometry) -> Result<Self, BackendError> {
        let mut layers = Vec::with_capacity(geometry.depth);
        for index in 0..geometry.depth {
            let name = |part: &str| format!("{prefix}.layers.{index}.{part}");
            layers.push(Layer {
                input_layernorm: RmsNorm::load(loader, &name("input_layernorm"))?,
                kvq_proj: loader.stacked(&["k_proj", "v_proj", "q_proj"].map(|part| name(&format!("self_attn.{part}"))))?,
                o_proj: loader.linear(&name("self_attn.o_proj"))?,
                post_attention_layernorm: RmsNorm::load(loader, &name("post_attention_layernorm"))?,
                gate_up_proj: loader.gated(name("mlp.gate_proj"), name("mlp.up_proj"))?,
                down_proj: loader.linear(&name("mlp.down_proj"))?,
            });
        }
        Ok(Self { geometry, layers, norm: RmsNorm::load(loader, &format!("{prefix}.norm"))? })
    }

    /// Runs `h[rows, width]` through the tower; keys are those of `pass.past` followed by the rows' own.
    ///
    /// `h` becomes the output of the final norm, when the pass goes there. The rows' own keys and values go to `keep`, layer by layer.
    pub fn forward(
        &self,
        h: &mut [f32],
        pass: Pass<'_>,
        workspace: &mut Workspace,
        probe: &mut dyn Probe,
        mut keep: Option<&mut Vec<LayerCache>>,
    ) {
        let Pass { rows, rope, past, until, tag } = pass;
        let GemmaGeometry { width, heads, kv_heads, head_dim, mlp_width, .. } = self.geometry;
        let shape = Heads { heads, kv_heads, head_dim };
        let n = rows.positions.len();
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);

        let Workspace { x, qkv: kvq, own, attended, hidden, projected } = workspace;
        let (attended, hidden, projected) =
            (room(attended, n * q_width), room(hidden, n * mlp_width), room(projected, n * width));
        for (index, layer) in self.layers.iter().enumerate() {
            let last = until == Until::LastKeyValues && index + 1 == self.layers.len();
            let outputs = if last { 2 * kv_width } else { layer.kvq_proj.outputs() };
            let kvq = room(kvq, n * outputs);
            x.pack_with(n, width, |row, out| layer.input_layernorm.apply(&h[row * width..][..width], out));
            layer.kvq_proj.forward_first(x, outputs, kvq);
            if index == 0 && probe.watches() {
                let mut normed = vec![0.0; n * width];
                layer.input_layernorm.forward(h, &mut normed);
                probe.tensor(&format!("{tag}.layer.0.input_layernorm"), width, &normed);
                if !last {
                    probe.tensor(&format!("{tag}.layer.0.q_proj"), q_width, &columns(kvq, outputs, 2 * kv_width, q_width));
                }
            }
            kvq.par_chunks_exact_mut(outputs).enumerate().for_each(|(row, kvq)| {
                rope.rotate(row, &mut kvq[..kv_width]);
                rope.rotate(row, &mut kvq[2 * kv_width..]);
            });
            if keep.is_some() && probe.watches() {
                probe.tensor(&format!("{tag}.kv.{index}.key"), kv_width, &columns(kvq, outputs, 0, kv_width));
                probe.tensor(&format!("{tag}.kv.{index}.value"), kv_width, &columns(kvq, outputs, kv_width, kv_width));
            }
            pack(shape, 1, n, Part::new(kvq, outputs, 0), Part::new(kvq, outputs, kv_width), own);
            if !last {
                let queries = Part::new(kvq, outputs, 2 * kv_width);
                attention(shape, n, queries, past.get(index).map(Vec::as_slice), own, &rows.mask, attended);
            }
            if let Some(keep) = &mut keep {
                keep.push(std::mem::take(own));
            }
            if last {
                return;
            }
            pack_attended(shape, n, attended, x);
            layer.o_proj.forward(x, projected);
            if index == 0 {
                probe.tensor(&format!("{tag}.layer.0.self_attn"), width, projected);
            }
            add_rows(h, projected);

            x.pack_with(n, width, |row, out| layer.post_attention_layernorm.apply(&h[row * width..][..width], out));
            layer.gate_up_proj.forward(x, hidden);
            x.pack(hidden, mlp_width);
            layer.down_proj.forward(x, projected);
            if index == 0 {
                probe.tensor(&format!("{tag}.layer.0.mlp"), width, projected);
            }
            add_rows(h, projected);
            probe.tensor(&format!("{tag}.layer.{index}"), width, h);
        }
        self.norm.forward(h, projected);
        h.copy_from_slice(projected);
    }
}

/// `width` columns of `matrix[rows, stride]` from `first` on.
fn columns(matrix: &[f32], stride: usize, first: usize, width: usize) -> Vec<f32> {
    matrix.chunks_exact(stride).flat_map(|row| &row[first..first + width]).copied().collect()
}

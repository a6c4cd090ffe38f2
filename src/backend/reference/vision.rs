//! SigLIP (So400m/14) and the projector to the language model's width.

use rayon::prelude::*;

use super::{
    Loader, Probe, Workspace,
    attention::{Heads, Part, attention, pack, pack_attended},
    linear::Linear,
};
use crate::{
    backend::{
        BackendError,
        kernels::{
            elementwise::{add, layer_norm, multiply},
            room,
        },
    },
    model::{Mask, VisionGeometry, layout},
};

/// `layer_norm_eps` of SigLIP.
const EPSILON: f32 = 1e-6;

/// LayerNorm weight and bias.
pub struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Layer {
    layer_norm1: LayerNorm,
    qkv_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// The vision tower with its projector.
pub struct Vision {
    geometry: VisionGeometry,
    patch_embedding: Linear,
    /// `[tokens, width]`
    position_embedding: Vec<f32>,
    layers: Vec<Layer>,
    post_layernorm: LayerNorm,
    projector: Linear,
}

impl LayerNorm {
    fn load(loader: &mut Loader, name: &str) -> Result<Self, BackendError> {
        Ok(Self { weight: loader.vector(&format!("{name}.weight"))?, bias: loader.vector(&format!("{name}.bias"))? })
    }

    /// `out` of one row `x`.
    fn apply(&self, x: &[f32], out: &mut [f32]) {
        layer_norm(x, EPSILON, out);
        multiply(out, &self.weight);
        add(out, &self.bias);
    }
}

impl Vision {
    pub fn load(loader: &mut Loader, geometry: VisionGeometry) -> Result<Self, BackendError> {
        let embeddings = |part: &str| format!("{}.embeddings.{part}", layout::VISION);
        let mut layers = Vec::with_capacity(geometry.depth);
        for index in 0..geometry.depth {
            let name = |part: &str| format!("{}.encoder.layers.{index}.{part}", layout::VISION);
            layers.push(Layer {
                layer_norm1: LayerNorm::load(loader, &name("layer_norm1"))?,
                qkv_proj: loader.stacked(&["q_proj", "k_proj", "v_proj"].map(|part| name(&format!("self_attn.{part}"))))?,
                out_proj: loader.linear(&name("self_attn.out_proj"))?,
                layer_norm2: LayerNorm::load(loader, &name("layer_norm2"))?,
                fc1: loader.gelu(&name("mlp.fc1"))?,
                fc2: loader.linear(&name("mlp.fc2"))?,
            });
        }
        Ok(Self {
            geometry,
            patch_embedding: loader.linear(&embeddings("patch_embedding"))?,
            position_embedding: loader.vector(&embeddings("position_embedding.weight"))?,
            layers,
            post_layernorm: LayerNorm::load(loader, &format!("{}.post_layernorm", layout::VISION))?,
            projector: loader.linear(layout::PROJECTOR)?,
        })
    }

    /// Tokens `[images * tokens, vlm width]` of images `[3, image_size, image_size]`, all in one batch.
    ///
    /// `slots` are the camera slots of the images, for the probe's names.
    pub fn forward(&self, images: &[&[f32]], slots: &[usize], workspace: &mut Workspace, probe: &mut dyn Probe) -> Vec<f32> {
        let VisionGeometry { width, heads, mlp_width, patch, .. } = self.geometry;
        let tokens = self.geometry.tokens();
        let rows = images.len() * tokens;
        let mut report = |part: &str, values: &[f32], width: usize| {
            for (slot, values) in slots.iter().zip(values.chunks_exact(tokens * width)) {
                probe.tensor(&format!("vision.{slot}.{part}"), width, values);
            }
        };

        let Workspace { x, qkv, own, attended, hidden, projected } = workspace;
        let mut h = vec![0.0; rows * width];
        x.pack_with(rows, 3 * patch * patch, |row, out| self.patch(images[row / tokens], row % tokens, out));
        self.patch_embedding.forward(x, &mut h);
        h.par_chunks_exact_mut(tokens * width).for_each(|h| add(h, &self.position_embedding));
        report("embeddings", &h, width);

        let shape = Heads { heads, kv_heads: heads, head_dim: self.geometry.head_dim() };
        let stride = 3 * width;
        let (qkv, attended) = (room(qkv, rows * stride), room(attended, rows * width));
        let (hidden, projected) = (room(hidden, rows * mlp_width), room(projected, rows * width));
        for (index, layer) in self.layers.iter().enumerate() {
            x.pack_with(rows, width, |row, out| layer.layer_norm1.apply(&h[row * width..][..width], out));
            layer.qkv_proj.forward(x, qkv);
            let [queries, keys, values] = [0, 1, 2].map(|part| Part::new(qkv, stride, part * width));
            pack(shape, images.len(), tokens, keys, values, own);
            attention(shape, tokens, queries, None, own, &Mask::All, attended);
            pack_attended(shape, tokens, attended, x);
            layer.out_proj.forward(x, projected);
            add_rows(&mut h, projected);

            x.pack_with(rows, width, |row, out| layer.layer_norm2.apply(&h[row * width..][..width], out));
            layer.fc1.forward(x, hidden);
            x.pack(hidden, mlp_width);
            layer.fc2.forward(x, projected);
            add_rows(&mut h, projected);
            report(&format!("layer.{index}"), &h, width);
        }
        let normed = projected;
        normed
            .par_chunks_exact_mut(width)
            .zip(h.par_chunks_exact(width))
            .for_each(|(normed, h)| self.post_layernorm.apply(h, normed));
        report("post_ln", normed, width);

        let width = self.projector.outputs();
        let mut projected = vec![0.0; rows * width];
        x.pack(normed, self.geometry.width);
        self.projector.forward(x, &mut projected);
        report("projected", &projected, width);
        projected
    }

    /// Patch `number` of an image, `[3, patch, patch]`: patches are row-major over the image.
    fn patch(&self, image: &[f32], number: usize, out: &mut [f32]) {
        let VisionGeometry { patch, image_size, .. } = self.geometry;
        let side = image_size / patch;
        let (patch_y, patch_x) = (number / side, number % side);
        for (line, out) in out.chunks_exact_mut(patch).enumerate() {
            let (channel, y) = (line / patch, line % patch);
            let start = (channel * image_size + patch_y * patch + y) * image_size + patch_x * patch;
            out.copy_from_slice(&image[start..start + patch]);
        }
    }
}

/// `h += x` with all cores.
pub fn add_rows(h: &mut [f32], x: &[f32]) {
    const TASK: usize = 1 << 14;
    h.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(h, x)| add(h, x));
}

//! SigLIP (So400m/14) and the projector to the language model's width.

use rayon::prelude::*;

use super::{
    Loader, Probe,
    attention::{Heads, KeyValues, attention},
    linear::{Linear, Product, products},
};
use crate::{
    backend::{
        BackendError,
        kernels::elementwise::{add, bias_gelu, layer_norm, multiply},
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
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
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
    fn load(loader: &Loader<'_>, name: &str) -> Result<Self, BackendError> {
        Ok(Self { weight: loader.vector(&format!("{name}.weight"))?, bias: loader.vector(&format!("{name}.bias"))? })
    }

    fn forward(&self, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        out.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).for_each(|(out, x)| {
            layer_norm(x, EPSILON, out);
            multiply(out, &self.weight);
            add(out, &self.bias);
        });
    }
}

impl Vision {
    pub fn load(loader: &Loader<'_>, geometry: VisionGeometry) -> Result<Self, BackendError> {
        let layer = |index: usize| {
            let name = |part: &str| format!("{}.encoder.layers.{index}.{part}", layout::VISION);
            Ok(Layer {
                layer_norm1: LayerNorm::load(loader, &name("layer_norm1"))?,
                q_proj: loader.linear(&name("self_attn.q_proj"))?,
                k_proj: loader.linear(&name("self_attn.k_proj"))?,
                v_proj: loader.linear(&name("self_attn.v_proj"))?,
                out_proj: loader.linear(&name("self_attn.out_proj"))?,
                layer_norm2: LayerNorm::load(loader, &name("layer_norm2"))?,
                fc1: loader.linear(&name("mlp.fc1"))?,
                fc2: loader.linear(&name("mlp.fc2"))?,
            })
        };
        Ok(Self {
            geometry,
            patch_embedding: loader.linear(&format!("{}.embeddings.patch_embedding", layout::VISION))?,
            position_embedding: loader.vector(&format!("{}.embeddings.position_embedding.weight", layout::VISION))?,
            layers: (0..geometry.depth).map(layer).collect::<Result<_, BackendError>>()?,
            post_layernorm: LayerNorm::load(loader, &format!("{}.post_layernorm", layout::VISION))?,
            projector: loader.linear(layout::PROJECTOR)?,
        })
    }

    /// Tokens `[images * tokens, vlm width]` of images `[3, image_size, image_size]`, all in one batch.
    ///
    /// `slots` are the camera slots of the images, for the probe's names.
    pub fn forward(&self, images: &[&[f32]], slots: &[usize], probe: &mut dyn Probe) -> Vec<f32> {
        let VisionGeometry { width, heads, .. } = self.geometry;
        let tokens = self.geometry.tokens();
        let image = tokens * width;
        let rows = images.len() * tokens;
        let mut report = |part: &str, values: &[f32], width: usize| {
            for (slot, values) in slots.iter().zip(values.chunks_exact(tokens * width)) {
                probe.tensor(&format!("vision.{slot}.{part}"), width, values);
            }
        };

        let mut h = vec![0.0; rows * width];
        self.patch_embedding.forward(&self.patches(images), &mut h);
        h.par_chunks_exact_mut(image).for_each(|h| add(h, &self.position_embedding));
        report("embeddings", &h, width);

        let shape = Heads { heads, kv_heads: heads, head_dim: self.geometry.head_dim() };
        let (mut normed, mut attended) = (vec![0.0; rows * width], vec![0.0; rows * width]);
        let (mut q, mut k, mut v) = (normed.clone(), normed.clone(), normed.clone());
        let mut hidden = vec![0.0; rows * self.geometry.mlp_width];
        for (index, layer) in self.layers.iter().enumerate() {
            layer.layer_norm1.forward(&h, &mut normed);
            layer.q_proj.forward(&normed, &mut q);
            layer.k_proj.forward(&normed, &mut k);
            layer.v_proj.forward(&normed, &mut v);
            for (((q, k), v), attended) in
                q.chunks(image).zip(k.chunks(image)).zip(v.chunks(image)).zip(attended.chunks_mut(image))
            {
                attention(shape, q, &[KeyValues { keys: k, values: v }], &Mask::All, attended);
            }
            layer.out_proj.forward(&attended, &mut normed);
            add_rows(&mut h, &normed);

            layer.layer_norm2.forward(&h, &mut normed);
            products(&normed, &mut [Product { linear: &layer.fc1, out: &mut hidden }]);
            if let Some(bias) = &layer.fc1.bias {
                hidden.par_chunks_exact_mut(bias.len()).for_each(|row| bias_gelu(row, bias));
            }
            layer.fc2.forward(&hidden, &mut normed);
            add_rows(&mut h, &normed);
            report(&format!("layer.{index}"), &h, width);
        }
        self.post_layernorm.forward(&h, &mut normed);
        report("post_ln", &normed, width);

        let mut projected = vec![0.0; rows * self.projector.outputs];
        self.projector.forward(&normed, &mut projected);
        report("projected", &projected, self.projector.outputs);
        projected
    }

    /// Patches `[images * tokens, 3 * patch * patch]`: row-major over the image, channel-major inside a patch.
    fn patches(&self, images: &[&[f32]]) -> Vec<f32> {
        let VisionGeometry { patch, image_size, .. } = self.geometry;
        let side = image_size / patch;
        let mut patches = Vec::with_capacity(images.len() * 3 * image_size * image_size);
        for image in images {
            for (patch_y, patch_x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                for (channel, y) in (0..3).flat_map(|channel| (0..patch).map(move |y| (channel, y))) {
                    let start = (channel * image_size + patch_y * patch + y) * image_size + patch_x * patch;
                    patches.extend_from_slice(&image[start..start + patch]);
                }
            }
        }
        patches
    }
}

/// `h += x` with all cores.
pub fn add_rows(h: &mut [f32], x: &[f32]) {
    const TASK: usize = 1 << 14;
    h.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(h, x)| add(h, x));
}

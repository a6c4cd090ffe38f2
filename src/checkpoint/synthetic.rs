//! Synthetic weights: a pure function of tensor name and element index, the same in every language.
//!
//! With `h` the FNV-1a hash of the name and `z = splitmix64(h + (i + 1) * 0x9E3779B97F4A7C15)`, element `i` is
//! `offset + scale * ((z >> 40) * 2^-23 - 1)`, exact in float32. The rule of `scale` and `offset` keeps activations of a deep model
//! near unit variance, so that errors show in the actions.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Dtype, Tensor, Weights};
use crate::model::Geometry;

/// Elements that one task makes.
const TASK: usize = 1 << 16;

/// Element `index` of the uniform sequence of `name`'s hash, in -1..1.
fn unit(hash: u64, index: usize) -> f32 {
    let mut z = hash.wrapping_add((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f32 * (-23f32).exp2() - 1.0
}

/// FNV-1a, 64 bits.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Scale and offset of a parameter by its role.
fn rule(name: &str, shape: &[usize]) -> (f32, f32) {
    let bias = name.ends_with(".bias");
    let fan_in: usize = shape.iter().skip(1).product();
    let uniform = |variance_over: usize| (3.0 / variance_over as f64).sqrt() as f32;
    if name.contains("vision_tower") && (name.contains("layer_norm") || name.contains("post_layernorm")) {
        return if bias { (0.1, 0.0) } else { (0.2, 1.0) };
    }
    // Gemma's RMSNorm multiplies by 1 + weight.
    if name.ends_with("layernorm.weight") || name.ends_with(".norm.weight") {
        return (0.2, 0.0);
    }
    if bias {
        return (0.05, 0.0);
    }
    if name.contains("position_embedding") {
        return (0.5, 0.0);
    }
    (uniform(fan_in), 0.0)
}

/// Writes elements `start..start + out.len()` of the synthetic tensor `name` into `out`.
pub fn fill(name: &str, shape: &[usize], start: usize, out: &mut [f32]) {
    let (scale, offset) = rule(name, shape);
    let hash = hash(name);
    out.par_chunks_mut(TASK).enumerate().for_each(|(task, values)| {
        for (i, value) in values.iter_mut().enumerate() {
            // Two roundings, a product and a sum: a fused multiply-add would differ in the last bit.
            *value = unit(hash, start + task * TASK + i) * scale + offset;
        }
    });
}

/// Elements `0..n` of the uniform sequence of `name`, in -1..1: the golden sets make their inputs of these.
pub fn uniform(name: &str, n: usize) -> Vec<f32> {
    let hash = hash(name);
    (0..n).map(|i| unit(hash, i)).collect()
}

/// Every tensor of `geometry` with synthetic values; `made` is told the number of elements after each tensor.
pub fn weights(geometry: &Geometry, dtype: Dtype, mut made: impl FnMut(u64)) -> Weights {
    let mut weights = Weights::default();
    for spec in geometry.tensors() {
        let mut values = vec![0.0; spec.shape.iter().product()];
        fill(&spec.name, &spec.shape, 0, &mut values);
        made(values.len() as u64);
        let tensor = match dtype {
            Dtype::F32 => Tensor::from_f32(spec.shape, values),
            Dtype::BF16 => Tensor::from_bf16(spec.shape, values.into_par_iter().map(bf16::from_f32).collect()),
            Dtype::F16 => Tensor::from_f16(spec.shape, values.into_par_iter().map(f16::from_f32).collect()),
        };
        weights.insert(spec.name, tensor);
    }
    weights
}

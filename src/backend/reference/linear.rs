//! `y = x W^T + b` with weights in their stored format.
//!
//! The product itself is faer's. Weights are cut into blocks of output rows, one task each; bfloat16 and float16 blocks are widened to
//! float32 in a buffer that stays in the cache, so that a bf16 checkpoint never exists in float32 in memory.

use std::{cell::RefCell, time::Instant};

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul as faer_matmul};
use rayon::prelude::*;

use crate::checkpoint::{Tensor, TensorData};

/// Output features of one task. Large enough that packing `x` anew for each costs little beside the product.
const FEATURES: usize = 256;
/// Input features that are widened at a time: 256 x 1024 float32 are 1 MiB, the second-level cache of one core.
const DEPTH: usize = 1024;

thread_local! {
    static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A weight `[outputs, inputs]` with an optional bias `[outputs]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    pub bias: Option<Vec<f32>>,
    pub outputs: usize,
    pub inputs: usize,
}

/// One product of a [`products`] call: `out[rows, outputs] = x W^T`, without the bias.
pub struct Product<'a> {
    pub linear: &'a Linear,
    pub out: &'a mut [f32],
}

impl Linear {
    /// `weight`'s first side is the outputs, all others together are the inputs.
    pub fn new(weight: Tensor, bias: Option<Vec<f32>>) -> Self {
        let outputs = weight.shape()[0];
        Self { outputs, inputs: weight.len() / outputs, weight, bias }
    }

    /// `out[rows, outputs] = x[rows, inputs] W^T + b`.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) {
        products(x, &mut [Product { linear: self, out }]);
        if let Some(bias) = &self.bias {
            out.par_chunks_exact_mut(self.outputs).for_each(|row| super::elementwise::add(row, bias));
        }
    }

    /// `block[rows, features] = x W[first..first + features]^T` on this thread.
    pub fn block(&self, x: MatRef<'_, f32>, first: usize, mut block: MatMut<'_, f32>) {
        let features = block.ncols();
        let narrow = match self.weight.data() {
            TensorData::F32(weight) => {
                let weight = &weight[first * self.inputs..(first + features) * self.inputs];
                let weight = MatRef::from_row_major_slice(weight, features, self.inputs).transpose();
                return faer_matmul(block, Accum::Replace, x, weight, 1.0, Par::Seq);
            }
            narrow => narrow,
        };
        WIDENED.with_borrow_mut(|widened| {
            for start in (0..self.inputs).step_by(DEPTH) {
                let depth = DEPTH.min(self.inputs - start);
                widened.resize(widened.len().max(features * depth), 0.0);
                let widened = &mut widened[..features * depth];
                for (feature, row) in widened.chunks_exact_mut(depth).enumerate() {
                    narrow.widen_into((first + feature) * self.inputs + start, row);
                }
                let weight = MatRef::from_row_major_slice(&*widened, features, depth).transpose();
                let accum = if start == 0 { Accum::Replace } else { Accum::Add };
                faer_matmul(block.as_mut(), accum, x.subcols(start, depth), weight, 1.0, Par::Seq);
            }
        });
    }
}

/// Several products of the same `x`, as one set of tasks.
pub fn products(x: &[f32], products: &mut [Product<'_>]) {
    let Some(inputs) = products.first().map(|product| product.linear.inputs) else { return };
    let rows = x.len() / inputs;
    let x = MatRef::from_row_major_slice(x, rows, inputs);
    let mut tasks = Vec::new();
    for Product { linear, out } in products {
        let out = MatMut::from_row_major_slice_mut(out, rows, linear.outputs);
        tasks.extend(blocks(out).map(|(first, block)| (*linear, first, block)));
    }
    tasks.into_par_iter().for_each(|(linear, first, block)| linear.block(x, first, block));
}

/// Cuts `out` into blocks of up to [`FEATURES`] columns, each with the number of its first column.
pub fn blocks<'a>(out: MatMut<'a, f32>) -> impl Iterator<Item = (usize, MatMut<'a, f32>)> {
    let mut rest = Some(out);
    let mut first = 0;
    std::iter::from_fn(move || {
        let out = rest.take().filter(|out| out.ncols() > 0)?;
        let columns = FEATURES.min(out.ncols());
        let (block, after) = out.split_at_col_mut(columns);
        rest = Some(after);
        let at = first;
        first += block.ncols();
        Some((at, block))
    })
}

/// The best rate of five float32 products of the size of the language model's MLP, in GFLOP/s.
pub fn peak_gflops() -> f64 {
    let (rows, inputs, outputs) = (816, 2048, 16384);
    let linear = Linear::new(Tensor::from_f32(vec![outputs, inputs], vec![0.5; outputs * inputs]), None);
    let (x, mut out) = (vec![0.5; rows * inputs], vec![0.0; rows * outputs]);
    let fastest = (0..5)
        .map(|_| {
            let start = Instant::now();
            linear.forward(&x, &mut out);
            start.elapsed()
        })
        .min();
    fastest.map_or(0.0, |time| 2.0 * (rows * inputs * outputs) as f64 / time.as_secs_f64() / 1e9)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Deterministic values in -1..1.
    fn values(n: usize, salt: &str) -> Vec<f32> {
        crate::checkpoint::synthetic::uniform(salt, n)
    }

    fn expected(x: &[f32], w: &[f32], rows: usize, inputs: usize, outputs: usize) -> Vec<f64> {
        let mut out = vec![0.0; rows * outputs];
        for r in 0..rows {
            for o in 0..outputs {
                out[r * outputs + o] = (0..inputs).map(|i| f64::from(x[r * inputs + i]) * f64::from(w[o * inputs + i])).sum();
            }
        }
        out
    }

    #[test]
    fn products_equal_float64_in_every_format_and_at_odd_sizes() {
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 5, 7), (51, 1025, 300), (17, 2050, 513)] {
            let x = values(rows * inputs, "x");
            let w = values(outputs * inputs, "w");
            let wide = Tensor::from_f32(vec![outputs, inputs], w.clone());
            let brain = Tensor::from_bf16(vec![outputs, inputs], w.iter().map(|&v| bf16::from_f32(v)).collect());
            let half = Tensor::from_f16(vec![outputs, inputs], w.iter().map(|&v| f16::from_f32(v)).collect());
            for tensor in [wide, brain, half] {
                let stored = tensor.to_f32();
                let mut out = vec![f32::NAN; rows * outputs];
                Linear::new(tensor, None).forward(&x, &mut out);
                for (got, want) in out.iter().zip(expected(&x, &stored, rows, inputs, outputs)) {
                    assert!((f64::from(*got) - want).abs() < 1e-5 * (inputs as f64).sqrt(), "{got} {want}");
                }
            }
        }
    }
}

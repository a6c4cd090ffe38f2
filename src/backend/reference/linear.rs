//! `y = x W^T + b` with weights in the checkpoint's format.

use std::{ops::Range, time::Instant};

use faer::{MatMut, MatRef};
use rayon::prelude::*;

use crate::{
    backend::kernels::{
        elementwise::add,
        gemm::{self, DEPTH, Weight},
    },
    checkpoint::{Tensor, TensorData},
};

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
            out.par_chunks_exact_mut(self.outputs).for_each(|row| add(row, bias));
        }
    }
}

impl Weight for Linear {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn depth(&self) -> usize {
        match self.weight.data() {
            TensorData::F32(_) => self.inputs,
            TensorData::BF16(_) | TensorData::F16(_) => DEPTH,
        }
    }

    fn panel<'a>(&'a self, inputs: Range<usize>, outputs: Range<usize>, buffer: &'a mut Vec<f32>) -> MatRef<'a, f32> {
        let narrow = match self.weight.data() {
            // The depth of float32 weights is all inputs.
            TensorData::F32(weight) => {
                let weight = &weight[outputs.start * self.inputs..outputs.end * self.inputs];
                return MatRef::from_row_major_slice(weight, outputs.len(), self.inputs).transpose();
            }
            narrow => narrow,
        };
        let (features, depth) = (outputs.len(), inputs.len());
        buffer.resize(buffer.len().max(features * depth), 0.0);
        let widened = &mut buffer[..features * depth];
        for (output, row) in outputs.zip(widened.chunks_exact_mut(depth)) {
            narrow.widen_into(output * self.inputs + inputs.start, row);
        }
        MatRef::from_row_major_slice(widened, features, depth).transpose()
    }
}

/// Several products of the same `x`, as one set of tasks.
pub fn products(x: &[f32], products: &mut [Product<'_>]) {
    let Some(inputs) = products.first().map(|product| product.linear.inputs) else { return };
    let rows = x.len() / inputs;
    let products = products.iter_mut().map(|Product { linear, out }| gemm::Product {
        weight: *linear,
        first: 0,
        out: MatMut::from_row_major_slice_mut(out, rows, linear.outputs),
    });
    gemm::products(MatRef::from_row_major_slice(x, rows, inputs), products);
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

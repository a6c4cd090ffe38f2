//! What one op costs: arithmetic, bytes, and the time of the matrix engine.

use crate::backend::ttnn::{
    op::Op,
    plan::{Product, ProductCost},
    terms::{MemoryConfig, Shape, TILE, TensorSpec},
};

/// Floating-point operations of one product of tiles.
const TILE_FLOPS: u64 = 2 * (TILE as u64).pow(3);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Two for each multiply and add of a product, in whole tiles as the card computes them; for everything else one for each
    /// arithmetic step on a logical value.
    pub flops: u64,
    /// Read and written, padding included.
    pub bytes: u64,
    /// The part of `bytes` that lies in DRAM.
    pub dram_bytes: u64,
    /// Nanoseconds of one core's matrix engine at 1 GHz.
    pub engine_ns: f64,
    /// Of a product with its program configuration.
    pub product: Option<ProductCost>,
}

impl Cost {
    pub fn of(call: &Op, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Self {
        if !call.launches() {
            return Self::default();
        }
        let (tiles, cycles) = tile_products(call, inputs);
        let mut cost = Self {
            flops: tiles * TILE_FLOPS + arithmetic_steps(call) * inputs.first().map_or(0, |x| x.shape.volume() as u64),
            engine_ns: (tiles * cycles as u64) as f64,
            product: product(call, inputs),
            ..Self::default()
        };
        for spec in touched(call, inputs, outputs) {
            let bytes = spec.bytes() as u64;
            cost.bytes += bytes;
            cost.dram_bytes += if spec.memory == MemoryConfig::DramInterleaved { bytes } else { 0 };
        }
        cost
    }
}

/// What is read and written. Attention reads keys and values more than once when its queries are on many cores: once is the least.
fn touched(call: &Op, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Vec<TensorSpec> {
    match (call, inputs) {
        // Keys and values that are longer than `x` get as many rows as it has.
        (Op::NlpCreateQkvHeads { .. }, &[x, q, k, v]) => {
            let rows = |cache: TensorSpec| TensorSpec { shape: Shape::matrix(x.shape.rows(), cache.shape.columns()), ..cache };
            vec![x, q, rows(k), rows(v)]
        }
        // Read, and written in place.
        (Op::Multiply { .. }, &[a, b]) => vec![a, b, a],
        _ => inputs.iter().chain(outputs).copied().collect(),
    }
}

/// Products of tiles, and the cycles of each.
fn tile_products(call: &Op, inputs: &[TensorSpec]) -> (u64, usize) {
    let tiles = |extent: usize| (extent / TILE) as u64;
    match (call, inputs) {
        (Op::Linear { compute, .. } | Op::MinimalMatmulSplit { compute, .. }, [x, weight, ..]) => {
            (x.shape.tiles() as u64 * tiles(weight.shape.padded().columns()), compute.math_fidelity.cycles())
        }
        // Scores, then sums of values.
        (Op::ScaledDotProductAttention { compute, .. }, [q, k, ..]) => {
            (2 * q.shape.tiles() as u64 * tiles(k.shape.padded().rows()), compute.math_fidelity.cycles())
        }
        _ => (0, 0),
    }
}

/// Arithmetic steps on each value of the first operand, apart from products of matrices.
fn arithmetic_steps(call: &Op) -> u64 {
    match call {
        // Square, sum, scale.
        Op::RmsNorm { .. } => 3,
        // Sum, subtract, then the same.
        Op::LayerNorm { .. } => 5,
        // Two products and their sum.
        Op::RotaryEmbedding { .. } => 3,
        Op::Add { .. } | Op::Where { .. } => 1,
        Op::Addcmul { .. } => 2,
        Op::Multiply { lhs_activation, .. } => 1 + u64::from(lhs_activation.is_some()),
        _ => 0,
    }
}

fn product(call: &Op, inputs: &[TensorSpec]) -> Option<ProductCost> {
    let &[x, weight, ..] = inputs else { return None };
    let with =
        |dtype, compute| Product { x, weight, dtype, bias: inputs.get(2).map(|bias| bias.dtype), compute, activation: None };
    match *call {
        Op::Linear { program, dtype, compute, .. } => Some(with(dtype, compute).matmul_cost(&program)),
        Op::MinimalMatmulSplit { config, dtype, compute, .. } => Some(with(dtype, compute).minimal_cost(config.grid)),
        _ => None,
    }
}

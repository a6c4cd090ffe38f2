//! What each op computes, on padded row-major values.

use rayon::prelude::*;

use super::{Numerics, activation, attention::scaled_dot_product_attention, product::product, tensor::Operand};
use crate::backend::{
    kernels::elementwise::{add, layer_norm, multiply, rms_norm},
    ttnn::{format, op::Op, terms::TensorSpec},
};

/// Values of one task of an elementwise op.
const TASK: usize = 1 << 14;

/// The values of each result, of `results`; what they hold beyond its logical extents is of no meaning.
///
/// # Panics
/// When the operands are not what [`Op::infer`] accepts.
pub fn compute(op: &Op, numerics: Numerics, operands: &[Operand], results: &[TensorSpec]) -> Vec<Vec<f32>> {
    match (op, operands) {
        (Op::Linear { program, compute, .. }, [x, weight, bias @ ..]) => {
            let mut out = product(x, weight, 1, numerics.operand_bits(compute.math_fidelity));
            let bias = bias.first().map(Operand::rows);
            rows_mut(&mut out[0], &results[0]).for_each(|row| {
                if let Some(bias) = &bias {
                    add(row, bias);
                }
                if let Some(activation) = program.fused_activation {
                    activation::apply(activation, row);
                }
            });
            out
        }
        (Op::MinimalMatmulSplit { chunks, compute, .. }, [x, weight]) => {
            product(x, weight, *chunks, numerics.operand_bits(compute.math_fidelity))
        }
        (Op::LayerNorm { epsilon, .. }, [x]) => vec![normalized(x, |x, out| layer_norm(x, *epsilon, out))],
        (Op::RmsNorm { epsilon, .. }, [x]) => vec![normalized(x, |x, out| rms_norm(x, *epsilon, out))],
        (Op::ScaledDotProductAttention { scale, compute, .. }, [q, k, v, mask @ ..]) => {
            let bits = numerics.operand_bits(compute.math_fidelity);
            vec![scaled_dot_product_attention([q, k, v], mask.first(), *scale, bits, numerics)]
        }
        (Op::NlpCreateQkvHeads { .. }, [x]) => create_qkv_heads(x, results),
        (Op::NlpConcatHeads { .. }, [x]) => vec![concat_heads(x)],
        (Op::RotaryEmbedding { .. }, [x, cos, sin]) => vec![rotary_embedding(x, cos, sin)],
        (Op::Concat { .. }, operands) => vec![concat(operands, &results[0])],
        (Op::Add { .. }, [a, b]) => vec![elementwise(a, b, add)],
        (Op::Addcmul { .. }, [a, b, c]) => {
            let (a, b, c) = (a.rows(), b.rows(), c.rows());
            vec![a.par_iter().zip(&*b).zip(&*c).map(|((a, b), c)| a + b * c).collect()]
        }
        (Op::Multiply { lhs_activation }, [a, b]) => vec![elementwise(a, b, |a_values, b_values| {
            if let Some(activation) = *lhs_activation {
                activation::apply(activation, a_values);
                if numerics == Numerics::Kernels {
                    // The activated operand goes through a circular buffer of its own format.
                    format::round(a.spec.dtype, a_values);
                }
            }
            multiply(a_values, b_values);
        })],
        (Op::Where { .. }, [condition, a, b]) => {
            let (condition, a, b) = (condition.rows(), a.rows(), b.rows());
            let operands = condition.par_iter().zip(&*a).zip(&*b);
            vec![operands.map(|((&condition, &a), &b)| if condition == 0.0 { b } else { a }).collect()]
        }
        (op, operands) => unreachable!("{} was inferred from {} operands", op.name(), operands.len()),
    }
}

fn rows_mut<'a>(values: &'a mut [f32], spec: &TensorSpec) -> impl IndexedParallelIterator<Item = &'a mut [f32]> {
    values.par_chunks_exact_mut(spec.shape.padded().columns())
}

fn normalized(x: &Operand, norm: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let (columns, values) = (x.spec.shape.columns(), x.rows());
    let mut out = vec![0.0; values.len()];
    let rows = values.par_chunks_exact(x.spec.shape.padded().columns());
    rows_mut(&mut out, &x.spec).zip(rows).for_each(|(out, x)| norm(&x[..columns], &mut out[..columns]));
    out
}

/// `f` changes a piece of a copy of `a`, beside the same piece of `b`.
fn elementwise(a: &Operand, b: &Operand, f: impl Fn(&mut [f32], &[f32]) + Sync) -> Vec<f32> {
    let mut out = a.rows().into_owned();
    out.par_chunks_mut(TASK).zip(b.rows().par_chunks(TASK)).for_each(|(a, b)| f(a, b));
    out
}

/// A row of `x` is the heads of the queries, of the keys, of the values, side by side. All extents are whole tiles.
fn create_qkv_heads(x: &Operand, outputs: &[TensorSpec]) -> Vec<Vec<f32>> {
    let ([_, _, rows, columns], values) = (x.spec.shape.0, x.rows());
    let mut first = 0;
    outputs
        .iter()
        .map(|output| {
            let [_, heads, _, head_dim] = output.shape.0;
            let mut out = vec![0.0; output.shape.volume()];
            for (number, out) in out.chunks_exact_mut(rows * head_dim).enumerate() {
                let start = number / heads * rows * columns + first + number % heads * head_dim;
                for (out, row) in out.chunks_exact_mut(head_dim).zip(values[start..].chunks(columns)) {
                    out.copy_from_slice(&row[..head_dim]);
                }
            }
            first += heads * head_dim;
            out
        })
        .collect()
}

fn concat_heads(x: &Operand) -> Vec<f32> {
    let ([_, heads, rows, head_dim], values) = (x.spec.shape.padded().0, x.rows());
    let columns = heads * head_dim;
    let mut out = vec![0.0; values.len()];
    for (number, head) in values.chunks_exact(rows * head_dim).enumerate() {
        let start = number / heads * rows * columns + number % heads * head_dim;
        for (out, row) in out[start..].chunks_mut(columns).zip(head.chunks_exact(head_dim)) {
            out[..head_dim].copy_from_slice(row);
        }
    }
    out
}

/// `x cos + rotated sin`, where `rotated` is the second half of each row, negated, before the first.
fn rotary_embedding(x: &Operand, cos: &Operand, sin: &Operand) -> Vec<f32> {
    let [_, _, rows, columns] = x.spec.shape.0;
    let (mut out, cos, sin) = (x.rows().into_owned(), cos.rows(), sin.rows());
    out.par_chunks_exact_mut(columns).enumerate().for_each(|(number, row)| {
        let table = number % rows * columns..(number % rows + 1) * columns;
        let ((cos1, cos2), (sin1, sin2)) = (cos[table.clone()].split_at(columns / 2), sin[table].split_at(columns / 2));
        let (first, second) = row.split_at_mut(columns / 2);
        let angles = cos1.iter().zip(cos2).zip(sin1.iter().zip(sin2));
        for ((x1, x2), ((cos1, cos2), (sin1, sin2))) in first.iter_mut().zip(second).zip(angles) {
            (*x1, *x2) = (*x1 * cos1 - *x2 * sin1, *x2 * cos2 + *x1 * sin2);
        }
    });
    out
}

/// Whole tiles of rows one below the other, head by head.
fn concat(operands: &[Operand], output: &TensorSpec) -> Vec<f32> {
    let columns = output.shape.padded().columns();
    let parts: Vec<_> = operands.iter().map(|operand| (operand.rows(), operand.spec.shape.padded().rows() * columns)).collect();
    (0..output.shape.batch())
        .flat_map(|head| parts.iter().flat_map(move |(values, matrix)| &values[head * matrix..(head + 1) * matrix]))
        .copied()
        .collect()
}

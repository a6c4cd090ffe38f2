//! Scaled dot-product attention as TTNN's kernel defines it: the mask is added to the scores before they are scaled, and keys beyond
//! the logical rows are not attended to.

use rayon::prelude::*;

use super::{
    Numerics, OperandBits,
    product::{truncate, truncated},
    tensor::Operand,
};
use crate::backend::{
    kernels::{
        attention::{KeyValues, QUERIES, attend},
        elementwise::{add, exponentials, total},
    },
    ttnn::{format, terms::DataType},
};

/// The output, padded. On the card the running sums over chunks of keys are bfloat16 too; here they are float32.
pub fn scaled_dot_product_attention(
    [q, k, v]: [&Operand; 3],
    mask: Option<&Operand>,
    scale: f32,
    bits: OperandBits,
    numerics: Numerics,
) -> Vec<f32> {
    let [_, heads, _, head_dim] = q.spec.shape.0;
    let [_, kv_heads, keys, _] = k.spec.shape.0;
    let (query_rows, key_rows) = (q.spec.shape.padded().rows(), k.spec.shape.padded().rows());
    let queries = truncated(q.rows(), q.spec.dtype, bits.a);
    let (k, v) = (truncated(k.rows(), k.spec.dtype, bits.b), truncated(v.rows(), v.spec.dtype, bits.b));
    let mask = mask.map(|mask| (mask.rows(), mask.spec.shape.padded().columns()));
    let in_bfloat16 = |values: &mut [f32]| {
        if numerics == Numerics::Kernels {
            format::round(DataType::Bfloat16, values);
        }
    };

    let head = key_rows * head_dim;
    let key_values: Vec<KeyValues> = k
        .par_chunks_exact(head)
        .zip(v.par_chunks_exact(head))
        .map(|(k, v)| {
            let mut packed = KeyValues::default();
            packed.pack(k, v, head_dim, keys, head_dim);
            packed
        })
        .collect();
    let mut out = vec![0.0; queries.len()];
    let matrix = query_rows * head_dim;
    let tasks = out.par_chunks_exact_mut(matrix).zip(queries.par_chunks_exact(matrix)).enumerate();
    tasks.for_each(|(number, (out, queries))| {
        let of_head = &key_values[number / heads * kv_heads + number % heads / (heads / kv_heads)];
        let blocks = out.par_chunks_mut(QUERIES * head_dim).zip(queries.par_chunks(QUERIES * head_dim)).enumerate();
        blocks.for_each(|(block, (out, queries))| {
            let weigh = |row: usize, scores: &mut [f32]| {
                in_bfloat16(scores);
                if let Some((mask, columns)) = &mask {
                    add(scores, &mask[(block * QUERIES + row) * columns..]);
                    in_bfloat16(scores);
                }
                exponentials(scores, scale);
                in_bfloat16(scores);
                let inverse = 1.0 / total(scores);
                truncate(scores, bits.a);
                scores.iter_mut().for_each(|weight| *weight *= inverse);
            };
            attend(queries, head_dim, head_dim, &[of_head], weigh, out);
        });
    });
    out
}

//! Scaled dot-product attention over heads that lie side by side in a row.

use rayon::prelude::*;

use crate::{
    backend::kernels::{
        attention::{KeyValues, QUERIES, attend},
        elementwise::softmax,
        gemm::RowTiles,
    },
    model::Mask,
};

/// How heads are laid out in the rows of queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    /// Key-value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Some columns of a matrix: the heads of queries, keys or values within the rows that a product made.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// From the first head of the first row on.
    values: &'a [f32],
    /// Values from one row to the next.
    stride: usize,
}

impl<'a> Part<'a> {
    /// The columns of `matrix[rows, stride]` from `column` on.
    pub fn new(matrix: &'a [f32], stride: usize, column: usize) -> Self {
        Self { values: &matrix[column..], stride }
    }

    /// From one head of one row on.
    fn of(self, row: usize, head: usize, head_dim: usize) -> &'a [f32] {
        &self.values[row * self.stride + head * head_dim..]
    }
}

/// Packs keys and values of sequences of `rows` rows each: those of sequence `s` and head `h` become number `s * kv_heads + h`.
pub fn pack(shape: Heads, sequences: usize, rows: usize, keys: Part<'_>, values: Part<'_>, packed: &mut Vec<KeyValues>) {
    let Heads { kv_heads, head_dim, .. } = shape;
    packed.resize_with(sequences * kv_heads, KeyValues::default);
    packed.par_iter_mut().enumerate().for_each(|(number, packed)| {
        let (row, head) = (number / kv_heads * rows, number % kv_heads);
        packed.pack(keys.of(row, head, head_dim), values.of(row, head, head_dim), keys.stride, rows, head_dim);
    });
}

/// `softmax(q k^T / sqrt(head_dim)) v` of sequences of `rows` rows each; the keys are those of `past` followed by the rows' `own`.
///
/// `out` is `[sequences, heads, rows, head_dim]`.
pub fn attention(
    shape: Heads,
    rows: usize,
    queries: Part<'_>,
    past: Option<&[KeyValues]>,
    own: &[KeyValues],
    mask: &Mask,
    out: &mut [f32],
) {
    let Heads { heads, kv_heads, head_dim } = shape;
    let scale = (head_dim as f32).sqrt().recip();
    out.par_chunks_exact_mut(rows * head_dim).enumerate().for_each(|(number, out)| {
        let (sequence, head) = (number / heads, number % heads);
        let of_head = sequence * kv_heads + head / (heads / kv_heads);
        out.par_chunks_mut(QUERIES * head_dim).enumerate().for_each(|(block, out)| {
            let first = block * QUERIES;
            let weigh = |row: usize, logits: &mut [f32]| {
                if let Mask::Allowed { allowed, keys } = mask {
                    for (logit, allowed) in logits.iter_mut().zip(&allowed[(first + row) * keys..]) {
                        // openpi's value for a blocked pair: far below every logit, and finite so that a row without keys has no NaN.
                        *logit = if *allowed { *logit } else { -2.381_976_3e38 };
                    }
                }
                softmax(logits, scale);
            };
            let (queries, stride) = (queries.of(sequence * rows + first, head, head_dim), queries.stride);
            let own = &own[of_head];
            match past {
                Some(past) => attend(queries, stride, head_dim, &[&past[of_head], own], weigh, out),
                None => attend(queries, stride, head_dim, &[own], weigh, out),
            }
        });
    });
}

/// Packs what [`attention`] made, the heads of a row side by side again.
pub fn pack_attended(shape: Heads, rows: usize, attended: &[f32], x: &mut RowTiles) {
    let Heads { heads, head_dim, .. } = shape;
    let width = heads * head_dim;
    x.pack_with(attended.len() / width, width, |row, out| {
        let (sequence, row) = (row / rows, row % rows);
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            out.copy_from_slice(&attended[((sequence * heads + head) * rows + row) * head_dim..][..head_dim]);
        }
    });
}

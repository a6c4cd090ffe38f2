//! Scaled dot-product attention over heads that lie side by side in a row.

use std::cell::RefCell;

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

use super::elementwise::softmax;
use crate::model::Mask;

/// Query rows of one task.
const QUERIES: usize = 256;

thread_local! {
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// How heads are laid out in the rows of queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    /// Key-value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Keys and values of consecutive rows, each `[rows, kv_heads * head_dim]`.
#[derive(Clone, Copy)]
pub struct KeyValues<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// `out[rows, heads * head_dim] = softmax(q k^T / sqrt(head_dim)) v` over the rows of all `segments` in order.
pub fn attention(shape: Heads, queries: &[f32], segments: &[KeyValues<'_>], mask: &Mask, out: &mut [f32]) {
    let Heads { heads, kv_heads, head_dim } = shape;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let rows = queries.len() / width;
    let queries = MatRef::from_row_major_slice(queries, rows, width);
    let key_rows: usize = segments.iter().map(|segment| segment.keys.len() / kv_width).sum();
    let scale = (head_dim as f32).sqrt().recip();

    // One task for each head and block of query rows, each with its own part of `out`.
    let mut tasks = Vec::new();
    let mut rest = MatMut::from_row_major_slice_mut(out, rows, width);
    for first in (0..rows).step_by(QUERIES) {
        let (mut block, below) = rest.split_at_row_mut(QUERIES.min(rows - first));
        rest = below;
        for head in 0..heads {
            let (part, right) = block.split_at_col_mut(head_dim);
            block = right;
            tasks.push((head, first, part));
        }
    }
    tasks.into_par_iter().for_each(|(head, first, mut out)| {
        let rows = out.nrows();
        let queries = queries.submatrix(first, head * head_dim, rows, head_dim);
        let kv_head = head / (heads / kv_heads) * head_dim;
        let part = |rows_of: &'_ [f32]| rows_of.len() / kv_width;
        LOGITS.with_borrow_mut(|logits| {
            logits.resize(logits.len().max(rows * key_rows), 0.0);
            let logits = &mut logits[..rows * key_rows];
            let mut column = 0;
            for segment in segments {
                let n = part(segment.keys);
                let keys = MatRef::from_row_major_slice(segment.keys, n, kv_width).subcols(kv_head, head_dim);
                let mut all = MatMut::from_row_major_slice_mut(&mut *logits, rows, key_rows);
                matmul(all.as_mut().subcols_mut(column, n), Accum::Replace, queries, keys.transpose(), 1.0, Par::Seq);
                column += n;
            }
            for (row, logits) in logits.chunks_exact_mut(key_rows).enumerate() {
                if let Mask::Allowed { allowed, keys } = mask {
                    for (logit, allowed) in logits.iter_mut().zip(&allowed[(first + row) * keys..]) {
                        // openpi's value for a blocked pair: far below every logit, and finite so that a row without keys has no NaN.
                        *logit = if *allowed { *logit } else { -2.381_976_3e38 };
                    }
                }
                softmax(logits, scale);
            }
            let weights = MatRef::from_row_major_slice(&*logits, rows, key_rows);
            let mut column = 0;
            for segment in segments {
                let n = part(segment.values);
                let values = MatRef::from_row_major_slice(segment.values, n, kv_width).subcols(kv_head, head_dim);
                let accum = if column == 0 { Accum::Replace } else { Accum::Add };
                matmul(out.as_mut(), accum, weights.subcols(column, n), values, 1.0, Par::Seq);
                column += n;
            }
        });
    });
}

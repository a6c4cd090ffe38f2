//! Scaled dot-product attention over heads that lie side by side in a row.

use faer::{MatMut, MatRef};
use rayon::prelude::*;

use crate::{
    backend::kernels::{
        attention::{QUERIES, attend},
        elementwise::softmax,
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

/// Keys and values of consecutive rows, each `[rows, kv_heads * head_dim]`.
#[derive(Clone, Copy)]
pub struct KeyValues<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// `out[rows, heads * head_dim] = softmax(q k^T / sqrt(head_dim)) v` over the rows of all `segments` in order.
pub fn attention<'a>(shape: Heads, queries: &[f32], segments: &[KeyValues<'a>], mask: &Mask, out: &mut [f32]) {
    let Heads { heads, kv_heads, head_dim } = shape;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let rows = queries.len() / width;
    let queries = MatRef::from_row_major_slice(queries, rows, width);
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
    tasks.into_par_iter().for_each(|(head, first, out)| {
        let queries = queries.submatrix(first, head * head_dim, out.nrows(), head_dim);
        let kv_head = head / (heads / kv_heads) * head_dim;
        let part = |values: &'a [f32]| {
            MatRef::from_row_major_slice(values, values.len() / kv_width, kv_width).subcols(kv_head, head_dim)
        };
        let weigh = |row: usize, logits: &mut [f32]| {
            if let Mask::Allowed { allowed, keys } = mask {
                for (logit, allowed) in logits.iter_mut().zip(&allowed[(first + row) * keys..]) {
                    // openpi's value for a blocked pair: far below every logit, and finite so that a row without keys has no NaN.
                    *logit = if *allowed { *logit } else { -2.381_976_3e38 };
                }
            }
            softmax(logits, scale);
        };
        attend(queries, segments.iter().map(|segment| (part(segment.keys), part(segment.values))), weigh, out);
    });
}

//! Attention of one head.

use std::cell::RefCell;

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};

/// Query rows that one task should take.
pub const QUERIES: usize = 256;

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out = weights(queries keys^T) values` on this thread, over the keys and values of all `segments` in order.
///
/// `weigh` turns a query row's number and its scores over all keys into weights, in place.
pub fn attend<'a>(
    queries: MatRef<'_, f32>,
    segments: impl Iterator<Item = (MatRef<'a, f32>, MatRef<'a, f32>)> + Clone,
    weigh: impl Fn(usize, &mut [f32]),
    mut out: MatMut<'_, f32>,
) {
    let rows = queries.nrows();
    let keys: usize = segments.clone().map(|(keys, _)| keys.nrows()).sum();
    SCORES.with_borrow_mut(|scores| {
        scores.resize(scores.len().max(rows * keys), 0.0);
        let scores = &mut scores[..rows * keys];
        let mut column = 0;
        for (keys_of, _) in segments.clone() {
            let mut all = MatMut::from_row_major_slice_mut(&mut *scores, rows, keys);
            let part = all.as_mut().subcols_mut(column, keys_of.nrows());
            matmul(part, Accum::Replace, queries, keys_of.transpose(), 1.0, Par::Seq);
            column += keys_of.nrows();
        }
        for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
            weigh(row, scores);
        }
        let weights = MatRef::from_row_major_slice(&*scores, rows, keys);
        let mut column = 0;
        for (_, values) in segments {
            let accum = if column == 0 { Accum::Replace } else { Accum::Add };
            matmul(out.as_mut(), accum, weights.subcols(column, values.nrows()), values, 1.0, Par::Seq);
            column += values.nrows();
        }
    });
}

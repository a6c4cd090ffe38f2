//! Attention of one head.

use std::cell::RefCell;

use super::{
    gemm::{Instructions, Panels, RowTiles, multiply},
    room,
};

/// Query rows that one task should take: their scores over a thousand keys stay in the second-level cache.
pub const QUERIES: usize = 112;

/// Keys and values of one head, packed for the two products of attention.
pub struct KeyValues {
    keys: Panels,
    values: Panels,
}

impl Default for KeyValues {
    fn default() -> Self {
        let set = Instructions::detect();
        Self { keys: Panels::empty(set), values: Panels::empty(set) }
    }
}

impl KeyValues {
    /// Packs `rows` keys and values of `head_dim` numbers each; rows are `stride` numbers apart. Packing anew reuses the memory.
    pub fn pack(&mut self, keys: &[f32], values: &[f32], stride: usize, rows: usize, head_dim: usize) {
        self.keys.pack_rows(keys, stride, rows, head_dim);
        self.values.pack_columns(values, stride, head_dim, rows);
    }

    fn rows(&self) -> usize {
        self.values.inputs()
    }
}

/// What one thread needs to attend.
struct Workspace {
    queries: RowTiles,
    scores: Vec<f32>,
    weights: RowTiles,
    out: Vec<f32>,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace {
        queries: RowTiles::new(Instructions::detect()),
        scores: Vec::new(),
        weights: RowTiles::new(Instructions::detect()),
        out: Vec::new(),
    });
}

/// `out[rows, head_dim] = weights(queries keys^T) values` on this thread, over the keys and values of all `segments` in order.
///
/// `queries` has rows that are `stride` numbers apart; `weigh` turns a query row's number and its scores over all keys into weights, in
/// place.
pub fn attend(
    queries: &[f32],
    stride: usize,
    head_dim: usize,
    segments: &[&KeyValues],
    weigh: impl Fn(usize, &mut [f32]),
    out: &mut [f32],
) {
    let rows = out.len() / head_dim;
    // The last panel of a segment writes past its keys: over the place of the next segment's, which are written later, or behind the row.
    let (mut keys, mut padded) = (0, 0);
    for segment in segments {
        padded = padded.max(keys + segment.keys.panels() * segment.keys.width());
        keys += segment.rows();
    }
    WORKSPACE.with_borrow_mut(|workspace| {
        let Workspace { queries: tiles, scores, weights, out: sums } = workspace;
        tiles.pack_here(queries, stride, rows, head_dim);
        let scores = room(scores, rows * padded);
        let mut column = 0;
        for KeyValues { keys, values } in segments {
            multiply(tiles, 0, 0..tiles.tiles(), keys, 0..keys.panels(), &mut scores[column..], padded, false);
            column += values.inputs();
        }
        for (row, scores) in scores.chunks_exact_mut(padded).enumerate() {
            weigh(row, &mut scores[..keys]);
        }
        weights.pack_here(scores, padded, rows, keys);
        let padded = segments.first().map_or(head_dim, |segment| segment.values.panels() * segment.values.width());
        let sums = room(sums, rows * padded);
        let mut column = 0;
        for KeyValues { values, .. } in segments {
            multiply(weights, column, 0..weights.tiles(), values, 0..values.panels(), sums, padded, column > 0);
            column += values.inputs();
        }
        for (out, sums) in out.chunks_exact_mut(head_dim).zip(sums.chunks_exact(padded)) {
            out.copy_from_slice(&sums[..head_dim]);
        }
    });
}

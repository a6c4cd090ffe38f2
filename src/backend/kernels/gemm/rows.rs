//! The left operand of a product, packed for the innermost loop.

use std::{cell::RefCell, ops::Range};

use rayon::prelude::*;

use super::tile::Instructions;
use crate::backend::kernels::room;

thread_local! {
    static STAGE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Rows of `x` in tiles of nearly equal height, each `[width, rows]`: what the innermost loop reads in order.
///
/// Packing anew reuses the memory.
pub struct RowTiles {
    set: Instructions,
    rows: usize,
    width: usize,
    values: Vec<f32>,
}

/// How rows are cut into tiles: the first `tall` ones have `height + 1` rows, the others `height`.
#[derive(Clone, Copy)]
struct Cut {
    tiles: usize,
    height: usize,
    tall: usize,
}

impl Cut {
    fn new(rows: usize, set: Instructions) -> Self {
        let tiles = rows.div_ceil(set.rows()).max(1);
        Self { tiles, height: rows / tiles, tall: rows % tiles }
    }

    fn first_row(self, tile: usize) -> usize {
        tile * self.height + tile.min(self.tall)
    }
}

impl RowTiles {
    pub fn new(set: Instructions) -> Self {
        Self { set, rows: 0, width: 0, values: Vec::new() }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub(super) fn instructions(&self) -> Instructions {
        self.set
    }

    pub fn tiles(&self) -> usize {
        Cut::new(self.rows, self.set).tiles
    }

    /// The rows of some tiles.
    pub fn rows_of(&self, tiles: Range<usize>) -> Range<usize> {
        let cut = Cut::new(self.rows, self.set);
        cut.first_row(tiles.start)..cut.first_row(tiles.end)
    }

    /// `[width, rows]` of a tile with its number of rows.
    pub(super) fn tile(&self, tile: usize) -> (usize, &[f32]) {
        let rows = self.rows_of(tile..tile + 1);
        (rows.len(), &self.values[rows.start * self.width..rows.end * self.width])
    }

    /// Packs `rows` rows of `width` values; `row` writes one of them.
    pub fn pack_with(&mut self, rows: usize, width: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
        let set = self.set;
        let Cut { height, tall, .. } = Cut::new(rows, set);
        let (taller, others) = self.resize(rows, width).split_at_mut(tall * (height + 1) * width);
        let tiles = taller.par_chunks_mut((height + 1) * width).chain(others.par_chunks_mut((height * width).max(1)));
        tiles.with_max_len(1).enumerate().for_each(|(tile, out)| {
            STAGE.with_borrow_mut(|stage| {
                let stage = room(stage, out.len());
                let first = Cut::new(rows, set).first_row(tile);
                for (at, values) in stage.chunks_exact_mut(width).enumerate() {
                    row(first + at, values);
                }
                interleave(stage, width, stage.len() / width, out);
            });
        });
    }

    /// Packs the rows of `[rows, width]` with all threads.
    pub fn pack(&mut self, x: &[f32], width: usize) {
        self.pack_with(x.len() / width, width, |row, out| out.copy_from_slice(&x[row * width..][..width]));
    }

    /// Packs the first `width` values of each of `rows` rows that are `stride` values apart, on this thread.
    pub fn pack_here(&mut self, x: &[f32], stride: usize, rows: usize, width: usize) {
        let Cut { tiles, .. } = Cut::new(rows, self.set);
        self.resize(rows, width);
        for tile in 0..tiles {
            let of = self.rows_of(tile..tile + 1);
            interleave(&x[of.start * stride..], stride, of.len(), &mut self.values[of.start * width..of.end * width]);
        }
    }

    fn resize(&mut self, rows: usize, width: usize) -> &mut [f32] {
        (self.rows, self.width) = (rows, width);
        room(&mut self.values, rows * width)
    }
}

/// Writes `rows` rows that are `stride` values apart as columns.
fn interleave(x: &[f32], stride: usize, rows: usize, out: &mut [f32]) {
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match rows {
                $($rows => columns(x, stride, out.as_chunks_mut::<$rows>().0),)*
                rows => unreachable!("a tile of {rows} rows"),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

fn columns<const ROWS: usize>(x: &[f32], stride: usize, out: &mut [[f32; ROWS]]) {
    // Few enough that they stay in the first-level cache from row to row.
    const CHUNK: usize = 128;
    for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
        for row in 0..ROWS {
            for (out, x) in out.iter_mut().zip(&x[row * stride + chunk * CHUNK..]) {
                out[row] = *x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_hold_every_value_once_and_differ_by_a_row_at_most() {
        for set in Instructions::all() {
            let mut x = RowTiles::new(set);
            for (rows, width) in [(51, 9), (1, 3), (788, 2), (15, 1), (3, 7)] {
                let values: Vec<f32> = (0..rows * width).map(|value| value as f32).collect();
                x.pack(&values, width);
                let mut next = 0;
                let heights: Vec<usize> = (0..x.tiles()).map(|tile| x.tile(tile).0).collect();
                assert!(heights.iter().all(|height| heights[0] - height <= 1 && *height <= set.rows()), "{heights:?}");
                for tile in 0..x.tiles() {
                    let (height, tile) = x.tile(tile);
                    for row in 0..height {
                        for k in 0..width {
                            assert_eq!(tile[k * height + row], values[(next + row) * width + k]);
                        }
                    }
                    next += height;
                }
                assert_eq!(next, rows);
            }
        }
    }
}

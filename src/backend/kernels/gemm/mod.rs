//! Products `y = x W^T` of float32 rows with weights in whatever format they are stored in.
//!
//! Both operands are packed in the order in which the innermost loop ([`tile`]) reads them: a weight once, when it is loaded
//! ([`Panels`]), `x` once for each product ([`RowTiles`]). Narrow weights stay narrow and are widened in registers.
//!
//! An output is a sum over blocks of [`DEPTH`] inputs, each of them a chain of fused multiply-adds in the order of the inputs. That order
//! depends neither on the instruction set nor on the number of threads nor on how many rows are computed together, so the bits do not either.

mod panels;
mod peak;
mod rows;
mod tile;

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use rayon::prelude::*;

use self::tile::Tile;
pub use self::{
    panels::{Arrangement, Panels},
    peak::peak_gflops,
    rows::RowTiles,
    tile::Instructions,
};
use super::{
    elementwise::{add, bias_gelu, gelu_times},
    room,
};

/// Inputs that are summed in one chain. The panels of a task, `PANELS x 32 x 1024` numbers, stay in the second-level cache of a core.
pub const DEPTH: usize = 1024;
/// Panels of one task: a tile of `x` is read once for both.
const PANELS: usize = 2;
/// Bytes of `x` that one task works on, so that they stay in the third-level cache while task after task reads them. At twice as many the
/// rate of the language model's second MLP product falls from 95 % of the peak to 90 %.
const BLOCK_BYTES: usize = 4 << 20;

thread_local! {
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What becomes of an output before it is stored.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    Store,
    Bias(&'a [f32]),
    /// `gelu(y + bias)`
    BiasGelu(&'a [f32]),
    /// `gelu(gate) * up`, where panels of gate and up alternate.
    Gated,
}

/// `out[rows, width] = x W^T` with all threads, for the first `width` outputs.
///
/// # Panics
/// When `x` or `out` does not fit the weight.
pub fn product(x: &RowTiles, weight: &Panels, epilogue: Epilogue<'_>, out: &mut [f32], width: usize) {
    // Gate and up are the two panels of a task.
    let columns_of = if let Epilogue::Gated = epilogue { weight.width() } else { PANELS * weight.width() };
    let groups = width.div_ceil(columns_of);
    assert_eq!(x.width(), weight.inputs());
    assert_eq!(out.len(), x.rows() * width);
    assert!(weight.panels() > (groups - 1) * PANELS);

    let tiles = x.tiles();
    let tile_bytes = size_of::<f32>() * weight.inputs() * weight.instructions().rows();
    let block = (BLOCK_BYTES / tile_bytes.max(1)).clamp(1, tiles);
    let out = Columns::new(out, width);
    (0..tiles.div_ceil(block) * groups).into_par_iter().with_max_len(1).for_each(|task| {
        let (first_tile, group) = (task / groups * block, task % groups);
        let tiles = first_tile..tiles.min(first_tile + block);
        let panels = group * PANELS..weight.panels().min((group + 1) * PANELS);
        let columns = group * columns_of..width.min((group + 1) * columns_of);
        let (rows, stride) = (x.rows_of(tiles.clone()), panels.len() * weight.width());
        SUMS.with_borrow_mut(|sums| {
            let sums = room(sums, rows.len() * stride);
            multiply(x, 0, tiles, weight, panels, sums, stride, false);
            for (row, sums) in rows.zip(sums.chunks_exact_mut(stride)) {
                let (first, second) = sums.split_at_mut(stride / PANELS);
                match epilogue {
                    Epilogue::Store => (),
                    Epilogue::Bias(bias) => add(sums, &bias[columns.clone()]),
                    Epilogue::BiasGelu(bias) => bias_gelu(sums, &bias[columns.clone()]),
                    Epilogue::Gated => gelu_times(first, second),
                }
                // SAFETY: no other task has these columns of these rows.
                unsafe { out.part(row, columns.clone()) }.copy_from_slice(&sums[..columns.len()]);
            }
        });
    });
}

/// `out (+)= x W^T` on this thread, for the rows of `tiles`, columns of `x` from `at` on and the outputs of `panels`; rows of `out` are
/// `stride` values apart.
///
/// # Panics
/// When the operands or `out` do not fit each other.
#[expect(clippy::too_many_arguments, reason = "two operands with the parts of them that are meant, and where the result goes")]
pub fn multiply(
    x: &RowTiles,
    at: usize,
    tiles: Range<usize>,
    weight: &Panels,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
    add: bool,
) {
    let (set, format, inputs, width) = (weight.instructions(), weight.format(), weight.inputs(), weight.width());
    let rows = x.rows_of(tiles.clone());
    if rows.is_empty() || panels.is_empty() {
        return;
    }
    assert_eq!(x.instructions(), set);
    assert!(at + inputs <= x.width() && panels.end <= weight.panels());
    assert!(panels.len() * width <= stride && out.len() >= (rows.len() - 1) * stride + panels.len() * width);
    let mut start = 0;
    // At least once: a product over no inputs is zero.
    while start == 0 || start < inputs {
        let depth = DEPTH.min(inputs - start);
        for tile in tiles.clone() {
            let (height, values) = x.tile(tile);
            let first = x.rows_of(tiles.start..tile).len();
            for (number, panel) in panels.clone().enumerate() {
                let a = values[(at + start) * height..(at + start + depth) * height].as_ptr();
                let b = weight.panel(panel)[start * width * format.size()..].as_ptr();
                let c = out[first * stride + number * width..].as_mut_ptr();
                let tile = Tile { rows: height, depth, a, b, c, stride, add: add || start > 0 };
                // SAFETY: the slices prove a and the start of b and c. A panel has `inputs` inputs, of which `depth` are left; the last row
                // that is written begins at `(rows - 1) * stride` and has the width of all panels. `set` was found on this machine, and
                // no tile is higher than its set allows.
                unsafe { tile.compute(set, format) };
            }
        }
        start += DEPTH;
    }
}

/// A matrix of which tasks write different columns.
struct Columns<'a> {
    values: *mut f32,
    len: usize,
    width: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is used through `part` only, whose callers keep their parts apart.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    fn new(matrix: &'a mut [f32], width: usize) -> Self {
        Self { values: matrix.as_mut_ptr(), len: matrix.len(), width, matrix: PhantomData }
    }

    /// Some columns of one row.
    ///
    /// # Safety
    /// Nothing else refers to the same values as long as the result lives.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(columns.end <= self.width && (row + 1) * self.width <= self.len);
        // SAFETY: the assertion, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(row * self.width + columns.start), columns.len()) }
    }
}

#[cfg(test)]
mod tests;

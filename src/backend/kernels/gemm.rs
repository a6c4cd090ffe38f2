//! Products of float32 rows with weights in whatever format they are stored in.
//!
//! The product itself is faer's. Weights are cut into blocks of outputs, one task each; a narrow format is widened to float32 piece by
//! piece in a buffer that stays in the cache, so that narrow weights never exist in float32 in memory.

use std::{cell::RefCell, ops::Range};

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

/// Outputs of one task. Large enough that packing `x` anew for each costs little beside the product.
const OUTPUTS: usize = 256;
/// Inputs that are widened at a time: 256 x 1024 float32 are 1 MiB, the second-level cache of one core.
pub const DEPTH: usize = 1024;

thread_local! {
    static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The right operand of a product.
pub trait Weight: Sync {
    fn inputs(&self) -> usize;

    /// Inputs that [`Weight::panel`] is asked for at a time.
    fn depth(&self) -> usize {
        DEPTH
    }

    /// `[inputs, outputs]` of the weight in float32, in `buffer` when it has to be widened.
    ///
    /// `inputs` starts at a multiple of [`Weight::depth`], `outputs` at a multiple of 256 from the first one of a [`Product`].
    fn panel<'a>(&'a self, inputs: Range<usize>, outputs: Range<usize>, buffer: &'a mut Vec<f32>) -> MatRef<'a, f32>;
}

/// One product of a [`products`] call: `out = x W[.., first..first + columns of out]`.
pub struct Product<'a, W> {
    pub weight: &'a W,
    pub first: usize,
    pub out: MatMut<'a, f32>,
}

/// Several products of the same `x`, as one set of tasks.
pub fn products<'a, W: Weight + 'a>(x: MatRef<'_, f32>, products: impl IntoIterator<Item = Product<'a, W>>) {
    let mut tasks = Vec::new();
    for Product { weight, first, out } in products {
        tasks.extend(blocks(out).map(|(at, block)| (weight, first + at, block)));
    }
    tasks.into_par_iter().for_each(|(weight, first, out)| block(weight, x, first, out));
}

/// `out = x W[.., first..first + columns of out]` on this thread.
pub fn block<W: Weight>(weight: &W, x: MatRef<'_, f32>, first: usize, mut out: MatMut<'_, f32>) {
    let (inputs, depth) = (weight.inputs(), weight.depth());
    WIDENED.with_borrow_mut(|buffer| {
        for start in (0..inputs).step_by(depth) {
            let piece = start..inputs.min(start + depth);
            let accum = if start == 0 { Accum::Replace } else { Accum::Add };
            let x = x.subcols(start, piece.len());
            let panel = weight.panel(piece, first..first + out.ncols(), buffer);
            matmul(out.as_mut(), accum, x, panel, 1.0, Par::Seq);
        }
    });
}

/// Cuts `out` into blocks of up to 256 columns, each with the number of its first column.
pub fn blocks<'a>(out: MatMut<'a, f32>) -> impl Iterator<Item = (usize, MatMut<'a, f32>)> {
    let mut rest = Some(out);
    let mut first = 0;
    std::iter::from_fn(move || {
        let out = rest.take().filter(|out| out.ncols() > 0)?;
        let columns = OUTPUTS.min(out.ncols());
        let (block, after) = out.split_at_col_mut(columns);
        rest = Some(after);
        let at = first;
        first += block.ncols();
        Some((at, block))
    })
}

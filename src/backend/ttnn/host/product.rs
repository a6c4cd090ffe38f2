//! Products with weights in the card's formats.

use std::{borrow::Cow, ops::Range};

use faer::{MatMut, MatRef};

use super::{
    OperandBits,
    tensor::{Operand, Values},
};
use crate::backend::{
    kernels::gemm::{self, DEPTH, Weight},
    ttnn::{
        format::{self, tile_row_bytes},
        terms::{DataType, TILE},
    },
};

/// `x weight` over the logical columns of `x`, cut into `chunks` results of equal width, each with padding.
///
/// Weights are packed with zeros beyond their logical rows, so the padding of `x` counts for nothing on the card.
pub fn product(x: &Operand, weight: &Operand, chunks: usize, bits: OperandBits) -> Vec<Vec<f32>> {
    let (inputs, columns) = (x.spec.shape.columns(), weight.spec.shape.padded().columns() / chunks);
    let padded = x.spec.shape.padded();
    let rows = padded.volume() / padded.columns();
    let values = truncated(x.rows(), x.spec.dtype, bits.a);
    let x = MatRef::from_row_major_slice(&values, rows, padded.columns()).subcols(0, inputs);
    let weight = Matrix::new(weight, bits.b);
    let mut out = vec![vec![0.0; rows * columns]; chunks];
    let products = out.iter_mut().enumerate().map(|(chunk, out)| gemm::Product {
        weight: &weight,
        first: chunk * columns,
        out: MatMut::from_row_major_slice_mut(out, rows, columns),
    });
    gemm::products(x, products);
    out
}

/// `values` with no more than `bits` explicit mantissa bits: the matrix engine drops the others.
pub fn truncated(values: Cow<'_, [f32]>, dtype: DataType, bits: u32) -> Cow<'_, [f32]> {
    let own = match dtype {
        DataType::Bfloat8B => 6,
        DataType::Bfloat16 => 7,
        DataType::Float32 => 23,
    };
    if own <= bits {
        return values;
    }
    let mut values = values.into_owned();
    truncate(&mut values, bits);
    Cow::Owned(values)
}

/// Rounds towards zero to `bits` explicit mantissa bits.
pub fn truncate(values: &mut [f32], bits: u32) {
    let mask = u32::MAX << (23 - bits);
    for value in values {
        *value = f32::from_bits(value.to_bits() & mask);
    }
}

/// A weight `[inputs, columns]`, columns padded.
enum Matrix<'a> {
    Tiles { tiles: &'a [u8], inputs: usize, columns: usize, bits: u32 },
    Rows { rows: Cow<'a, [f32]>, inputs: usize, columns: usize },
}

impl<'a> Matrix<'a> {
    fn new(weight: &'a Operand, bits: u32) -> Self {
        let (inputs, columns) = (weight.spec.shape.rows(), weight.spec.shape.padded().columns());
        match &*weight.values {
            // Only bfloat8_b stays packed.
            Values::Packed(tiles) => Self::Tiles { tiles, inputs, columns, bits },
            Values::Rows(rows) => Self::Rows { rows: truncated(Cow::Borrowed(rows), weight.spec.dtype, bits), inputs, columns },
        }
    }
}

impl Weight for Matrix<'_> {
    fn inputs(&self) -> usize {
        match self {
            Self::Tiles { inputs, .. } | Self::Rows { inputs, .. } => *inputs,
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Tiles { .. } => DEPTH,
            Self::Rows { inputs, .. } => *inputs,
        }
    }

    fn panel<'a>(&'a self, inputs: Range<usize>, outputs: Range<usize>, buffer: &'a mut Vec<f32>) -> MatRef<'a, f32> {
        match self {
            Self::Tiles { tiles, columns, bits, .. } => {
                let format = DataType::Bfloat8B;
                let (height, width) = (inputs.len().next_multiple_of(TILE), outputs.len());
                buffer.resize(buffer.len().max(height * width), 0.0);
                let panel = &mut buffer[..height * width];
                let row_bytes = tile_row_bytes(format, *columns);
                let wanted = tile_row_bytes(format, outputs.start)..tile_row_bytes(format, outputs.end);
                let rows = tiles.chunks_exact(row_bytes).skip(inputs.start / TILE);
                for (tiles, rows) in rows.zip(panel.chunks_exact_mut(TILE * width)) {
                    format::unpack_rows(format, &tiles[wanted.clone()], rows);
                }
                if *bits < 6 {
                    truncate(panel, *bits);
                }
                MatRef::from_row_major_slice(panel, height, width).subrows(0, inputs.len())
            }
            Self::Rows { rows, inputs: all, columns } => {
                let weight = MatRef::from_row_major_slice(&rows[..all * columns], *all, *columns);
                weight.subcols(outputs.start, outputs.len())
            }
        }
    }
}

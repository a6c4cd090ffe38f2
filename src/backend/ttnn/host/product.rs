//! Products with weights in the card's formats.

use std::{borrow::Cow, ops::Range};

use super::{
    OperandBits,
    tensor::{Operand, Values},
};
use crate::backend::{
    kernels::gemm::{self, Epilogue, Instructions, Panels, RowTiles},
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
    let stride = x.spec.shape.padded().columns();
    let values = truncated(x.rows(), x.spec.dtype, bits.a);
    let rows = values.len() / stride;
    let mut tiles = RowTiles::new(Instructions::detect());
    tiles.pack_with(rows, inputs, |row, out| out.copy_from_slice(&values[row * stride..][..inputs]));
    let mut panels = Panels::empty(Instructions::detect());
    (0..chunks)
        .map(|chunk| {
            let mut out = vec![0.0; rows * columns];
            panels.pack_blocks(columns, inputs, |block, out| {
                fill(weight, chunk * columns + block.start..chunk * columns + block.end, bits.b, out);
            });
            gemm::product(&tiles, &panels, Epilogue::Store, &mut out, columns);
            out
        })
        .collect()
}

/// `values` with no more than `bits` explicit mantissa bits: the matrix engine drops the others.
pub fn truncated(values: Cow<'_, [f32]>, dtype: DataType, bits: u32) -> Cow<'_, [f32]> {
    if explicit_bits(dtype) <= bits {
        return values;
    }
    let mut values = values.into_owned();
    truncate(&mut values, bits);
    Cow::Owned(values)
}

/// Explicit mantissa bits of a format.
fn explicit_bits(dtype: DataType) -> u32 {
    match dtype {
        DataType::Bfloat8B => 6,
        DataType::Bfloat16 => 7,
        DataType::Float32 => 23,
    }
}

/// Rounds towards zero to `bits` explicit mantissa bits.
pub fn truncate(values: &mut [f32], bits: u32) {
    let mask = u32::MAX << (23 - bits);
    for value in values {
        *value = f32::from_bits(value.to_bits() & mask);
    }
}

/// Writes `[inputs, columns]` of a weight, with no more than `bits` explicit mantissa bits. `columns` are whole tiles.
fn fill(weight: &Operand, columns: Range<usize>, bits: u32, out: &mut [f32]) {
    let stride = weight.spec.shape.padded().columns();
    match &*weight.values {
        // Only bfloat8_b stays packed.
        Values::Packed(tiles) => {
            let format = DataType::Bfloat8B;
            let wanted = tile_row_bytes(format, columns.start)..tile_row_bytes(format, columns.end);
            let mut unpacked = [0.0; TILE * TILE];
            for (tiles, rows) in tiles.chunks_exact(tile_row_bytes(format, stride)).zip(out.chunks_mut(TILE * columns.len())) {
                format::unpack_rows(format, &tiles[wanted.clone()], &mut unpacked);
                rows.copy_from_slice(&unpacked[..rows.len()]);
            }
        }
        Values::Rows(rows) => {
            for (row, out) in rows.chunks_exact(stride).zip(out.chunks_exact_mut(columns.len())) {
                out.copy_from_slice(&row[columns.clone()]);
            }
        }
    }
    if explicit_bits(weight.spec.dtype) > bits {
        truncate(out, bits);
    }
}

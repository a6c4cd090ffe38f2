//! Values to the device's layout and back.

use bytes::Bytes;
use rayon::prelude::*;

use super::{
    format,
    terms::{DataType, TILE, TensorSpec},
};

/// Side of a face: a tile is four of them.
const FACE: usize = 16;

/// Packs logical values, row-major, into tiles. Padding is zero.
///
/// # Panics
/// When `values` does not have the shape's number of values.
pub fn pack(spec: &TensorSpec, values: &[f32]) -> Bytes {
    assert_eq!(values.len(), spec.shape.volume());
    let (rows, columns) = (spec.shape.rows(), spec.shape.columns());
    let mut packed = vec![0; spec.bytes()];
    let matrix_bytes = packed.len() / spec.shape.batch().max(1);
    if matrix_bytes > 0 {
        for (tiles, matrix) in packed.chunks_exact_mut(matrix_bytes).zip(values.chunks_exact(rows * columns)) {
            match spec.dtype {
                DataType::Bfloat8B => format::pack_bfloat8(matrix, columns, tiles),
                DataType::Bfloat16 => tile(matrix, columns, tiles, |value| half::bf16::from_f32(value).to_le_bytes()),
                DataType::Float32 => tile(matrix, columns, tiles, f32::to_le_bytes),
            }
        }
    }
    Bytes::from(packed)
}

/// The logical values of packed tiles, row-major.
///
/// # Panics
/// When `packed` does not have the tensor's number of bytes.
pub fn unpack(spec: &TensorSpec, packed: &[u8]) -> Vec<f32> {
    assert_eq!(packed.len(), spec.bytes());
    let (rows, columns) = (spec.shape.rows(), spec.shape.columns());
    let matrix_bytes = packed.len() / spec.shape.batch().max(1);
    let mut values = Vec::with_capacity(spec.shape.volume());
    for tiles in packed.chunks_exact(matrix_bytes.max(1)) {
        match spec.dtype {
            DataType::Bfloat8B => values.extend(format::unpack_bfloat8(tiles, rows, columns)),
            DataType::Bfloat16 => values.extend(untile(tiles, rows, columns, |bytes| half::bf16::from_le_bytes(bytes).to_f32())),
            DataType::Float32 => values.extend(untile(tiles, rows, columns, f32::from_le_bytes)),
        }
    }
    values
}

fn tile<const N: usize>(matrix: &[f32], columns: usize, tiles: &mut [u8], bytes: impl Fn(f32) -> [u8; N] + Sync) {
    let tile_row = columns.div_ceil(TILE) * TILE * TILE * N;
    tiles.par_chunks_exact_mut(tile_row).zip(matrix.par_chunks(TILE * columns)).for_each(|(tiles, rows)| {
        for (row, values) in rows.chunks_exact(columns).enumerate() {
            for (column, &value) in values.iter().enumerate() {
                let at = N * position(row, column);
                tiles[at..at + N].copy_from_slice(&bytes(value));
            }
        }
    });
}

fn untile<const N: usize>(tiles: &[u8], rows: usize, columns: usize, value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let tile_row = columns.div_ceil(TILE) * TILE * TILE;
    let (values, _) = tiles.as_chunks::<N>();
    let at = |row: usize, column: usize| row / TILE * tile_row + position(row % TILE, column);
    (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| value(values[at(row, column)]))
        .collect()
}

/// Index of a value of one row of tiles.
fn position(row: usize, column: usize) -> usize {
    let face = 2 * (row / FACE) + column % TILE / FACE;
    column / TILE * TILE * TILE + face * FACE * FACE + row % FACE * FACE + column % FACE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ttnn::terms::{MemoryConfig, Shape};

    #[test]
    fn values_come_back_from_every_format_at_odd_sizes() {
        for dtype in [DataType::Float32, DataType::Bfloat16, DataType::Bfloat8B] {
            for shape in [[1, 1, 1, 1], [2, 3, 33, 47], [1, 1, 64, 32], [1, 8, 51, 65]] {
                let spec = TensorSpec::new(Shape(shape), dtype, MemoryConfig::DramInterleaved);
                // Small integers are exact in every format as long as sixteen neighbours differ by less than 2^7.
                let values: Vec<f32> = (0..spec.shape.volume()).map(|i| (i * 7 % 61) as f32 - 30.0).collect();
                assert_eq!(unpack(&spec, &pack(&spec, &values)), values, "{dtype:?} {shape:?}");
            }
        }
    }

    #[test]
    fn a_tile_is_four_faces() {
        let spec = TensorSpec::new(Shape::matrix(32, 32), DataType::Float32, MemoryConfig::DramInterleaved);
        let values: Vec<f32> = (0..1024).map(|i| i as f32).collect();
        let packed = pack(&spec, &values);
        let at = |index: usize| f32::from_le_bytes(packed[4 * index..4 * index + 4].try_into().unwrap());
        assert_eq!([at(0), at(15), at(16), at(256), at(512)], [0.0, 15.0, 32.0, 16.0, 512.0]);
    }
}

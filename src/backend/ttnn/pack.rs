//! Values to the device's layout and back.

use bytes::Bytes;
use rayon::prelude::*;

use super::{
    format::{pack_rows, tile_row_bytes, unpack_rows},
    terms::{TILE, TensorSpec},
};

/// Packs logical values, row-major, as they lie on the device; padding is zero.
///
/// # Panics
/// When `values` are not as many as the shape says.
pub fn pack(spec: &TensorSpec, values: &[f32]) -> Bytes {
    let [_, _, rows, columns] = spec.shape.0;
    assert_eq!(values.len(), spec.shape.volume());
    let mut packed = vec![0; spec.bytes()];
    let row_bytes = tile_row_bytes(spec.dtype, columns);
    // Rows of tiles do not reach over the end of a matrix.
    let matrices = values.par_chunks(rows * columns).zip(packed.par_chunks_mut(rows.div_ceil(TILE) * row_bytes));
    matrices.for_each(|(values, packed)| {
        let rows = values.par_chunks(TILE * columns).zip(packed.par_chunks_mut(row_bytes));
        rows.for_each(|(values, tiles)| pack_rows(spec.dtype, values, columns, tiles));
    });
    Bytes::from(packed)
}

/// The logical values, row-major, of what lies packed on the device.
///
/// # Panics
/// When `packed` has not as many bytes as the tensor.
pub fn unpack(spec: &TensorSpec, packed: &[u8]) -> Vec<f32> {
    let [_, _, rows, columns] = spec.shape.0;
    assert_eq!(packed.len(), spec.bytes());
    let padded = columns.next_multiple_of(TILE);
    let mut values = vec![0.0; spec.shape.volume()];
    let row_bytes = tile_row_bytes(spec.dtype, columns);
    let matrices = values.par_chunks_mut(rows * columns).zip(packed.par_chunks(rows.div_ceil(TILE) * row_bytes));
    matrices.for_each(|(values, packed)| {
        let rows = values.par_chunks_mut(TILE * columns).zip(packed.par_chunks(row_bytes));
        rows.for_each(|(values, tiles)| {
            let mut unpacked = vec![0.0; TILE * padded];
            unpack_rows(spec.dtype, tiles, &mut unpacked);
            for (values, row) in values.chunks_exact_mut(columns).zip(unpacked.chunks_exact(padded)) {
                values.copy_from_slice(&row[..columns]);
            }
        });
    });
    values
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::{
        backend::ttnn::{
            format::round,
            terms::{DataType, MemoryConfig, Shape},
        },
        checkpoint::synthetic::uniform,
    };

    /// What TTNN 0.66 made of values, written by `tools/golden_formats.py`.
    struct Golden(Vec<u8>);

    impl Golden {
        fn read() -> Self {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ttnn_formats.safetensors");
            Self(std::fs::read(file).unwrap())
        }

        fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
            let tensors = SafeTensors::deserialize(&self.0).unwrap();
            let tensor = tensors.tensor(name).unwrap();
            (tensor.shape().to_vec(), tensor.data().to_vec())
        }

        fn values(&self, name: &str) -> (usize, Vec<f32>) {
            let (shape, bytes) = self.bytes(name);
            (shape[1], bytemuck::pod_collect_to_vec(&bytes))
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    const FORMATS: [(DataType, &str); 2] = [(DataType::Bfloat8B, "bfloat8_b"), (DataType::Bfloat16, "bfloat16")];

    fn spec(dtype: DataType, values: &[f32], columns: usize) -> TensorSpec {
        TensorSpec::new(Shape::matrix(values.len() / columns, columns), dtype, MemoryConfig::DramInterleaved)
    }

    #[test]
    fn tiles_are_ttnns_byte_for_byte() {
        let golden = Golden::read();
        for (dtype, format) in FORMATS {
            for name in ["aligned", "ragged"] {
                let (columns, values) = golden.values(&format!("{name}.values"));
                let packed = pack(&spec(dtype, &values, columns), &values);
                let (_, expected) = golden.bytes(&format!("{name}.{format}"));
                assert_eq!(packed.len(), expected.len());
                let wrong = packed.iter().zip(&expected).position(|(ours, ttnns)| ours != ttnns);
                assert_eq!(wrong, None, "{name} {format}: first different byte");
            }
        }
    }

    #[test]
    fn values_are_ttnns_bit_for_bit() {
        let golden = Golden::read();
        for (dtype, format) in FORMATS {
            for name in ["aligned", "ragged"] {
                let (columns, mut values) = golden.values(&format!("{name}.values"));
                let (_, packed) = golden.bytes(&format!("{name}.{format}"));
                let (_, expected) = golden.values(&format!("{name}.{format}.values"));
                assert_eq!(bits(&unpack(&spec(dtype, &values, columns), &packed)), bits(&expected), "{name} {format}");
                values.chunks_exact_mut(columns).for_each(|row| round(dtype, row));
                assert_eq!(bits(&values), bits(&expected), "{name} {format}");
            }
        }
    }

    #[test]
    fn float32_keeps_every_bit_and_matrices_of_a_batch_are_padded_apart() {
        let shape = Shape([2, 3, 33, 50]);
        let values = uniform("format", shape.volume());
        for dtype in [DataType::Float32, DataType::Bfloat16, DataType::Bfloat8B] {
            let spec = TensorSpec::new(shape, dtype, MemoryConfig::DramInterleaved);
            let packed = pack(&spec, &values);
            let mut expected = values.clone();
            expected.chunks_exact_mut(50).for_each(|row| round(dtype, row));
            assert_eq!(bits(&unpack(&spec, &packed)), bits(&expected));
            let matrix = TensorSpec { shape: Shape::matrix(33, 50), ..spec };
            assert_eq!(packed[matrix.bytes()..2 * matrix.bytes()], pack(&matrix, &values[33 * 50..2 * 33 * 50]));
        }
    }

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

//! The card's number formats and tile order, bit for bit as TTNN's host code makes them (`tt_metal/impl/data_format` of tt-metal 0.66).
//!
//! A matrix is stored as 32x32 tiles, row-major over tiles; a tile is four 16x16 faces, row-major over faces, each row-major inside.
//! `bfloat8_b` gives each 16 consecutive values of a face's row one exponent: a tile is 64 exponents (float32's biased ones), one for
//! each row of each face, followed by 1024 bytes of sign and 7-bit magnitude, in units of 2^(exponent - 127 - 6).

use multiversion::multiversion;
use rayon::prelude::*;

/// Rows and columns of a tile.
pub const TILE: usize = 32;
/// Bytes of a `bfloat8_b` tile.
pub const BFLOAT8_TILE: usize = EXPONENTS + TILE * TILE;

const FACE: usize = 16;
const FACES: usize = 4;
const EXPONENTS: usize = FACES * FACE;

/// Bytes of a `bfloat8_b` matrix.
pub const fn bfloat8_bytes(rows: usize, columns: usize) -> usize {
    rows.div_ceil(TILE) * columns.div_ceil(TILE) * BFLOAT8_TILE
}

/// Rounds to bfloat16, ties to even, and widens again. Subnormal numbers stay.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn round_bfloat16(values: &mut [f32]) {
    for value in values {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
        // The carry would turn a NaN with low bits only into infinity.
        *value = f32::from_bits(if value.is_nan() { bits } else { rounded });
    }
}

/// Rounds each row to `bfloat8_b` and widens again.
pub fn round_bfloat8(values: &mut [f32], columns: usize) {
    values.par_chunks_mut(columns).for_each(round_bfloat8_row);
}

/// Packs a row-major `[rows, columns]` matrix; edges are filled with zeros.
///
/// # Panics
/// When `values` is not a whole number of rows or `tiles` is not [`bfloat8_bytes`] long.
pub fn pack_bfloat8(values: &[f32], columns: usize, tiles: &mut [u8]) {
    assert_eq!(values.len() % columns, 0);
    assert_eq!(tiles.len(), bfloat8_bytes(values.len() / columns, columns));
    tiles
        .par_chunks_exact_mut(bfloat8_bytes(TILE, columns))
        .zip(values.par_chunks(TILE * columns))
        .for_each(|(tiles, rows)| pack_bfloat8_rows(rows, columns, tiles));
}

/// Packs up to 32 rows into one row of tiles on this thread: what [`pack_bfloat8`] does for each.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn pack_bfloat8_rows(rows: &[f32], columns: usize, tiles: &mut [u8]) {
    let height = rows.len() / columns;
    for (index, tile) in tiles.chunks_exact_mut(BFLOAT8_TILE).enumerate() {
        let (exponents, magnitudes) = tile.split_at_mut(EXPONENTS);
        for (block, (exponent, magnitudes)) in exponents.iter_mut().zip(magnitudes.chunks_exact_mut(FACE)).enumerate() {
            let (row, column) = position(block);
            let column = index * TILE + column;
            let mut values = [0.0; FACE];
            if row < height && column < columns {
                let width = FACE.min(columns - column);
                let start = row * columns + column;
                values[..width].copy_from_slice(&rows[start..start + width]);
            }
            let (shared, packed) = pack_block(&values);
            *exponent = shared;
            magnitudes.copy_from_slice(&packed);
        }
    }
}

/// Unpacks tiles `tile_columns` of one row of tiles into 32 rows of `out`, each as wide as those tiles.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn unpack_bfloat8_rows(tiles: &[u8], out: &mut [f32]) {
    let columns = tiles.len() / BFLOAT8_TILE * TILE;
    for (index, tile) in tiles.chunks_exact(BFLOAT8_TILE).enumerate() {
        let (exponents, magnitudes) = tile.split_at(EXPONENTS);
        for (block, (&exponent, magnitudes)) in exponents.iter().zip(magnitudes.as_chunks::<FACE>().0).enumerate() {
            let (row, column) = position(block);
            let start = row * columns + index * TILE + column;
            let out: &mut [f32] = &mut out[start..start + FACE];
            out.copy_from_slice(&unpack_block(exponent, magnitudes));
        }
    }
}

/// Unpacks a whole matrix: `[rows, columns]` without its padding.
pub fn unpack_bfloat8(tiles: &[u8], rows: usize, columns: usize) -> Vec<f32> {
    let padded = columns.next_multiple_of(TILE);
    let mut out = vec![0.0; rows * columns];
    out.par_chunks_mut(TILE * columns).zip(tiles.par_chunks_exact(bfloat8_bytes(TILE, columns))).for_each(|(out, tiles)| {
        let mut unpacked = vec![0.0; TILE * padded];
        unpack_bfloat8_rows(tiles, &mut unpacked);
        for (out, row) in out.chunks_exact_mut(columns).zip(unpacked.chunks_exact(padded)) {
            out.copy_from_slice(&row[..columns]);
        }
    });
    out
}

/// Row and column inside a tile of a block of 16 values.
#[inline(always)]
const fn position(block: usize) -> (usize, usize) {
    let (face, row) = (block / FACE, block % FACE);
    (face / 2 * FACE + row, face % 2 * FACE)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn round_bfloat8_row(row: &mut [f32]) {
    for block in row.chunks_mut(FACE) {
        let mut values = [0.0; FACE];
        values[..block.len()].copy_from_slice(block);
        let (exponent, magnitudes) = pack_block(&values);
        block.copy_from_slice(&unpack_block(exponent, &magnitudes)[..block.len()]);
    }
}

/// The largest exponent, and each value's magnitude in its units: nearest, ties to even, at most 127.
#[inline(always)]
fn pack_block(values: &[f32; FACE]) -> (u8, [u8; FACE]) {
    const DROPPED: u32 = 17;
    let exponent = |bits: u32| bits >> 23 & 0xFF;
    let shared = values.iter().fold(0, |shared, value| exponent(value.to_bits()).max(shared));
    let mut packed = [0; FACE];
    for (packed, value) in packed.iter_mut().zip(values) {
        let bits = value.to_bits();
        let own = exponent(bits);
        // TTNN shifts first and rounds what is left, so bits that the shift drops do not count against a tie.
        let mantissa = (bits & 0x7F_FFFF | 0x80_0000) >> (shared - own).min(31);
        let rounded = (mantissa + (1 << (DROPPED - 1)) - 1 + (mantissa >> DROPPED & 1)) >> DROPPED;
        let magnitude = if own == 0 { 0 } else { rounded.min(127) };
        let sign = if magnitude == 0 { 0 } else { bits >> 24 & 0x80 };
        *packed = (sign | magnitude) as u8;
    }
    (shared as u8, packed)
}

#[inline(always)]
fn unpack_block(exponent: u8, magnitudes: &[u8; FACE]) -> [f32; FACE] {
    // Below this exponent small magnitudes are not normal float32 numbers.
    const NORMAL: u8 = 7;
    if exponent < NORMAL {
        return magnitudes.map(|byte| unpack_tiny(exponent, byte));
    }
    let unit = f32::from_bits(u32::from(exponent - (NORMAL - 1)) << 23);
    magnitudes.map(|byte| {
        let magnitude = i32::from(byte & 0x7F) as f32 * unit;
        f32::from_bits(magnitude.to_bits() | u32::from(byte & 0x80) << 24)
    })
}

/// TTNN's unpacking where the value's own exponent is near or below zero.
#[cold]
fn unpack_tiny(exponent: u8, byte: u8) -> f32 {
    let (exponent, magnitude) = (u32::from(exponent), u32::from(byte & 0x7F));
    let sign = u32::from(byte & 0x80) << 24;
    if magnitude == 0 {
        return f32::from_bits(sign);
    }
    let shift = magnitude.leading_zeros() - 25;
    if shift > exponent {
        return 0.0;
    }
    f32::from_bits(sign | (exponent - shift) << 23 | (magnitude << (shift + 1) & 0x7F) << 16)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

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

    #[test]
    fn bfloat8_tiles_are_ttnns_byte_for_byte() {
        let golden = Golden::read();
        for name in ["aligned", "ragged"] {
            let (columns, values) = golden.values(&format!("{name}.values"));
            let mut tiles = vec![0xAA; bfloat8_bytes(values.len() / columns, columns)];
            pack_bfloat8(&values, columns, &mut tiles);
            let (_, expected) = golden.bytes(&format!("{name}.bfloat8_b"));
            assert_eq!(tiles.len(), expected.len());
            let wrong = tiles.iter().zip(&expected).position(|(ours, ttnns)| ours != ttnns);
            assert_eq!(wrong, None, "{name}: first different byte");
        }
    }

    #[test]
    fn bfloat8_values_are_ttnns_bit_for_bit() {
        let golden = Golden::read();
        for name in ["aligned", "ragged"] {
            let (columns, mut values) = golden.values(&format!("{name}.values"));
            let (_, tiles) = golden.bytes(&format!("{name}.bfloat8_b"));
            let (_, expected) = golden.values(&format!("{name}.bfloat8_b.values"));
            assert_eq!(bits(&unpack_bfloat8(&tiles, values.len() / columns, columns)), bits(&expected), "{name}");
            round_bfloat8(&mut values, columns);
            assert_eq!(bits(&values), bits(&expected), "{name}");
        }
    }

    #[test]
    fn bfloat16_values_are_ttnns_bit_for_bit() {
        let golden = Golden::read();
        for name in ["aligned", "ragged"] {
            let (_, mut values) = golden.values(&format!("{name}.values"));
            round_bfloat16(&mut values);
            assert_eq!(bits(&values), bits(&golden.values(&format!("{name}.bfloat16.values")).1), "{name}");
        }
    }

    #[test]
    fn not_a_number_stays_one_in_bfloat16() {
        let mut values = [f32::NAN, f32::from_bits(0x7F80_0001), f32::INFINITY];
        round_bfloat16(&mut values);
        assert!(values[0].is_nan() && values[1].is_nan() && values[2] == f32::INFINITY);
    }

    #[test]
    fn unpacking_agrees_with_the_definition_for_every_exponent_and_byte() {
        for exponent in 7..255u8 {
            for byte in 0..=255u8 {
                let value = unpack_block(exponent, &[byte; FACE])[3];
                let magnitude = f64::from(byte & 0x7F) * f64::from(i32::from(exponent) - 133).exp2();
                assert_eq!(f64::from(value.abs()), magnitude);
                assert_eq!(value.is_sign_negative(), byte >= 0x80);
            }
        }
    }
}

//! The card's number formats and tile order, bit for bit as TTNN's host code makes them (`tt_metal/impl/data_format` of tt-metal 0.66).
//!
//! A matrix is stored as 32x32 tiles, row-major over tiles; a tile is four 16x16 faces, row-major over faces, each row-major inside.
//! `bfloat8_b` gives each 16 consecutive values of a face's row one exponent: a tile is 64 exponents (float32's biased ones), one for
//! each row of each face, followed by 1024 bytes of sign and 7-bit magnitude, in units of 2^(exponent - 127 - 6).

use bytemuck::Pod;
use half::bf16;
use multiversion::multiversion;

use super::terms::{DataType, TILE};

const FACE: usize = 16;
const FACES: usize = 4;
const EXPONENTS: usize = FACES * FACE;
const BFLOAT8_TILE: usize = EXPONENTS + TILE * TILE;

/// Bytes of the tiles that lie side by side over `columns`.
pub fn tile_row_bytes(dtype: DataType, columns: usize) -> usize {
    columns.div_ceil(TILE) * dtype.tile_bytes()
}

/// Packs up to 32 rows into one row of tiles.
pub fn pack_rows(dtype: DataType, rows: &[f32], columns: usize, tiles: &mut [u8]) {
    match dtype {
        DataType::Float32 => pack_plain(rows, columns, tiles, |value| value),
        DataType::Bfloat16 => pack_plain(rows, columns, tiles, bf16::from_f32),
        DataType::Bfloat8B => pack_bfloat8(rows, columns, tiles),
    }
}

/// Unpacks tiles that lie side by side into 32 rows of `out`, each as wide as those tiles.
pub fn unpack_rows(dtype: DataType, tiles: &[u8], out: &mut [f32]) {
    match dtype {
        DataType::Float32 => unpack_plain(tiles, out, |value: f32| value),
        DataType::Bfloat16 => unpack_plain(tiles, out, bf16::to_f32),
        DataType::Bfloat8B => unpack_bfloat8(tiles, out),
    }
}

/// Rounds one row to `dtype` and widens it again.
pub fn round(dtype: DataType, row: &mut [f32]) {
    match dtype {
        DataType::Float32 => (),
        DataType::Bfloat16 => round_bfloat16(row),
        DataType::Bfloat8B => round_bfloat8(row),
    }
}

/// Rounds to bfloat16, ties to even, and widens again. Subnormal numbers stay.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn round_bfloat16(values: &mut [f32]) {
    for value in values {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
        // The carry would turn a NaN with low bits only into infinity.
        *value = f32::from_bits(if value.is_nan() { bits } else { rounded });
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn round_bfloat8(row: &mut [f32]) {
    for block in row.chunks_mut(FACE) {
        let mut values = [0.0; FACE];
        values[..block.len()].copy_from_slice(block);
        let (exponent, magnitudes) = pack_block(&values);
        block.copy_from_slice(&unpack_block(exponent, &magnitudes)[..block.len()]);
    }
}

/// Values of a format without shared exponents.
fn pack_plain<T: Pod>(rows: &[f32], columns: usize, tiles: &mut [u8], narrow: impl Fn(f32) -> T) {
    for (number, tile) in tiles.chunks_exact_mut(TILE * TILE * size_of::<T>()).enumerate() {
        for (block, packed) in tile.chunks_exact_mut(FACE * size_of::<T>()).enumerate() {
            let values = block_of(rows, columns, number, block);
            packed.copy_from_slice(bytemuck::bytes_of(&values.map(&narrow)));
        }
    }
}

fn unpack_plain<T: Pod>(tiles: &[u8], out: &mut [f32], widen: impl Fn(T) -> f32) {
    let tile_bytes = TILE * TILE * size_of::<T>();
    let columns = tiles.len() / tile_bytes * TILE;
    for (number, tile) in tiles.chunks_exact(tile_bytes).enumerate() {
        for (block, packed) in tile.chunks_exact(FACE * size_of::<T>()).enumerate() {
            let (row, column) = position(block);
            let start = row * columns + number * TILE + column;
            for (out, bytes) in out[start..start + FACE].iter_mut().zip(packed.chunks_exact(size_of::<T>())) {
                *out = widen(bytemuck::pod_read_unaligned(bytes));
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn pack_bfloat8(rows: &[f32], columns: usize, tiles: &mut [u8]) {
    for (number, tile) in tiles.chunks_exact_mut(BFLOAT8_TILE).enumerate() {
        let (exponents, magnitudes) = tile.split_at_mut(EXPONENTS);
        for (block, (exponent, magnitudes)) in exponents.iter_mut().zip(magnitudes.chunks_exact_mut(FACE)).enumerate() {
            let (shared, packed) = pack_block(&block_of(rows, columns, number, block));
            *exponent = shared;
            magnitudes.copy_from_slice(&packed);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn unpack_bfloat8(tiles: &[u8], out: &mut [f32]) {
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

/// The 16 values of block `block` of tile `tile` in up to 32 rows, zero beyond their edges.
#[inline(always)]
fn block_of(rows: &[f32], columns: usize, tile: usize, block: usize) -> [f32; FACE] {
    let (row, column) = position(block);
    let column = tile * TILE + column;
    let mut values = [0.0; FACE];
    if row < rows.len() / columns && column < columns {
        let width = FACE.min(columns - column);
        let start = row * columns + column;
        values[..width].copy_from_slice(&rows[start..start + width]);
    }
    values
}

/// Row and column inside a tile of a block of 16 values.
#[inline(always)]
const fn position(block: usize) -> (usize, usize) {
    let (face, row) = (block / FACE, block % FACE);
    (face / 2 * FACE + row, face % 2 * FACE)
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
    use super::*;

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

//! Arithmetic on the CPU that the reference backend and the TTNN graph's host runtime share. Knows slices and matrices, not models.

pub mod attention;
pub mod elementwise;
pub mod gemm;

/// The first `n` values of a buffer that only grows, whatever is in them.
pub fn room(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    buffer.resize(buffer.len().max(n), 0.0);
    &mut buffer[..n]
}

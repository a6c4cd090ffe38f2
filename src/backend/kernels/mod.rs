//! Arithmetic on the CPU that the reference backend and the TTNN graph's host runtime share. Knows slices and matrices, not models.

pub mod attention;
pub mod elementwise;
pub mod gemm;

//! What the arithmetic units of this machine can do: the bound of every product.

use std::{hint::black_box, time::Instant};

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use super::tile::{Instructions, Vector};

/// Enough sums to hide the latency of two units, few enough for 16 registers.
const SUMS: usize = 10;
const ROUNDS: usize = 1_000_000;

/// The best rate of fused multiply-adds in registers over all threads of the current pool together, in GFLOP/s.
pub fn peak_gflops() -> f64 {
    let set = Instructions::detect();
    let operations = 2 * SUMS * ROUNDS * set.lanes() * rayon::current_num_threads();
    let fastest = (0..8)
        .map(|_| {
            let start = Instant::now();
            rayon::broadcast(|_| {
                // SAFETY: detect() found the instructions.
                black_box(unsafe { rounds(set) })
            });
            start.elapsed()
        })
        .min();
    fastest.map_or(0.0, |time| operations as f64 / time.as_secs_f64() / 1e9)
}

unsafe fn rounds(set: Instructions) -> f32 {
    // SAFETY: the machine has `set`.
    unsafe {
        match set {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => avx512(),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => avx2(),
            _ => chains::<[f32; 8]>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512() -> f32 {
    // SAFETY: the function's own features.
    unsafe { chains::<__m512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2() -> f32 {
    // SAFETY: the function's own features.
    unsafe { chains::<__m256>() }
}

/// Sums that converge, so that no value leaves the normal range.
#[inline(always)]
unsafe fn chains<V: Vector>() -> f32 {
    // SAFETY: the caller's features; the pointers are to whole values.
    unsafe {
        let (factor, term) = (V::splat(black_box(&0.999)), V::splat(black_box(&1e-3)));
        let mut sums = [V::zero(); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = sum.multiply_add(factor, term);
            }
        }
        let total = sums.into_iter().fold(V::zero(), |total, sum| total.add(sum));
        let mut out = [0f32; 16];
        total.store(out.as_mut_ptr());
        out.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_multiply_add_in_ten_nanoseconds() {
        assert!(peak_gflops() > 0.2);
    }
}

//! The starting point of the denoise loop.

use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// Standard normal noise for chunk `index` of a run with `seed`: the same on every machine, different for every chunk.
///
/// ChaCha12 with the chunk index as its stream; the normal distribution goes through Rust's own libm, not the platform's.
pub fn noise(seed: u64, index: u64, values: usize) -> Vec<f32> {
    let mut generator = ChaCha12Rng::seed_from_u64(seed);
    generator.set_stream(index);
    (0..values)
        .map(|_| {
            let value: f64 = StandardNormal.sample(&mut generator);
            value as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_standard_normal_and_differs_between_chunks_and_seeds() {
        let values = noise(7, 3, 100_000);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
        // Five standard errors of the mean and of the variance of 100,000 samples.
        assert!(mean.abs() < 5.0 / 100_000f32.sqrt(), "{mean}");
        assert!((variance - 1.0).abs() < 5.0 * (2.0 / 100_000f32).sqrt(), "{variance}");
        assert_eq!(noise(7, 3, 10), values[..10]);
        assert_ne!(noise(7, 4, 10), values[..10]);
        assert_ne!(noise(8, 3, 10), values[..10]);
    }

    #[test]
    fn noise_has_not_changed_since_it_was_first_released() {
        // Recorded baselines hold seeds, not noise: these values must stay.
        assert_eq!(noise(0, 0, 4), [0.712_813, 0.858_331_44, -2.436_243_8, 0.163_344_26]);
    }
}

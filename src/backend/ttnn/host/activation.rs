//! Functions of TTNN's vector unit.

use multiversion::multiversion;

use crate::backend::{kernels::elementwise::silu, ttnn::terms::Activation};

/// Applies `activation` to each value.
pub fn apply(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Gelu => gelu(values),
        Activation::Silu => silu(values),
    }
}

/// TTNN's accurate GELU (`calculate_gelu_chebyshev` of `ckernel_sfpu_gelu.h`): a polynomial between -5.5 and 3, zero below, `x` above.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn gelu(values: &mut [f32]) {
    const COEFFICIENTS: [f32; 16] = [
        -1.812_052_3e-9,
        -4.590_551_2e-8,
        -3.745_406_2e-7,
        -2.297_541_3e-7,
        1.190_767_8e-5,
        4.251_165e-5,
        -1.383_918_4e-4,
        -8.620_524_4e-4,
        7.683_402e-4,
        9.207_433e-3,
        -2.084_780_4e-3,
        -6.563_695e-2,
        2.445_427_4e-3,
        0.398_579_46,
        0.499_174_65,
        2.983_257_7e-5,
    ];
    for value in values {
        let x = *value;
        let polynomial = COEFFICIENTS.iter().fold(0.0, |sum, &coefficient| sum * x + coefficient).abs().copysign(x);
        let inner = if x >= -5.5 { polynomial } else { 0.0 };
        let result = if x < 3.0 { inner } else { x };
        *value = if x == 0.0 { 0.0 } else { result };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_within_5e_3_of_the_exact_one_and_follows_x_far_out() {
        let points: Vec<f32> = (-800..=800).map(|i| i as f32 * 0.01).collect();
        let mut values = points.clone();
        gelu(&mut values);
        let worst = points.iter().zip(&values).map(|(&x, &y)| (f64::from(y) - exact(f64::from(x))).abs()).fold(0.0, f64::max);
        assert!(worst < 5e-3, "{worst}");
        let mut far = [-1e30, -50.0, 0.0, 50.0, 1e30];
        gelu(&mut far);
        assert_eq!(far, [0.0, 0.0, 0.0, 50.0, 1e30]);
    }

    /// `x Phi(x)`, with Phi from Simpson's rule over the normal density.
    fn exact(x: f64) -> f64 {
        const STEPS: usize = 2000;
        let h = x / STEPS as f64;
        let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let weight = |i: usize| {
            if i == 0 || i == STEPS {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            }
        };
        let integral: f64 = (0..=STEPS).map(|i| weight(i) * density(i as f64 * h)).sum::<f64>() * h / 3.0;
        x * (0.5 + integral)
    }
}

//! Kernels that work on one row or one slice at a time.
//!
//! Each is compiled for AVX-512, AVX2 and the build's baseline and chosen at run time. None uses a fused multiply-add, so that all
//! three give the same bits.

use multiversion::multiversion;

/// e^x with a relative error below 2e-7, without a branch, so that loops over it vectorise (Cephes `expf`).
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let y = p * (r * r) + r + 1.0;
    // n is an integer in -126..=127: its biased exponent is a normal float.
    y * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Sum in sixteen lanes: the same order on every instruction set.
#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    lanes.iter().sum()
}

/// Layer normalisation of one row, without weight and bias.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn layer_norm(x: &[f32], epsilon: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum(x, |v| v) / n;
    let variance = sum(x, |v| (v - mean) * (v - mean)) / n;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for (out, &x) in out.iter_mut().zip(x) {
        *out = (x - mean) * scale;
    }
}

/// RMS normalisation of one row, without gain: `x / sqrt(mean(x^2) + epsilon)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn rms_norm(x: &[f32], epsilon: f32, out: &mut [f32]) {
    let mean_square = sum(x, |v| v * v) / x.len() as f32;
    let scale = 1.0 / (mean_square + epsilon).sqrt();
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x * scale;
    }
}

/// `x *= gain`.
pub fn multiply(x: &mut [f32], gain: &[f32]) {
    for (x, &gain) in x.iter_mut().zip(gain) {
        *x *= gain;
    }
}

/// GELU with the tanh approximation: `0.5 x (1 + tanh(u))` written as `x / (1 + e^(-2u))`.
#[inline(always)]
fn gelu_value(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * u))
}

/// `x = gelu(x + bias)` for one row (SigLIP's MLP).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn bias_gelu(x: &mut [f32], bias: &[f32]) {
    for (x, &b) in x.iter_mut().zip(bias) {
        *x = gelu_value(*x + b);
    }
}

/// `gate = gelu(gate) * up` (Gemma's MLP).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn gelu_times(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = gelu_value(*gate) * up;
    }
}

/// `x = silu(x)`, which is `x / (1 + e^-x)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn silu(x: &mut [f32]) {
    for x in x {
        *x /= 1.0 + exp(-*x);
    }
}

/// Softmax of one row of logits in place; logits are multiplied by `scale` first.
pub fn softmax(logits: &mut [f32], scale: f32) {
    exponentials(logits, scale);
    let inverse = 1.0 / total(logits);
    for value in logits {
        *value *= inverse;
    }
}

/// `e^(scale (x - max x))` of one row in place: softmax before its division.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn exponentials(logits: &mut [f32], scale: f32) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in logits.chunks(16) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let max = lanes.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }) * scale;
    for value in logits {
        *value = exp(*value * scale - max);
    }
}

/// Sum of one row, in an order that does not depend on the machine.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn total(values: &[f32]) -> f32 {
    sum(values, |v| v)
}

/// `out += x`.
pub fn add(out: &mut [f32], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_2e_7_of_libm() {
        let worst = (-870_000..880_000)
            .map(|i| {
                let x = i as f32 * 1e-4;
                ((f64::from(exp(x)) - f64::from(x).exp()) / f64::from(x).exp()).abs()
            })
            .fold(0.0, f64::max);
        assert!(worst < 2e-7, "{worst:e}");
    }

    #[test]
    fn gelu_is_the_tanh_form_and_saturates_without_nan() {
        for x in [-1e30f32, -50.0, -3.0, -0.1, 0.0, 1e-20, 0.7, 4.0, 50.0, 1e10] {
            let mut value = [x];
            bias_gelu(&mut value, &[0.0]);
            let x = f64::from(x);
            let expected = 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            assert!((f64::from(value[0]) - expected).abs() <= 1e-6 * (1.0 + x.abs()), "{x}: {} {expected}", value[0]);
        }
    }

    #[test]
    fn softmax_of_blocked_logits_gives_them_no_weight() {
        let mut logits = [1.0, f32::MIN, 3.0, f32::MIN];
        softmax(&mut logits, 0.5);
        assert!(logits[1] < 1e-37 && logits[3] < 1e-37, "{logits:?}");
        assert!((logits[0] / logits[2] - (-1f32).exp()).abs() < 1e-6);
    }
}

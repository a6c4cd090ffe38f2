//! A camera image to the square that the vision tower sees: scaled without distortion, centred on black.
//!
//! The two families scale differently and their models were trained on that, so both are reproduced: openpi's to the bit, LeRobot's to
//! float32 rounding.

use super::{ObservationError, RgbImage};

/// Which resize the checkpoint was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeKernel {
    /// Pillow's antialiased bilinear on uint8 (openpi `image_tools.resize_with_pad`), bit-exact for Pillow 11 and 12.
    Openpi,
    /// torch's bilinear without antialiasing on float32 (LeRobot `resize_with_pad_torch`).
    Lerobot,
    /// The same with all black on top and at the left instead of centred (LeRobot up to 0.3.3 `resize_with_pad`).
    #[value(name = "lerobot_legacy")]
    #[serde(rename = "lerobot_legacy")]
    LerobotLegacy,
}

/// Scales images to one square size.
#[derive(Clone, Copy, Debug)]
pub struct Resizer {
    kernel: ResizeKernel,
    side: usize,
}

/// Where the scaled image lies in the square.
struct Fit {
    width: usize,
    height: usize,
    left: usize,
    top: usize,
}

impl Resizer {
    /// `side` in pixels.
    pub fn new(kernel: ResizeKernel, side: usize) -> Self {
        Self { kernel, side }
    }

    /// Side of the square in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// `[3, side, side]` in -1..=1, channel-major, black (-1) where the image does not reach.
    pub fn resize(&self, image: &RgbImage) -> Result<Vec<f32>, ObservationError> {
        let fit = self.fit(image)?;
        let mut square = vec![-1.0; 3 * self.side * self.side];
        match self.kernel {
            ResizeKernel::Openpi => {
                let scaled = pillow_bilinear(image, fit.width, fit.height);
                let (pixels, _) = scaled.as_chunks::<3>();
                // As openpi computes it: uint8 / 255 * 2 - 1 in float32.
                let level: [f32; 256] = std::array::from_fn(|v| v as f32 / 255.0 * 2.0 - 1.0);
                self.place(&mut square, &fit, |y, x, c| level[usize::from(pixels[y * fit.width + x][c])]);
            }
            ResizeKernel::Lerobot | ResizeKernel::LerobotLegacy => {
                let level: [f32; 256] = std::array::from_fn(|v| v as f32 / 255.0);
                let rows = torch_taps(image.height(), fit.height);
                let columns = torch_taps(image.width(), fit.width);
                let (pixels, _) = image.pixels().as_chunks::<3>();
                self.place(&mut square, &fit, |y, x, c| {
                    let along = |row: usize| {
                        let at = |column: usize| level[usize::from(pixels[row * image.width() + column][c])];
                        let tap = &columns[x];
                        at(tap.low) * tap.low_weight + at(tap.high) * tap.high_weight
                    };
                    let tap = &rows[y];
                    let value = along(tap.low) * tap.low_weight + along(tap.high) * tap.high_weight;
                    value.clamp(0.0, 1.0) * 2.0 - 1.0
                });
            }
        }
        Ok(square)
    }

    /// Every kernel truncates the scaled size. Centred, the odd row or column is at the bottom or right.
    fn fit(&self, image: &RgbImage) -> Result<Fit, ObservationError> {
        let (width, height, side) = (image.width(), image.height(), self.side);
        let ratio = (width as f64 / side as f64).max(height as f64 / side as f64);
        let scaled = |length: usize| (length as f64 / ratio) as usize;
        let (fit_width, fit_height) = (scaled(width), scaled(height));
        if fit_width == 0 || fit_height == 0 {
            return Err(ObservationError::AspectRatio { width, height, side });
        }
        // Neither scaled length exceeds the side: length / ratio <= side, and truncation removes the rounding.
        let (left, top) = match self.kernel {
            ResizeKernel::Openpi | ResizeKernel::Lerobot => ((side - fit_width) / 2, (side - fit_height) / 2),
            ResizeKernel::LerobotLegacy => (side - fit_width, side - fit_height),
        };
        Ok(Fit { width: fit_width, height: fit_height, left, top })
    }

    /// Writes `value(row, column, channel)` of the scaled image into the square.
    fn place(&self, square: &mut [f32], fit: &Fit, value: impl Fn(usize, usize, usize) -> f32) {
        for (c, plane) in square.chunks_exact_mut(self.side * self.side).enumerate() {
            for (y, row) in plane.chunks_exact_mut(self.side).skip(fit.top).take(fit.height).enumerate() {
                for (x, out) in row[fit.left..][..fit.width].iter_mut().enumerate() {
                    *out = value(y, x, c);
                }
            }
        }
    }
}

/// Fraction bits of Pillow's fixed-point weights.
const WEIGHT_BITS: u32 = 22;

/// The source pixels of one output pixel and their fixed-point weights.
struct PillowTaps {
    start: usize,
    weights: Vec<i32>,
}

/// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc` with the triangle filter.
fn pillow_taps(source: usize, target: usize) -> Vec<PillowTaps> {
    let scale = source as f64 / target as f64;
    let support = scale.max(1.0);
    let taps = |out: usize| {
        let center = (out as f64 + 0.5) * scale;
        let start = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(source);
        let weight = |x: usize| (1.0 - ((x as f64 - center + 0.5) * (1.0 / support)).abs()).max(0.0);
        let sum: f64 = (start..end).map(weight).sum();
        let fixed = |x| (weight(x) / sum * f64::from(1 << WEIGHT_BITS) + 0.5) as i32;
        PillowTaps { start, weights: (start..end).map(fixed).collect() }
    };
    (0..target).map(taps).collect()
}

/// Start of every sum: rounds to the nearest.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

fn to_u8(sum: i32) -> u8 {
    // Clamped to the range of u8.
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Pillow's `Image.resize(..., BILINEAR)`: `[height, width, 3]`. First along rows, then along columns, rounded to uint8 after each.
fn pillow_bilinear(image: &RgbImage, width: usize, height: usize) -> Vec<u8> {
    let mut pixels = std::borrow::Cow::Borrowed(image.pixels());
    if width != image.width() {
        let taps = pillow_taps(image.width(), width);
        let mut scaled = Vec::with_capacity(image.height() * width * 3);
        for row in pixels.chunks_exact(image.width() * 3) {
            let (row, _) = row.as_chunks::<3>();
            for tap in &taps {
                let mut sums = [HALF; 3];
                for (pixel, weight) in row[tap.start..].iter().zip(&tap.weights) {
                    for c in 0..3 {
                        sums[c] += i32::from(pixel[c]) * weight;
                    }
                }
                scaled.extend(sums.map(to_u8));
            }
        }
        pixels = scaled.into();
    }
    if height != image.height() {
        let stride = width * 3;
        let mut scaled = Vec::with_capacity(height * stride);
        let mut sums = vec![HALF; stride];
        for tap in pillow_taps(image.height(), height) {
            sums.fill(HALF);
            for (row, weight) in pixels.chunks_exact(stride).skip(tap.start).zip(&tap.weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            scaled.extend(sums.iter().map(|&sum| to_u8(sum)));
        }
        pixels = scaled.into();
    }
    pixels.into_owned()
}

/// The two source pixels of one output pixel and their weights.
struct TorchTap {
    low: usize,
    high: usize,
    low_weight: f32,
    high_weight: f32,
}

/// torch's `upsample_bilinear2d` with `align_corners=False`: positions in float32 with a fused multiply-add, as torch computes them.
fn torch_taps(source: usize, target: usize) -> Vec<TorchTap> {
    let scale = source as f32 / target as f32;
    let tap = |out: usize| {
        let position = scale.mul_add(out as f32 + 0.5, -0.5).max(0.0);
        let low = (position as usize).min(source - 1);
        let high_weight = (position - low as f32).clamp(0.0, 1.0);
        TorchTap { low, high: (low + 1).min(source - 1), low_weight: 1.0 - high_weight, high_weight }
    };
    (0..target).map(tap).collect()
}

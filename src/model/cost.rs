//! Floating-point operations of one inference, counted as two for each multiply and add of a product.

use super::{GemmaGeometry, Geometry};

/// Operations of each stage, for what the reference backend computes: valid rows only, and the last prefix layer to its keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    pub vision: f64,
    pub prefix: f64,
    /// One Euler step.
    pub step: f64,
}

impl Flops {
    pub fn total(&self, steps: usize) -> f64 {
        self.vision + self.prefix + self.step * steps as f64
    }
}

impl Geometry {
    /// Operations for `cameras` present cameras and a prompt of `tokens`.
    pub fn flops(&self, cameras: usize, tokens: usize) -> Flops {
        let vision = &self.vision;
        let image_tokens = vision.tokens() as f64;
        let (width, mlp) = (vision.width as f64, vision.mlp_width as f64);
        let block = 2.0 * image_tokens * (4.0 * width * width + 2.0 * width * mlp) + 4.0 * image_tokens * image_tokens * width;
        let patches = 2.0 * image_tokens * width * (3 * vision.patch * vision.patch) as f64;
        let projector = 2.0 * image_tokens * width * self.vlm.width as f64;
        let image = patches + vision.depth as f64 * block + projector;

        let rows = image_tokens * cameras as f64 + tokens as f64;
        let last = self.vlm.depth as f64 - 1.0;
        let prefix = last * gemma_layer(&self.vlm, rows, rows) + 2.0 * rows * key_values(&self.vlm);

        let suffix = 1.0 + self.horizon as f64;
        let expert = self.expert.width as f64;
        let projections = 2.0 * self.horizon as f64 * (2.0 * expert * self.action_dim as f64 + 2.0 * expert * expert);
        let step = self.expert.depth as f64 * gemma_layer(&self.expert, suffix, rows + suffix) + projections;
        Flops { vision: image * cameras as f64, prefix, step }
    }
}

/// Weights of the key and value projections.
fn key_values(gemma: &GemmaGeometry) -> f64 {
    (2 * gemma.width * gemma.kv_heads * gemma.head_dim) as f64
}

fn gemma_layer(gemma: &GemmaGeometry, rows: f64, keys: f64) -> f64 {
    let heads = (gemma.heads * gemma.head_dim) as f64;
    let (width, mlp) = (gemma.width as f64, gemma.mlp_width as f64);
    2.0 * rows * (2.0 * width * heads + key_values(gemma) + 3.0 * width * mlp) + 4.0 * rows * keys * heads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_model_costs_what_was_counted_elsewhere() {
        // 220 GFLOP for each image and 38.6 for each step at 816 prefix rows, counted independently from the PyTorch modules.
        let flops = Geometry::base().flops(3, 48);
        assert!((flops.vision / 3e9 - 220.0).abs() < 2.0, "{}", flops.vision / 3e9);
        assert!((flops.step / 1e9 - 38.6).abs() < 0.5, "{}", flops.step / 1e9);
        // 3234 + 98 for a whole prefix, less the 171 behind the last keys and values (5 % of the linears and an 18th of the attention).
        assert!((flops.prefix / 1e9 - (3234.0 + 98.0 - 171.0 - 98.0 / 18.0)).abs() < 20.0, "{}", flops.prefix / 1e9);
    }
}

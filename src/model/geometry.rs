//! The sizes of one π0: everything a backend must know besides the weights.

use serde::{Deserialize, Serialize};

/// SigLIP vision tower (So400m/14 in the published model).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisionGeometry {
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    pub mlp_width: usize,
    /// Side of a square patch in pixels.
    pub patch: usize,
    /// Side of the square input image in pixels.
    pub image_size: usize,
}

/// One Gemma tower: the 2B language model of the prefix or the 300M action expert of the suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GemmaGeometry {
    pub width: usize,
    pub depth: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mlp_width: usize,
}

/// All sizes of a π0 model. Comes from a checkpoint's config and tensor shapes, never from constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Geometry {
    pub vision: VisionGeometry,
    pub vlm: GemmaGeometry,
    pub expert: GemmaGeometry,
    /// Rows of the token embedding table.
    pub vocab_size: usize,
    /// Prompt tokens after padding (48 in the published model).
    pub prompt_slots: usize,
    /// Rows of an action chunk (50 in the published model).
    pub horizon: usize,
    /// Columns of an action chunk inside the model (32); the robot uses the first few.
    pub action_dim: usize,
    /// Entries of the state vector inside the model (32); the robot fills the first few.
    pub state_dim: usize,
    /// Shortest and longest period of the sine-cosine embedding of the flow-matching time.
    pub min_period: f64,
    pub max_period: f64,
}

impl VisionGeometry {
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Tokens that one image becomes (256 for 224 px and 14 px patches).
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch).pow(2)
    }
}

impl Geometry {
    /// The geometry called `tiny`, `small` or `base`.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "tiny" => Some(Self::tiny()),
            "small" => Some(Self::small()),
            "base" => Some(Self::base()),
            _ => None,
        }
    }

    /// The published π0: openpi `pi0_config.py` and `gemma.py` (gemma_2b, gemma_300m), SigLIP So400m/14 at 224 px.
    pub fn base() -> Self {
        let gemma = |width, mlp_width| GemmaGeometry { width, depth: 18, heads: 8, kv_heads: 1, head_dim: 256, mlp_width };
        Self {
            vision: VisionGeometry { width: 1152, depth: 27, heads: 16, mlp_width: 4304, patch: 14, image_size: 224 },
            vlm: gemma(2048, 16384),
            expert: gemma(1024, 4096),
            vocab_size: 257_152,
            prompt_slots: 48,
            horizon: 50,
            action_dim: 32,
            state_dim: 32,
            min_period: 4e-3,
            max_period: 4.0,
        }
    }

    /// The true head sizes and input sizes with few and narrow layers: a full pipeline in a few MB.
    pub fn small() -> Self {
        let gemma = |width, mlp_width| GemmaGeometry { width, depth: 2, heads: 8, kv_heads: 1, head_dim: 256, mlp_width };
        Self {
            vision: VisionGeometry { width: 144, depth: 2, heads: 2, mlp_width: 272, patch: 14, image_size: 224 },
            vlm: gemma(256, 512),
            expert: gemma(128, 256),
            vocab_size: 1024,
            ..Self::base()
        }
    }

    /// The smallest π0 that still has every part: for tests that run in milliseconds.
    pub fn tiny() -> Self {
        let gemma = |width, mlp_width| GemmaGeometry { width, depth: 3, heads: 8, kv_heads: 1, head_dim: 16, mlp_width };
        Self {
            vision: VisionGeometry { width: 72, depth: 3, heads: 4, mlp_width: 136, patch: 14, image_size: 56 },
            vlm: gemma(64, 128),
            expert: gemma(48, 96),
            vocab_size: 512,
            prompt_slots: 12,
            horizon: 10,
            ..Self::base()
        }
    }
}

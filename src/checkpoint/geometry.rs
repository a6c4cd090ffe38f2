//! Geometry out of tensor shapes and configuration.
//!
//! Shapes do not tell the number of attention heads. With one key-value head (the published Gemma variants) the rows of `k_proj` are
//! the head's size; SigLIP's heads have 72 entries in the published variant. `meta.json` beside the config overrides both.

use std::{collections::BTreeSet, path::Path};

use serde::Deserialize;

use super::{CheckpointError, Weights, config::Config, error::ShapeMismatch, files};
use crate::model::{
    GemmaGeometry, Geometry, VisionGeometry,
    layout::{EXPERT, VISION, VLM},
};

/// Size of a SigLIP So400m/14 attention head.
const SIGLIP_HEAD_DIM: usize = 72;
/// Layers that are counted to: far more than any published tower has.
const MAX_DEPTH: usize = 256;

/// Head counts of a geometry that is not a published one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heads {
    vision: Option<usize>,
    vlm: Option<GemmaHeads>,
    expert: Option<GemmaHeads>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct GemmaHeads {
    #[serde(rename = "num_heads")]
    heads: usize,
    #[serde(rename = "num_kv_heads")]
    kv_heads: usize,
    head_dim: usize,
}

impl Heads {
    /// Reads the `geometry` of `meta.json`; a folder without either has the published head counts.
    pub fn read(dir: &Path) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Meta {
            geometry: Option<MetaGeometry>,
        }
        #[derive(Deserialize)]
        struct MetaGeometry {
            vlm: GemmaHeads,
            exp: GemmaHeads,
            vis: MetaVision,
        }
        #[derive(Deserialize)]
        struct MetaVision {
            num_attention_heads: usize,
        }
        let path = dir.join("meta.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        let meta: Meta = files::read_json(&path)?;
        Ok(meta.geometry.map_or_else(Self::default, |geometry| Self {
            vision: Some(geometry.vis.num_attention_heads),
            vlm: Some(geometry.vlm),
            expert: Some(geometry.exp),
        }))
    }
}

/// The geometry, and every tensor that does not fit it: all causes are listed.
pub(super) fn derive(config: &Config, heads: &Heads, weights: &Weights) -> Result<Geometry, Vec<CheckpointError>> {
    Probe { config, heads, weights, causes: Vec::new(), blind: false }.derive()
}

struct Probe<'a> {
    config: &'a Config,
    heads: &'a Heads,
    weights: &'a Weights,
    causes: Vec<CheckpointError>,
    /// A size could not be found out: only names can be compared, not shapes.
    blind: bool,
}

impl Probe<'_> {
    fn derive(mut self) -> Result<Geometry, Vec<CheckpointError>> {
        let config = self.config;
        let geometry = Geometry {
            vision: self.vision(),
            vlm: self.gemma(VLM, "the head size of the language model", self.heads.vlm),
            expert: self.gemma(EXPERT, "the head size of the action expert", self.heads.expert),
            // Only embed_tokens itself has this side, so nothing depends on it when it is missing.
            vocab_size: self.stored_side(&format!("{VLM}.embed_tokens.weight"), 0).unwrap_or(1),
            prompt_slots: config.prompt_slots,
            horizon: config.horizon,
            action_dim: self.stored_side("action_in_proj.weight", 1).unwrap_or(config.action_dim),
            state_dim: self.stored_side("state_proj.weight", 1).unwrap_or(config.state_dim),
            min_period: config.min_period,
            max_period: config.max_period,
        };
        let (action_dim, state_dim) = (geometry.action_dim, geometry.state_dim);
        self.agree("The width of action_in_proj", action_dim, "the action dimension of config.json", config.action_dim);
        self.agree("The width of state_proj", state_dim, "the state dimension of config.json", config.state_dim);
        if !self.blind {
            if let Some(size) = config.image_size {
                let what = format!("The image side by {} position embeddings", geometry.vision.tokens());
                self.agree(&what, geometry.vision.image_size, "the image side of config.json", size);
            }
            // Half of the time embedding are sines, half cosines.
            if !geometry.expert.width.is_multiple_of(2) {
                self.causes.push(CheckpointError::OddExpert { width: geometry.expert.width });
            }
            // The expert attends to the language model's keys and values layer by layer.
            let (vlm, expert) = (&geometry.vlm, &geometry.expert);
            for (what, first, second) in [
                ("depth", vlm.depth, expert.depth),
                ("number of heads", vlm.heads, expert.heads),
                ("number of key-value heads", vlm.kv_heads, expert.kv_heads),
                ("head size", vlm.head_dim, expert.head_dim),
            ] {
                self.agree(
                    &format!("The {what} of the language model"),
                    first,
                    &format!("the {what} of the action expert"),
                    second,
                );
            }
        }
        self.compare(&geometry);
        if self.causes.is_empty() { Ok(geometry) } else { Err(self.causes) }
    }

    /// Length of one side of a tensor that is there.
    fn stored_side(&self, name: &str, axis: usize) -> Option<usize> {
        self.weights.get(name)?.shape().get(axis).copied().filter(|&side| side > 0)
    }

    /// Length of one side; 1 where it cannot be known, so that nothing divides by it.
    fn side(&mut self, stored: Option<usize>) -> usize {
        self.blind |= stored.is_none();
        stored.unwrap_or(1)
    }

    /// Length of one side of a layer's tensor, out of the first layer that has it.
    fn layer_side(&mut self, prefix: &str, depth: usize, tensor: &str, axis: usize) -> usize {
        let stored = (0..depth).find_map(|layer| self.stored_side(&format!("{prefix}.layers.{layer}.{tensor}.weight"), axis));
        self.side(stored)
    }

    /// Number of layers under a prefix, counted by the highest layer number.
    fn depth(&mut self, prefix: &str) -> usize {
        let layer = |name: &str| name.strip_prefix(prefix)?.strip_prefix(".layers.")?.split('.').next()?.parse::<usize>().ok();
        // The limit keeps a hostile layer number from being counted to; its tensor is then unexpected.
        let depth = self.weights.names().filter_map(layer).filter(|&layer| layer < MAX_DEPTH).max().map(|last| last + 1);
        self.side(depth)
    }

    fn vision(&mut self) -> VisionGeometry {
        let patch_embedding = format!("{VISION}.embeddings.patch_embedding.weight");
        let width = self.side(self.stored_side(&patch_embedding, 0));
        let patch = self.side(self.stored_side(&patch_embedding, 3));
        let positions = self.side(self.stored_side(&format!("{VISION}.embeddings.position_embedding.weight"), 0));
        let grid = positions.isqrt();
        if grid * grid != positions {
            self.cannot_tell("The image side", format!("{positions} position embeddings are not a square grid"));
        }
        let published = width.is_multiple_of(SIGLIP_HEAD_DIM).then_some(width / SIGLIP_HEAD_DIM);
        let heads = self.heads.vision.or(published).filter(|&heads| heads > 0 && width.is_multiple_of(heads));
        if heads.is_none() && !self.blind {
            self.cannot_tell("SigLIP's head count", format!("the width of {width} does not divide into heads"));
        }
        let encoder = format!("{VISION}.encoder");
        let depth = self.depth(&encoder);
        VisionGeometry {
            width,
            depth,
            heads: self.side(heads),
            mlp_width: self.layer_side(&encoder, depth, "mlp.fc1", 0),
            patch,
            // Both factors are sides of tensors inside a file, so the product is far from overflow.
            image_size: grid * patch,
        }
    }

    fn gemma(&mut self, prefix: &str, what: &'static str, given: Option<GemmaHeads>) -> GemmaGeometry {
        let depth = self.depth(prefix);
        let queries = self.layer_side(prefix, depth, "self_attn.q_proj", 0);
        let keys = self.layer_side(prefix, depth, "self_attn.k_proj", 0);
        let mut heads = given.unwrap_or(GemmaHeads { heads: queries / keys, kv_heads: 1, head_dim: keys });
        let rows = |n: usize| n.saturating_mul(heads.head_dim);
        let fits = rows(heads.heads) == queries && rows(heads.kv_heads) == keys && heads.head_dim.is_multiple_of(2);
        let shared = heads.heads.is_multiple_of(heads.kv_heads);
        if !(self.blind || fits && shared) {
            let GemmaHeads { heads, kv_heads, head_dim } = heads;
            let shapes = format!("{queries} query rows and {keys} key rows");
            self.cannot_tell(what, format!("{shapes} are not {heads} and {kv_heads} heads of an even size {head_dim}"));
        }
        if !fits {
            // Sizes of no sense must not be multiplied.
            self.blind = true;
            heads = GemmaHeads { heads: 1, kv_heads: 1, head_dim: 1 };
        }
        GemmaGeometry {
            width: self.layer_side(prefix, depth, "self_attn.q_proj", 1),
            depth,
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            mlp_width: self.layer_side(prefix, depth, "mlp.gate_proj", 0),
        }
    }

    fn cannot_tell(&mut self, what: &'static str, reason: String) {
        self.causes.push(CheckpointError::Geometry { what, reason });
    }

    fn agree(&mut self, first: &str, first_value: usize, second: &str, second_value: usize) {
        if first_value != second_value {
            self.causes.push(CheckpointError::Contradiction {
                first: first.into(),
                first_value: first_value.to_string(),
                second: second.into(),
                second_value: second_value.to_string(),
            });
        }
    }

    /// Compares names and, where all sizes are known, shapes with what the geometry asks for.
    fn compare(&mut self, geometry: &Geometry) {
        let (mut missing, mut shapes) = (Vec::new(), Vec::new());
        let expected = geometry.tensors();
        let mut names: BTreeSet<&str> = self.weights.names().collect();
        for spec in &expected {
            names.remove(spec.name.as_str());
            match self.weights.get(&spec.name) {
                None => missing.push(spec.name.clone()),
                Some(tensor) if !self.blind && tensor.shape() != spec.shape => shapes.push(ShapeMismatch {
                    name: spec.name.clone(),
                    found: tensor.shape().to_vec(),
                    expected: spec.shape.clone(),
                }),
                Some(_) => {}
            }
        }
        let unexpected: Vec<String> = names.into_iter().map(String::from).collect();
        if !(missing.is_empty() && unexpected.is_empty() && shapes.is_empty()) {
            self.causes.push(CheckpointError::Tensors { missing, unexpected, shapes });
        }
    }
}

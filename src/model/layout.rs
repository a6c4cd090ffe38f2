//! Every tensor of a π0 with its canonical name and shape.

use super::{GemmaGeometry, Geometry};

/// Name and shape that a weights file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
}

/// Prefix of SigLIP's tensors.
pub const VISION: &str = "paligemma_with_expert.paligemma.model.vision_tower.vision_model";
/// Prefix of the projector from SigLIP to the language model.
pub const PROJECTOR: &str = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear";
/// Prefix of the language model's tensors.
pub const VLM: &str = "paligemma_with_expert.paligemma.model.language_model";
/// Prefix of the action expert's tensors.
pub const EXPERT: &str = "paligemma_with_expert.gemma_expert.model";

impl Geometry {
    /// The tensors that inference needs: no more and no fewer.
    ///
    /// `lm_head` is not among them: π0 never computes logits, and where a file holds only `lm_head` it is `embed_tokens` by tying.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut specs = Specs(Vec::new());
        let vision = &self.vision;
        let embeddings = format!("{VISION}.embeddings");
        specs.linear(&format!("{embeddings}.patch_embedding"), &[vision.width, 3, vision.patch, vision.patch]);
        specs.add(format!("{embeddings}.position_embedding.weight"), &[vision.tokens(), vision.width]);
        for layer in 0..vision.depth {
            let layer = format!("{VISION}.encoder.layers.{layer}");
            for norm in ["layer_norm1", "layer_norm2"] {
                specs.linear(&format!("{layer}.{norm}"), &[vision.width]);
            }
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                specs.linear(&format!("{layer}.self_attn.{projection}"), &[vision.width, vision.width]);
            }
            specs.linear(&format!("{layer}.mlp.fc1"), &[vision.mlp_width, vision.width]);
            specs.linear(&format!("{layer}.mlp.fc2"), &[vision.width, vision.mlp_width]);
        }
        specs.linear(&format!("{VISION}.post_layernorm"), &[vision.width]);
        specs.linear(PROJECTOR, &[self.vlm.width, vision.width]);
        specs.add(format!("{VLM}.embed_tokens.weight"), &[self.vocab_size, self.vlm.width]);
        specs.gemma(VLM, &self.vlm);
        specs.gemma(EXPERT, &self.expert);
        let width = self.expert.width;
        specs.linear("state_proj", &[width, self.state_dim]);
        specs.linear("action_in_proj", &[width, self.action_dim]);
        specs.linear("action_time_mlp_in", &[width, 2 * width]);
        specs.linear("action_time_mlp_out", &[width, width]);
        specs.linear("action_out_proj", &[self.action_dim, width]);
        specs.0
    }

    /// Number of parameters that inference needs.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    }
}

struct Specs(Vec<TensorSpec>);

impl Specs {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push(TensorSpec { name, shape: shape.to_vec() });
    }

    /// A weight and a bias of its first side.
    fn linear(&mut self, name: &str, shape: &[usize]) {
        self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
    }

    fn gemma(&mut self, prefix: &str, gemma: &GemmaGeometry) {
        let (width, heads, kv) = (gemma.width, gemma.heads * gemma.head_dim, gemma.kv_heads * gemma.head_dim);
        for layer in 0..gemma.depth {
            let layer = format!("{prefix}.layers.{layer}");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                self.add(format!("{layer}.{norm}.weight"), &[width]);
            }
            for (projection, shape) in
                [("q_proj", [heads, width]), ("k_proj", [kv, width]), ("v_proj", [kv, width]), ("o_proj", [width, heads])]
            {
                self.add(format!("{layer}.self_attn.{projection}.weight"), &shape);
            }
            for (projection, shape) in [
                ("gate_proj", [gemma.mlp_width, width]),
                ("up_proj", [gemma.mlp_width, width]),
                ("down_proj", [width, gemma.mlp_width]),
            ] {
                self.add(format!("{layer}.mlp.{projection}.weight"), &shape);
            }
        }
        self.add(format!("{prefix}.norm.weight"), &[width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_model_has_the_published_number_of_parameters() {
        // openpi and LeRobot count 3,238,048,528 unique parameters without the unused lm_heads.
        assert_eq!(Geometry::base().parameters(), 3_238_048_528);
    }
}

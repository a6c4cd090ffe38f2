//! Tensor names of every supported kind of file, rewritten to the canonical ones.

use std::{borrow::Cow, collections::BTreeMap};

use super::{CheckpointError, Tensor, Weights, normalizer::Statistics, safetensors::RawTensors};
use crate::model::layout::{EXPERT, VLM};

/// Older LeRobot names (up to 0.3.3) with the canonical ones.
const LEGACY: [(&str, &str); 4] = [
    ("paligemma_with_expert.paligemma.language_model.model.", "paligemma_with_expert.paligemma.model.language_model."),
    ("paligemma_with_expert.paligemma.language_model.lm_head.", "paligemma_with_expert.paligemma.lm_head."),
    ("paligemma_with_expert.paligemma.vision_tower.", "paligemma_with_expert.paligemma.model.vision_tower."),
    ("paligemma_with_expert.paligemma.multi_modal_projector.", "paligemma_with_expert.paligemma.model.multi_modal_projector."),
];

/// Modules that LeRobot up to 0.3.3 keeps the normalization statistics in, with the features that inference reads there.
const STATISTICS: [(&str, Option<&str>, &str); 3] = [
    ("normalize_inputs.buffer_", Some("observation_state"), "observation.state"),
    ("unnormalize_outputs.buffer_", Some("action"), "action"),
    ("normalize_targets.buffer_", None, ""),
];

/// A tied copy of the token embedding.
const LM_HEAD: &str = "paligemma_with_expert.paligemma.lm_head.weight";
/// Written by every converter, read by nobody.
const EXPERT_LM_HEAD: &str = "paligemma_with_expert.gemma_expert.lm_head.weight";

/// The tensors of a folder under canonical names.
pub(super) struct Canonical {
    pub weights: Weights,
    /// Whether names or statistics are those of LeRobot up to 0.3.3.
    pub legacy: bool,
    /// Normalization statistics out of the weights file (LeRobot up to 0.3.3).
    pub statistics: Statistics,
}

impl Canonical {
    /// Refuses pi0.5 by name, and files that hold a tensor under two names.
    pub fn new(raw: RawTensors) -> Result<Self, CheckpointError> {
        if let Some(evidence) = pi05_evidence(&raw) {
            return Err(CheckpointError::Pi05 { evidence });
        }
        let mut canonical = Self { weights: Weights::default(), legacy: false, statistics: Statistics::new() };
        let mut origin = BTreeMap::new();
        let mut lm_head = None;
        for (raw_name, tensor) in raw {
            if let Some((feature, statistic)) = statistic(&raw_name) {
                canonical.legacy = true;
                if let Some(feature) = feature {
                    let values = tensor.to_f32().into_iter().map(f64::from).collect();
                    canonical.statistics.entry(feature.to_owned()).or_default().insert(statistic.to_owned(), values);
                }
                continue;
            }
            let (name, legacy) = canonical_name(&raw_name);
            canonical.legacy |= legacy;
            match name.as_ref() {
                EXPERT_LM_HEAD => continue,
                LM_HEAD => lm_head = Some(tensor),
                _ => {
                    if let Some(first) = origin.insert(name.to_string(), raw_name.clone()) {
                        return Err(CheckpointError::NameClash { first, name: name.into(), second: raw_name });
                    }
                    canonical.weights.insert(name, tensor);
                }
            }
        }
        let embedding = format!("{VLM}.embed_tokens.weight");
        if let (None, Some(tensor)) = (canonical.weights.get(&embedding), lm_head) {
            canonical.weights.insert(embedding, tensor);
        }
        Ok(canonical)
    }
}

/// The canonical name, and whether the given one is of LeRobot up to 0.3.3.
fn canonical_name(raw: &str) -> (Cow<'_, str>, bool) {
    let name = raw.strip_prefix("model.").unwrap_or(raw);
    for (old, new) in LEGACY {
        if let Some(rest) = name.strip_prefix(old) {
            return (format!("{new}{rest}").into(), true);
        }
    }
    if name.starts_with("time_mlp_") {
        return (format!("action_{name}").into(), false);
    }
    (name.into(), false)
}

/// Feature (`None`: of no use at inference) and statistic, when this is a normalization buffer of LeRobot up to 0.3.3.
fn statistic(raw: &str) -> Option<(Option<&'static str>, &str)> {
    STATISTICS.iter().find_map(|&(module, wanted, feature)| {
        let (buffer, statistic) = raw.strip_prefix(module)?.rsplit_once('.')?;
        Some(((wanted == Some(buffer)).then_some(feature), statistic))
    })
}

/// pi0.5 has adaptive RMSNorms in the expert, no state token, and calls the time MLP by another name.
fn pi05_evidence(raw: &BTreeMap<String, Tensor>) -> Option<String> {
    let names = || raw.keys().map(|name| name.strip_prefix("model.").unwrap_or(name));
    if let Some(name) = names().find(|name| name.starts_with(EXPERT) && name.contains("norm.dense.")) {
        return Some(format!("it has the adaptive norm {name}"));
    }
    let has = |prefix: &str| names().any(|name| name.starts_with(prefix));
    (has("time_mlp_in.") && !has("state_proj.")).then(|| "it has time_mlp_in and no state_proj".to_owned())
}

//! Where inside of the model two runs part: the first intermediate tensor that differs beyond rounding.

use std::collections::BTreeMap;

use super::{Finding, pair::Pair};
use crate::{
    replay::trace::{ChunkTrace, Intermediate},
    verify::{relative_rms, widen},
};

/// Intermediate tensors are less exact than the actions that come out of them: in bfloat16 keys and values are up to 2.4e-2 away from
/// float32's where the actions are 1.4e-2 (README.md), and only 64 of their values are looked at.
const ROUNDING: f64 = 3.0;
/// Relative difference of the size of two tensors of which one is turned, in float32.
const SAME_SIZE: f64 = 1e-4;

/// Names the first place inside of the model where a chunk's intermediates differ, in the order in which they are computed.
pub(super) fn change(pair: &Pair, b: &ChunkTrace, c: &ChunkTrace) -> Option<Finding> {
    let (before, after) = (&b.model.intermediates, &c.model.intermediates);
    if before.is_empty() || after.is_empty() {
        return None;
    }
    let by_name: BTreeMap<&str, &Intermediate> = after.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let both: Vec<(&Intermediate, &Intermediate)> =
        before.iter().filter_map(|tensor| Some((tensor, *by_name.get(tensor.name.as_str())?))).collect();
    let (b, c) = both.iter().find(|(b, c)| differs(pair, b, c))?;

    if let Some(tower) = b.name.strip_prefix("positions.") {
        let first = |tensor: &Intermediate| tensor.values.first().copied().unwrap_or(f32::NAN);
        return Some(Finding::RopePositions { tower: tower.to_owned(), baseline: first(b), current: first(c) });
    }
    let steps = |tensors: &[Intermediate]| tensors.iter().filter(|tensor| tensor.name.ends_with(".v_t")).count();
    let (baseline, current) = (steps(before), steps(after));
    if b.name.starts_with("step.") && !b.name.starts_with("step.0.") && baseline != current {
        return Some(Finding::Steps { baseline, current });
    }
    // Keys and values are shown after the layers of their tower.
    if ["prefix.layer.0.self_attn", "prefix.layer.0", "prefix.kv.0.key"].contains(&b.name.as_str()) {
        let find = |name: &str| both.iter().find(|(b, _)| b.name == name);
        if let (Some((b_key, c_key)), Some((b_value, c_value))) = (find("prefix.kv.0.key"), find("prefix.kv.0.value")) {
            let rounding = pair.tolerances.map_or(SAME_SIZE, |bounds| bounds.relative_rms.max(SAME_SIZE));
            let same_size = (b_key.rms - c_key.rms).abs() <= rounding * b_key.rms;
            if differs(pair, b_key, c_key) && same_size && !differs(pair, b_value, c_value) {
                return Some(Finding::RopeRotation { layer: "layer 0 of the language model".to_owned() });
            }
        }
    }
    let relative_rms = relative_rms(&widen(&c.values), &widen(&b.values));
    Some(Finding::Intermediate { name: b.name.clone(), place: place(&b.name, &pair.baseline.setup.cameras), relative_rms })
}

fn differs(pair: &Pair, b: &Intermediate, c: &Intermediate) -> bool {
    match pair.tolerances {
        // Positions are whole numbers on every backend.
        _ if b.name.starts_with("positions.") => b.values != c.values,
        None => b.digest != c.digest,
        // Backends may show other rows of a tensor, whose values have nothing to do with each other.
        Some(_) if b.values.len() != c.values.len() => false,
        Some(bounds) => {
            let bound = ROUNDING * bounds.relative_rms;
            let rms = relative_rms(&widen(&c.values), &widen(&b.values));
            // A value that is not a number is a difference, unless it was one before.
            b.digest != c.digest && (rms > bound || rms.is_nan())
        }
    }
}

/// What computes the tensor of this name.
fn place(name: &str, cameras: &[String]) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let layer = |of: &str, rest: &[&str]| match rest {
        ["layer", index] => format!("Layer {index} of {of}"),
        ["layer", index, "input_layernorm"] => format!("The input norm of layer {index} of {of}"),
        ["layer", index, "q_proj"] => format!("The query projection of layer {index} of {of}"),
        ["layer", index, "self_attn"] => format!("The attention of layer {index} of {of} (mask, RoPE, keys and values)"),
        ["layer", index, "mlp"] => format!("The MLP of layer {index} of {of}"),
        ["kv", index, part] => format!("The {part}s of layer {index} of {of}"),
        ["out"] | ["suffix_out"] | ["post_ln"] => format!("The final norm of {of}"),
        rest => format!("{} of {of}", rest.join(".")),
    };
    match parts.as_slice() {
        ["vision", slot, rest @ ..] => {
            let camera = slot.parse().ok().and_then(|slot: usize| cameras.get(slot));
            let of = format!("SigLIP for camera {}", camera.map_or(*slot, String::as_str));
            match rest {
                ["embeddings"] => format!("The patch embedding of {of}"),
                ["projected"] => format!("The projector behind {of}"),
                rest => layer(&of, rest),
            }
        }
        ["prefix", "lang_embs"] => "The embedding of the prompt's tokens".to_owned(),
        ["prefix", "embs"] => "The prefix that the language model gets (order of cameras and prompt)".to_owned(),
        ["prefix", rest @ ..] => layer("the language model", rest),
        ["state_padded"] => "The state".to_owned(),
        ["step", step, "x_t"] => format!("The Euler step before step {step} (its size, or guidance)"),
        ["step", step, "suffix_embs"] => format!("The embedding of state, actions and time in step {step}"),
        ["step", step, "v_t"] => format!("The action output projection in step {step}"),
        ["step", step, rest @ ..] => layer(&format!("the action expert in step {step}"), rest),
        _ => name.to_owned(),
    }
}

//! Which part of π0 an op or a tensor belongs to, by the scopes of the recording.

use serde::Serialize;

use crate::backend::ttnn::op::Op;

/// The parts that a π0 implementation has, after the files of Tenstorrent's own port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Module {
    /// Patch embedding, vision tower and projector.
    Siglip,
    /// The blocks of both Gemma towers.
    Gemma,
    /// What ties the towers together: keys and values from one to the other.
    Paligemma,
    /// Camera rows and prompt rows to one sequence.
    Prefix,
    /// State, actions and time to rows of the expert, and its rows back to velocities.
    Suffix,
    /// Noise, Euler steps and their guidance.
    Denoise,
    /// Who sees whom.
    Masks,
    /// Tables of RoPE and of the time embedding.
    Common,
}

impl Module {
    pub const ALL: [Self; 8] =
        [Self::Siglip, Self::Gemma, Self::Paligemma, Self::Prefix, Self::Suffix, Self::Denoise, Self::Masks, Self::Common];

    pub fn name(self) -> &'static str {
        match self {
            Self::Siglip => "SigLIP",
            Self::Gemma => "Gemma",
            Self::Paligemma => "PaliGemma",
            Self::Prefix => "prefix",
            Self::Suffix => "suffix",
            Self::Denoise => "denoise",
            Self::Masks => "masks",
            Self::Common => "common",
        }
    }

    /// Of an op inside of `scopes`.
    pub fn of_op(scopes: &[String], call: &Op) -> Self {
        let within = |name: &str| scopes.iter().any(|scope| scope == name);
        let in_layer = scopes.iter().any(|scope| scope.starts_with("layer."));
        match (scopes.first().map(String::as_str), call) {
            (Some("vision"), _) => Self::Siglip,
            _ if within("kv_cache") => Self::Paligemma,
            // Keys lose the rows that are padding: a view in place of a mask.
            (Some("prefill"), Op::Reshape { .. }) => Self::Masks,
            _ if in_layer => Self::Gemma,
            (Some("prefill"), _) => Self::Prefix,
            // The state's rows take the place of the last ones; the velocity is added to the actions.
            (Some("denoise"), Op::Add { .. } | Op::Addcmul { .. }) => Self::Denoise,
            (Some("denoise"), _) => Self::Suffix,
            _ => Self::Common,
        }
    }

    /// Of a tensor that the host made inside of `scopes`; none for weights.
    pub fn of_upload(scopes: &[String]) -> Option<Self> {
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        match scopes[..] {
            ["weights", ..] => None,
            ["masks", ..] => Some(Self::Masks),
            ["inputs", "patches"] => Some(Self::Siglip),
            ["inputs", "prompt"] => Some(Self::Prefix),
            ["inputs", "state"] => Some(Self::Suffix),
            ["inputs", "noise" | "guidance"] => Some(Self::Denoise),
            _ => Some(Self::Common),
        }
    }
}

//! Values that a text parameter chooses from a few words.

use crate::{
    backend::BackendKind,
    control::{OnInstruction, StallAction, StampSource},
    model::PrefixSchedule,
    observation::ResizeKernel,
};

/// A value that is chosen by a word.
pub trait Choice: Copy + 'static {
    const CHOICES: &'static [(&'static str, Self)];

    fn parse(text: &str) -> Result<Self, String> {
        let found = Self::CHOICES.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| format!("\"{text}\" is not one of {}", Self::words()))
    }

    fn words() -> String {
        Self::CHOICES.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
    }
}

impl Choice for BackendKind {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("reference", Self::Reference), ("ttnn", Self::Ttnn), ("ttnn_host", Self::TtnnHost)];
}

/// `None`: the checkpoint family's.
impl Choice for Option<ResizeKernel> {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", None),
        ("openpi", Some(ResizeKernel::Openpi)),
        ("lerobot", Some(ResizeKernel::Lerobot)),
        ("lerobot_legacy", Some(ResizeKernel::LerobotLegacy)),
    ];
}

impl Choice for StampSource {
    const CHOICES: &'static [(&'static str, Self)] = &[("header", Self::Header), ("receive", Self::Receive)];
}

impl Choice for PrefixSchedule {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("linear", Self::Linear), ("exp", Self::Exp), ("ones", Self::Ones), ("zeros", Self::Zeros)];
}

impl Choice for OnInstruction {
    const CHOICES: &'static [(&'static str, Self)] = &[("flush", Self::Flush), ("finish", Self::Finish)];
}

impl Choice for StallAction {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("hold", Self::Hold), ("zero_velocity", Self::ZeroVelocity), ("none", Self::None)];
}

//! The parameters that every policy has. What decides the arithmetic or the topics is read-only; what an operator tunes can be set while
//! the node runs.

use std::{path::PathBuf, sync::Arc};

use super::{Choice, ControlParameters, Handle, ParameterError, Source, Spec, chosen};
use crate::{
    backend::{BackendKind, BackendOptions},
    observation::{ResizeKernel, check_instruction},
    policy::PolicyOptions,
    robot,
};

/// The parameters that every policy has.
pub struct Parameters {
    autostart: Handle<bool>,
    checkpoint: Handle<Arc<str>>,
    robot: Handle<Arc<str>>,
    backend: Handle<Arc<str>>,
    tokenizer: Handle<Arc<str>>,
    norm_stats: Handle<Arc<str>>,
    resize: Handle<Arc<str>>,
    seed: Handle<i64>,
    denoise_steps: Handle<i64>,
    threads: Handle<i64>,
    weight_cache: Handle<Arc<str>>,
    trace: Handle<bool>,
    pub control: ControlParameters,
    pub default_instruction: Handle<Arc<str>>,
    instruction_durability: Handle<Arc<str>>,
}

/// What the subscription of instructions asks of its publishers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionDurability {
    Volatile,
    TransientLocal,
}

impl Choice for InstructionDurability {
    const CHOICES: &'static [(&'static str, Self)] = &[("volatile", Self::Volatile), ("transient_local", Self::TransientLocal)];
}

impl Parameters {
    pub fn declare(source: &mut dyn Source) -> Result<Self, ParameterError> {
        Ok(Self {
            autostart: source.boolean(
                Spec::boolean("autostart", true, "Configure and activate at start. false: wait for ~/change_state.").aside(),
            )?,
            checkpoint: source.text(
                Spec::text("checkpoint", "Folder of the checkpoint: LeRobot or openpi's PyTorch conversion.")
                    .checked("a path, required", not_empty)
                    .aside(),
            )?,
            robot: source.text(
                Spec::text("robot", "Robot profile: a name from share/pi0_tt/config/robots or the path of a YAML file.")
                    .checked("a name or a path, required", not_empty)
                    .aside(),
            )?,
            backend: source.text(
                Spec::text("backend", "Where the model runs: the CPU in float32, a Tenstorrent card, or the card's graph on the CPU.")
                    .default("reference")
                    .one_of::<BackendKind>(),
            )?,
            tokenizer: source.text(
                Spec::text("tokenizer", "Tokenizer file for a checkpoint folder that has none: tokenizer.json or SentencePiece .model.")
                    .default("")
                    .noted("a path, or empty: from the checkpoint folder")
                    .aside(),
            )?,
            norm_stats: source.text(
                Spec::text("norm_stats", "Normalization statistics for a checkpoint folder with several or none: norm_stats.json.")
                    .default("")
                    .noted("a path, or empty: from the checkpoint folder")
                    .aside(),
            )?,
            resize: source.text(
                Spec::text("resize", "Image resize the checkpoint was trained with. auto follows the checkpoint's family.")
                    .default("auto")
                    .one_of::<Option<ResizeKernel>>(),
            )?,
            seed: source.integer(Spec::integer(
                "seed",
                0,
                (0, i64::MAX),
                "Seed of the noise. The same seed and observations give the same chunks.",
            ))?,
            denoise_steps: source.integer(Spec::integer(
                "denoise_steps",
                0,
                (0, 1000),
                "Euler steps of the flow matching. 0: the checkpoint's (10).",
            ))?,
            threads: source.integer(Spec::integer("threads", 0, (0, 1024), "CPU threads of the backend. 0: all cores."))?,
            weight_cache: source.text(
                Spec::text("weight_cache", "Folder for weights packed for the card, which make the next start fast.")
                    .default("")
                    .noted("a path, or empty: pi0_tt in the user's cache folder")
                    .aside(),
            )?,
            trace: source.boolean(Spec::boolean(
                "trace",
                true,
                "Replay captured traces on the card. false: op by op, for bring-up and simulators.",
            ))?,
            control: ControlParameters::declare(source)?,
            default_instruction: source.text(
                Spec::text(
                    "instruction.default",
                    "Instruction until one arrives on ~/instruction; the newest of the two counts.",
                )
                .default("")
                .checked("at most 1024 bytes; empty: the robot profile's, else inference waits for ~/instruction", |text| {
                    match text.is_empty() {
                        true => Ok(()),
                        false => check_instruction(text.as_bytes()).map(drop).map_err(|error| error.to_string()),
                    }
                })
                .settable(),
            )?,
            instruction_durability: source.text(
                Spec::text(
                    "instruction.qos_durability",
                    "Durability that ~/instruction asks of its publishers. A transient_local subscription never matches a volatile publisher.",
                )
                .default("volatile")
                .one_of::<InstructionDurability>()
                .aside(),
            )?,
        })
    }

    /// Whether the node configures and activates itself.
    pub fn autostart(&self) -> bool {
        self.autostart.get()
    }

    /// Everything that decides what the policy computes.
    pub fn policy_options(&self) -> Result<PolicyOptions, ParameterError> {
        let path =
            |parameter: &Handle<Arc<str>>| Some(PathBuf::from(&*parameter.get())).filter(|path| !path.as_os_str().is_empty());
        // The casts keep the value: the bounds above begin at 0.
        let positive = |parameter: &Handle<i64>| Some(parameter.get() as usize).filter(|&value| value > 0);
        Ok(PolicyOptions {
            checkpoint: PathBuf::from(&*self.checkpoint.get()),
            robot: robot::find(&self.robot.get())?,
            backend: BackendOptions {
                kind: chosen("backend", &self.backend)?,
                threads: positive(&self.threads),
                weight_cache: path(&self.weight_cache),
                trace: self.trace.get(),
            },
            tokenizer: path(&self.tokenizer),
            norm_stats: path(&self.norm_stats),
            resize: chosen("resize", &self.resize)?,
            seed: self.seed.get() as u64,
            steps: positive(&self.denoise_steps),
        })
    }

    pub fn instruction_durability(&self) -> Result<InstructionDurability, ParameterError> {
        chosen("instruction.qos_durability", &self.instruction_durability)
    }
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

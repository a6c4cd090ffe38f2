//! Why a checkpoint, tokenizer or instruction was refused.

use std::{fmt, path::PathBuf};

use super::Dtype;

/// One cause each; [`CheckpointError::Refused`] lists all causes found in a folder.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("The checkpoint {dir} was refused:{}", List(causes))]
    Refused { dir: PathBuf, causes: Vec<CheckpointError> },

    // Files
    #[error("Cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("Cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a folder. Give the folder that holds config.json and model.safetensors")]
    NotAFolder { path: PathBuf },
    #[error("{path} has {bytes} bytes and at most {limit} are read of such a file. Is it the right file?")]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    #[error("{path} is not the JSON that was expected: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error(
        "{path} names the file {name:?}, which is not a plain file name. Files are only read from the checkpoint folder itself"
    )]
    FileName { path: PathBuf, name: String },
    #[error("{path} is not empty. Choose a new folder; nothing is overwritten")]
    NotEmpty { path: PathBuf },

    // Weights
    #[error("{dir} holds no model.safetensors and no model.safetensors.index.json")]
    NoWeights { dir: PathBuf },
    #[error(
        "{path} is a JAX (orbax) checkpoint. Convert it with openpi's examples/convert_jax_model_to_pytorch.py and give the \
         folder that the script writes"
    )]
    Orbax { path: PathBuf },
    #[error("{path} holds only a PEFT adapter. Merge it into the model (merge_and_unload) and save the merged policy")]
    Adapter { path: PathBuf },
    #[error("{path} is empty (0 bytes). Download or copy it again")]
    EmptyFile { path: PathBuf },
    #[error("{path} is not a sound safetensors file: {source}. Download or copy it again")]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{path} names the tensor {name} twice. Save the model again")]
    DuplicateTensor { path: PathBuf, name: String },
    #[error("{first} and {second} are both the tensor {name}. Save the model again under one naming")]
    NameClash { first: String, second: String, name: String },
    #[error("The tensor {name} in {path} has the element type {dtype}. F32, BF16 and F16 are supported")]
    ElementType { path: PathBuf, name: String, dtype: safetensors::Dtype },
    #[error("{index} promises the tensor {name} in {shard}, which does not hold it. Download the shards again")]
    NotInShard { index: PathBuf, shard: String, name: String },
    #[error("{shard} holds the tensor {name}, which {index} does not name. Download the index and the shards again")]
    NotInIndex { index: PathBuf, shard: String, name: String },
    #[error(
        "The tensors do not make a pi0: {} missing, {} unexpected, {} of the wrong shape{}{}{}",
        missing.len(), unexpected.len(), shapes.len(), Names("Missing", missing), Names("Unexpected", unexpected), Names("Wrong shape", shapes)
    )]
    Tensors { missing: Vec<String>, unexpected: Vec<String>, shapes: Vec<ShapeMismatch> },

    // Configuration
    #[error("This is a pi0.5 checkpoint ({evidence}). pi0.5 is not supported: give a pi0 checkpoint")]
    Pi05 { evidence: String },
    #[error("{path} says that this is a {kind:?} policy. Only \"pi0\" is supported")]
    OtherPolicy { path: PathBuf, kind: String },
    #[error("{path} is neither LeRobot's (it has no \"type\") nor openpi's (it has no \"action_horizon\")")]
    UnknownConfig { path: PathBuf },
    #[error("{path}: {field} is {value}: {reason}")]
    ConfigValue { path: PathBuf, field: &'static str, value: String, reason: String },
    #[error("{first} is {first_value}, but {second} is {second_value}. The checkpoint contradicts itself")]
    Contradiction { first: String, first_value: String, second: String, second_value: String },
    #[error("{what} cannot be found out from the tensors: {reason}. Put a meta.json with the geometry beside config.json")]
    Geometry { what: &'static str, reason: String },
    #[error("The action expert is {width} wide, and its time embedding needs an even width. Is this a pi0?")]
    OddExpert { width: usize },

    // Processors
    #[error("{path}: step {index} is {name:?}, which is not known. Leaving a step out would give wrong actions")]
    UnknownStep { path: PathBuf, index: usize, name: String },
    #[error("{path}: the step {step} is missing")]
    StepMissing { path: PathBuf, step: &'static str },
    #[error("{path}: the step {step} is there twice")]
    StepTwice { path: PathBuf, step: &'static str },
    #[error("{path}: the step {first} has to come before {second}")]
    StepOrder { path: PathBuf, first: &'static str, second: &'static str },
    #[error("{path}: the configuration of {step} is not understood: {source}")]
    StepConfig { path: PathBuf, step: &'static str, source: serde_json::Error },
    #[error("{path}: {step} has {setting} = {value}. Only {expected} is supported")]
    StepSetting { path: PathBuf, step: &'static str, setting: &'static str, value: String, expected: String },

    // Statistics
    #[error(
        "{path}: {step} names no state_file, so there are no statistics. Save the policy again with its dataset's statistics"
    )]
    NoStateFile { path: PathBuf, step: &'static str },
    #[error("{origin}: {feature} has no {statistic}, which {mode} needs. Save the policy again with its dataset's statistics")]
    StatisticMissing { origin: String, feature: String, statistic: &'static str, mode: &'static str },
    #[error("{origin}: {feature}.{statistic} has {found} entries and {expected} are needed")]
    StatisticLength { origin: String, feature: String, statistic: &'static str, found: usize, expected: usize },
    #[error("{origin}: {feature}.{statistic}[{entry}] is {value}")]
    StatisticNotFinite { origin: String, feature: String, statistic: &'static str, entry: usize, value: f64 },
    #[error(
        "{origin}: entry {entry} of {feature} is degenerate for {mode}: its spread is {spread:e} and at least {least:e} is needed. \
         The joint did not move in the dataset; leave it out or correct its statistics"
    )]
    StatisticDegenerate { origin: String, feature: String, entry: usize, mode: &'static str, spread: f64, least: f64 },
    #[error("{path}: the normalization {mode:?} of {feature} is not known")]
    NormalizationMode { path: PathBuf, feature: String, mode: String },
    #[error(
        "{path} does not say how {feature} is normalized: norm_map has no entry {kind}. Write IDENTITY there if it really is not"
    )]
    NormalizationUndeclared { path: PathBuf, feature: String, kind: String },
    #[error("{dir} holds no norm_stats.json (looked for assets/*/norm_stats.json). Name one with the option norm_stats")]
    NoNormStats { dir: PathBuf },
    #[error("{dir} holds statistics of several robots. Choose one with the option norm_stats:{}", Paths(candidates))]
    SeveralNormStats { dir: PathBuf, candidates: Vec<PathBuf> },

    // Tokenizer and prompt
    #[error(
        "No tokenizer was found. Looked for:{}\nPut the tokenizer.json of google/paligemma-3b-pt-224 (Hugging Face Hub, gated) or \
         openpi's paligemma_tokenizer.model (gs://big_vision) there, or name its path with the option tokenizer",
        Paths(searched)
    )]
    NoTokenizer { searched: Vec<PathBuf> },
    #[error("{path} is not a usable tokenizer: {reason}")]
    Tokenizer { path: PathBuf, reason: String },
    #[error(
        "{path} has token ids up to {largest}, but the model embeds only {vocab_size} tokens. Take the tokenizer that belongs to \
         this checkpoint"
    )]
    Vocabulary { path: PathBuf, largest: u32, vocab_size: usize },
    #[error("The instruction is empty. Say what the robot is to do")]
    EmptyInstruction,
    #[error("The instruction cannot be tokenized: {reason}")]
    Encode { reason: String },
}

/// A tensor whose shape is not what the geometry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    pub name: String,
    pub found: Vec<usize>,
    pub expected: Vec<usize>,
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:?}, expected {:?}", self.name, self.found, self.expected)
    }
}

impl From<Dtype> for safetensors::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::BF16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

struct List<'a>(&'a [CheckpointError]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|cause| write!(f, "\n- {cause}"))
    }
}

struct Names<'a, T>(&'static str, &'a [T]);

impl<T: fmt::Display> fmt::Display for Names<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() {
            return Ok(());
        }
        write!(f, "\n  {}:", self.0)?;
        self.1.iter().try_for_each(|name| write!(f, "\n    {name}"))
    }
}

struct Paths<'a>(&'a [PathBuf]);

impl fmt::Display for Paths<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|path| write!(f, "\n    {}", path.display()))
    }
}

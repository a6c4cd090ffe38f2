//! Where a chunk is computed. `reference` is the CPU in float32, the oracle that every other backend is held against; `ttnn` is a
//! Tenstorrent card. [`open`] gives the one that was chosen.
//!
//! A backend sees model space only (`model::ModelInputs` in, `model::Chunk` out): it knows nothing of sensors, robots or ROS.

mod check;
pub mod kernels;
mod open;
mod probe;
pub mod reference;
pub mod ttnn;

use std::any::Any;

pub use open::{BackendKind, BackendOptions, open};
pub use probe::{NoProbe, Probe, Shown};

use crate::model::{Chunk, DenoiseRequest, ModelInputs, StageTimes};

/// The instruction set that products are computed with on this machine.
pub fn instructions() -> String {
    format!("{:?}", kernels::gemm::Instructions::detect())
}

/// What a backend is and holds.
#[derive(Clone, Debug)]
pub struct BackendInfo {
    /// Value of the `backend` parameter: `reference`, `ttnn`, ...
    pub name: &'static str,
    /// The device in words, such as the CPU's kernel choice or the card's name.
    pub device: String,
    /// Number formats of weights and activations.
    pub dtypes: String,
    /// Bytes of weights that the backend holds.
    pub weight_bytes: u64,
}

/// Keys and values of the prefix, wherever the backend keeps them.
pub struct PrefixCache {
    pub times: StageTimes,
    payload: Box<dyn Any + Send>,
}

impl PrefixCache {
    pub fn new<T: Any + Send>(times: StageTimes, payload: T) -> Self {
        Self { times, payload: Box::new(payload) }
    }

    /// The payload, when this cache was made by a backend that keeps a `T`.
    pub fn payload<T: Any + Send>(&self) -> Result<&T, BackendError> {
        self.payload.downcast_ref().ok_or(BackendError::ForeignCache)
    }
}

/// A resident π0 model.
///
/// Noise is always an input: the same inputs, noise and steps give the same chunk again on the same backend.
pub trait Backend: Send {
    fn describe(&self) -> BackendInfo;
    /// Cameras and prompt through SigLIP and the language model: once per observation.
    fn prefix(&mut self, inputs: &ModelInputs) -> Result<PrefixCache, BackendError>;
    /// The Euler loop of the action expert over a prefix. `inputs` is the observation that the prefix was made of.
    fn denoise(&mut self, prefix: &PrefixCache, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError>;
    /// Both, one after the other. A device takes all inputs at once.
    fn infer(&mut self, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        let prefix = self.prefix(inputs)?;
        self.denoise(&prefix, inputs, request)
    }
    /// What the arithmetic units can do where the backend computes, in GFLOP/s: what its stages are measured by.
    fn peak_gflops(&self) -> Option<f64> {
        None
    }
    /// [`Backend::infer`] that shows intermediates to `probe`, for verification.
    fn infer_probed(
        &mut self,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        probe: &mut (dyn Probe + Send),
    ) -> Result<Chunk, BackendError>;
}

/// Why a backend refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("This prefix cache was made by another backend. Compute the prefix again with the backend in use")]
    ForeignCache,
    #[error("{what} has {found} values and the model needs {expected}")]
    Shape { what: String, found: usize, expected: usize },
    #[error("{what} holds the value {value} at index {index}. Nothing was computed")]
    NotFinite { what: String, index: usize, value: f32 },
    #[error("No camera of this observation is present. At least one camera slot needs an image")]
    NoCamera,
    #[error("The prompt has no tokens. An instruction always has at least its BOS token")]
    EmptyPrompt,
    #[error("The prompt has {tokens} tokens and the model takes at most {slots}. Shorten the instruction")]
    PromptLength { tokens: usize, slots: usize },
    #[error("Token id {id} is outside of the vocabulary of {vocab_size}. Does the tokenizer belong to this checkpoint?")]
    Token { id: u32, vocab_size: usize },
    #[error("The weights have no tensor {0}. Is the checkpoint complete?")]
    MissingTensor(String),
    #[error("Tensor {name} is {found:?} and the model needs {expected:?}")]
    TensorShape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("Cannot start {threads} threads: {reason}")]
    Threads { threads: usize, reason: String },
    #[error("No memory for the packed weights: {0}. Free some, or take a checkpoint in bfloat16, which needs half of it")]
    Memory(std::io::Error),
    #[error("This prefix cache was overwritten by a newer one. Compute the prefix again")]
    StaleCache,
    #[error(
        "This build has no backend ttnn: it was made without the C++ library of TTNN. Build with the cargo feature ttnn (see docs/ttnn.md), \
         or choose reference, or ttnn_host to see on the CPU what the card would compute"
    )]
    NotBuilt,
    #[error("The card's graph does not do {what}. Use the reference backend for this model")]
    Unsupported { what: String },
    #[error(transparent)]
    Cache(#[from] ttnn::cache::CacheError),
    #[error(transparent)]
    Runtime(#[from] ttnn::runtime::RuntimeError),
    #[error("Zero denoise steps were asked for. Ask for at least one")]
    NoSteps,
    #[error("The maximum guidance weight is {0}. It must be above 0 and finite")]
    GuidanceWeight(f64),
}

impl BackendError {
    /// Whether the device does not answer any more, so that nothing can be computed until it is reset.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Runtime(ttnn::runtime::RuntimeError::Lost(_)))
    }
}

//! What a checkpoint folder says: configuration, weights, normalisation statistics, tokenizer.
//!
//! Opening is strict: everything that is missing, unexpected or contradictory is listed in one error and nothing is returned.

mod normalizer;
mod prompt;
pub mod synthetic;
mod weights;

use std::path::{Path, PathBuf};

pub use normalizer::Normalizer;
pub use prompt::{EncodedPrompt, PromptEncoder};
pub use weights::{Dtype, Tensor, TensorData, Weights};

use crate::model::Geometry;

/// Who wrote the checkpoint: decides image resize, prompt cleaning and normalisation arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LeRobot 0.4 and later: `config.json` with `"type": "pi0"`, processor files beside it.
    Lerobot,
    /// LeRobot up to 0.3.3: other tensor names, normalisation statistics inside the weights file.
    LerobotLegacy,
    /// openpi's PyTorch conversion: `norm_stats.json` under `assets/`.
    Openpi,
}

/// What the checkpoint folder cannot say about itself.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// `tokenizer.json` or SentencePiece `.model`, when not in the checkpoint folder.
    pub tokenizer: Option<PathBuf>,
    /// `norm_stats.json`, when the folder has several assets or none.
    pub norm_stats: Option<PathBuf>,
}

/// A checkpoint that was found complete and consistent.
#[derive(Debug)]
pub struct Checkpoint {
    pub dir: PathBuf,
    pub family: Family,
    pub geometry: Geometry,
    pub weights: Weights,
    /// Camera slots in the model's order, as the checkpoint names them without `observation.images.` (`base_0_rgb`).
    pub cameras: Vec<String>,
    /// State and action entries that the robot of this checkpoint has; the model pads them.
    pub state_width: usize,
    pub action_width: usize,
    pub state_norm: Normalizer,
    pub action_norm: Normalizer,
    /// LeRobot's relative actions: for each action entry, whether the state is to be added. `None` when the checkpoint has none.
    pub relative_actions: Option<Vec<bool>>,
    pub prompt: PromptEncoder,
    /// Euler steps that the checkpoint was configured for.
    pub steps: usize,
}

impl Checkpoint {
    pub fn open(_dir: &Path, _options: &OpenOptions) -> Result<Self, CheckpointError> {
        todo!("skeleton")
    }
}

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("Cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

//! What a checkpoint folder says: configuration, weights, normalisation statistics, tokenizer.
//!
//! Opening is strict: everything that is missing, unexpected or contradictory is listed in one error and nothing is returned.

mod config;
mod error;
mod files;
mod geometry;
mod names;
mod norm_stats;
mod normalizer;
mod processor;
mod prompt;
mod safetensors;
mod sentencepiece;
mod survey;
pub mod synthetic;
mod tokenizer;
mod weights;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use error::{CheckpointError, ShapeMismatch};
pub use normalizer::Normalizer;
pub use prompt::{EncodedPrompt, PromptEncoder};
pub use tokenizer::TokenizerKind;
pub use weights::{Dtype, Tensor, TensorData, Weights};

use self::survey::Survey;

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

/// Configuration and weights of a folder, without processors, statistics and tokenizer.
#[derive(Debug)]
pub struct ModelFiles {
    pub dir: PathBuf,
    pub family: Family,
    pub geometry: Geometry,
    pub weights: Weights,
    /// Camera slots in the model's order, as the checkpoint names them without `observation.images.` (`base_0_rgb`).
    pub cameras: Vec<String>,
    /// Euler steps that the checkpoint was configured for.
    pub steps: usize,
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
    /// The names that the recording robot gave to cameras, with the slots that they became.
    pub camera_renames: BTreeMap<String, String>,
    /// State and action entries that the robot of this checkpoint has; the model pads them.
    pub state_width: usize,
    pub action_width: usize,
    pub state_norm: Normalizer,
    pub action_norm: Normalizer,
    /// LeRobot's relative actions: for each action entry, whether the state is to be added. `None` when the checkpoint has none.
    pub relative_actions: Option<Vec<bool>>,
    /// Shared with the pipeline that is made of the checkpoint.
    pub prompt: Arc<PromptEncoder>,
    /// Euler steps that the checkpoint was configured for.
    pub steps: usize,
}

impl Checkpoint {
    /// Opens a folder with everything that a policy needs.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Self, CheckpointError> {
        let mut survey = Survey::complete(dir, options);
        let side = std::mem::take(&mut survey.side);
        let (Some(state_norm), Some(action_norm), Some(tokenizer)) = (side.state_norm, side.action_norm, side.tokenizer) else {
            return Err(survey.refuse());
        };
        let model = ModelFiles::from_survey(survey)?;
        Ok(Self {
            dir: model.dir,
            family: model.family,
            geometry: model.geometry,
            weights: model.weights,
            cameras: model.cameras,
            camera_renames: side.camera_renames,
            state_width: state_norm.width(),
            action_width: action_norm.width(),
            state_norm,
            action_norm,
            relative_actions: side.relative_actions,
            prompt: Arc::new(PromptEncoder::new(tokenizer, model.family, model.geometry.prompt_slots)),
            steps: model.steps,
        })
    }

    /// Opens configuration and weights alone, for work in model space.
    pub fn open_model_only(dir: &Path) -> Result<ModelFiles, CheckpointError> {
        ModelFiles::from_survey(Survey::model(dir))
    }
}

impl ModelFiles {
    fn from_survey(survey: Survey) -> Result<Self, CheckpointError> {
        match survey {
            Survey {
                dir,
                config: Some(config),
                tensors: Some(tensors),
                family: Some(family),
                geometry: Some(geometry),
                causes,
                ..
            } if causes.is_empty() => {
                let (cameras, steps) = (config.cameras, config.steps);
                Ok(Self { dir, family, geometry, weights: tensors.weights, cameras, steps })
            }
            survey => Err(survey.refuse()),
        }
    }
}

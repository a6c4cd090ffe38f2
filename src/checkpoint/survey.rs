//! Looks at a whole checkpoint folder and keeps both what was found and everything that is wrong with it.
//!
//! Opening demands that nothing is wrong; inspection shows both.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    CheckpointError, Family, OpenOptions,
    config::{Config, Format, LerobotFeatures},
    geometry::{self, Heads},
    names::Canonical,
    norm_stats,
    normalizer::{Mode, Normalizer, Source},
    processor::{self, Processors},
    safetensors,
    tokenizer::Tokenizer,
};
use crate::model::Geometry;

/// Everything that could be found out about a folder.
pub(super) struct Survey {
    pub dir: PathBuf,
    pub config: Option<Config>,
    pub tensors: Option<Canonical>,
    pub family: Option<Family>,
    pub geometry: Option<Geometry>,
    pub side: SideFiles,
    pub causes: Vec<CheckpointError>,
}

/// What the files beside config and weights say.
#[derive(Default)]
pub(super) struct SideFiles {
    pub processor_steps: Vec<String>,
    pub state_norm: Option<Normalizer>,
    pub action_norm: Option<Normalizer>,
    pub relative_actions: Option<Vec<bool>>,
    pub camera_renames: BTreeMap<String, String>,
    pub tokenizer: Option<Tokenizer>,
}

impl Survey {
    /// Configuration and weights.
    pub fn model(dir: &Path) -> Self {
        let mut survey = Self {
            dir: dir.to_owned(),
            config: None,
            tensors: None,
            family: None,
            geometry: None,
            side: SideFiles::default(),
            causes: Vec::new(),
        };
        if !dir.is_dir() {
            survey.causes.push(CheckpointError::NotAFolder { path: dir.to_owned() });
            return survey;
        }
        survey.config = survey.keep(Config::read(dir));
        survey.tensors = survey.keep(safetensors::open_folder(dir).and_then(Canonical::new));
        // Where the policy is another one, its missing parts are no news.
        let other = |cause: &CheckpointError| {
            matches!(cause, CheckpointError::Pi05 { .. } | CheckpointError::OtherPolicy { .. } | CheckpointError::Orbax { .. })
        };
        if survey.causes.iter().any(other) {
            survey.causes.retain(other);
            survey.causes.truncate(1);
            return survey;
        }
        let heads = survey.keep(Heads::read(dir));
        survey.family = survey.config.as_ref().map(|config| match (&config.format, &survey.tensors) {
            (Format::Openpi, _) => Family::Openpi,
            (Format::Lerobot(_), Some(tensors)) if tensors.legacy && !dir.join(processor::PREPROCESSOR).is_file() => {
                Family::LerobotLegacy
            }
            (Format::Lerobot(_), _) => Family::Lerobot,
        });
        if let (Some(config), Some(tensors), Some(heads)) = (&survey.config, &survey.tensors, heads) {
            match geometry::derive(config, &heads, &tensors.weights) {
                Ok(geometry) => survey.geometry = Some(geometry),
                Err(causes) => survey.causes.extend(causes),
            }
        }
        survey
    }

    /// Configuration, weights, processors, statistics and tokenizer.
    pub fn complete(dir: &Path, options: &OpenOptions) -> Self {
        let mut survey = Self::model(dir);
        let (Some(family), Some(config)) = (survey.family, survey.config.take()) else { return survey };
        match &config.format {
            Format::Openpi => {
                let (state, action, causes) = norm_stats::read(dir, options.norm_stats.as_deref());
                survey.side.state_norm = survey.fits(state, "state", config.state_dim);
                survey.side.action_norm = survey.fits(action, "actions", config.action_dim);
                survey.causes.extend(causes);
            }
            Format::Lerobot(features) if family == Family::LerobotLegacy => survey.legacy_statistics(features),
            Format::Lerobot(features) => {
                let (processors, causes) = Processors::read(dir, &config, features);
                survey.causes.extend(causes);
                survey.side.processor_steps = processors.steps;
                survey.side.state_norm = processors.state_norm;
                survey.side.action_norm = processors.action_norm;
                survey.side.relative_actions = processors.relative_actions;
                survey.side.camera_renames = processors.camera_renames;
            }
        }
        survey.config = Some(config);
        let vocab_size = survey.geometry.map(|geometry| geometry.vocab_size);
        survey.side.tokenizer = survey.keep(Tokenizer::find(dir, options.tokenizer.as_deref(), vocab_size));
        survey
    }

    /// Statistics that LeRobot up to 0.3.3 keeps in the weights file; its range normalization adds an epsilon on the way in.
    fn legacy_statistics(&mut self, features: &LerobotFeatures) {
        const EPSILON: f64 = 1e-8;
        let Some(tensors) = &self.tensors else { return };
        let origin = self.dir.display().to_string();
        let mut normalizer = |feature, kind: &str, width| {
            // The default of LeRobot's pi0 for states and actions.
            let name = features.modes.get(kind).map_or(Mode::MeanStd.name(), String::as_str);
            let made = match Mode::parse(name) {
                Some(mode) => {
                    let source = Source { origin: &origin, feature };
                    Normalizer::lerobot(source, mode, width, &tensors.statistics, EPSILON, EPSILON)
                }
                None => {
                    let (path, feature, mode) = (self.dir.join("config.json"), feature.to_owned(), name.to_owned());
                    Err(vec![CheckpointError::NormalizationMode { path, feature, mode }])
                }
            };
            made.map_err(|causes| self.causes.extend(causes)).ok()
        };
        self.side.state_norm = normalizer(super::config::STATE, "STATE", features.state_width);
        self.side.action_norm = normalizer(super::config::ACTION, "ACTION", features.action_width);
    }

    /// Refuses openpi statistics that are wider than the model.
    fn fits(&mut self, normalizer: Option<Normalizer>, feature: &str, limit: usize) -> Option<Normalizer> {
        let normalizer = normalizer?;
        if normalizer.width() > limit {
            self.causes.push(CheckpointError::Contradiction {
                first: format!("The number of entries of {feature} in norm_stats.json"),
                first_value: normalizer.width().to_string(),
                second: "the model's width".into(),
                second_value: limit.to_string(),
            });
            return None;
        }
        Some(normalizer)
    }

    /// The error that lists every cause.
    pub fn refuse(self) -> CheckpointError {
        CheckpointError::Refused { dir: self.dir, causes: self.causes }
    }

    fn keep<T>(&mut self, found: Result<T, CheckpointError>) -> Option<T> {
        found.map_err(|cause| self.causes.push(cause)).ok()
    }
}

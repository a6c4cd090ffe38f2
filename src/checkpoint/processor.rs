//! LeRobot's `policy_preprocessor.json` and `policy_postprocessor.json`: what happens to an observation before the model and to a
//! chunk after it.
//!
//! Only the steps of LeRobot's pi0 are known. A step that is not known is refused, because leaving it out gives wrong actions.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    CheckpointError,
    config::{ACTION, Config, LerobotFeatures, STATE, camera_name},
    files,
    normalizer::{Mode, Normalizer, Source, Statistics},
    safetensors,
};

const RENAME: &str = "rename_observations_processor";
const BATCH: &str = "to_batch_processor";
const NEW_LINE: &str = "pi0_new_line_processor";
const TOKENIZER: &str = "tokenizer_processor";
const DEVICE: &str = "device_processor";
const RELATIVE: &str = "relative_actions_processor";
const NORMALIZER: &str = "normalizer_processor";
const UNNORMALIZER: &str = "unnormalizer_processor";
const ABSOLUTE: &str = "absolute_actions_processor";

pub(super) const PREPROCESSOR: &str = "policy_preprocessor.json";
const POSTPROCESSOR: &str = "policy_postprocessor.json";

/// What the two pipelines decide; `None` where they could not be understood, for which there is a cause.
#[derive(Debug, Default)]
pub(super) struct Processors {
    /// Steps of both files, in order.
    pub steps: Vec<String>,
    pub state_norm: Option<Normalizer>,
    pub action_norm: Option<Normalizer>,
    pub relative_actions: Option<Vec<bool>>,
    /// Camera names of the recording robot to slots of the model.
    pub camera_renames: BTreeMap<String, String>,
}

impl Processors {
    pub fn read(dir: &Path, config: &Config, features: &LerobotFeatures) -> (Self, Vec<CheckpointError>) {
        let (mut processors, mut causes) = (Self::default(), Vec::new());
        let before = Pipeline::read(dir.join(PREPROCESSOR), PRE, &mut causes);
        let after = Pipeline::read(dir.join(POSTPROCESSOR), POST, &mut causes);
        for pipeline in [&before, &after].into_iter().flatten() {
            processors.steps.extend(pipeline.steps.iter().map(|(name, _)| (*name).to_owned()));
        }
        if let Some(pipeline) = &before {
            processors.preprocess(pipeline, config, features, &mut causes);
        }
        if let Some(pipeline) = &after {
            processors.action_norm = pipeline.normalizer(UNNORMALIZER, ACTION, "ACTION", features.action_width, &mut causes);
        }
        if let (Some(before), Some(after)) = (&before, &after) {
            processors.relative_actions = relative_actions(before, after, features, &mut causes);
        }
        (processors, causes)
    }

    fn preprocess(
        &mut self,
        pipeline: &Pipeline,
        config: &Config,
        features: &LerobotFeatures,
        causes: &mut Vec<CheckpointError>,
    ) {
        if let Some(Rename { rename_map }) = pipeline.config(RENAME, causes) {
            let short = |name: String| camera_name(&name).to_owned();
            self.camera_renames = rename_map.into_iter().map(|(from, to)| (short(from), short(to))).collect();
        }
        if let Some(tokenizer) = pipeline.config::<Tokenizer>(TOKENIZER, causes) {
            let settings = [
                ("max_length", tokenizer.max_length.to_string(), config.prompt_slots.to_string()),
                ("task_key", tokenizer.task_key, "task".into()),
                ("padding_side", tokenizer.padding_side, "right".into()),
                ("truncation", tokenizer.truncation.to_string(), "true".into()),
            ];
            for (setting, value, expected) in settings.into_iter().filter(|(_, value, expected)| value != expected) {
                causes.push(CheckpointError::StepSetting {
                    path: pipeline.path.clone(),
                    step: TOKENIZER,
                    setting,
                    value,
                    expected,
                });
            }
        }
        self.state_norm = pipeline.normalizer(NORMALIZER, STATE, "STATE", features.state_width, causes);
        // Images reach pi0 in -1..1 by its own rule.
        let images = pipeline.step(NORMALIZER).and_then(|(_, step)| step.config["norm_map"]["VISUAL"].as_str());
        if let Some(mode) = images.filter(|mode| *mode != Mode::Identity.name()) {
            causes.push(CheckpointError::StepSetting {
                path: pipeline.path.clone(),
                step: NORMALIZER,
                setting: "norm_map.VISUAL",
                value: mode.to_owned(),
                expected: Mode::Identity.name().into(),
            });
        }
    }
}

/// What a pipeline may and must hold.
struct Rules {
    known: &'static [&'static str],
    required: &'static [&'static str],
    /// Pairs of steps of which the first has to come first, where both are there.
    order: &'static [(&'static str, &'static str)],
}

const PRE: Rules = Rules {
    known: &[RENAME, BATCH, NEW_LINE, TOKENIZER, DEVICE, RELATIVE, NORMALIZER],
    required: &[NEW_LINE, TOKENIZER, NORMALIZER],
    order: &[(NEW_LINE, TOKENIZER), (RENAME, NORMALIZER), (RENAME, RELATIVE), (RELATIVE, NORMALIZER)],
};

const POST: Rules =
    Rules { known: &[UNNORMALIZER, ABSOLUTE, DEVICE], required: &[UNNORMALIZER], order: &[(UNNORMALIZER, ABSOLUTE)] };

/// One processor file whose steps are all known.
struct Pipeline {
    path: PathBuf,
    steps: Vec<(&'static str, Step)>,
}

#[derive(Deserialize)]
struct Step {
    registry_name: Option<String>,
    /// Where a step is not registered, its Python class.
    class: Option<String>,
    #[serde(default)]
    config: Value,
    state_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    #[serde(default)]
    rename_map: BTreeMap<String, String>,
}

/// LeRobot's defaults stand where a field is left out.
#[derive(Deserialize)]
#[serde(default)]
struct Tokenizer {
    max_length: usize,
    task_key: String,
    padding_side: String,
    truncation: bool,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self { max_length: 512, task_key: "task".into(), padding_side: "right".into(), truncation: true }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Relative {
    enabled: bool,
    exclude_joints: Vec<String>,
    action_names: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Absolute {
    enabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Normalization {
    #[serde(default = "default_epsilon")]
    eps: f64,
    features: BTreeMap<String, Feature>,
    norm_map: BTreeMap<String, String>,
    /// Where given, only these observations are normalized.
    normalize_observation_keys: Option<BTreeSet<String>>,
}

fn default_epsilon() -> f64 {
    1e-8
}

#[derive(Deserialize)]
struct Feature {
    shape: Vec<usize>,
}

impl Pipeline {
    /// `None` when the file cannot be read; steps that are not known, twice there, missing or in the wrong order are listed.
    fn read(path: PathBuf, rules: Rules, causes: &mut Vec<CheckpointError>) -> Option<Self> {
        #[derive(Deserialize)]
        struct File {
            steps: Vec<Step>,
        }
        let file: File = files::read_json(&path).map_err(|cause| causes.push(cause)).ok()?;
        let mut steps: Vec<(&'static str, Step)> = Vec::new();
        for (index, step) in file.steps.into_iter().enumerate() {
            let name = step.registry_name.as_deref().or(step.class.as_deref()).unwrap_or("(no name)");
            match rules.known.iter().find(|known| **known == name) {
                None => causes.push(CheckpointError::UnknownStep { path: path.clone(), index, name: name.to_owned() }),
                // Batching and device placement change nothing here, however often they are done.
                Some(&known) if known != DEVICE && known != BATCH && steps.iter().any(|(name, _)| *name == known) => {
                    causes.push(CheckpointError::StepTwice { path: path.clone(), step: known });
                }
                Some(known) => steps.push((known, step)),
            }
        }
        let position = |wanted| steps.iter().position(|(name, _)| *name == wanted);
        for step in rules.required.iter().filter(|step| position(**step).is_none()) {
            causes.push(CheckpointError::StepMissing { path: path.clone(), step });
        }
        for &(first, second) in rules.order {
            if let (Some(earlier), Some(later)) = (position(first), position(second))
                && earlier > later
            {
                causes.push(CheckpointError::StepOrder { path: path.clone(), first, second });
            }
        }
        for (_, step) in steps.iter().filter(|(name, _)| *name == DEVICE) {
            if let Some(value) = step.config.get("float_dtype").and_then(Value::as_str).filter(|value| *value != "float32") {
                causes.push(CheckpointError::StepSetting {
                    path: path.clone(),
                    step: DEVICE,
                    setting: "float_dtype",
                    value: value.to_owned(),
                    expected: "null or float32".into(),
                });
            }
        }
        Some(Self { path, steps })
    }

    fn step(&self, name: &str) -> Option<(&'static str, &Step)> {
        self.steps.iter().find(|(known, _)| *known == name).map(|(known, step)| (*known, step))
    }

    /// The configuration of a step that is there.
    fn config<T: DeserializeOwned>(&self, name: &str, causes: &mut Vec<CheckpointError>) -> Option<T> {
        let (step, found) = self.step(name)?;
        let config = if found.config.is_null() { Value::Object(Default::default()) } else { found.config.clone() };
        let refused = |source| causes.push(CheckpointError::StepConfig { path: self.path.clone(), step, source });
        serde_json::from_value(config).map_err(refused).ok()
    }

    /// The normalizer of one feature, with the statistics in the step's `state_file`.
    fn normalizer(
        &self,
        name: &str,
        feature: &str,
        kind: &str,
        width: usize,
        causes: &mut Vec<CheckpointError>,
    ) -> Option<Normalizer> {
        let config: Normalization = self.config(name, causes)?;
        let made = self.try_normalizer(name, &config, feature, kind, width);
        made.map_err(|found| causes.extend(found)).ok()
    }

    fn try_normalizer(
        &self,
        name: &str,
        config: &Normalization,
        feature: &str,
        kind: &str,
        width: usize,
    ) -> Result<Normalizer, Vec<CheckpointError>> {
        let (step, found) = self.step(name).ok_or_else(Vec::new)?;
        let path = || self.path.clone();
        // LeRobot leaves a kind without an entry as it is, in silence; what is not normalized has to be said here.
        let mode_name = config.norm_map.get(kind).ok_or_else(|| {
            vec![CheckpointError::NormalizationUndeclared { path: path(), feature: feature.into(), kind: kind.into() }]
        })?;
        let mut mode = Mode::parse(mode_name).ok_or_else(|| {
            vec![CheckpointError::NormalizationMode { path: path(), feature: feature.into(), mode: mode_name.clone() }]
        })?;
        if feature == STATE && config.normalize_observation_keys.as_ref().is_some_and(|keys| !keys.contains(feature)) {
            mode = Mode::Identity;
        }
        if mode == Mode::Identity {
            return Normalizer::lerobot(Source { origin: "", feature }, mode, width, &Statistics::new(), 0.0, 0.0);
        }
        let listed = config.features.get(feature).map(|feature| feature.shape.as_slice());
        if listed != Some(&[width]) {
            return Err(vec![CheckpointError::Contradiction {
                first: format!("The shape of {feature} in {} of {}", step, self.path.display()),
                first_value: listed.map_or("not there".into(), |shape| format!("{shape:?}")),
                second: "the shape in config.json".into(),
                second_value: format!("[{width}]"),
            }]);
        }
        let Some(state_file) = &found.state_file else {
            return Err(vec![CheckpointError::NoStateFile { path: path(), step }]);
        };
        let state_file = files::sibling(&self.path, state_file).map_err(|cause| vec![cause])?;
        let statistics = read_statistics(&state_file).map_err(|cause| vec![cause])?;
        let origin = state_file.display().to_string();
        Normalizer::lerobot(Source { origin: &origin, feature }, mode, width, &statistics, config.eps, 0.0)
    }
}

/// Flat keys such as `observation.state.mean`.
fn read_statistics(path: &Path) -> Result<Statistics, CheckpointError> {
    let mut statistics = Statistics::new();
    for (key, tensor) in safetensors::open(path)? {
        if let Some((feature, statistic)) = key.rsplit_once('.') {
            let values = tensor.to_f32().into_iter().map(f64::from).collect();
            statistics.entry(feature.to_owned()).or_default().insert(statistic.to_owned(), values);
        }
    }
    Ok(statistics)
}

/// For each action entry whether the state is added to it: LeRobot's `RelativeActionsProcessorStep._build_mask`.
fn relative_actions(
    before: &Pipeline,
    after: &Pipeline,
    features: &LerobotFeatures,
    causes: &mut Vec<CheckpointError>,
) -> Option<Vec<bool>> {
    let relative: Relative = before.config(RELATIVE, causes).unwrap_or_default();
    let absolute: Absolute = after.config(ABSOLUTE, causes).unwrap_or_default();
    let mut disagree = |first: String, first_value: bool, second: String, second_value: bool| {
        if first_value != second_value {
            let (first_value, second_value) = (first_value.to_string(), second_value.to_string());
            causes.push(CheckpointError::Contradiction { first, first_value, second, second_value });
        }
    };
    let enabled = |step, path: &Path| format!("The setting enabled of {step} in {}", path.display());
    let here = enabled(RELATIVE, &before.path);
    disagree(enabled(ABSOLUTE, &after.path), absolute.enabled, here.clone(), relative.enabled);
    disagree("use_relative_actions in config.json".into(), features.relative_actions, here, relative.enabled);
    if !relative.enabled {
        return None;
    }
    if features.action_width > features.state_width {
        causes.push(CheckpointError::Contradiction {
            first: "The number of relative actions".into(),
            first_value: features.action_width.to_string(),
            second: "the number of state entries that they are relative to".into(),
            second_value: features.state_width.to_string(),
        });
    }
    let tokens: Vec<String> =
        relative.exclude_joints.iter().filter(|token| !token.is_empty()).map(|token| token.to_lowercase()).collect();
    let names = relative.action_names.unwrap_or_default();
    let added = |entry: usize| match names.get(entry) {
        Some(name) => !tokens.iter().any(|token| name.to_lowercase().contains(token)),
        None => true,
    };
    Some((0..features.action_width).map(added).collect())
}

//! `config.json`, as LeRobot and as openpi's PyTorch conversion write it.

use std::{collections::BTreeMap, path::Path};

use indexmap::IndexMap;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{CheckpointError, files};

/// Camera slots of every openpi model, in the model's order (openpi `models/model.py`, `IMAGE_KEYS`).
const OPENPI_CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];
/// What openpi fixes in code and does not write: image side (`IMAGE_RESOLUTION`), prompt slots of pi0 (`pi0_config.py`), Euler
/// steps (`sample_actions`), periods of the time embedding (`embed_suffix`).
const OPENPI_IMAGE_SIZE: usize = 224;
const OPENPI_PROMPT_SLOTS: usize = 48;
const OPENPI_STEPS: usize = 10;
const PERIODS: (f64, f64) = (4e-3, 4.0);

/// Limits of plausible values: beyond them a config is damaged, and buffers of its sizes would not fit.
const MAX_HORIZON: usize = 10_000;
const MAX_PROMPT_SLOTS: usize = 4096;
const MAX_STEPS: usize = 1000;
const MAX_CAMERAS: usize = 16;

/// Entry of `tags` that marks synthetic weights.
pub(super) const SYNTHETIC_TAG: &str = "synthetic-weights";

pub(super) const STATE: &str = "observation.state";
pub(super) const ACTION: &str = "action";

/// What the checkpoint's configuration decides.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub format: Format,
    /// Camera slots in the model's order, without `observation.images.`.
    pub cameras: Vec<String>,
    pub horizon: usize,
    pub action_dim: usize,
    pub state_dim: usize,
    pub prompt_slots: usize,
    /// `None` when the config does not say.
    pub image_size: Option<usize>,
    pub steps: usize,
    pub min_period: f64,
    pub max_period: f64,
    /// The weights were never trained: written by [`super::synth`].
    pub synthetic: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Format {
    Lerobot(LerobotFeatures),
    Openpi,
}

/// What only LeRobot's config says.
#[derive(Clone, Debug)]
pub(super) struct LerobotFeatures {
    pub state_width: usize,
    pub action_width: usize,
    pub relative_actions: bool,
    /// Normalization mode by feature type (`STATE`, `ACTION`, `VISUAL`).
    pub modes: BTreeMap<String, String>,
}

impl Config {
    /// Reads `config.json`; policies other than pi0 are refused by name.
    pub fn read(dir: &Path) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            kind: Option<Value>,
            action_horizon: Option<IgnoredAny>,
        }
        let path = dir.join("config.json");
        // Parsed twice from the text: a tree of values would forget the order of the cameras.
        let text = files::read(&path)?;
        let Kind { kind, action_horizon } = files::parse_json(&text, &path)?;
        match kind.as_ref().map(|kind| kind.as_str()) {
            Some(Some("pi0")) => files::parse_json::<LerobotJson>(&text, &path)?.check(&path),
            Some(Some("pi05" | "pi0.5")) => Err(CheckpointError::Pi05 { evidence: "its config.json has the type pi05".into() }),
            Some(kind) => Err(CheckpointError::OtherPolicy { path, kind: kind.unwrap_or("(not a string)").into() }),
            None if action_horizon.is_some() => files::parse_json::<OpenpiJson>(&text, &path)?.check(&path),
            None => Err(CheckpointError::UnknownConfig { path }),
        }
    }
}

/// The fields of LeRobot's `config.json` that matter at inference; all others are tolerated.
#[derive(Deserialize)]
struct LerobotJson {
    #[serde(default)]
    n_obs_steps: Option<usize>,
    /// The order of the VISUAL ones is the order of the camera slots.
    #[serde(default)]
    input_features: Option<IndexMap<String, Feature>>,
    #[serde(default)]
    output_features: Option<IndexMap<String, Feature>>,
    chunk_size: usize,
    max_state_dim: usize,
    max_action_dim: usize,
    tokenizer_max_length: usize,
    #[serde(alias = "num_steps")]
    num_inference_steps: usize,
    #[serde(alias = "resize_imgs_with_padding")]
    image_resolution: Option<[usize; 2]>,
    #[serde(default)]
    empty_cameras: usize,
    min_period: Option<f64>,
    max_period: Option<f64>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    use_relative_actions: bool,
    #[serde(default)]
    normalization_mapping: BTreeMap<String, String>,
    /// Robot transforms inside the policy of LeRobot up to 0.3.3.
    #[serde(default)]
    adapt_to_pi_aloha: bool,
    #[serde(default)]
    use_delta_joint_actions_aloha: bool,
}

#[derive(Deserialize)]
struct Feature {
    #[serde(rename = "type")]
    kind: String,
    shape: Vec<usize>,
}

impl LerobotJson {
    fn check(self, path: &Path) -> Result<Config, CheckpointError> {
        let refuse = |field, value: String, reason: &str| {
            Err(CheckpointError::ConfigValue { path: path.to_owned(), field, value, reason: reason.into() })
        };
        if let Some(steps) = self.n_obs_steps.filter(|&steps| steps != 1) {
            return refuse("n_obs_steps", steps.to_string(), "pi0 looks at one observation");
        }
        for (field, set) in
            [("adapt_to_pi_aloha", self.adapt_to_pi_aloha), ("use_delta_joint_actions_aloha", self.use_delta_joint_actions_aloha)]
        {
            if set {
                return refuse(field, "true".into(), "set it to false and let the robot profile do this transform");
            }
        }
        let inputs = self.input_features.unwrap_or_default();
        let mut cameras: Vec<String> =
            inputs.iter().filter(|(_, feature)| feature.kind == "VISUAL").map(|(name, _)| camera_name(name).to_owned()).collect();
        if self.empty_cameras > MAX_CAMERAS {
            return refuse("empty_cameras", self.empty_cameras.to_string(), "this is not plausible");
        }
        for i in 0..self.empty_cameras {
            let name = format!("empty_camera_{i}");
            if !cameras.contains(&name) {
                cameras.push(name);
            }
        }
        if cameras.is_empty() || cameras.len() > MAX_CAMERAS {
            let reason = format!("between 1 and {MAX_CAMERAS} of type VISUAL are needed, the cameras of the model");
            return refuse("input_features", format!("{} cameras", cameras.len()), &reason);
        }
        // LeRobot fills in padded features where there are none.
        let width = |features: &IndexMap<String, Feature>, name: &str, padded| match features.get(name) {
            Some(feature) => feature.shape.first().copied().unwrap_or(0),
            None => padded,
        };
        let state_width = width(&inputs, STATE, self.max_state_dim);
        let action_width = width(&self.output_features.unwrap_or_default(), ACTION, self.max_action_dim);
        for (field, width, padded) in
            [("input_features", state_width, self.max_state_dim), ("output_features", action_width, self.max_action_dim)]
        {
            if width == 0 || width > padded {
                let reason = format!("between 1 and {padded} entries fit the model");
                return refuse(field, format!("{width} entries"), &reason);
            }
        }
        let image_size = match self.image_resolution {
            Some([height, width]) if height != width => {
                return refuse("image_resolution", format!("[{height}, {width}]"), "pi0 takes square images");
            }
            resolution => resolution.map(|[side, _]| side),
        };
        Config {
            format: Format::Lerobot(LerobotFeatures {
                state_width,
                action_width,
                relative_actions: self.use_relative_actions,
                modes: self.normalization_mapping,
            }),
            cameras,
            horizon: self.chunk_size,
            action_dim: self.max_action_dim,
            state_dim: self.max_state_dim,
            prompt_slots: self.tokenizer_max_length,
            image_size,
            steps: self.num_inference_steps,
            min_period: self.min_period.unwrap_or(PERIODS.0),
            max_period: self.max_period.unwrap_or(PERIODS.1),
            synthetic: self.tags.is_some_and(|tags| tags.iter().any(|tag| tag == SYNTHETIC_TAG)),
        }
        .check_limits(path, ["chunk_size", "tokenizer_max_length", "num_inference_steps"])
    }
}

/// `config.json` of openpi's `convert_jax_model_to_pytorch.py`.
#[derive(Deserialize)]
struct OpenpiJson {
    action_dim: usize,
    action_horizon: usize,
}

impl OpenpiJson {
    fn check(self, path: &Path) -> Result<Config, CheckpointError> {
        Config {
            format: Format::Openpi,
            cameras: OPENPI_CAMERAS.map(String::from).to_vec(),
            horizon: self.action_horizon,
            action_dim: self.action_dim,
            state_dim: self.action_dim,
            prompt_slots: OPENPI_PROMPT_SLOTS,
            image_size: Some(OPENPI_IMAGE_SIZE),
            steps: OPENPI_STEPS,
            min_period: PERIODS.0,
            max_period: PERIODS.1,
            synthetic: false,
        }
        .check_limits(path, ["action_horizon", "max_token_len", "num_steps"])
    }
}

impl Config {
    /// `fields` names the horizon, the prompt slots and the steps as the format calls them.
    fn check_limits(self, path: &Path, fields: [&'static str; 3]) -> Result<Self, CheckpointError> {
        let limits = [(self.horizon, MAX_HORIZON), (self.prompt_slots, MAX_PROMPT_SLOTS), (self.steps, MAX_STEPS)];
        for (field, (value, limit)) in fields.into_iter().zip(limits) {
            if value == 0 || value > limit {
                let reason = format!("a value between 1 and {limit} is needed");
                return Err(CheckpointError::ConfigValue { path: path.to_owned(), field, value: value.to_string(), reason });
            }
        }
        if !(self.min_period > 0.0 && self.max_period > self.min_period && self.max_period.is_finite()) {
            return Err(CheckpointError::ConfigValue {
                path: path.to_owned(),
                field: "min_period and max_period",
                value: format!("{} and {}", self.min_period, self.max_period),
                reason: "0 < min_period < max_period is needed".into(),
            });
        }
        Ok(self)
    }
}

/// The short name of a camera feature: `observation.images.top` is the slot `top`.
pub(super) fn camera_name(feature: &str) -> &str {
    feature.strip_prefix("observation.images.").unwrap_or(feature)
}

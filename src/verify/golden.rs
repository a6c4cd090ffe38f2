//! A folder of golden tensors.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype as Stored, SafeTensors};
use serde::Deserialize;

use super::{Metric, Score, VerifyError, compare};
use crate::{
    checkpoint::{Checkpoint, Dtype, Weights, synthetic},
    model::{Camera, Geometry, ModelInputs, Prompt},
    observation::{ResizeKernel, Resizer, RgbImage},
    progress,
};

/// A tensor of any stored format.
#[derive(Clone, Debug)]
pub struct GoldenTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// The arithmetic that made the golden tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// LeRobot in float32: the reference must agree to rounding.
    F32,
    /// LeRobot in its mixed bfloat16 mode: the reference, which is more exact, must agree to bfloat16's noise.
    BF16,
}

impl Precision {
    /// How intermediates are compared.
    pub fn intermediate(self) -> Metric {
        match self {
            Self::F32 => Metric::MaxRelative { bound: 1e-5 },
            Self::BF16 => Metric::RelativeRms { bound: 3e-2 },
        }
    }

    /// How actions are compared.
    pub fn actions(self) -> Metric {
        match self {
            Self::F32 => Metric::MaxRelative { bound: 1e-4 },
            Self::BF16 => Metric::RmsAndCorrelation { rms: 2e-2, pcc: 0.9995 },
        }
    }
}

/// One inference of a golden set.
pub struct Run {
    /// Tensor that holds its actions.
    pub actions: &'static str,
    pub inputs: ModelInputs,
    /// Whether the stored intermediates belong to this run.
    pub has_intermediates: bool,
}

impl Run {
    /// Which prefix rows are real, camera slots first.
    pub fn valid(&self, geometry: &Geometry) -> Vec<bool> {
        let cameras = self
            .inputs
            .cameras
            .iter()
            .flat_map(|camera| std::iter::repeat_n(matches!(camera, Camera::Present(_)), geometry.vision.tokens()));
        cameras.chain((0..geometry.prompt_slots).map(|slot| slot < self.inputs.prompt.ids.len())).collect()
    }
}

/// An opened golden set.
pub struct Golden {
    pub dir: PathBuf,
    pub geometry: Geometry,
    pub weights: Weights,
    pub precision: Precision,
    pub steps: usize,
    inputs: BTreeMap<String, GoldenTensor>,
    expected: BTreeMap<String, GoldenTensor>,
}

/// `meta.json` beside a golden set.
#[derive(Deserialize)]
struct Meta {
    preset: String,
}

const CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];

impl Golden {
    pub fn open(dir: &Path) -> Result<Self, VerifyError> {
        let pair = [("inputs", "intermediates"), ("full_inputs", "full_golden")]
            .map(|(inputs, expected)| [inputs, expected].map(|stem| dir.join(stem).with_extension("safetensors")))
            .into_iter()
            .find(|pair| pair.iter().all(|file| file.is_file()))
            .ok_or_else(|| VerifyError::NoGolden(dir.to_owned()))?;
        let [(inputs, _), (expected, dtype)] = [read(&pair[0])?, read(&pair[1])?];
        let precision = if dtype.as_deref() == Some("bfloat16") { Precision::BF16 } else { Precision::F32 };
        let (geometry, weights) = if dir.join("model.safetensors").is_file() {
            let model = Checkpoint::open_model_only(dir)?;
            (model.geometry, model.weights)
        } else {
            let geometry = preset(&dir.join("meta.json"))?;
            (geometry, synthetic_weights(&geometry))
        };
        let steps = (0..).take_while(|step| expected.contains_key(&format!("step.{step}.x_t"))).count();
        Ok(Self { dir: dir.to_owned(), geometry, weights, precision, steps, inputs, expected })
    }

    /// The runs that the set holds actions of.
    pub fn runs(&self) -> Result<Vec<Run>, VerifyError> {
        let kinds: [(&'static str, &[bool], bool); 4] = [
            ("runA.actions", &[true, true, false], true),
            ("runA_dropped_cam.actions", &[true, true], false),
            ("runB.actions", &[true, true, true], false),
            ("actions", &[true, true, true], true),
        ];
        kinds
            .into_iter()
            .filter(|(actions, ..)| self.expected.contains_key(*actions))
            .map(|(actions, present, has_intermediates)| {
                Ok(Run { actions, inputs: self.model_inputs(present)?, has_intermediates })
            })
            .collect()
    }

    /// Noise of every run, `[horizon, action_dim]`.
    pub fn noise(&self) -> Result<Vec<f32>, VerifyError> {
        Ok(self.input("noise")?.values.iter().map(|&value| value as f32).collect())
    }

    pub fn expected(&self, name: &str) -> Option<&GoldenTensor> {
        self.expected.get(name)
    }

    /// Names of all tensors that the set expects.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.expected.keys().map(String::as_str)
    }

    /// The score of `values` against tensor `name`, when the set has it.
    pub fn score(&self, name: &str, metric: Metric, values: &[f64]) -> Option<Score> {
        self.expected.get(name).map(|tensor| compare::score(name, metric, values, &tensor.values))
    }

    fn input(&self, name: &str) -> Result<&GoldenTensor, VerifyError> {
        self.inputs
            .get(name)
            .ok_or_else(|| VerifyError::Missing { file: self.dir.join("inputs.safetensors"), name: name.to_owned() })
    }

    /// Inputs as LeRobot's own preprocessing makes them, with the cameras that are `present`.
    fn model_inputs(&self, present: &[bool]) -> Result<ModelInputs, VerifyError> {
        let resizer = Resizer::new(ResizeKernel::Lerobot, self.geometry.vision.image_size);
        let camera = |(name, &present): (&str, &bool)| -> Result<Camera, VerifyError> {
            if !present {
                return Ok(Camera::Masked);
            }
            let name = format!("observation.images.{name}");
            let image = rgb(self.input(&name)?).map_err(|shape| VerifyError::Image { name, shape })?;
            Ok(Camera::Present(resizer.resize(&image)?))
        };
        let ids = self.input("observation.language.tokens")?;
        let mask = self.input("observation.language.attention_mask")?;
        let mut state: Vec<f32> = self.input("observation.state")?.values.iter().map(|&value| value as f32).collect();
        state.resize(self.geometry.state_dim, 0.0);
        Ok(ModelInputs {
            cameras: CAMERAS.into_iter().zip(present).map(camera).collect::<Result<_, _>>()?,
            prompt: Prompt {
                ids: ids.values.iter().zip(&mask.values).filter(|(_, valid)| **valid != 0.0).map(|(&id, _)| id as u32).collect(),
            },
            state,
        })
    }
}

/// `[1, 3, height, width]`, either 0..255 or a 255th of it, as an image; the shape when it is another one.
fn rgb(tensor: &GoldenTensor) -> Result<RgbImage, Vec<usize>> {
    let [1, 3, height, width] = *tensor.shape else { return Err(tensor.shape.clone()) };
    let scale = if tensor.values.iter().any(|&value| value > 1.0) { 1.0 } else { 255.0 };
    let plane = height * width;
    let pixels = (0..plane)
        .flat_map(|pixel| (0..3).map(move |channel| channel * plane + pixel))
        .map(|index| (tensor.values[index] * scale).round() as u8)
        .collect();
    RgbImage::new(width, height, pixels).map_err(|_| tensor.shape.clone())
}

/// All tensors of a safetensors file, and the `dtype` of its metadata.
fn read(path: &Path) -> Result<(BTreeMap<String, GoldenTensor>, Option<String>), VerifyError> {
    let failed = |reason: String| VerifyError::Read { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| failed(error.to_string()))?;
    let dtype = metadata.metadata().as_ref().and_then(|entries| entries.get("dtype").cloned());
    let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(error.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let data = view.data();
        let values: Vec<f64> = match view.dtype() {
            Stored::F32 => numbers(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
            Stored::F64 => numbers(data, f64::from_le_bytes),
            Stored::BF16 => numbers(data, |bytes| f64::from(half::bf16::from_le_bytes(bytes))),
            Stored::I64 => numbers(data, |bytes| i64::from_le_bytes(bytes) as f64),
            Stored::U8 => numbers(data, |[byte]| f64::from(byte)),
            other => return Err(failed(format!("tensor {name} has the unexpected type {other:?}"))),
        };
        tensors.insert(name.to_owned(), GoldenTensor { shape: view.shape().to_vec(), values });
    }
    Ok((tensors, dtype))
}

/// The geometry that `meta.json` names; the published one without that file.
fn preset(meta: &Path) -> Result<Geometry, VerifyError> {
    if !meta.is_file() {
        return Ok(Geometry::base());
    }
    let failed = |reason: String| VerifyError::Read { path: meta.to_owned(), reason };
    let text = fs::read_to_string(meta).map_err(|error| failed(error.to_string()))?;
    let Meta { preset } = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    Geometry::preset(&preset).ok_or_else(|| failed(format!("the preset {preset} is unknown")))
}

fn numbers<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
}

fn synthetic_weights(geometry: &Geometry) -> Weights {
    let bar = progress::bar("Synthetic weights", geometry.parameters());
    let weights = synthetic::weights(geometry, Dtype::F32, |made| bar.inc(made));
    bar.finish_and_clear();
    weights
}

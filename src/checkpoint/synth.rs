//! Synthetic checkpoints: complete folders in LeRobot's format whose weights are a function of the tensor names.
//!
//! They behave like a real checkpoint in everything but the actions, which mean nothing.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use half::bf16;
use safetensors::{View, serialize_to_file};
use serde_json::{Value, json};

use super::{CheckpointError, Dtype, config::SYNTHETIC_TAG, synthetic};
use crate::model::{
    GemmaGeometry, Geometry, TensorSpec,
    layout::{EXPERT, VLM},
};

/// Number format of the weights, as LeRobot's `config.json` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    Float32,
    /// As LeRobot places it: language model and expert in bfloat16; SigLIP, projector, norms and projections in float32.
    Bfloat16,
}

/// The tokenizer of every synthetic checkpoint: 500 tokens, trained by tools/train_test_tokenizer.py.
const TOKENIZER: &str = include_str!("synthetic_tokenizer.json");

/// Camera slots, in alphabetical order as JSON objects are written here, and the image size that the features promise.
const CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];
const IMAGE: [usize; 3] = [3, 480, 640];

/// One arm of ALOHA: name, mean, standard deviation, least and largest value in radians; the gripper goes from 0 (closed) to 1.
const ARM: [(&str, f32, f32, f32, f32); 7] = [
    ("waist", 0.0, 0.22, -1.1, 1.1),
    ("shoulder", -0.72, 0.38, -1.75, 0.6),
    ("elbow", 0.98, 0.32, -0.3, 1.6),
    ("forearm_roll", 0.0, 0.24, -1.2, 1.2),
    ("wrist_angle", -0.18, 0.36, -1.6, 1.3),
    ("wrist_rotate", 0.0, 0.3, -1.5, 1.5),
    ("gripper", 0.45, 0.36, 0.0, 1.0),
];

const README: &str = "# Synthetic weights: this is not a trained policy

`pi0_tt synth` wrote this folder for tests, demonstrations and benches. Every weight is a fixed function of the tensor's name and of
the element's index; the tokenizer knows 500 tokens; the statistics are plausible values for ALOHA. The files are those that LeRobot
0.6 saves for a real pi0. **The actions mean nothing: do not let them move a robot.**
";

/// Writes a synthetic checkpoint to `dir`, which must not exist or be empty. `written` is told the bytes of each tensor.
///
/// At most one tensor is in memory. The folder appears under its name only when it is complete.
pub fn write_synthetic(
    dir: &Path,
    geometry: &Geometry,
    precision: Precision,
    written: impl FnMut(u64),
) -> Result<(), CheckpointError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Write { path, source }
    };
    if dir.exists() && fs::read_dir(dir).map_err(failed(dir))?.next().is_some() {
        return Err(CheckpointError::NotEmpty { path: dir.to_owned() });
    }
    let partial = partial_name(dir).ok_or_else(|| failed(dir)(io::Error::from(io::ErrorKind::InvalidFilename)))?;
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(failed(&partial))?;
    }
    fs::create_dir_all(partial.join("tokenizer")).map_err(failed(&partial))?;
    let outcome = write_files(&partial, geometry, precision, written).and_then(|()| fs::rename(&partial, dir));
    if let Err(source) = outcome {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
        return Err(CheckpointError::Write { path: dir.to_owned(), source });
    }
    Ok(())
}

/// Bytes of the weights that [`write_synthetic`] writes.
pub fn weight_bytes(geometry: &Geometry, precision: Precision) -> u64 {
    geometry.tensors().iter().map(|spec| elements(&spec.shape) as u64 * placed(&spec.name, precision).size() as u64).sum()
}

/// A hidden name beside `dir`, on the same file system.
fn partial_name(dir: &Path) -> Option<PathBuf> {
    let name = dir.file_name()?.to_str()?;
    Some(dir.with_file_name(format!(".{name}.partial")))
}

fn write_files(dir: &Path, geometry: &Geometry, precision: Precision, written: impl FnMut(u64)) -> io::Result<()> {
    let json = |name: &str, value: Value| fs::write(dir.join(name), format!("{value:#}\n"));
    fs::write(dir.join("README.md"), README)?;
    fs::write(dir.join("tokenizer/tokenizer.json"), TOKENIZER)?;
    json("config.json", config(geometry, precision)?)?;
    json("meta.json", meta(geometry))?;
    let (pre, post) = ("policy_preprocessor_step_6_normalizer_processor", "policy_postprocessor_step_0_unnormalizer_processor");
    json("policy_preprocessor.json", preprocessor(geometry, &format!("{pre}.safetensors")))?;
    json("policy_postprocessor.json", postprocessor(&format!("{post}.safetensors")))?;
    for name in [pre, post] {
        save(statistics(), HashMap::new(), &dir.join(format!("{name}.safetensors")))?;
    }
    let written = RefCell::new(written);
    let tensors = geometry.tensors().into_iter().map(|spec| {
        let dtype = placed(&spec.name, precision);
        (format!("model.{}", spec.name), Generated { spec, dtype, written: &written })
    });
    let note = ("weights".to_owned(), "synthetic: a function of tensor name and element index".to_owned());
    save(tensors, HashMap::from([("format".to_owned(), "pt".to_owned()), note]), &dir.join("model.safetensors"))
}

fn save<V: View>(tensors: impl IntoIterator<Item = (String, V)>, note: HashMap<String, String>, path: &Path) -> io::Result<()> {
    let note = (!note.is_empty()).then_some(note);
    serialize_to_file(tensors, note, path).map_err(|cause| match cause {
        safetensors::SafeTensorError::IoError(source) => source,
        other => io::Error::other(other),
    })?;
    readable(path)
}

/// The safetensors crate writes through a temporary file that only its owner may read; a checkpoint is read by whoever runs the node.
#[cfg(unix)]
fn readable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_path: &Path) -> io::Result<()> {
    Ok(())
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// LeRobot's placement of number formats (`to_bfloat16_for_selected_params`).
fn placed(name: &str, precision: Precision) -> Dtype {
    let gemma = [VLM, EXPERT].iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with("norm.weight");
    if precision == Precision::Bfloat16 && gemma { Dtype::BF16 } else { Dtype::F32 }
}

/// A tensor that is made when it is written.
struct Generated<'a, W> {
    spec: TensorSpec,
    dtype: Dtype,
    written: &'a RefCell<W>,
}

impl<W: FnMut(u64)> View for Generated<'_, W> {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype.into()
    }

    fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        /// Elements that are made at a time.
        const BLOCK: usize = 1 << 22;
        let total = elements(&self.spec.shape);
        let mut bytes = Vec::with_capacity(self.data_len());
        let mut block = vec![0.0; BLOCK.min(total)];
        for start in (0..total).step_by(BLOCK) {
            let values = &mut block[..BLOCK.min(total - start)];
            synthetic::fill(&self.spec.name, &self.spec.shape, start, values);
            match self.dtype {
                Dtype::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                _ => bytes.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
            }
        }
        (self.written.borrow_mut())(bytes.len() as u64);
        bytes.into()
    }

    fn data_len(&self) -> usize {
        elements(&self.spec.shape) * self.dtype.size()
    }
}

/// One statistic of a feature.
struct Statistic(Vec<usize>, Vec<u8>);

impl View for Statistic {
    fn dtype(&self) -> safetensors::Dtype {
        safetensors::Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.1.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.1.len()
    }
}

/// Statistics of states and actions, as LeRobot computes them of a dataset.
fn statistics() -> Vec<(String, Statistic)> {
    let both_arms = || ARM.iter().chain(&ARM);
    // For a bell curve 98 % of the values lie within 2.33 deviations.
    let quantile = |sign: f32| both_arms().map(|(_, mean, std, min, max)| (mean + sign * 2.33 * std).clamp(*min, *max)).collect();
    let values: [(&str, Vec<f32>); 7] = [
        ("count", vec![20_000.0]),
        ("mean", both_arms().map(|arm| arm.1).collect()),
        ("std", both_arms().map(|arm| arm.2).collect()),
        ("min", both_arms().map(|arm| arm.3).collect()),
        ("max", both_arms().map(|arm| arm.4).collect()),
        ("q01", quantile(-1.0)),
        ("q99", quantile(1.0)),
    ];
    let tensor = |feature: &str, (name, values): &(&str, Vec<f32>)| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (format!("{feature}.{name}"), Statistic(vec![values.len()], bytes))
    };
    ["observation.state", "action"].iter().flat_map(|feature| values.iter().map(move |value| tensor(feature, value))).collect()
}

fn joint_names() -> Vec<String> {
    ["left", "right"].iter().flat_map(|side| ARM.iter().map(move |(joint, ..)| format!("{side}_{joint}"))).collect()
}

fn input_features() -> Value {
    let mut features = serde_json::Map::new();
    for camera in CAMERAS {
        features.insert(format!("observation.images.{camera}"), json!({"type": "VISUAL", "shape": IMAGE}));
    }
    features.insert("observation.state".into(), json!({"type": "STATE", "shape": [joint_names().len()]}));
    features.into()
}

fn output_features() -> Value {
    json!({"action": {"type": "ACTION", "shape": [joint_names().len()]}})
}

fn norm_map() -> Value {
    json!({"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"})
}

/// The fields of LeRobot 0.6.1's `PI0Config` that are the same for every synthetic checkpoint.
const CONFIG: &str = r#"{
    "type": "pi0", "n_obs_steps": 1, "device": "cpu", "use_amp": false, "use_peft": false, "push_to_hub": false, "repo_id": null,
    "private": null, "license": null, "pretrained_path": null, "pretrained_revision": null,
    "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m", "num_inference_steps": 10,
    "time_sampling_beta_alpha": 1.5, "time_sampling_beta_beta": 1.0, "time_sampling_scale": 0.999,
    "time_sampling_offset": 0.001, "use_relative_actions": false, "relative_exclude_joints": ["gripper"], "rtc_config": null,
    "empty_cameras": 0, "gradient_checkpointing": false, "compile_model": false, "compile_mode": "max-autotune",
    "freeze_vision_encoder": false, "train_expert_only": false, "optimizer_lr": 2.5e-05, "optimizer_betas": [0.9, 0.95],
    "optimizer_eps": 1e-08, "optimizer_weight_decay": 0.01, "optimizer_grad_clip_norm": 1.0, "scheduler_warmup_steps": 1000,
    "scheduler_decay_steps": 30000, "scheduler_decay_lr": 2.5e-06
}"#;

fn config(geometry: &Geometry, precision: Precision) -> serde_json::Result<Value> {
    let mut config: Value = serde_json::from_str(CONFIG)?;
    let dtype = match precision {
        Precision::Float32 => "float32",
        Precision::Bfloat16 => "bfloat16",
    };
    let side = geometry.vision.image_size;
    for (field, value) in [
        ("input_features", input_features()),
        ("output_features", output_features()),
        ("normalization_mapping", norm_map()),
        ("action_feature_names", json!(joint_names())),
        ("tags", json!([SYNTHETIC_TAG])),
        ("dtype", json!(dtype)),
        ("chunk_size", json!(geometry.horizon)),
        ("n_action_steps", json!(geometry.horizon)),
        ("max_state_dim", json!(geometry.state_dim)),
        ("max_action_dim", json!(geometry.action_dim)),
        ("min_period", json!(geometry.min_period)),
        ("max_period", json!(geometry.max_period)),
        ("image_resolution", json!([side, side])),
        ("tokenizer_max_length", json!(geometry.prompt_slots)),
    ] {
        config[field] = value;
    }
    Ok(config)
}

/// The head counts, which neither config nor shapes tell where the geometry is not a published one.
fn meta(geometry: &Geometry) -> Value {
    let gemma = |gemma: &GemmaGeometry| {
        json!({
            "width": gemma.width, "depth": gemma.depth, "mlp_dim": gemma.mlp_width,
            "num_heads": gemma.heads, "num_kv_heads": gemma.kv_heads, "head_dim": gemma.head_dim
        })
    };
    let vision = &geometry.vision;
    json!({
        "note": "synthetic weights, written by pi0_tt synth",
        "geometry": {
            "vlm": gemma(&geometry.vlm),
            "exp": gemma(&geometry.expert),
            "vis": {
                "hidden_size": vision.width, "intermediate_size": vision.mlp_width, "num_hidden_layers": vision.depth,
                "num_attention_heads": vision.heads, "patch_size": vision.patch, "image_size": vision.image_size
            },
            "vocab": geometry.vocab_size, "chunk": geometry.horizon, "max_len": geometry.prompt_slots, "max_dim": geometry.action_dim
        }
    })
}

fn preprocessor(geometry: &Geometry, state_file: &str) -> Value {
    let mut features = input_features();
    features["action"] = output_features()["action"].take();
    json!({
        "name": "policy_preprocessor",
        "steps": [
            {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
            {"registry_name": "to_batch_processor", "config": {}},
            {"registry_name": "pi0_new_line_processor", "config": {}},
            {"registry_name": "tokenizer_processor", "config": {
                "max_length": geometry.prompt_slots, "task_key": "task", "padding_side": "right", "padding": "max_length",
                "truncation": true, "tokenizer_name": "google/paligemma-3b-pt-224"
            }},
            {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": null}},
            {"registry_name": "relative_actions_processor", "config": {
                "enabled": false, "exclude_joints": ["gripper"], "action_names": joint_names()
            }},
            {"registry_name": "normalizer_processor",
             "config": {"eps": 1e-08, "features": features, "norm_map": norm_map()},
             "state_file": state_file}
        ]
    })
}

fn postprocessor(state_file: &str) -> Value {
    json!({
        "name": "policy_postprocessor",
        "steps": [
            {"registry_name": "unnormalizer_processor",
             "config": {"eps": 1e-08, "features": output_features(), "norm_map": norm_map()},
             "state_file": state_file},
            {"registry_name": "absolute_actions_processor", "config": {"enabled": false}},
            {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": null}}
        ]
    })
}

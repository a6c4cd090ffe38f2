//! A checkpoint folder in a scratch directory that a test can damage.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
};

use pi0_tt::{
    checkpoint::{
        Checkpoint, CheckpointError, OpenOptions,
        synth::{Precision, write_synthetic},
    },
    model::Geometry,
};
use safetensors::{Dtype, SafeTensors, View};
use serde_json::Value;
use tempfile::TempDir;

use super::common::data;

/// A tensor as a safetensors file holds it.
#[derive(Clone)]
pub struct Raw {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Raw {
    pub fn f32(name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.into(), dtype: Dtype::F32, shape: vec![values.len()], bytes }
    }
}

impl View for &Raw {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

pub fn read_tensors(path: &Path) -> Vec<Raw> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let raw = |(name, view): (String, safetensors::tensor::TensorView)| Raw {
        name,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    tensors.tensors().into_iter().map(raw).collect()
}

pub fn write_tensors(path: &Path, tensors: &[Raw]) {
    let bytes = safetensors::serialize(tensors.iter().map(|raw| (raw.name.as_str(), raw)), None).unwrap();
    fs::write(path, bytes).unwrap();
}

pub struct Folder {
    scratch: TempDir,
}

impl Folder {
    /// A sound folder in LeRobot's format with the tiny geometry.
    pub fn lerobot() -> Self {
        let folder = Self { scratch: tempfile::tempdir().unwrap() };
        write_synthetic(folder.path(), &Geometry::tiny(), Precision::Float32, |_| {}).unwrap();
        folder
    }

    /// The same model as openpi's conversion writes it: no side files of LeRobot, names without `model.`, `lm_head` alone.
    pub fn openpi() -> Self {
        let folder = Self::lerobot();
        for name in ["policy_preprocessor.json", "policy_postprocessor.json", "tokenizer/tokenizer.json"] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        fs::copy(data("tokenizer/tokenizer.model"), folder.join("paligemma_tokenizer.model")).unwrap();
        folder.write(
            "config.json",
            r#"{"action_dim": 32, "action_horizon": 10, "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m",
                "precision": "float32"}"#,
        );
        folder.edit_tensors(|tensors| {
            for tensor in tensors {
                tensor.name = tensor.name.strip_prefix("model.").unwrap().to_owned();
                if tensor.name.ends_with("embed_tokens.weight") {
                    tensor.name = "paligemma_with_expert.paligemma.lm_head.weight".into();
                }
            }
        });
        folder.write_norm_stats("assets/trossen/norm_stats.json", &[0.25; 14], &[0.5; 14]);
        folder
    }

    pub fn write_norm_stats(&self, name: &str, mean: &[f64], std: &[f64]) {
        let feature = serde_json::json!({"mean": mean, "std": std, "q01": mean, "q99": std});
        self.write(name, serde_json::json!({"norm_stats": {"state": feature, "actions": feature}}).to_string());
    }

    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.join(name)).unwrap()).unwrap();
        edit(&mut value);
        self.write(name, value.to_string());
    }

    pub fn edit_tensors_of(&self, name: &str, edit: impl FnOnce(&mut Vec<Raw>)) {
        let mut tensors = read_tensors(&self.join(name));
        edit(&mut tensors);
        write_tensors(&self.join(name), &tensors);
    }

    pub fn edit_tensors(&self, edit: impl FnOnce(&mut Vec<Raw>)) {
        self.edit_tensors_of("model.safetensors", edit);
    }

    pub fn try_open(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open(self.path(), &OpenOptions::default())
    }

    pub fn open(&self) -> Checkpoint {
        self.try_open().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The causes why this folder is refused.
    pub fn causes(&self) -> Vec<CheckpointError> {
        match self.try_open() {
            Err(CheckpointError::Refused { causes, .. }) => causes,
            Err(other) => panic!("not a list of causes: {other}"),
            Ok(_) => panic!("this folder was opened"),
        }
    }

    /// The only cause.
    pub fn cause(&self) -> CheckpointError {
        let mut causes = self.causes();
        assert_eq!(causes.len(), 1, "{causes:#?}");
        causes.remove(0)
    }
}

/// Asserts that an expression matches a pattern, showing the value where it does not.
macro_rules! assert_matches {
    ($value:expr, $pattern:pat $(if $guard:expr)?) => {
        match $value {
            $pattern $(if $guard)? => {}
            other => panic!("unexpected: {other:?}"),
        }
    };
}
pub(crate) use assert_matches;

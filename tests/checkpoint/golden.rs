//! Against what LeRobot 0.6.1 itself wrote and computed.

use std::{collections::BTreeMap, fs, path::Path};

use pi0_tt::{
    checkpoint::{
        Checkpoint, Family,
        synth::{Precision, write_synthetic},
    },
    model::Geometry,
};
use serde_json::Value;

use super::{
    common::{data, golden},
    folder::{Folder, Raw, read_tensors},
};

#[test]
fn lerobots_own_checkpoints_open_with_their_geometry() {
    for name in ["tiny_f32", "tiny_bf16", "small_f32", "small_bf16"] {
        let Some(dir) = golden(name) else { return };
        let model = Checkpoint::open_model_only(&dir).unwrap();
        let expected = if name.starts_with("tiny") { Geometry::tiny() } else { Geometry::small() };
        assert_eq!(model.geometry, expected);
        assert_eq!(model.family, Family::Lerobot);
        assert_eq!(model.cameras, ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]);
        assert_eq!(model.weights.parameters(), expected.parameters());
        assert_eq!((model.steps, model.synthetic), (10, false));
    }
}

#[test]
fn synthetic_checkpoints_hold_the_tensors_that_lerobot_saved_bit_by_bit() {
    for (name, geometry, precision) in [
        ("tiny_f32", Geometry::tiny(), Precision::Float32),
        ("tiny_bf16", Geometry::tiny(), Precision::Bfloat16),
        ("small_f32", Geometry::small(), Precision::Float32),
        ("small_bf16", Geometry::small(), Precision::Bfloat16),
    ] {
        let Some(dir) = golden(name) else { return };
        let scratch = tempfile::tempdir().unwrap();
        write_synthetic(scratch.path(), &geometry, precision, |_| {}).unwrap();
        let sorted = |path: &Path| {
            let mut tensors = read_tensors(path);
            // LeRobot saves the two heads that nothing reads.
            tensors.retain(|tensor| !tensor.name.contains("lm_head"));
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            tensors
        };
        let (ours, theirs) = (sorted(&scratch.path().join("model.safetensors")), sorted(&dir.join("model.safetensors")));
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!((&ours.name, ours.dtype, &ours.shape), (&theirs.name, theirs.dtype, &theirs.shape));
            assert!(ours.bytes == theirs.bytes, "{name}: {} differs", ours.name);
        }
    }
}

/// The shape of a JSON document: keys of objects, elements of arrays, kinds of values.
fn outline(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), outline(value))).collect(),
        Value::Array(list) => list.iter().map(outline).collect(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "bool".into(),
        Value::String(_) => "string".into(),
        Value::Null => "null".into(),
    }
}

#[test]
fn synthetic_side_files_have_the_fields_that_lerobot_writes() {
    let folder = Folder::lerobot();
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    for name in ["config.json", "policy_preprocessor.json", "policy_postprocessor.json"] {
        let (mut ours, mut theirs) = (read(&folder.join(name)), read(&data("lerobot_ckpt").join(name)));
        for value in [&mut ours, &mut theirs] {
            // What depends on the robot, or says that these weights are synthetic.
            for field in
                ["/input_features", "/action_feature_names", "/tags", "/steps/5/config/action_names", "/steps/6/config/features"]
            {
                value.pointer_mut(field).map(Value::take);
            }
        }
        assert_eq!(outline(&ours), outline(&theirs), "{name}");
    }
    for name in [
        "policy_preprocessor_step_6_normalizer_processor.safetensors",
        "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
    ] {
        let shapes = |path: &Path| -> BTreeMap<String, Vec<usize>> {
            read_tensors(path).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
        };
        assert_eq!(shapes(&folder.join(name)), shapes(&data("lerobot_ckpt").join(name)));
    }
}

/// A folder with the side files that LeRobot wrote (two cameras, 14 joints, its own stand-in tokenizer).
fn lerobot_side_files() -> Folder {
    let folder = Folder::lerobot();
    for entry in fs::read_dir(data("lerobot_ckpt")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.join(path.file_name().unwrap().to_str().unwrap())).unwrap();
        }
    }
    fs::copy(data("lerobot_ckpt/tokenizer/tokenizer.json"), folder.join("tokenizer/tokenizer.json")).unwrap();
    folder
}

fn values(tensors: &[Raw], name: &str) -> Vec<f32> {
    let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!(tensor.dtype, safetensors::Dtype::F32);
    tensor.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn lerobots_side_files_are_understood() {
    let checkpoint = lerobot_side_files().open();
    assert_eq!(checkpoint.family, Family::Lerobot);
    assert_eq!(checkpoint.cameras, ["base_0_rgb", "left_wrist_0_rgb"]);
    assert_eq!((checkpoint.state_width, checkpoint.action_width), (14, 14));
    assert_eq!((checkpoint.state_norm.mode(), checkpoint.action_norm.mode()), ("MEAN_STD", "MEAN_STD"));
    assert_eq!(checkpoint.relative_actions, None);
    assert!(!checkpoint.synthetic);
}

#[test]
fn states_and_actions_are_normalized_as_lerobot_did() {
    let checkpoint = lerobot_side_files().open();
    let tensors = read_tensors(&data("lerobot_ckpt/processor_io.safetensors"));
    let close = |ours: &[f32], theirs: &[f32]| {
        assert_eq!(ours.len(), theirs.len());
        let worst = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-6, "worst difference {worst:e}");
    };
    let mut state = values(&tensors, "raw.observation.state");
    checkpoint.state_norm.normalize(&mut state);
    close(&state, &values(&tensors, "pre.observation.state"));

    let mut actions = values(&tensors, "model.actions");
    actions.chunks_exact_mut(14).for_each(|row| checkpoint.action_norm.unnormalize(row));
    close(&actions, &values(&tensors, "post.actions"));
    actions.chunks_exact_mut(14).for_each(|row| checkpoint.action_norm.normalize(row));
    let worst = actions.iter().zip(values(&tensors, "model.actions")).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 2e-6, "the way back differs by {worst:e}");
}

#[test]
fn the_instruction_becomes_the_tokens_that_lerobot_made() {
    let checkpoint = lerobot_side_files().open();
    let tensors = read_tensors(&data("lerobot_ckpt/processor_io.safetensors"));
    let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let tokens = find("pre.observation.language.tokens").bytes.chunks_exact(8);
    let tokens = tokens.map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as u32);
    let valid = &find("pre.observation.language.attention_mask").bytes;
    let expected: Vec<u32> = tokens.zip(valid).filter(|(_, valid)| **valid == 1).map(|(token, _)| token).collect();
    let encoded = checkpoint.prompt.encode("pick up the red cube").unwrap();
    assert_eq!(encoded.prompt.ids, expected);
}

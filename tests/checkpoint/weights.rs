//! Tensor names, number formats and geometry.

use std::fs;

use half::f16;
use pi0_tt::{
    checkpoint::{
        Checkpoint, CheckpointError, Dtype, Family, ShapeMismatch, Weights,
        synth::{Precision, write_synthetic},
    },
    model::{GemmaGeometry, Geometry},
};
use serde_json::{Value, json};

use super::folder::{Folder, Raw, assert_matches, read_tensors, write_tensors};

const EMBEDDING: &str = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";
const LM_HEAD: &str = "paligemma_with_expert.paligemma.lm_head.weight";

fn assert_same(ours: &Weights, reference: &Weights) {
    assert!(ours.names().eq(reference.names()));
    for (name, tensor) in reference.iter() {
        let found = ours.get(name).unwrap();
        assert_eq!(found.shape(), tensor.shape());
        assert!(found.to_f32() == tensor.to_f32(), "{name} differs");
    }
}

/// Names of LeRobot up to 0.3.3.
fn legacy_name(name: &str) -> String {
    name.replace("paligemma.model.language_model.", "paligemma.language_model.model.")
        .replace("paligemma.model.vision_tower.", "paligemma.vision_tower.")
        .replace("paligemma.model.multi_modal_projector.", "paligemma.multi_modal_projector.")
        .replace("paligemma.lm_head.", "paligemma.language_model.lm_head.")
}

/// A folder as LeRobot up to 0.3.3 wrote it: statistics in the weights file.
fn legacy_folder() -> Folder {
    let folder = Folder::lerobot();
    for file in ["policy_preprocessor.json", "policy_postprocessor.json", "meta.json"] {
        fs::copy(folder.join(file), folder.join(&format!("{file}.old"))).unwrap();
        fs::remove_file(folder.join(file)).unwrap();
    }
    fs::rename(folder.join("meta.json.old"), folder.join("meta.json")).unwrap();
    folder.edit_json("config.json", |config| {
        let config = config.as_object_mut().unwrap();
        config.remove("min_period");
        config.remove("max_period");
        let steps = config.remove("num_inference_steps").unwrap();
        config.insert("num_steps".into(), steps);
        let size = config.remove("image_resolution").unwrap();
        config.insert("resize_imgs_with_padding".into(), size);
    });
    folder.edit_tensors(|tensors| {
        tensors.iter_mut().for_each(|tensor| tensor.name = legacy_name(&tensor.name));
        for (buffer, mean) in [
            ("normalize_inputs.buffer_observation_state", 1.0),
            ("normalize_targets.buffer_action", 99.0),
            ("unnormalize_outputs.buffer_action", 2.0),
        ] {
            tensors.push(Raw::f32(&format!("{buffer}.mean"), &[mean; 14]));
            tensors.push(Raw::f32(&format!("{buffer}.std"), &[0.5; 14]));
        }
    });
    folder
}

#[test]
fn every_family_gives_the_same_tensors() {
    let reference = Folder::lerobot().open();

    // The Hub's pi0_base: no leading `model.`, lm_head alone, expert's lm_head.
    let hub = Folder::lerobot();
    hub.edit_tensors(|tensors| {
        for tensor in tensors.iter_mut() {
            tensor.name = tensor.name.trim_start_matches("model.").replace(EMBEDDING, LM_HEAD);
        }
        tensors.push(Raw::f32("paligemma_with_expert.gemma_expert.lm_head.weight", &[1.0; 4]));
    });
    let hub = hub.open();
    assert_eq!(hub.family, Family::Lerobot);
    assert_same(&hub.weights, &reference.weights);

    // Saved again by LeRobot: both keys, of which embed_tokens counts.
    let resaved = Folder::lerobot();
    resaved.edit_tensors(|tensors| {
        let mut head = tensors.iter().find(|tensor| tensor.name.ends_with(EMBEDDING)).unwrap().clone();
        head.name = format!("model.{LM_HEAD}");
        head.bytes.fill(0);
        tensors.push(head);
    });
    assert_same(&resaved.open().weights, &reference.weights);

    let legacy = legacy_folder().open();
    assert_eq!(legacy.family, Family::LerobotLegacy);
    assert_same(&legacy.weights, &reference.weights);

    let openpi = Folder::openpi();
    // 56 px instead of 224: the tiny geometry has fewer position embeddings than openpi's fixed image size asks for.
    assert_matches!(openpi.cause(), CheckpointError::Contradiction { first_value, second_value, .. }
        if first_value == "56" && second_value == "224");
}

#[test]
fn openpis_conversion_opens() {
    let folder = small_openpi();
    let checkpoint = folder.open();
    assert_eq!(checkpoint.family, Family::Openpi);
    assert_eq!(checkpoint.cameras, ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]);
    assert_eq!(checkpoint.geometry, Geometry::small());
    assert_eq!((checkpoint.state_width, checkpoint.action_width, checkpoint.steps), (14, 14, 10));
    let head = checkpoint.weights.get(EMBEDDING).unwrap();
    assert_eq!((head.dtype(), head.shape()), (Dtype::F32, [1024, 256].as_slice()));
}

/// openpi fixes the image at 224 px, which the small geometry has.
pub fn small_openpi() -> Folder {
    let folder = Folder::openpi();
    let scratch = tempfile::tempdir().unwrap();
    write_synthetic(scratch.path(), &Geometry::small(), Precision::Float32, |_| {}).unwrap();
    for file in ["model.safetensors", "meta.json"] {
        fs::copy(scratch.path().join(file), folder.join(file)).unwrap();
    }
    folder.edit_tensors(|tensors| {
        for tensor in tensors {
            tensor.name = tensor.name.trim_start_matches("model.").replace(EMBEDDING, LM_HEAD);
        }
    });
    folder.edit_json("config.json", |config| config["action_horizon"] = json!(50));
    folder
}

#[test]
fn statistics_inside_a_legacy_weights_file_are_used() {
    let checkpoint = legacy_folder().open();
    let mut state = [2.0; 14];
    checkpoint.state_norm.normalize(&mut state);
    assert_eq!(state, [2.0; 14]);
    let mut action = [2.0; 14];
    checkpoint.action_norm.unnormalize(&mut action);
    assert_eq!(action, [3.0; 14]);
    assert_eq!((checkpoint.geometry.min_period, checkpoint.steps), (4e-3, 10));
}

#[test]
fn a_legacy_file_with_untrained_statistics_is_refused() {
    let folder = legacy_folder();
    folder.edit_tensors(|tensors| {
        let mean = tensors.iter_mut().find(|tensor| tensor.name == "unnormalize_outputs.buffer_action.mean").unwrap();
        *mean = Raw::f32(&mean.name, &[f32::INFINITY; 14]);
        tensors.retain(|tensor| tensor.name != "normalize_inputs.buffer_observation_state.std");
    });
    let causes = folder.causes();
    assert_eq!(causes.len(), 15, "{causes:#?}");
    assert_matches!(&causes[0], CheckpointError::StatisticMissing { statistic: "std", .. });
    assert_matches!(&causes[14], CheckpointError::StatisticNotFinite { entry: 13, .. });
}

#[test]
fn robot_transforms_inside_a_legacy_policy_are_refused() {
    let folder = legacy_folder();
    folder.edit_json("config.json", |config| config["adapt_to_pi_aloha"] = json!(true));
    assert_matches!(folder.cause(), CheckpointError::ConfigValue { field: "adapt_to_pi_aloha", .. });
}

#[test]
fn the_time_mlp_has_two_names() {
    let folder = Folder::lerobot();
    folder.edit_tensors(|tensors| tensors.iter_mut().for_each(|t| t.name = t.name.replace("action_time_mlp", "time_mlp")));
    assert_same(&folder.open().weights, &Folder::lerobot().open().weights);
}

#[test]
fn shards_are_put_together() {
    let folder = Folder::lerobot();
    let reference = Folder::lerobot().open();
    let mut tensors = read_tensors(&folder.join("model.safetensors"));
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut weight_map = serde_json::Map::new();
    for (shard, tensors) in shards.iter().zip(tensors.chunks(tensors.len() / 2)) {
        write_tensors(&folder.join(shard), tensors);
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(shard))));
    }
    let index = |weight_map: &serde_json::Map<String, Value>| {
        folder
            .write("model.safetensors.index.json", json!({"metadata": {"total_size": 1}, "weight_map": weight_map}).to_string());
    };
    index(&weight_map);
    assert_same(&folder.open().weights, &reference.weights);

    let mut promised = weight_map.clone();
    promised.insert("model.state_proj.extra".into(), json!(shards[0]));
    index(&promised);
    assert_matches!(folder.cause(), CheckpointError::NotInShard { name, .. } if name == "model.state_proj.extra");

    let mut forgotten = weight_map.clone();
    forgotten.remove("model.state_proj.bias");
    index(&forgotten);
    assert_matches!(folder.cause(), CheckpointError::NotInIndex { name, .. } if name == "model.state_proj.bias");

    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ""] {
        let mut elsewhere = weight_map.clone();
        elsewhere.insert("model.state_proj.bias".into(), json!(name));
        index(&elsewhere);
        assert_matches!(folder.cause(), CheckpointError::FileName { .. });
    }
    index(&weight_map);
    fs::remove_file(folder.join(shards[1])).unwrap();
    assert_matches!(folder.cause(), CheckpointError::Io { path, .. } if path.ends_with(shards[1]));
}

#[test]
fn f16_and_bf16_tensors_keep_their_format() {
    let folder = Folder::lerobot();
    folder.edit_tensors(|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "model.state_proj.weight").unwrap();
        tensor.dtype = safetensors::Dtype::F16;
        tensor.bytes = tensor
            .bytes
            .chunks_exact(4)
            .flat_map(|bytes| f16::from_f32(f32::from_le_bytes(bytes.try_into().unwrap())).to_le_bytes())
            .collect();
    });
    let (half, full) = (folder.open(), Folder::lerobot().open());
    let half = half.weights.get("state_proj.weight").unwrap();
    assert_eq!(half.dtype(), Dtype::F16);
    let full = full.weights.get("state_proj.weight").unwrap().to_f32();
    assert!(half.to_f32().iter().zip(&full).all(|(half, full)| *half == f16::from_f32(*full).to_f32()));
}

#[test]
fn other_element_types_are_refused_by_name() {
    let folder = Folder::lerobot();
    folder.edit_tensors(|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "model.state_proj.bias").unwrap();
        tensor.dtype = safetensors::Dtype::I32;
    });
    assert_matches!(folder.cause(), CheckpointError::ElementType { name, dtype: safetensors::Dtype::I32, .. }
        if name == "model.state_proj.bias");
}

#[test]
fn every_missing_unexpected_and_misshapen_tensor_is_listed_in_one_error() {
    let folder = Folder::lerobot();
    let expert = "paligemma_with_expert.gemma_expert.model";
    folder.edit_tensors(|tensors| {
        tensors.retain(|tensor| !["model.state_proj.weight", "model.action_out_proj.bias"].contains(&tensor.name.as_str()));
        tensors.retain(|tensor| !tensor.name.ends_with("gemma_expert.model.layers.0.self_attn.q_proj.weight"));
        tensors.push(Raw::f32("model.value_head.weight", &[0.0; 3]));
        let down = tensors.iter_mut().find(|tensor| tensor.name.ends_with("gemma_expert.model.layers.2.mlp.down_proj.weight"));
        down.unwrap().shape.reverse();
    });
    let CheckpointError::Tensors { missing, unexpected, shapes } = folder.cause() else { panic!() };
    assert_eq!(missing, [&format!("{expert}.layers.0.self_attn.q_proj.weight"), "state_proj.weight", "action_out_proj.bias"]);
    assert_eq!(unexpected, ["value_head.weight"]);
    let name = format!("{expert}.layers.2.mlp.down_proj.weight");
    assert_eq!(shapes, [ShapeMismatch { name, found: vec![96, 48], expected: vec![48, 96] }]);
    let text = folder.try_open().unwrap_err().to_string();
    assert!(text.contains("3 missing, 1 unexpected, 1 of the wrong shape") && text.contains("value_head.weight"), "{text}");
}

#[test]
fn one_tensor_under_two_names_is_refused() {
    let folder = Folder::lerobot();
    folder.edit_tensors(|tensors| tensors.push(Raw::f32("state_proj.bias", &[0.0; 48])));
    assert_matches!(folder.cause(), CheckpointError::NameClash { name, .. } if name == "state_proj.bias");
}

#[test]
fn a_model_without_any_layer_is_refused() {
    let folder = Folder::lerobot();
    folder.edit_tensors(|tensors| tensors.retain(|tensor| !tensor.name.contains("layers.")));
    let CheckpointError::Tensors { missing, .. } = folder.cause() else { panic!() };
    assert!(!missing.is_empty());
    folder.edit_tensors(Vec::clear);
    assert_matches!(folder.cause(), CheckpointError::Tensors { .. });
}

#[test]
fn pi05_is_refused_by_name() {
    let by_norm = Folder::lerobot();
    by_norm.edit_tensors(|tensors| {
        tensors.push(Raw::f32("model.paligemma_with_expert.gemma_expert.model.norm.dense.weight", &[0.0; 2]));
    });
    let by_state = Folder::lerobot();
    by_state.edit_tensors(|tensors| {
        tensors.retain(|tensor| !tensor.name.contains("state_proj"));
        tensors.iter_mut().for_each(|tensor| tensor.name = tensor.name.replace("action_time_mlp", "time_mlp"));
    });
    let by_config = Folder::lerobot();
    by_config.edit_json("config.json", |config| config["type"] = json!("pi05"));
    for folder in [by_norm, by_state, by_config] {
        assert_matches!(folder.cause(), CheckpointError::Pi05 { .. });
        assert!(folder.try_open().unwrap_err().to_string().contains("pi0.5"));
    }
}

#[test]
fn other_policies_and_formats_are_refused_by_name() {
    for kind in ["pi0_fast", "smolvla", "act"] {
        let folder = Folder::lerobot();
        folder.edit_json("config.json", |config| config["type"] = json!(kind));
        assert_matches!(folder.cause(), CheckpointError::OtherPolicy { kind: found, .. } if found == kind);
    }
    let orbax = Folder::lerobot();
    fs::remove_file(orbax.join("model.safetensors")).unwrap();
    orbax.write("params/_METADATA", "{}");
    assert_matches!(orbax.cause(), CheckpointError::Orbax { .. });
    assert!(orbax.try_open().unwrap_err().to_string().contains("convert_jax_model_to_pytorch.py"));
    let adapter = Folder::lerobot();
    fs::rename(adapter.join("model.safetensors"), adapter.join("adapter_model.safetensors")).unwrap();
    assert_matches!(adapter.cause(), CheckpointError::Adapter { .. });
}

#[test]
fn contradictions_between_config_and_tensors_are_refused() {
    let cases = [
        ("max_action_dim", json!(31)),
        ("max_state_dim", json!(16)),
        ("image_resolution", json!([224, 224])),
        ("tokenizer_max_length", json!(48)),
        ("use_relative_actions", json!(true)),
    ];
    for (field, value) in cases {
        let folder = Folder::lerobot();
        folder.edit_json("config.json", |config| config[field] = value);
        assert_matches!(folder.cause(), CheckpointError::Contradiction { .. } | CheckpointError::StepSetting { .. });
    }
    for (field, value) in [
        ("image_resolution", json!([224, 112])),
        ("chunk_size", json!(0)),
        ("chunk_size", json!(u32::MAX)),
        ("num_inference_steps", json!(0)),
        ("n_obs_steps", json!(2)),
        ("min_period", json!(5.0)),
        ("empty_cameras", json!(99)),
    ] {
        let folder = Folder::lerobot();
        folder.edit_json("config.json", |config| config[field] = value);
        assert!(folder.causes().iter().any(|cause| matches!(cause, CheckpointError::ConfigValue { .. })), "{field}");
    }
}

#[test]
fn head_counts_of_another_geometry_come_from_meta_json() {
    let folder = Folder::lerobot();
    fs::remove_file(folder.join("meta.json")).unwrap();
    // The published SigLIP has heads of 72 entries: one head here, where the tiny geometry has four.
    let published = Checkpoint::open_model_only(folder.path()).unwrap().geometry;
    assert_eq!((published.vision.heads, published.vlm.heads), (1, 8));
    for (part, heads) in [("vlm", 7), ("exp", 0), ("vlm", 1u64 << 60)] {
        let folder = Folder::lerobot();
        folder.edit_json("meta.json", |meta| meta["geometry"][part]["num_heads"] = json!(heads));
        assert!(folder.causes().iter().any(|cause| matches!(cause, CheckpointError::Geometry { .. })), "{part} {heads}");
    }
    for heads in [0, 5] {
        let folder = Folder::lerobot();
        folder.edit_json("meta.json", |meta| meta["geometry"]["vis"]["num_attention_heads"] = json!(heads));
        assert_matches!(&folder.causes()[0], CheckpointError::Geometry { what: "SigLIP's head count", .. });
    }
}

#[test]
fn an_action_expert_of_odd_width_is_refused() {
    let folder = Folder::lerobot();
    let scratch = tempfile::tempdir().unwrap();
    let tiny = Geometry::tiny();
    let odd = Geometry { expert: GemmaGeometry { width: 47, ..tiny.expert }, ..tiny };
    write_synthetic(scratch.path(), &odd, Precision::Float32, |_| {}).unwrap();
    fs::copy(scratch.path().join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    assert_matches!(folder.cause(), CheckpointError::OddExpert { width: 47 });
}

#[test]
fn cameras_are_in_the_order_of_the_config_and_empty_ones_follow() {
    let folder = Folder::lerobot();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&config).unwrap();
    value.as_object_mut().unwrap().remove("input_features");
    value["empty_cameras"] = json!(2);
    // Written by hand: the JSON writer of this test sorts its keys.
    let features = r#""input_features": {
        "observation.images.wrist": {"type": "VISUAL", "shape": [3, 4, 4]},
        "observation.state": {"type": "STATE", "shape": [14]},
        "observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 4, 4]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 4, 4]}},"#;
    folder.write("config.json", value.to_string().replacen('{', &format!("{{{features}"), 1));
    assert_eq!(folder.open().cameras, ["wrist", "empty_camera_0", "front", "empty_camera_1"]);
}

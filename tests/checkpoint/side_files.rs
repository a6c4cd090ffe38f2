//! Processors, statistics and tokenizers.

use std::fs;

use pi0_tt::checkpoint::{
    Checkpoint, CheckpointError, OpenOptions, TokenizerKind,
    inspect::inspect,
    synth::{Precision, write_synthetic},
};
use pi0_tt::model::Geometry;
use serde_json::{Value, json};

use super::{
    common::data,
    folder::{Folder, Raw, assert_matches},
    weights::small_openpi,
};

const PRE: &str = "policy_preprocessor.json";
const POST: &str = "policy_postprocessor.json";
const PRE_STATISTICS: &str = "policy_preprocessor_step_6_normalizer_processor.safetensors";
const POST_STATISTICS: &str = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";

fn steps(pipeline: &mut Value) -> &mut Vec<Value> {
    pipeline["steps"].as_array_mut().unwrap()
}

fn step<'a>(pipeline: &'a mut Value, name: &str) -> &'a mut Value {
    steps(pipeline).iter_mut().find(|step| step["registry_name"] == name).unwrap()
}

fn set_statistic(folder: &Folder, file: &str, name: &str, values: &[f32]) {
    folder.edit_tensors_of(file, |tensors| {
        tensors.retain(|tensor| tensor.name != name);
        tensors.push(Raw::f32(name, values));
    });
}

#[test]
fn steps_that_are_not_known_are_refused() {
    let folder = Folder::lerobot();
    folder.edit_json(PRE, |pre| steps(pre).insert(2, json!({"registry_name": "image_crop_resize_processor", "config": {}})));
    folder.edit_json(POST, |post| steps(post).push(json!({"class": "my_robot.ClampStep", "config": {}})));
    let causes = folder.causes();
    assert_eq!(causes.len(), 2, "{causes:#?}");
    assert_matches!(&causes[0], CheckpointError::UnknownStep { index: 2, name, .. } if name == "image_crop_resize_processor");
    assert_matches!(&causes[1], CheckpointError::UnknownStep { index: 3, name, .. } if name == "my_robot.ClampStep");
}

#[test]
fn missing_doubled_and_misplaced_steps_are_refused() {
    let missing = Folder::lerobot();
    missing.edit_json(PRE, |pre| steps(pre).retain(|step| step["registry_name"] != "pi0_new_line_processor"));
    assert_matches!(missing.cause(), CheckpointError::StepMissing { step: "pi0_new_line_processor", .. });

    let doubled = Folder::lerobot();
    doubled.edit_json(POST, |post| {
        let first = steps(post)[0].clone();
        steps(post).push(first);
    });
    assert_matches!(doubled.cause(), CheckpointError::StepTwice { step: "unnormalizer_processor", .. });

    let misplaced = Folder::lerobot();
    misplaced.edit_json(PRE, |pre| steps(pre).swap(2, 3));
    misplaced.edit_json(POST, |post| steps(post).swap(0, 1));
    let causes = misplaced.causes();
    assert_eq!(causes.len(), 2, "{causes:#?}");
    assert_matches!(&causes[0], CheckpointError::StepOrder { second: "tokenizer_processor", .. });
    assert_matches!(&causes[1], CheckpointError::StepOrder { second: "absolute_actions_processor", .. });
}

#[test]
fn settings_that_would_change_the_input_are_refused() {
    let cases: [(&str, &str, Value); 6] = [
        ("tokenizer_processor", "padding_side", json!("left")),
        ("tokenizer_processor", "max_length", json!(48)),
        ("tokenizer_processor", "task_key", json!("subtask")),
        ("tokenizer_processor", "truncation", json!(false)),
        ("device_processor", "float_dtype", json!("float16")),
        ("normalizer_processor", "norm_map", json!({"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"})),
    ];
    for (name, setting, value) in cases {
        let folder = Folder::lerobot();
        folder.edit_json(PRE, |pre| step(pre, name)["config"][setting] = value);
        assert_matches!(folder.cause(), CheckpointError::StepSetting { step, .. } if step == name);
    }
    let unknown = Folder::lerobot();
    unknown.edit_json(PRE, |pre| step(pre, "normalizer_processor")["config"]["clip"] = json!(true));
    assert_matches!(unknown.cause(), CheckpointError::StepConfig { step: "normalizer_processor", .. });
}

#[test]
fn the_state_file_is_followed_wherever_it_points() {
    let folder = Folder::lerobot();
    fs::rename(folder.join(PRE_STATISTICS), folder.join("policy_preprocessor_step_5_normalizer_processor.safetensors")).unwrap();
    assert_matches!(folder.cause(), CheckpointError::Io { .. });
    let name = "policy_preprocessor_step_5_normalizer_processor.safetensors";
    folder.edit_json(PRE, |pre| step(pre, "normalizer_processor")["state_file"] = json!(name));
    folder.open();
    folder.edit_json(PRE, |pre| step(pre, "normalizer_processor")["state_file"] = json!("../elsewhere.safetensors"));
    assert_matches!(folder.cause(), CheckpointError::FileName { .. });
    folder.edit_json(PRE, |pre| drop(step(pre, "normalizer_processor").as_object_mut().unwrap().remove("state_file")));
    assert_matches!(folder.cause(), CheckpointError::NoStateFile { .. });
}

#[test]
fn missing_short_and_non_finite_statistics_are_all_listed() {
    let folder = Folder::lerobot();
    folder.edit_tensors_of(PRE_STATISTICS, |tensors| tensors.retain(|tensor| !tensor.name.starts_with("observation.state")));
    set_statistic(&folder, POST_STATISTICS, "action.mean", &[0.0; 13]);
    let mut std = [1.0; 14];
    std[3] = f32::NAN;
    std[9] = f32::INFINITY;
    set_statistic(&folder, POST_STATISTICS, "action.std", &std);
    let causes = folder.causes();
    assert_eq!(causes.len(), 5, "{causes:#?}");
    assert_matches!(&causes[0], CheckpointError::StatisticMissing { feature, statistic: "mean", .. } if feature == "observation.state");
    assert_matches!(&causes[1], CheckpointError::StatisticMissing { feature, statistic: "std", .. } if feature == "observation.state");
    assert_matches!(&causes[2], CheckpointError::StatisticLength { feature, found: 13, expected: 14, .. } if feature == "action");
    assert_matches!(&causes[3], CheckpointError::StatisticNotFinite { entry: 3, .. });
    assert_matches!(&causes[4], CheckpointError::StatisticNotFinite { entry: 9, .. });
}

#[test]
fn degenerate_statistics_are_refused_with_their_entry() {
    let folder = Folder::lerobot();
    let mut std = [1.0; 14];
    (std[6], std[13]) = (0.0, 1e-7);
    set_statistic(&folder, PRE_STATISTICS, "observation.state.std", &std);
    let causes = folder.causes();
    assert_eq!(causes.len(), 2, "{causes:#?}");
    assert_matches!(&causes[0], CheckpointError::StatisticDegenerate { entry: 6, .. });
    assert_matches!(&causes[1], CheckpointError::StatisticDegenerate { entry: 13, .. });

    let quantiles = Folder::lerobot();
    quantiles.edit_json(POST, |post| step(post, "unnormalizer_processor")["config"]["norm_map"]["ACTION"] = json!("QUANTILES"));
    assert_eq!(quantiles.open().action_norm.mode(), "QUANTILES");
    let mut q99 = [1.5; 14];
    q99[2] = 1.5;
    set_statistic(&quantiles, POST_STATISTICS, "action.q01", &q99.map(|high| high - 1.0));
    q99[2] = 0.5;
    set_statistic(&quantiles, POST_STATISTICS, "action.q99", &q99);
    assert_matches!(quantiles.cause(), CheckpointError::StatisticDegenerate { entry: 2, mode: "QUANTILES", .. });
}

#[test]
fn each_feature_follows_its_own_normalization() {
    let folder = Folder::lerobot();
    folder.edit_json(PRE, |pre| step(pre, "normalizer_processor")["config"]["norm_map"]["STATE"] = json!("IDENTITY"));
    folder.edit_json(POST, |post| step(post, "unnormalizer_processor")["config"]["norm_map"]["ACTION"] = json!("MIN_MAX"));
    let checkpoint = folder.open();
    assert_eq!((checkpoint.state_norm.mode(), checkpoint.action_norm.mode()), ("IDENTITY", "MIN_MAX"));
    let mut state = [0.5; 14];
    checkpoint.state_norm.normalize(&mut state);
    assert_eq!(state, [0.5; 14]);

    folder.edit_json(POST, |post| step(post, "unnormalizer_processor")["config"]["norm_map"]["ACTION"] = json!("LOG"));
    assert_matches!(folder.cause(), CheckpointError::NormalizationMode { mode, .. } if mode == "LOG");

    let undeclared = Folder::lerobot();
    undeclared.edit_json(PRE, |pre| {
        step(pre, "normalizer_processor")["config"]["norm_map"] = json!({"VISUAL": "IDENTITY", "ACTION": "MEAN_STD"});
    });
    assert_matches!(undeclared.cause(), CheckpointError::NormalizationUndeclared { kind, .. } if kind == "STATE");

    let chosen = Folder::lerobot();
    chosen.edit_json(PRE, |pre| step(pre, "normalizer_processor")["config"]["normalize_observation_keys"] = json!(["other"]));
    assert_eq!(chosen.open().state_norm.mode(), "IDENTITY");
}

#[test]
fn relative_actions_leave_out_the_excluded_joints() {
    let folder = Folder::lerobot();
    let enable = |post: bool| {
        folder.edit_json("config.json", |config| config["use_relative_actions"] = json!(true));
        folder.edit_json(PRE, |pre| step(pre, "relative_actions_processor")["config"]["enabled"] = json!(true));
        folder.edit_json(POST, |value| step(value, "absolute_actions_processor")["config"]["enabled"] = json!(post));
    };
    enable(true);
    let mut expected = vec![true; 14];
    (expected[6], expected[13]) = (false, false);
    assert_eq!(folder.open().relative_actions, Some(expected));

    // Without names LeRobot cannot exclude anything.
    folder.edit_json(PRE, |pre| step(pre, "relative_actions_processor")["config"]["action_names"] = Value::Null);
    assert_eq!(folder.open().relative_actions, Some(vec![true; 14]));

    enable(false);
    assert_matches!(folder.cause(), CheckpointError::Contradiction { .. });
}

#[test]
fn renamed_cameras_are_told() {
    let folder = Folder::lerobot();
    let map = json!({"observation.images.top": "observation.images.base_0_rgb"});
    folder.edit_json(PRE, |pre| step(pre, "rename_observations_processor")["config"]["rename_map"] = map);
    let renames: Vec<(String, String)> = folder.open().camera_renames.into_iter().collect();
    assert_eq!(renames, [("top".to_owned(), "base_0_rgb".to_owned())]);
}

#[test]
fn openpi_statistics_are_found_or_chosen() {
    let folder = small_openpi();
    let mut state = [0.75; 14];
    folder.open().state_norm.normalize(&mut state);
    // (0.75 - 0.25) / (0.5 + 1e-6) in float64, rounded once.
    assert_eq!(state, [0.999_998; 14]);

    folder.write_norm_stats("assets/physical-intelligence/aloha/norm_stats.json", &[0.5; 14], &[1.5; 14]);
    assert_matches!(folder.cause(), CheckpointError::SeveralNormStats { candidates, .. } if candidates.len() == 2);
    let chosen = folder.join("assets/physical-intelligence/aloha/norm_stats.json");
    let options = OpenOptions { norm_stats: Some(chosen), ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(folder.path(), &options).unwrap();
    assert_eq!(checkpoint.state_norm.statistics()[1], ("std", vec![1.5; 14]));

    fs::remove_dir_all(folder.join("assets")).unwrap();
    assert_matches!(folder.cause(), CheckpointError::NoNormStats { .. });
}

#[test]
fn openpi_statistics_may_be_padded_to_the_models_width() {
    let folder = small_openpi();
    let padded = |value: f64, padding: f64| -> Vec<f64> { (0..32).map(|i| if i < 8 { value } else { padding }).collect() };
    for padding in [0.0, 1.0] {
        folder.write_norm_stats("assets/trossen/norm_stats.json", &padded(0.5, 0.0), &padded(1.5, padding));
        let checkpoint = folder.open();
        assert_eq!((checkpoint.state_width, checkpoint.action_width), (8, 8));
    }
    // A joint that stood still in the middle is no padding.
    let mut std = padded(1.5, 0.0);
    std[3] = 0.0;
    folder.write_norm_stats("assets/trossen/norm_stats.json", &padded(0.5, 0.0), &std);
    let causes = folder.causes();
    assert_eq!(causes.len(), 2, "{causes:#?}");
    assert_matches!(&causes[0], CheckpointError::StatisticDegenerate { entry: 3, .. });
    folder.write_norm_stats("assets/trossen/norm_stats.json", &[0.5; 33], &[1.5; 33]);
    assert_matches!(&folder.causes()[0], CheckpointError::Contradiction { .. });
    folder.write_norm_stats("assets/trossen/norm_stats.json", &[0.0; 32], &[0.0; 32]);
    assert_matches!(&folder.causes()[0], CheckpointError::StatisticLength { found: 0, .. });
}

#[test]
fn the_tokenizer_is_searched_in_order_and_its_absence_says_how_to_get_it() {
    let folder = Folder::lerobot();
    assert_eq!(folder.open().prompt.kind(), TokenizerKind::HuggingFace);
    fs::remove_file(folder.join("tokenizer/tokenizer.json")).unwrap();
    assert_matches!(folder.cause(), CheckpointError::NoTokenizer { searched } if searched.len() == 4);
    assert!(folder.try_open().unwrap_err().to_string().contains("google/paligemma-3b-pt-224"));

    let chosen = data("tokenizer/tokenizer.model");
    let options = OpenOptions { tokenizer: Some(chosen.clone()), ..OpenOptions::default() };
    assert_eq!(Checkpoint::open(folder.path(), &options).unwrap().prompt.path(), chosen);
    for place in ["paligemma_tokenizer.model", "tokenizer.model"] {
        fs::copy(&chosen, folder.join(place)).unwrap();
        assert_eq!(folder.open().prompt.path(), folder.join(place));
    }
    let options = OpenOptions { tokenizer: Some(folder.join("nowhere.json")), ..OpenOptions::default() };
    assert!(Checkpoint::open(folder.path(), &options).is_err());
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = Folder::lerobot();
    folder.edit_json("tokenizer/tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["<unused>"] = json!(512));
    assert_matches!(folder.cause(), CheckpointError::Vocabulary { largest: 512, vocab_size: 512, .. });
}

#[test]
fn synth_overwrites_nothing_and_leaves_nothing_half_done() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("model");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("precious.txt"), "keep").unwrap();
    let write = |dir: &std::path::Path| write_synthetic(dir, &Geometry::tiny(), Precision::Bfloat16, |_| {});
    assert_matches!(write(&dir), Err(CheckpointError::NotEmpty { .. }));
    assert_eq!(fs::read_to_string(dir.join("precious.txt")).unwrap(), "keep");

    fs::remove_file(dir.join("precious.txt")).unwrap();
    fs::create_dir(scratch.path().join(".model.partial")).unwrap();
    write(&dir).unwrap();
    let names: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["model"]);
    assert!(Checkpoint::open(&dir, &OpenOptions::default()).unwrap().synthetic);
    assert_matches!(write(&scratch.path().join("no/such/parent/..")), Err(CheckpointError::Write { .. }));
}

#[test]
fn inspect_reports_what_is_there_and_what_is_wrong() {
    let folder = Folder::lerobot();
    let report = inspect(folder.path(), &OpenOptions::default());
    assert!(report.usable && report.problems.is_empty());
    assert_eq!(report.parameters, Some(Geometry::tiny().parameters()));
    let text = report.to_string();
    for part in ["LeRobot", "SYNTHETIC", "428,952", "base_0_rgb", "MEAN_STD", "500 tokens", "can be used"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["geometry"]["vlm"]["heads"], 8);
    assert_eq!(json["state"]["statistics"]["std"].as_array().unwrap().len(), 14);

    fs::remove_file(folder.join(PRE)).unwrap();
    fs::remove_dir_all(folder.join("tokenizer")).unwrap();
    folder.edit_tensors(|tensors| tensors.retain(|tensor| tensor.name != "model.state_proj.bias"));
    let report = inspect(folder.path(), &OpenOptions::default());
    assert!(!report.usable);
    assert_eq!(report.problems.len(), 3, "{report}");
    assert!(report.problems[0].contains("state_proj.bias"));
    assert!(report.action.is_some() && report.state.is_none());
}

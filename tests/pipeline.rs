//! Observations to model inputs and chunks back to commands, against LeRobot's processors and openpi's transforms.
//!
//! `lerobot_ckpt` and `processor_io.safetensors` are LeRobot 0.6.1's: side files of a checkpoint, and what its pre- and postprocessor
//! made of an observation and a chunk. `aloha_adapt.json` is made by tools/golden_robots.py, `rtc_previous.safetensors` by LeRobot in
//! tools/golden_rtc.py.

mod common;

use std::{collections::BTreeMap, path::Path};

use pi0_tt::{
    checkpoint::{Checkpoint, Dtype, OpenOptions, synthetic},
    model::{Camera, GemmaGeometry, Geometry, VisionGeometry},
    observation::{Observation, ObservationError, Pipeline, ResizeKernel, Resizer, RgbImage},
    robot::RobotProfile,
};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use common::data;

fn write_weights(folder: &Path, geometry: &Geometry) {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = synthetic::weights(geometry, Dtype::F32, |_| ())
        .iter()
        .map(|(name, tensor)| {
            (name.to_owned(), tensor.shape().to_vec(), tensor.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn open(folder: &TempDir) -> Checkpoint {
    let tokenizer = Some(data("lerobot_ckpt/tokenizer_standin/tokenizer.json"));
    Checkpoint::open(folder.path(), &OpenOptions { tokenizer, norm_stats: None }).unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// LeRobot's side files with tiny weights. `relative` enables relative actions, with those names of the action entries.
fn lerobot_checkpoint(relative: Option<&[&str]>) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data("lerobot_ckpt")).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    if let Some(names) = relative {
        let change = |file: &str, change: &dyn Fn(&mut Value)| {
            let path = folder.path().join(file);
            let mut json = read_json(&path);
            change(&mut json);
            std::fs::write(&path, json.to_string()).unwrap();
        };
        let step = |json: &mut Value, name: &str, config: Value| {
            let steps = json["steps"].as_array_mut().unwrap();
            steps.iter_mut().find(|step| step["registry_name"] == name).unwrap()["config"] = config;
        };
        let config = json!({"enabled": true, "exclude_joints": ["gripper"], "action_names": names});
        change("policy_preprocessor.json", &|json| step(json, "relative_actions_processor", config.clone()));
        change("policy_postprocessor.json", &|json| step(json, "absolute_actions_processor", json!({"enabled": true})));
        change("config.json", &|json| {
            json["use_relative_actions"] = json!(true);
            json["action_feature_names"] = json!(names);
        });
    }
    write_weights(folder.path(), &Geometry::tiny());
    open(&folder)
}

/// An openpi checkpoint of 14 state and action entries with the statistics of aloha_adapt.json.
fn openpi_checkpoint(norm_stats: &Value) -> Checkpoint {
    let gemma = |width| GemmaGeometry { width, depth: 1, heads: 2, kv_heads: 1, head_dim: 16, mlp_width: 16 };
    let geometry = Geometry {
        vision: VisionGeometry { width: 72, depth: 1, heads: 1, mlp_width: 16, patch: 14, image_size: 224 },
        vlm: gemma(16),
        expert: gemma(8),
        vocab_size: 512,
        horizon: 10,
        ..Geometry::base()
    };
    let folder = tempfile::tempdir().unwrap();
    write_weights(folder.path(), &geometry);
    std::fs::write(folder.path().join("config.json"), json!({"action_dim": 32, "action_horizon": 10}).to_string()).unwrap();
    std::fs::create_dir_all(folder.path().join("assets/trossen")).unwrap();
    std::fs::write(folder.path().join("assets/trossen/norm_stats.json"), norm_stats.to_string()).unwrap();
    open(&folder)
}

fn shipped_profile(name: &str) -> RobotProfile {
    RobotProfile::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/robots").join(name)).unwrap()
}

/// Fourteen joints `arm_0`.. with `gripper` as every seventh, taken as they are, and the cameras of the LeRobot side files.
fn plain_profile(change: impl Fn(String) -> String) -> RobotProfile {
    let joints: Vec<_> = (0..14).map(|i| if i % 7 == 6 { format!("gripper_{i}") } else { format!("arm_{i}") }).collect();
    let state: String = joints.iter().map(|joint| format!("  - {{joint: {joint}, unit: rad}}\n")).collect();
    let actions: String = joints.iter().map(|joint| format!("  - {{joint: {joint}, command: position, unit: rad}}\n")).collect();
    let cameras = "  base_0_rgb: {name: top}\n  left_wrist_0_rgb: {name: wrist}\n";
    let yaml = format!("name: plain\ncontrol_rate_hz: 50\nstate:\n{state}actions:\n{actions}cameras:\n{cameras}");
    RobotProfile::from_yaml(&change(yaml)).unwrap()
}

fn black() -> RgbImage {
    RgbImage::new(4, 3, vec![0; 36]).unwrap()
}

fn observation(slots: &[&str], joints: Vec<f64>) -> Observation {
    let images = slots.iter().map(|slot| ((*slot).to_owned(), black())).collect();
    Observation { images, joints, instruction: "fold the towel".into() }
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Rows of `width` values, padded with a value that must not matter.
fn pad_rows(values: &[f32], width: usize, padded: usize) -> Vec<f32> {
    values.chunks_exact(width).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(1e3, padded - width))).collect()
}

/// Images, state and prompt of the LeRobot goldens as an observation.
fn lerobot_observation(io: &SafeTensors) -> Observation {
    let inputs = std::fs::read(data("golden_tiny/inputs.safetensors")).unwrap();
    let inputs = SafeTensors::deserialize(&inputs).unwrap();
    let image = |slot: &str| {
        let planes = inputs.tensor(&format!("observation.images.{slot}")).unwrap();
        let [1, 3, height, width] = *planes.shape() else { panic!("{:?}", planes.shape()) };
        let pixels = (0..height * width * 3).map(|i| planes.data()[(i % 3) * height * width + i / 3]).collect();
        (slot.to_owned(), RgbImage::new(width, height, pixels).unwrap())
    };
    Observation {
        images: BTreeMap::from(["base_0_rgb", "left_wrist_0_rgb"].map(image)),
        joints: widen(&floats(io, "raw.observation.state")),
        instruction: "pick up the red cube".into(),
    }
}

#[test]
fn lerobots_observation_becomes_its_model_inputs() {
    let io = std::fs::read(data("processor_io.safetensors")).unwrap();
    let io = SafeTensors::deserialize(&io).unwrap();
    let pipeline = Pipeline::new(&lerobot_checkpoint(None), &plain_profile(|yaml| yaml), None).unwrap();
    let observation = lerobot_observation(&io);
    let prepared = pipeline.model_inputs(&observation).unwrap();

    assert_eq!(widen(&prepared.anchor), observation.joints);
    let (state, padding) = prepared.inputs.state.split_at(14);
    let difference = largest_difference(&widen(state), &widen(&floats(&io, "pre.observation.state")));
    println!("state: {difference:e}");
    assert!(difference <= 1e-6);
    assert_eq!(padding, [0.0; 18]);

    let tokens = io.tensor("pre.observation.language.tokens").unwrap();
    let valid = io.tensor("pre.observation.language.attention_mask").unwrap();
    let tokens = tokens.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32);
    let expected: Vec<u32> = tokens.zip(valid.data()).filter(|(_, valid)| **valid == 1).map(|(token, _)| token).collect();
    assert_eq!(prepared.inputs.prompt.ids, expected);
    assert_eq!(prepared.dropped_tokens, 0);

    let seen = std::fs::read(data("golden_tiny/intermediates.safetensors")).unwrap();
    let expected = floats(&SafeTensors::deserialize(&seen).unwrap(), "vision.0.pixel_values");
    let [Camera::Present(pixels), Camera::Present(_)] = &prepared.inputs.cameras[..] else { panic!("two cameras were given") };
    let difference = largest_difference(&widen(pixels), &widen(&expected));
    println!("pixels: {difference:e}");
    assert!(difference <= 1e-6);
}

#[test]
fn lerobots_chunk_becomes_its_actions() {
    let io = std::fs::read(data("processor_io.safetensors")).unwrap();
    let io = SafeTensors::deserialize(&io).unwrap();
    let pipeline = Pipeline::new(&lerobot_checkpoint(None), &plain_profile(|yaml| yaml), None).unwrap();
    let chunk = pad_rows(&floats(&io, "model.actions"), 14, 32);
    let actions = pipeline.robot_actions(&chunk, &[0.5; 14]).unwrap();
    let difference = largest_difference(&actions.rows, &widen(&floats(&io, "post.actions")));
    println!("actions: {difference:e}");
    assert!(difference <= 1e-6);
    assert_eq!((actions.joints[0].as_str(), actions.joints[13].as_str()), ("arm_0", "gripper_13"));
}

#[test]
fn lerobots_relative_actions_are_added_to_the_state_of_the_observation() {
    let io = std::fs::read(data("processor_io.safetensors")).unwrap();
    let io = SafeTensors::deserialize(&io).unwrap();
    let names: Vec<String> = plain_profile(|yaml| yaml).actions.into_iter().map(|column| column.joint).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let checkpoint = lerobot_checkpoint(Some(&names));
    let pipeline = Pipeline::new(&checkpoint, &plain_profile(|yaml| yaml), None).unwrap();
    let anchor = floats(&io, "raw.observation.state");
    let actions = pipeline.robot_actions(&pad_rows(&floats(&io, "model.actions"), 14, 32), &anchor).unwrap();
    // LeRobot's to_absolute_actions: the state is added to every joint that is not excluded.
    let expected: Vec<f64> = floats(&io, "post.actions")
        .iter()
        .enumerate()
        .map(|(i, &action)| f64::from(if i % 7 == 6 { action } else { action + anchor[i % 14] }))
        .collect();
    assert!(largest_difference(&actions.rows, &expected) <= 1e-6);
}

#[test]
fn rows_of_the_chunk_before_move_to_another_state_as_in_lerobots_rollout() {
    let golden = std::fs::read(data("rtc_previous.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let names: Vec<String> = plain_profile(|yaml| yaml).actions.into_iter().map(|column| column.joint).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pipeline = Pipeline::new(&lerobot_checkpoint(Some(&names)), &plain_profile(|yaml| yaml), None).unwrap();
    let (old, new) = (floats(&golden, "old_state"), floats(&golden, "new_state"));
    let model = pad_rows(&floats(&golden, "model"), 14, 32);
    let moved = pipeline.previous_rows(&model, &old, &new).unwrap();

    // What the robot still executes of the chunk before, and what the next chunk is guided by.
    let executed = pipeline.robot_actions(&[&model[..], &[0.0; 3 * 32]].concat(), &old).unwrap().rows;
    let difference = largest_difference(&executed[..7 * 14], &widen(&floats(&golden, "executed")));
    println!("executed: {difference:e}");
    assert!(difference <= 1e-6);
    let mut expected = pad_rows(&floats(&golden, "previous"), 14, 32);
    for row in expected.chunks_mut(32) {
        row[14..].fill(0.0);
    }
    expected.resize(10 * 32, 0.0);
    // Values reach 13 here, so the bound is relative.
    for (value, expected) in widen(&moved).into_iter().zip(widen(&expected)) {
        assert!((value - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{value} and {expected}");
    }
    // Grippers are absolute: no bit of theirs changes. At the same state hardly one of the others does.
    assert!((0..7).all(|row| moved[row * 32 + 6] == model[row * 32 + 6] && moved[row * 32] != model[row * 32]));
    let still = pipeline.previous_rows(&model, &old, &old).unwrap();
    assert!((0..7).all(|row| (0..14).all(|i| (still[row * 32 + i] - model[row * 32 + i]).abs() <= 5e-6)));
    // The two commands are the same: the moved rows at the new state are the rows at the old one.
    let again = pipeline.robot_actions(&moved, &new).unwrap().rows;
    assert!(largest_difference(&again[..7 * 14], &executed[..7 * 14]) <= 1e-6);
}

#[test]
fn rows_of_absolute_actions_stay_as_the_model_gave_them() {
    let pipeline = Pipeline::new(&lerobot_checkpoint(None), &plain_profile(|yaml| yaml), None).unwrap();
    let model: Vec<f32> = (0..32).map(|i| i as f32 * 0.37 - 4.0).collect();
    let rows = pipeline.previous_rows(&model, &[1.0; 14], &[-2.0; 14]).unwrap();
    assert_eq!(rows[..14], model[..14]);
    assert_eq!(rows[14..], [0.0; 10 * 32 - 14], "columns that the robot does not use, and rows that are not there");
}

#[test]
fn openpis_aloha_goes_in_and_out_as_openpi_has_it() {
    let golden = read_json(&data("aloha_adapt.json"));
    // The golden chunks have 10 rows.
    let profile = RobotProfile { execution_horizon: None, ..shipped_profile("aloha.yaml") };
    let pipeline = Pipeline::new(&openpi_checkpoint(&golden["norm_stats"]), &profile, None).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let slots = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];
        let prepared = pipeline.model_inputs(&observation(&slots, numbers(&case["joints"]))).unwrap();
        assert!(largest_difference(&widen(&prepared.anchor), &numbers(&case["state"])) <= 1e-6);
        // Normalized values reach 60 here, so the bound is relative.
        for (value, expected) in widen(&prepared.inputs.state).into_iter().zip(numbers(&case["model_state"])) {
            assert!((value - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{value} and {expected}");
        }
        let chunk: Vec<f32> = numbers(&case["chunk"]).into_iter().map(|value| value as f32).collect();
        let actions = pipeline.robot_actions(&chunk, &prepared.anchor).unwrap();
        assert!(largest_difference(&actions.rows, &numbers(&case["commands"])) <= 1e-6);
    }
}

#[test]
fn a_delta_counts_from_the_observed_joint_wherever_it_stands_in_the_state() {
    let stats = |width: usize| json!({"mean": vec![0.5; width], "std": vec![2.0; width]});
    let checkpoint = openpi_checkpoint(&json!({"norm_stats": {"state": stats(2), "actions": stats(3)}}));
    let profile = RobotProfile::from_yaml(
        "{name: small, control_rate_hz: 10, cameras: {base_0_rgb: {name: a}, left_wrist_0_rgb: {absent: true}, \
         right_wrist_0_rgb: {absent: true}}, state: [{joint: a, unit: rad, sign: -1}, {joint: b, unit: deg}], actions: [\
         {joint: b, command: position, unit: deg, delta: true}, {joint: a, command: position, unit: rad, sign: -1, delta: true}, \
         {joint: c, command: velocity, unit: rad}]}",
    )
    .unwrap();
    let pipeline = Pipeline::new(&checkpoint, &profile, None).unwrap();
    let prepared = pipeline.model_inputs(&observation(&["base_0_rgb"], vec![0.25, std::f64::consts::FRAC_PI_2])).unwrap();
    assert_eq!(prepared.anchor, [-0.25, 90.0]);
    assert!(matches!(prepared.inputs.cameras[..], [Camera::Present(_), Camera::Masked, Camera::Masked]));
    // x * (2 + 1e-6) + 0.5: 1 becomes 2.5 (and 1e-6).
    let mut chunk = vec![0.0; 320];
    chunk[..3].fill(1.0);
    let rows = pipeline.robot_actions(&chunk, &prepared.anchor).unwrap().rows;
    let expected = [92.5f64.to_radians(), -(-0.25 + 2.5), 2.5, 90.5f64.to_radians(), -(-0.25 + 0.5), 0.5];
    assert!(largest_difference(&rows[..6], &expected) <= 2e-6, "{:?}", &rows[..6]);
}

#[test]
fn an_upside_down_camera_is_turned_before_the_resize() {
    let profile = plain_profile(|yaml| yaml.replace("{name: top}", "{name: top, rotate_180: true}"));
    let image = RgbImage::new(8, 5, (0..120).collect()).unwrap();
    let mut observation = observation(&["base_0_rgb", "left_wrist_0_rgb"], vec![0.0; 14]);
    observation.images.extend(["base_0_rgb", "left_wrist_0_rgb"].map(|slot| (slot.to_owned(), image.clone())));
    let pipeline = Pipeline::new(&lerobot_checkpoint(None), &profile, None).unwrap();
    let resizer = Resizer::new(ResizeKernel::Lerobot, 56);
    let expected = [image.rotated_180(), image].map(|image| Camera::Present(resizer.resize(&image).unwrap()));
    assert_eq!(pipeline.model_inputs(&observation).unwrap().inputs.cameras, expected);
}

#[test]
fn the_resize_is_the_argument_or_the_profiles_or_the_familys() {
    let checkpoint = lerobot_checkpoint(None);
    let image = RgbImage::new(80, 60, (0..80 * 60 * 3).map(|i| (i * 131 % 251) as u8).collect()).unwrap();
    let seen = |profile: &RobotProfile, resize| {
        let mut observation = observation(&["base_0_rgb", "left_wrist_0_rgb"], vec![0.0; 14]);
        observation.images.insert("base_0_rgb".into(), image.clone());
        Pipeline::new(&checkpoint, profile, resize).unwrap().model_inputs(&observation).unwrap().inputs.cameras
    };
    let (plain, openpi) = (plain_profile(|yaml| yaml), plain_profile(|yaml| yaml + "resize: openpi\n"));
    assert_eq!(seen(&plain, None), seen(&plain, Some(ResizeKernel::Lerobot)));
    assert_eq!(seen(&openpi, None), seen(&plain, Some(ResizeKernel::Openpi)));
    assert_eq!(seen(&openpi, Some(ResizeKernel::Lerobot)), seen(&plain, None));
    assert_ne!(seen(&plain, None), seen(&openpi, None));
}

#[test]
fn a_profile_that_does_not_fit_the_checkpoint_is_refused_with_every_reason() {
    let problems = |checkpoint: &Checkpoint, profile: &RobotProfile| match Pipeline::new(checkpoint, profile, None) {
        Err(ObservationError::Profile { problems, .. }) => problems,
        other => panic!("{other:?}"),
    };
    let checkpoint = lerobot_checkpoint(None);

    let found = problems(&checkpoint, &shipped_profile("droid.yaml"));
    assert_eq!(found[0], "state has 8 joints, and the checkpoint has 14");
    assert_eq!(found[1], "actions has 8 joints, and the checkpoint has 14");
    assert_eq!(found.len(), 2, "{found:?}");

    // Openpi's ALOHA: the third camera is not in this checkpoint, its deltas are not, and the chunk is shorter.
    let found = problems(&checkpoint, &shipped_profile("aloha.yaml"));
    assert!(
        found[0].starts_with("camera cam_right_wrist has the slot right_wrist_0_rgb, which the checkpoint lacks"),
        "{found:?}"
    );
    assert!(found[1].starts_with("action joint left_waist is a delta here and absolute in the checkpoint"), "{found:?}");
    assert_eq!(found.last().unwrap(), "execution_horizon is 25, and the checkpoint's chunks have 10 rows");
    assert_eq!(found.len(), 1 + 12 + 1);

    let undeclared = plain_profile(|yaml| yaml.replace("  left_wrist_0_rgb: {name: wrist}\n", ""));
    assert!(problems(&checkpoint, &undeclared)[0].starts_with("the checkpoint's camera slot left_wrist_0_rgb is not declared"));
    let blind = plain_profile(|yaml| {
        yaml.replace("{name: top}", "{absent: true}").replace("{name: wrist}", "{absent: true}\n  x: {name: x}")
    });
    assert!(problems(&checkpoint, &blind).last().unwrap().starts_with("every camera slot of the checkpoint is absent"));
    // A slot that is absent on the robot and unknown to the checkpoint does no harm.
    assert!(Pipeline::new(&checkpoint, &plain_profile(|yaml| yaml + "  spare: {absent: true}\n"), None).is_ok());
}

#[test]
fn relative_actions_of_the_checkpoint_must_fit_the_profile() {
    let names: Vec<String> = plain_profile(|yaml| yaml).actions.into_iter().map(|column| column.joint).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let checkpoint = lerobot_checkpoint(Some(&names));
    let refused = |from: &str, to: &str| match Pipeline::new(&checkpoint, &plain_profile(|yaml| yaml.replace(from, to)), None) {
        Err(ObservationError::Profile { problems, .. }) => problems,
        other => panic!("{from} -> {to}: {other:?}"),
    };
    let found = refused("arm_3, command: position, unit: rad", "arm_3, command: position, unit: rad, delta: true");
    assert_eq!(found.len(), 11);
    assert!(found[0].starts_with("action joint arm_0 is absolute here and relative in the checkpoint"), "{found:?}");
    let found = refused("{joint: arm_3, unit: rad}", "{joint: arm_3, unit: deg}");
    assert!(
        found[0].starts_with("action joint arm_3 is relative in the checkpoint: entry 3 of state must be the same joint"),
        "{found:?}"
    );
    let all = |yaml: String| yaml.replace("command: position, unit: rad}", "command: position, unit: rad, delta: true}");
    let agreeing = plain_profile(|yaml| {
        let yaml = all(yaml);
        [6, 13].iter().fold(yaml, |yaml, i| {
            let line = format!("gripper_{i}, command: position, unit: rad");
            yaml.replace(&format!("{line}, delta: true"), &line)
        })
    });
    assert!(Pipeline::new(&checkpoint, &agreeing, None).is_ok());
}

#[test]
fn observations_that_are_not_whole_are_refused_by_name() {
    let pipeline = Pipeline::new(&lerobot_checkpoint(None), &plain_profile(|yaml| yaml), None).unwrap();
    let slots = ["base_0_rgb", "left_wrist_0_rgb"];
    assert!(pipeline.required_cameras().eq(slots));
    let refused = |observation: Observation| pipeline.model_inputs(&observation).unwrap_err();
    let error = refused(observation(&slots[..1], vec![0.0; 14]));
    assert!(
        matches!(&error, ObservationError::MissingCamera { slot, camera } if slot == slots[1] && camera == "wrist"),
        "{error}"
    );
    let error = refused(observation(&[slots[0], slots[1], "third"], vec![0.0; 14]));
    assert!(matches!(&error, ObservationError::UnknownCamera { slot, .. } if slot == "third"), "{error}");
    let error = refused(observation(&slots, vec![0.0; 13]));
    assert!(matches!(error, ObservationError::Width { what: "state", found: 13, expected: 14 }), "{error}");
    for value in [f64::NAN, f64::INFINITY, 1e300] {
        let mut joints = vec![0.0; 14];
        joints[4] = value;
        let error = refused(observation(&slots, joints));
        assert!(matches!(&error, ObservationError::JointNotFinite { joint, .. } if joint == "arm_4"), "{error}");
    }
    let mut silent = observation(&slots, vec![0.0; 14]);
    silent.instruction = " ".into();
    assert!(matches!(refused(silent), ObservationError::Prompt(_)));
    let mut long = observation(&slots, vec![0.0; 14]);
    long.instruction = "fold the towel ".repeat(20);
    assert!(pipeline.model_inputs(&long).unwrap().dropped_tokens > 0);
}

#[test]
fn chunks_that_are_not_finite_are_refused_whole() {
    let pipeline = Pipeline::new(&lerobot_checkpoint(None), &plain_profile(|yaml| yaml), None).unwrap();
    let refused = |chunk: &[f32], anchor: &[f32]| pipeline.robot_actions(chunk, anchor).unwrap_err();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut chunk = vec![0.0; 320];
        chunk[3 * 32 + 6] = value;
        let error = refused(&chunk, &[0.0; 14]);
        assert!(matches!(&error, ObservationError::ActionNotFinite { row: 3, joint, .. } if joint == "gripper_6"), "{error}");
        // What lies beyond the robot's columns is not used.
        chunk.swap(3 * 32 + 6, 3 * 32 + 14);
        assert!(pipeline.robot_actions(&chunk, &[0.0; 14]).is_ok());
    }
    assert!(matches!(refused(&[0.0; 319], &[0.0; 14]), ObservationError::Width { what: "chunk", found: 319, expected: 320 }));
    assert!(matches!(refused(&[0.0; 320], &[0.0; 13]), ObservationError::Width { what: "anchor", found: 13, expected: 14 }));
}

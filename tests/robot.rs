//! Robot profiles: the ones in config/robots, openpi's ALOHA adaptation, and what is refused.

use std::path::{Path, PathBuf};

use pi0_tt::robot::{CameraSlot, CommandKind, RobotError, RobotProfile};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/robots").join(name)
}

fn profile(name: &str) -> RobotProfile {
    RobotProfile::load(&path(name)).unwrap()
}

/// A profile that is accepted as it is.
const GOOD: &str = "
name: test
control_rate_hz: 10
state:
  - {joint: lift, unit: m}
  - {joint: turn, unit: deg, sign: -1}
  - {joint: grip, unit: normalized, linear: {robot: [0.1, 0.5], policy: [1, 0]}}
actions:
  - {joint: turn, command: position, unit: deg, sign: -1, delta: true}
  - {joint: grip, command: position, unit: normalized, linear: {policy: [0, 1], robot: [0, 0.8]}, threshold: 0.5}
  - {joint: wheel, command: velocity, unit: rad, clip: [-2, 2]}
cameras:
  base: {name: front, rotate_180: true}
  wrist: {absent: true}
resize: openpi
default_instruction: fold the towel
execution_horizon: 5
";

fn good() -> RobotProfile {
    RobotProfile::from_yaml(GOOD).unwrap()
}

/// The problems of the good profile after a replacement.
fn problems(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from}");
    match RobotProfile::from_yaml(&GOOD.replace(from, to)) {
        Err(RobotError::Invalid(problems)) => problems,
        other => panic!("{from} -> {to}: {other:?}"),
    }
}

#[test]
fn every_profile_of_the_package_is_accepted() {
    let mut names: Vec<_> = std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 4);
    for file in names {
        let profile = RobotProfile::load(&file).unwrap();
        assert_eq!(Some(profile.name.as_str()), file.file_stem().and_then(|name| name.to_str()));
        assert_eq!(profile.state.len(), profile.actions.len());
        assert_eq!(profile.cameras.len(), 3);
    }
}

#[test]
fn aloha_joints_become_the_state_that_openpi_makes_of_them() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("data/aloha_adapt.json")).unwrap();
    let numbers = |value: &serde_json::Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let aloha = profile("aloha.yaml");
    let deltas: Vec<_> = aloha.actions.iter().map(|column| column.delta).collect();
    let arm = |first: usize| (first..first + 6).map(Some).chain([None]);
    assert_eq!(deltas, arm(0).chain(arm(7)).collect::<Vec<_>>());
    for case in golden["cases"].as_array().unwrap() {
        let state = aloha.state.iter().zip(numbers(&case["joints"])).map(|(column, value)| column.map.to_policy(value));
        for ((value, expected), column) in state.zip(numbers(&case["state"])).zip(&aloha.state) {
            assert!((value - expected).abs() <= 1e-12, "{}: {value} and {expected}", column.joint);
        }
    }
}

#[test]
fn the_aloha_gripper_is_commanded_in_its_own_range() {
    let aloha = profile("aloha.yaml");
    // (v + 0.5476 + 0.6213) / (1.4910 + 0.6213), openpi aloha_policy.py
    for value in [-1.0, 0.0, 0.3, 1.2] {
        let expected = (value + 0.5476 + 0.6213) / (1.4910 + 0.6213);
        assert!((aloha.actions[6].to_robot(value) - expected).abs() <= 1e-12);
        assert!((aloha.actions[13].to_robot(value) - expected).abs() <= 1e-12);
    }
}

#[test]
fn droid_commands_velocities_and_a_gripper_that_is_open_or_closed() {
    let droid = profile("droid.yaml");
    assert_eq!(droid.control_rate_hz, 15.0);
    assert_eq!(droid.cameras["right_wrist_0_rgb"], CameraSlot::Absent);
    let (arm, gripper) = droid.actions.split_at(7);
    for column in arm {
        assert_eq!((column.kind, column.delta), (CommandKind::Velocity, None));
        for (policy, robot) in [(0.0, 0.0), (0.5, 1.5), (-1.0, -3.0), (7.0, 3.0), (-7.0, -3.0)] {
            assert!((column.to_robot(policy) - robot).abs() <= 1e-12, "{policy}");
        }
    }
    assert_eq!(gripper[0].kind, CommandKind::Position);
    assert_eq!([0.4, 0.5, 0.6].map(|policy| gripper[0].to_robot(policy)), [0.0, 0.0, 0.7929]);
    assert!((droid.state[7].map.to_policy(0.7929 / 2.0) - 0.5).abs() <= 1e-12);
}

#[test]
fn so101_is_in_degrees_and_its_gripper_in_hundredths() {
    let so101 = profile("so101.yaml");
    let joints = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"];
    assert!(so101.state_joints().eq(joints));
    assert_eq!(so101.control_rate_hz, 30.0);
    for column in &so101.state[..5] {
        assert!((column.map.to_policy(std::f64::consts::FRAC_PI_2) - 90.0).abs() <= 1e-12);
    }
    assert!((so101.state[5].map.to_policy(-0.174533)).abs() <= 1e-12);
    assert!((so101.state[5].map.to_policy(1.74533) - 100.0).abs() <= 1e-12);
    assert!((so101.actions[0].to_robot(180.0) - std::f64::consts::PI).abs() <= 1e-12);
    assert!((so101.actions[5].to_robot(100.0) - 1.74533).abs() <= 1e-12);
}

#[test]
fn aloha_sim_passes_every_value_as_it_is() {
    let sim = profile("aloha_sim.yaml");
    assert_eq!((sim.state.len(), sim.control_rate_hz), (14, 50.0));
    for (state, action) in sim.state.iter().zip(&sim.actions) {
        assert_eq!(state.joint, action.joint);
        assert_eq!((state.map.to_policy(0.7), action.to_robot(0.7), action.delta), (0.7, 0.7, None));
    }
}

#[test]
fn switched_and_normalized_positions_are_grippers_unless_the_profile_says_otherwise() {
    let grippers = |profile: &RobotProfile| -> Vec<String> {
        profile.actions.iter().filter(|column| column.gripper).map(|column| column.joint.clone()).collect()
    };
    for name in ["aloha.yaml", "aloha_sim.yaml"] {
        assert_eq!(grippers(&profile(name)), ["left_gripper", "right_gripper"]);
    }
    assert_eq!(grippers(&profile("droid.yaml")), ["robotiq_85_left_knuckle_joint"]);
    assert_eq!(grippers(&profile("so101.yaml")), ["gripper"]);
    let no = GOOD.replace("threshold: 0.5}", "threshold: 0.5, gripper: false}");
    assert_eq!(grippers(&RobotProfile::from_yaml(&no).unwrap()), [""; 0]);
    let more = GOOD.replace("delta: true}", "delta: true, gripper: true}");
    assert_eq!(grippers(&RobotProfile::from_yaml(&more).unwrap()), ["turn", "grip"]);
}

#[test]
fn every_field_of_a_profile_is_understood() {
    let profile = good();
    assert_eq!(profile.state[0].map.to_policy(0.3), 0.3);
    assert_eq!(profile.state[1].map.to_policy(std::f64::consts::PI), -180.0);
    for (robot, policy) in [(0.1, 1.0), (0.3, 0.5), (0.5, 0.0), (0.7, -0.5)] {
        assert!((profile.state[2].map.to_policy(robot) - policy).abs() <= 1e-12);
    }
    assert_eq!(profile.actions[0].delta, Some(1));
    assert_eq!([0.4, 0.6].map(|policy| profile.actions[1].to_robot(policy)), [0.0, 0.8]);
    assert_eq!([-3.0, 1.0, 3.0].map(|policy| profile.actions[2].to_robot(policy)), [-2.0, 1.0, 2.0]);
    assert_eq!(profile.cameras["base"], CameraSlot::Present { name: "front".into(), rotate_180: true });
    assert_eq!(profile.cameras["wrist"], CameraSlot::Absent);
    assert_eq!(profile.default_instruction.as_deref(), Some("fold the towel"));
    assert_eq!(profile.execution_horizon, Some(5));
}

#[test]
fn each_problem_of_a_profile_is_named() {
    for (from, to, expected) in [
        ("name: test", "name: ' '", "name is empty"),
        ("control_rate_hz: 10", "control_rate_hz: 0", "control_rate_hz must be above 0 and at most 1000, not 0"),
        ("control_rate_hz: 10", "control_rate_hz: .nan", "control_rate_hz must be above 0 and at most 1000, not NaN"),
        ("{joint: lift, unit: m}", "{joint: grip, unit: m}", "state: joint grip is listed twice"),
        ("{joint: lift, unit: m}", "{joint: '', unit: m}", "state: a joint has no name"),
        ("joint: wheel", "joint: grip", "actions: joint grip is listed twice"),
        ("unit: m}", "unit: m, sign: 2}", "state joint lift: sign must be 1 or -1, not 2"),
        ("unit: m}", "unit: m, sign: -9223372036854775808}", "state joint lift: sign must be 1 or -1, not -9223372036854775808"),
        ("unit: m}", "unit: normalized, sign: -1}", "state joint lift: a normalized value has no sign"),
        ("unit: m}", "unit: m, linear: {robot: [0, 1], policy: [0, 1]}}", "state joint lift: linear needs unit: normalized"),
        (
            "robot: [0.1, 0.5]",
            "robot: [0.1, 0.1]",
            "state joint grip: linear.robot must be two different finite values, not [0.1, 0.1]",
        ),
        (
            "policy: [1, 0]",
            "policy: [1, .inf]",
            "state joint grip: linear.policy must be two different finite values, not [1.0, inf]",
        ),
        (
            "linear: {robot: [0.1, 0.5], policy: [1, 0]}",
            "horn: {finger_travel: [0, 1], arm_length: 0.1, horn_radius: -1, angle_range: [0, 1]}",
            "state joint grip: horn.horn_radius must be positive metres, not -1",
        ),
        ("command: position, unit: deg", "command: velocity, unit: deg", "action joint turn: only a position can be a delta"),
        ("sign: -1, delta", "delta", "action joint turn: a delta needs the same unit, sign and map as the joint has in state"),
        ("{joint: turn, unit: deg, sign: -1}", "{joint: tern, unit: rad}", "action joint turn: a delta needs the joint in state"),
        ("threshold: 0.5", "threshold: .inf", "action joint grip: threshold must be finite"),
        ("clip: [-2, 2]", "clip: [2, -2]", "action joint wheel: clip must be [least, largest], not [2, -2]"),
        ("{name: front, rotate_180: true}", "{absent: true}", "cameras: at least one slot must be present"),
        ("{name: front, rotate_180: true}", "{}", "camera slot base needs the camera's name, or absent: true"),
        ("{absent: true}", "{name: front}", "cameras: two slots have the camera front"),
        ("{absent: true}", "{name: top, absent: true}", "camera slot wrist is absent and cannot have a name or a rotation"),
        ("name: front", "name: front/left", "camera slot base: the name \"front/left\" must be letters, digits and underscores"),
        ("fold the towel", "' '", "default_instruction is empty"),
        ("execution_horizon: 5", "execution_horizon: 0", "execution_horizon must be at least 1"),
    ] {
        let found = problems(from, to);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn all_problems_are_listed_in_one_error() {
    let bad = GOOD
        .replace("control_rate_hz: 10", "control_rate_hz: -1")
        .replace("clip: [-2, 2]", "clip: [0, 0]")
        .replace("unit: m", "unit: m, sign: 0");
    let error = RobotProfile::from_yaml(&bad).unwrap_err().to_string();
    assert!(error.starts_with("The robot profile has 3 problems:\n- control_rate_hz"), "{error}");
    assert_eq!(error.lines().count(), 4, "{error}");
}

#[test]
fn unknown_missing_and_mistyped_fields_are_refused_with_their_place() {
    for (from, to, expected) in [
        ("control_rate_hz", "control_rate", "control_rate"),
        ("sign: -1}", "sing: -1}", "sing"),
        ("unit: m}", "unit: mm}", "mm"),
        ("{joint: lift, unit: m}", "{joint: lift}", "unit"),
        ("command: velocity", "command: torque", "torque"),
        ("absent: true", "absent: maybe", "maybe"),
        ("clip: [-2, 2]", "clip: [-2]", "clip"),
        ("name: test", "name: test\nname: again", "name"),
        ("resize: openpi", "resize: area", "area"),
    ] {
        let error = RobotProfile::from_yaml(&GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(matches!(&error, RobotError::Yaml(text) if text.contains(expected)), "{from} -> {to}: {error}");
    }
    assert!(matches!(RobotProfile::from_yaml(""), Err(RobotError::Yaml(_))));
}

#[test]
fn a_profile_that_cannot_be_read_is_named() {
    let error = RobotProfile::load(&path("unicorn.yaml")).unwrap_err();
    assert!(matches!(&error, RobotError::Read { .. }) && error.to_string().contains("unicorn.yaml"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.yaml");
    std::fs::write(&file, "name: mine").unwrap();
    let error = RobotProfile::load(&file).unwrap_err();
    assert!(error.to_string().contains("mine.yaml"), "{error}");
}

#[test]
fn damaged_profiles_are_read_or_refused() {
    use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
    let damage = prop::collection::vec((any::<Index>(), any::<Index>(), prop_oneof!["[ -~\n]{0,4}", ".{0,3}"]), 1..5);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(20_000));
    runner
        .run(&damage, |damage| {
            let mut text: Vec<char> = GOOD.chars().collect();
            for (at, length, with) in damage {
                let start = at.index(text.len());
                let end = (start + length.index(6)).min(text.len());
                text.splice(start..end, with.chars());
                text.push('\n');
            }
            let _ = RobotProfile::from_yaml(&text.into_iter().collect::<String>());
            Ok(())
        })
        .unwrap();
}

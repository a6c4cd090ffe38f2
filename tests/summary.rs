//! The summary of a recorded bag: numbers and picture.

use std::path::Path;

use pi0_tt::replay::{
    BagWriter, Qos, Reliability, ReplayError,
    messages::{
        ActionChunk, DiagnosticArray, DiagnosticStatus, Header, InputAge, JointState, KeyValue, MessageType, StageTimes, Text,
        Time,
    },
    summary::Recording,
};

const START: u64 = 1_800_000_000_000_000_000;
const JOINTS: [&str; 2] = ["left_waist", "right_gripper"];

fn at(seconds: f64) -> u64 {
    START + (seconds * 1e9).round() as u64
}

fn header(seconds: f64) -> Header {
    Header { stamp: Time::from_nanos(at(seconds)).unwrap(), frame_id: String::new() }
}

/// A chunk of 20 rows, 50 ms apart, that begins at `start`.
fn chunk(index: u64, start: f64) -> ActionChunk {
    ActionChunk {
        header: header(start),
        chunk_index: index,
        seed: 7,
        backend: "reference".into(),
        instruction: "Stack".into(),
        horizon: 20,
        period: 0.05,
        joint_names: JOINTS.map(String::from).to_vec(),
        actions: (0..20).flat_map(|row| [start + f64::from(row) * 0.05, f64::from(row)]).collect(),
        stage_times: StageTimes {
            observation: 0.001,
            vision: 0.010 * (index + 1) as f64,
            prefix: 0.002,
            denoise_steps: vec![0.003; 10],
            total: 0.1,
        },
        input_ages: vec![
            InputAge { name: "base_0_rgb".into(), age: 0.010 * (index + 1) as f64 },
            InputAge { name: "joint_states".into(), age: 0.004 },
        ],
        ..ActionChunk::default()
    }
}

/// Five chunks, half a second apart, diagnostics and joint states.
fn record(path: &Path) {
    let mut bag = BagWriter::create(path).unwrap();
    let qos = Qos::keep_last(5, Reliability::Reliable);
    let chunks = bag.add_topic_of::<ActionChunk>("/policy/action_chunk", qos).unwrap();
    let diagnostics = bag.add_topic_of::<DiagnosticArray>("/diagnostics", qos).unwrap();
    let joints = bag.add_topic_of::<JointState>("/joint_states", qos).unwrap();
    for index in 0..5 {
        let start = 0.5 * index as f64;
        bag.write_message(chunks, at(start + 0.1), &chunk(index, start)).unwrap();
    }
    for (seconds, level, overruns) in [(1.0, 1, "0"), (2.0, 0, "3")] {
        let values = vec![KeyValue { key: "overruns".into(), value: overruns.into() }];
        let status =
            DiagnosticStatus { level, name: "policy: inference".into(), message: "late".into(), values, ..Default::default() };
        bag.write_message(diagnostics, at(seconds), &DiagnosticArray { header: header(seconds), status: vec![status] }).unwrap();
    }
    for index in 0..60 {
        let seconds = f64::from(index) * 0.05;
        let state = JointState {
            header: header(seconds),
            name: vec!["left_waist".into(), "unrelated".into()],
            position: vec![seconds.sin(), 0.0],
            ..Default::default()
        };
        bag.write_message(joints, at(seconds), &state).unwrap();
    }
    bag.finish().unwrap();
}

#[test]
fn it_tells_rates_stage_times_ages_diagnostics_and_first_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outputs");
    record(&path);
    let summary = Recording::read(&path, None).unwrap().summary().unwrap();
    assert_eq!((summary.chunks, summary.horizon, summary.seed), (5, 20, 7));
    assert!((summary.span - 2.0).abs() < 1e-9);
    assert!((summary.chunks_per_second.unwrap() - 2.0).abs() < 1e-9);
    let stages: Vec<_> =
        summary.stages.iter().map(|stage| (stage.name, (stage.p50 * 1e3).round(), (stage.p90 * 1e3).round())).collect();
    assert_eq!(
        stages,
        [
            ("observation", 1.0, 1.0),
            ("vision", 30.0, 50.0),
            ("prefix", 2.0, 2.0),
            ("denoise (all steps)", 30.0, 30.0),
            ("total", 100.0, 100.0)
        ]
    );
    let ages: Vec<_> = summary.input_ages.iter().map(|age| (age.name.as_str(), age.median, age.max)).collect();
    assert_eq!(ages, [("base_0_rgb", 0.03, 0.05), ("joint_states", 0.004, 0.004)]);
    let status = &summary.diagnostics["policy: inference"];
    assert_eq!((status.ok, status.reports, status.values["overruns"].as_str()), (1, 2, "3"));
    assert_eq!(status.problem.as_deref(), Some("WARN, late"));
    assert_eq!(summary.first_chunk.joints, JOINTS);
    assert_eq!(summary.first_chunk.rows.len(), 5);
    assert_eq!(summary.first_chunk.rows[2], (0.1, vec![0.1, 2.0]));

    let text = summary.to_string();
    for words in
        ["5 in 2.00 s, 2.00 per second", "base_0_rgb", "overruns 3", "1 of 2", "policy: inference: WARN, late", "right_gripper"]
    {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

#[test]
fn the_picture_has_a_panel_per_joint_and_the_measured_curve() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outputs");
    record(&path);
    let recording = Recording::read(&path, None).unwrap();
    let file = folder.path().join("joints.svg");
    recording.draw(&file).unwrap();
    let svg = std::fs::read_to_string(&file).unwrap();
    for words in ["left_waist", "right_gripper", "5 chunks for", "Stack"] {
        assert!(svg.contains(words), "{words:?} is not in the picture");
    }
    // Two lines for each of five chunks and two joints, and one measured joint (plus those of the legend).
    let lines = |colour: &str| svg.matches(&format!("<polyline fill=\"none\" opacity=\"1\" stroke=\"{colour}\"")).count();
    assert_eq!(lines("#2589F5") - 1, 6, "chunks 0, 2 and 4");
    assert_eq!(lines("#E87928") - 1, 4, "chunks 1 and 3");
}

#[test]
fn a_bag_without_chunks_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inputs");
    let mut bag = BagWriter::create(&path).unwrap();
    bag.add_topic_of::<Text>("/instruction", Qos::keep_last(1, Reliability::Reliable)).unwrap();
    bag.finish().unwrap();
    let error = Recording::read(&path, None).unwrap_err();
    assert!(matches!(error, ReplayError::Missing { .. }));
    assert!(error.to_string().contains(ActionChunk::NAME) && error.to_string().contains("/instruction"), "{error}");
}

#[test]
fn a_chunk_whose_matrix_has_another_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outputs");
    let mut bag = BagWriter::create(&path).unwrap();
    let chunks = bag.add_topic_of::<ActionChunk>("/policy/action_chunk", Qos::keep_last(1, Reliability::Reliable)).unwrap();
    bag.write_message(chunks, START, &ActionChunk { horizon: 21, ..chunk(0, 0.0) }).unwrap();
    bag.finish().unwrap();
    let error = Recording::read(&path, None).unwrap_err();
    assert!(matches!(error, ReplayError::Message { index: 0, .. }), "{error}");
}

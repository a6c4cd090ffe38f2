//! Baselines and comparisons on the command line: what a run is held against, and how the answer is given.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use pi0_tt::{
    checkpoint::synth,
    model::Geometry,
    replay::{BagReader, BagWriter, Qos, Reliability},
};

/// A folder with a synthetic checkpoint, a parameter file and a short bag.
struct Lab(tempfile::TempDir);

impl Lab {
    /// With the first `seconds` of the demo bag.
    fn new(geometry: &Geometry, seconds: f64) -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        synth::write_synthetic(&lab.path("checkpoint"), geometry, synth::Precision::Float32, |_| ()).unwrap();
        let parameters = format!(
            "/policy:\n  ros__parameters:\n    denoise_steps: 2\n    weight_cache: {}\n    cameras.base_0_rgb.transport: compressed\n",
            lab.path("cache").display()
        );
        fs::write(lab.path("policy.yaml"), parameters).unwrap();
        let bag = BagReader::open(&common::data("bags/aloha_transfer_cube")).unwrap();
        let mut short = BagWriter::create(&lab.path("bag")).unwrap();
        let add = |topic: &pi0_tt::replay::Topic| {
            short.add_topic(&topic.name, &topic.type_name, &topic.schema, Qos::keep_last(5, Reliability::BestEffort)).unwrap()
        };
        let topics: Vec<_> = bag.topics().iter().map(add).collect();
        let end = bag.time_range().unwrap().0 + (seconds * 1e9) as u64;
        for message in bag.messages().map(Result::unwrap).take_while(|message| message.log_time <= end) {
            short.write(topics[message.topic], message.log_time, &message.data).unwrap();
        }
        short.finish().unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_pi0_tt"))
            .arg(command)
            .arg(self.path("bag"))
            .args(["--robot", "aloha_sim", "--checkpoint"])
            .arg(self.path("checkpoint"))
            .arg("--params")
            .arg(self.path("policy.yaml"))
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// What is printed by a command that ends with `code`.
#[track_caller]
fn said(output: &Output, code: i32) -> (String, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out, err)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_run_is_held_against_its_baseline() {
    let lab = Lab::new(&Geometry::tiny(), 1.0);
    let file = lab.path("baseline.safetensors");
    said(&lab.run("replay", &["--record", text(&file)]), 0);
    let (_, refusal) = said(&lab.run("replay", &["--record", text(&file)]), 1);
    assert!(refusal.contains(text(&file)) && refusal.contains("--force"), "{refusal}");
    said(&lab.run("replay", &["--record", text(&file), "--force"]), 0);

    let (same, _) = said(&lab.run("replay", &["--baseline", text(&file)]), 0);
    assert!(same.contains("same, tier exact (the same build on the same machine)"), "{same}");
    fs::write(lab.path("seed.yaml"), "/policy:\n  ros__parameters:\n    seed: 1\n").unwrap();
    let seed = lab.path("seed.yaml");
    let (different, _) = said(&lab.run("replay", &["--baseline", text(&file), "--params", text(&seed)]), 1);
    assert!(different.contains("what changed first: The seed is 1 and was 0"), "{different}");
    assert!(different.contains("first divergence: left_waist at "), "{different}");
    let json = lab.run("replay", &["--baseline", text(&file), "--params", text(&seed), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&said(&json, 1).0).unwrap();
    assert_eq!(json["comparison"]["verdict"], "different");

    // Tolerances that allow everything, and tolerances of another robot.
    let wide = include_str!("../config/tolerances.yaml").replace("max: 0.02, mean: 0.005", "max: 100.0, mean: 100.0");
    let wide =
        wide.replace("max: 0.05, mean: 0.0125", "max: 100.0, mean: 100.0").replace("2.0e-2", "1.0e3").replace("0.9995", "-1.0");
    fs::write(lab.path("wide.yaml"), &wide).unwrap();
    let arguments = ["--baseline", text(&file), "--tier", "across_backends", "--tolerances"];
    // The noise is an input, and inputs have no tolerance.
    let (strict, _) =
        said(&lab.run("replay", &[&arguments[..], &[text(&lab.path("wide.yaml")), "--params", text(&seed)]].concat()), 1);
    assert!(strict.contains("The noise of chunk 0"), "{strict}");
    fs::write(lab.path("elsewhere.yaml"), wide.replacen("joints: {}", "joints: {knee: {max: 1, mean: 1}}", 1)).unwrap();
    let (_, unknown) = said(&lab.run("replay", &[&arguments[..], &[text(&lab.path("elsewhere.yaml"))]].concat()), 1);
    assert!(unknown.contains("knee") && unknown.contains("left_waist"), "{unknown}");

    fs::write(&file, "no baseline").unwrap();
    let (_, foreign) = said(&lab.run("replay", &["--baseline", text(&file)]), 1);
    assert!(foreign.contains(text(&file)), "{foreign}");
    said(&lab.run("replay", &["--baseline", text(&file), "--record", "x"]), 2);
}

#[test]
fn the_cards_graph_is_held_against_the_reference() {
    let lab = Lab::new(&Geometry::small(), 0.4);
    let (same, _) = said(&lab.run("compare", &["--backends", "reference,ttnn_host"]), 0);
    assert!(same.starts_with("same, tier across_backends (backend ttnn_host against reference)"), "{same}");
    assert!(same.contains("The backend is ttnn_host and was reference"), "{same}");
    // Bit for bit they are not the same, which shows that both were run.
    let (different, _) = said(&lab.run("compare", &["--backends", "reference,ttnn_host", "--tier", "exact"]), 1);
    assert!(different.starts_with("different, tier exact"), "{different}");
    let (_, usage) = said(&lab.run("compare", &["--backends", "reference"]), 2);
    assert!(usage.contains("two backends"), "{usage}");
}

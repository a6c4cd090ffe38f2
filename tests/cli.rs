//! The command line: what it refuses, and that its output can be piped.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

fn pi0_tt(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi0_tt"));
    command.args(arguments);
    command
}

/// A tiny synthetic checkpoint in `folder`.
fn checkpoint(folder: &Path) -> String {
    let dir = folder.join("checkpoint").to_str().unwrap().to_owned();
    assert!(pi0_tt(&["synth", &dir]).output().unwrap().status.success());
    dir
}

/// What is said on standard error when a command is refused with `code`.
#[track_caller]
fn refused(output: Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty() && !text.contains("panicked"), "{text}");
    text
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let dir = checkpoint(folder.path());
    for arguments in
        [&["inspect", dir.as_str()][..], &["inspect", "--json", &dir], &["bench", "--geometry", "tiny", "--runs", "1"]]
    {
        let mut child = pi0_tt(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let dir = checkpoint(folder.path());
    // Linux: every write to it fails for want of space.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let text = refused(pi0_tt(&["inspect", &dir]).stdout(full).output().unwrap(), 1);
    assert!(text.starts_with("Cannot write to standard output"), "{text}");
}

#[test]
fn counts_that_make_no_sense_are_refused_as_usage() {
    for arguments in
        [["--steps", "0"], ["--steps", "1001"], ["--runs", "0"], ["--cameras", "0"], ["--tokens", "0"], ["--threads", "0"]]
    {
        let text = refused(pi0_tt(&["bench", "--geometry", "tiny"]).args(arguments).output().unwrap(), 2);
        assert!(text.contains(arguments[0]), "{text}");
    }
    let text = refused(pi0_tt(&["bench", "--geometry", "tiny", "--tokens", "13"]).output().unwrap(), 1);
    assert!(text.contains("13 tokens") && text.contains("at most 12"), "{text}");
}

#[test]
fn an_inference_without_all_its_inputs_says_which_option_is_wanting() {
    let folder = tempfile::tempdir().unwrap();
    let dir = checkpoint(folder.path());
    let image = folder.path().join("black.png");
    image::RgbImage::new(8, 6).save(&image).unwrap();
    let image = format!("base_0_rgb={}", image.display());
    let joints: Vec<String> = ["left", "right"]
        .iter()
        .flat_map(|side| {
            ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
                .map(|joint| format!("{side}_{joint}=-0.1"))
        })
        .collect();
    let (all, some) = (joints.join(","), joints[2..].join(","));
    let infer = |arguments: &[&str]| {
        let mut command = pi0_tt(&["infer", "--checkpoint", &dir, "--robot", "config/robots/aloha_sim.yaml"]);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
    };
    let instruction = ["--instruction", "transfer the cube"];
    let given = infer(&[&instruction[..], &["--image", &image, "--joints", &all]].concat());
    assert!(given.status.success() && String::from_utf8(given.stdout).unwrap().contains("right_gripper"));

    let text = refused(infer(&["--image", &image, "--joints", &all]), 1);
    assert!(text.contains("--instruction"), "{text}");
    let text = refused(infer(&[&instruction[..], &["--image", &image, "--joints", &some]].concat()), 1);
    assert!(text.contains("left_waist, left_shoulder are missing from --joints"), "{text}");
    let text = refused(infer(&[&instruction[..], &["--image", &image]].concat()), 1);
    assert!(text.contains("missing from --joints"), "{text}");
    let text = refused(infer(&[&instruction[..], &["--image", &image, "--image", &image, "--joints", &all]].concat()), 1);
    assert!(text.contains("base_0_rgb") && text.contains("once"), "{text}");
    let text = refused(infer(&[&instruction[..], &["--joints", &all]].concat()), 1);
    assert!(text.contains("base_0_rgb"), "{text}");
}

#[test]
fn a_recorded_graph_is_explained_in_tables_json_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (first, second, html) = (path("first.json"), path("second.json"), path("report.html"));
    for (grid, out) in [("8x8", &first), ("8x7", &second)] {
        let small =
            ["graph", "--geometry", "small", "--cameras", "1", "--tokens", "5", "--steps", "2", "--grid", grid, "--out", out];
        assert!(pi0_tt(&small).output().unwrap().status.success());
    }
    let text = pi0_tt(&["coverage", &first, "--against", &second, "--html", &html]).output().unwrap();
    let text = (text.status.success(), String::from_utf8(text.stdout).unwrap());
    assert!(text.0 && text.1.starts_with("first: 1 camera, 5 tokens, 2 steps on Wormhole, 8x8 cores\nsecond: "), "{text:?}");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("8x7 cores"), "{page}");

    let json = pi0_tt(&["coverage", &first, "--json"]).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let launches: u64 = json[0]["stages"].as_array().unwrap().iter().map(|stage| stage["launches"].as_u64().unwrap()).sum();
    assert_eq!(json[0]["total"]["launches"], launches);
    assert!(launches > 0 && json[0]["modules"].as_array().unwrap().len() == 8, "{json}");

    let text = refused(pi0_tt(&["coverage", &html]).output().unwrap(), 1);
    assert!(text.contains("is not a recording of `pi0_tt graph`"), "{text}");
    let text = refused(pi0_tt(&["coverage", &path("absent.json")]).output().unwrap(), 1);
    assert!(text.starts_with("Cannot read the recording"), "{text}");
}

#[test]
fn the_ways_of_joining_chunks_are_compared_in_a_table_json_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let svg = path("borders.svg");
    let table = pi0_tt(&["simulate", "--latency", "7", "--seconds", "5", "--plot", &svg]).output().unwrap();
    let table = (table.status.success(), String::from_utf8(table.stdout).unwrap());
    assert!(table.0 && table.1.starts_with("A made-up policy: latency 7 of 50 rows, 5 s, seed 0\nmode "), "{table:?}");
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("crossfade: largest jump"), "{picture}");

    let checkpoint = checkpoint(folder.path());
    let of_checkpoint = ["--checkpoint", &checkpoint, "--robot", "config/robots/aloha_sim.yaml"];
    let simulate = |arguments: &[&str]| {
        let mut command = pi0_tt(&["simulate", "--seconds", "2"]);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
    };
    let json = simulate(&[&of_checkpoint[..], &["--instruction", "wave", "--latency", "2", "--json"]].concat()).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let modes: Vec<_> = json.as_array().unwrap().iter().map(|row| row["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["none", "crossfade", "rtc"]);
    let jump = |mode: usize| json[mode]["largest_jump"].as_f64().unwrap();
    assert!(jump(2) < jump(0) && json[2]["commands_per_second"] == 50.0, "{json}");

    let text = refused(simulate(&of_checkpoint), 1);
    assert!(text.contains("--instruction"), "{text}");
    let text = refused(simulate(&["--robot", "aloha_sim"]), 2);
    assert!(text.contains("--checkpoint"), "{text}");
    let text = refused(simulate(&["--crossfade-ms", "300"]), 1);
    assert!(text.contains("0.05 s to 0.15 s"), "{text}");
    let text = refused(simulate(&["--execution-horizon", "51"]), 1);
    assert!(text.contains("at most the chunk's 50 rows"), "{text}");
    let text = refused(simulate(&["--plot", &path("absent/borders.svg")]), 1);
    assert!(text.starts_with("Cannot draw"), "{text}");
}

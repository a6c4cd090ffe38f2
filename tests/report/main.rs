//! The report of a replay: JSON lines, JUnit XML and the page. What is written here stays in target/tmp/report, where a person can look at
//! it and tests/peers (test_report_page.py, test_report_files.py) open it.

mod sample;

use std::{fs, path::PathBuf};

use pi0_tt::{
    observation::CompressedImageView,
    replay::{
        BagReader,
        compare::{Comparison, Tolerances, Verdict},
        messages::{CompressedImage, MessageType},
        report::{Compared, Frame, Report, ReportError, write},
        trace::Trace,
    },
};
use serde_json::Value;

/// The three files of a report.
struct Written {
    lines: Vec<Value>,
    junit: String,
    page: String,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("report").join(name)
}

fn report(name: &str, trace: &Trace, compared: Option<(&Trace, &Comparison)>, frames: &[Frame]) -> Written {
    let compared = compared.map(|(baseline, comparison)| Compared { baseline, comparison });
    write(&folder(name), &Report { trace, compared, frames, gaps_allowed: true }).unwrap();
    let read = |file: &str| fs::read_to_string(folder(name).join(file)).unwrap();
    let lines = read("chunks.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Written { lines, junit: read("junit.xml"), page: read("index.html") }
}

fn compare(baseline: &Trace, current: &Trace) -> Comparison {
    Comparison::new(baseline, current, &Tolerances::default(), None).unwrap()
}

/// Images of the demo bag as if three cameras had taken them.
fn frames(chunk: u64, stamp: i64) -> Vec<Frame> {
    let bag = BagReader::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/bags/aloha_transfer_cube")).unwrap();
    let topic = bag.topic_of_type(CompressedImage::NAME).unwrap().0;
    let messages = bag.messages().map(Result::unwrap).filter(|message| message.topic == topic);
    let images = messages.step_by(40).take(3).map(|message| {
        let image = CompressedImage::decode(&message.data).unwrap();
        CompressedImageView { format: &image.format, data: image.data }.decode().unwrap()
    });
    let named = sample::CAMERAS.iter().zip(images);
    named.map(|(camera, image)| Frame { camera: (*camera).into(), chunk, stamp: stamp - 14_000_000, image }).collect()
}

/// Another backend, three joints far away after chunk 4 and three others a little.
fn different() -> (Trace, Trace) {
    let baseline = sample::with_a_gap(sample::trace(12));
    let current = sample::with_a_fault(baseline.clone(), 4, &[1, 2, 9], 0.07);
    let mut current = sample::with_a_black_camera(sample::with_a_fault(current, 0, &[0, 3, 5], 0.003), 4);
    current.setup.backend = "ttnn_host".into();
    current.setup.dtypes = "bfloat16, weights bfloat8_b".into();
    (baseline, current)
}

#[test]
fn a_different_run_names_the_first_divergence_in_all_three_files() {
    let (baseline, current) = different();
    let comparison = compare(&baseline, &current);
    assert_eq!(comparison.verdict, Verdict::Different);
    let first = comparison.first.as_ref().unwrap();
    let observed = current.chunks[4].observed;
    let written = report("different", &current, Some((&baseline, &comparison)), &frames(first.chunk.unwrap(), observed));
    let last = written.lines.last().unwrap();
    assert_eq!((&last["verdict"], &last["exit_code"]), (&"different".into(), &1.into()));
    let sentence = last["sentence"].as_str().unwrap();
    for text in [sentence, last["diagnosis"].as_str().unwrap()] {
        assert!(written.junit.contains(text) && written.page.contains(text), "{text}");
    }
    for part in [&first.joint, &format!("row {} of chunk 4", first.row.unwrap()), "0.0200 rad", "1767225602"] {
        assert!(sentence.contains(part), "{part} in {sentence}");
    }
}

#[test]
fn a_run_that_is_the_same_passes() {
    let baseline = sample::trace(12);
    let comparison = compare(&baseline, &baseline);
    let written = report("same", &baseline, Some((&baseline, &comparison)), &[]);
    assert_eq!(written.lines.last().unwrap()["verdict"], "same");
    assert_eq!(written.lines.last().unwrap()["exit_code"], 0);
    assert!(written.page.contains(&format!("12 chunks and {} commands agree bit for bit.", baseline.commands.len())));
    assert!(!written.junit.contains("<failure"));
}

#[test]
fn a_run_without_a_baseline_is_shown_as_well() {
    let mut trace = sample::trace(12);
    let written = report("recorded", &trace, None, &[]);
    assert_eq!(
        (&written.lines.last().unwrap()["verdict"], &written.lines.last().unwrap()["exit_code"]),
        (&Value::Null, &0.into())
    );
    assert!(!written.page.contains("<path class=\"baseline\""));
    // The bag ended in the middle: everything that was read is shown, and the exit code says that there was more.
    trace.damage = Some("aloha.mcap is damaged in the chunk at byte 4711".into());
    let written = report("damaged", &trace, None, &[]);
    assert_eq!(written.lines.last().unwrap()["exit_code"], 3);
    for text in [&written.page, &written.junit] {
        assert!(text.contains("byte 4711"));
    }
}

#[test]
fn a_run_without_a_chunk_was_not_tested() {
    let baseline = sample::trace(12);
    let mut empty = sample::trace(0);
    empty.gaps = sample::with_a_gap(sample::trace(3)).gaps;
    let comparison = compare(&baseline, &empty);
    for written in [report("untested", &empty, Some((&baseline, &comparison)), &[]), report("empty", &empty, None, &[])] {
        let last = written.lines.last().unwrap();
        assert_eq!((&last["verdict"], &last["exit_code"]), (&"not_tested".into(), &1.into()));
        assert!(last["sentence"].as_str().unwrap().contains("left_wrist_0_rgb: no image for 412 ms"), "{last}");
        assert!(written.junit.contains("<failure"));
        assert!(written.page.contains("Not tested"));
    }
}

#[test]
fn gaps_fail_a_run_that_does_not_allow_them() {
    let trace = sample::with_a_gap(sample::trace(4));
    let report = |gaps_allowed| Report { trace: &trace, compared: None, frames: &[], gaps_allowed };
    assert_eq!([true, false].map(|allowed| report(allowed).exit_code()), [0, 1]);
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), &report(false)).unwrap();
    let junit = fs::read_to_string(scratch.path().join("junit.xml")).unwrap();
    assert!(junit.contains("failures=\"1\"") && junit.contains("left_wrist_0_rgb: no image for 412 ms"), "{junit}");
}

/// Whoever writes a bag, a robot profile or a checkpoint must not write the page.
#[test]
fn hostile_names_and_numbers_stay_what_they_are() {
    let evil = "</script><script>window.hacked = 1</script><b class=\"injected\">\u{1b}[31m\u{0}&amp;\"'";
    let (mut baseline, mut current) = different();
    for trace in [&mut baseline, &mut current] {
        trace.setup.joints[1].name = evil.into();
        trace.setup.cameras[0] = evil.into();
        trace.inputs[0].name = evil.into();
        trace.inputs[0].refused.insert(evil.into(), 3);
        let sample = trace.chunks[0].samples["joint_states"].clone();
        trace.chunks[0].samples.insert(evil.into(), sample);
        for chunk in &mut trace.chunks {
            chunk.instruction = evil.into();
        }
    }
    current.setup.bag = evil.into();
    current.setup.parameters.insert(evil.into(), evil.into());
    current.latch = Some(evil.into());
    let width = current.setup.joints.len();
    current.chunks[5].actions[3 * width + 1] = f64::NAN;
    current.chunks[6].actions[9 * width] = f64::INFINITY;
    current.chunks[6].skew = f64::NAN;
    current.chunks[7].times.total = f64::INFINITY;
    current.commands[100].row[1] = f64::NEG_INFINITY;
    current.commands[120].row[2] = f64::NAN;
    current.chunks[2].samples.get_mut("joint_states").unwrap().age = f64::NAN;
    let comparison = compare(&baseline, &current);
    let frames: Vec<_> =
        frames(5, current.chunks[5].observed).into_iter().map(|frame| Frame { camera: evil.into(), ..frame }).collect();
    report("hostile_frames", &current, Some((&baseline, &comparison)), &frames);
    let written = report("hostile", &current, Some((&baseline, &comparison)), &[]);
    assert!(!written.page.contains("<script>window") && !written.page.contains("<b class=\"injected\""));
    assert_eq!(written.page.matches("<script").count(), 1);
    // In numbers of the drawings; text says NaN where a value is NaN.
    for attribute in ["d", "style", "data-across", "data-up", "data-from", "data-to", "x", "width"] {
        for value in written.page.split(&format!(" {attribute}=\"")).skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(!value.contains("NaN") && !value.contains("inf"), "{attribute}={value}");
        }
    }
    assert!(written.junit.chars().all(|c| c >= ' ' || "\n\t\r".contains(c)), "control characters are not XML");
    assert_eq!(written.lines.len(), 14);
}

#[test]
fn ten_minutes_are_a_small_page() {
    let baseline = sample::with_a_gap(sample::trace(1200));
    let current = sample::with_a_fault(baseline.clone(), 700, &[4], 0.05);
    assert!(current.commands.len() >= 29_500, "{}", current.commands.len());
    let comparison = compare(&baseline, &current);
    assert_eq!(comparison.first.as_ref().unwrap().chunk, Some(700));
    let frames = frames(700, current.chunks[700].observed);
    let written = report("long", &current, Some((&baseline, &comparison)), &frames);
    assert!(written.page.len() < 5_000_000, "{} bytes", written.page.len());
    assert!(written.page.contains("1,000 columns"), "the page says how it is drawn");
}

#[test]
fn only_the_three_files_are_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("index.html"), "before").unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let trace = sample::trace(2);
    let report = Report { trace: &trace, compared: None, frames: &[], gaps_allowed: false };
    write(&folder, &report).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["chunks.jsonl", "index.html", "junit.xml", "notes.txt"]);
    assert_eq!(fs::read_to_string(folder.join("notes.txt")).unwrap(), "mine");
    assert!(fs::read_to_string(folder.join("index.html")).unwrap().starts_with("<!doctype html>"));
    // A file is in the way of the folder.
    assert!(
        matches!(write(&folder.join("notes.txt"), &report), Err(ReportError::Write { path, .. }) if path.ends_with("notes.txt"))
    );
}

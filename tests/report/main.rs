//! The report of a replay: JSON lines, JUnit XML and the page. tests/peers/test_report_page.py opens pages in a browser.

mod comparison;
mod sample;

use std::{fs, path::PathBuf};

use comparison::comparison;
use pi0_tt::{
    observation::CompressedImageView,
    replay::{
        BagReader,
        compare::Comparison,
        messages::{CompressedImage, MessageType},
        report::{Compared, Frame, Report, write},
        trace::Trace,
    },
};

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

/// Writes a report into target/tmp, where it can be looked at.
fn report(name: &str, trace: &Trace, compared: Option<(&Trace, &Comparison)>, frames: &[Frame]) -> [String; 3] {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    let compared = compared.map(|(baseline, comparison)| Compared { baseline, comparison });
    write(&folder, &Report { trace, compared, frames }).unwrap();
    ["chunks.jsonl", "junit.xml", "index.html"].map(|file| fs::read_to_string(folder.join(file)).unwrap())
}

#[test]
fn a_different_run() {
    let baseline = sample::with_a_gap(sample::trace(12));
    let current = sample::with_a_fault(baseline.clone(), 4, &[1, 2, 9], 0.07);
    let mut current = sample::with_a_fault(current, 0, &[0, 3, 5], 0.004);
    current.setup.backend = "ttnn_host".into();
    current.setup.dtypes = "bfloat16, weights bfloat8_b".into();
    let found = comparison(&baseline, &current);
    let first = found.first.as_ref().unwrap();
    let frames = frames(first.chunk.unwrap(), first.stamp);
    report("different", &current, Some((&baseline, &found)), &frames);
}

#[test]
fn a_long_bag_stays_a_small_page() {
    let baseline = sample::with_a_gap(sample::trace(1200));
    let current = sample::with_a_fault(baseline.clone(), 700, &[4], 0.05);
    let found = comparison(&baseline, &current);
    let [_, _, page] = report("long", &current, Some((&baseline, &found)), &[]);
    assert!(baseline.commands.len() >= 29_000, "{}", baseline.commands.len());
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
}
#[test]
fn others() {
    let baseline = sample::trace(12);
    report("recorded", &baseline, None, &[]);
    let found = comparison(&baseline, &baseline);
    report("same", &baseline, Some((&baseline, &found)), &[]);
    let mut empty = sample::trace(0);
    empty.gaps = sample::with_a_gap(sample::trace(3)).gaps;
    let found = comparison(&baseline, &empty);
    report("untested", &empty, Some((&baseline, &found)), &[]);
}

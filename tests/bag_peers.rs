//! Bags between this package and Python: what one writes, the other reads with equal fields.
//!
//! Needs the Python of build/venv in PI0_TT_PYTHON (build/env.sh sets it).

use std::{path::Path, process::Command};

use pi0_tt::replay::{
    BagReader, BagWriter, Qos, Reliability, cdr,
    messages::{ActionChunk, CompressedImage, DiagnosticArray, Image, JointState, JointTrajectory, MessageType, Text},
};
use serde::Serialize;
use serde_json::{Value, json};

/// Runs tests/peers/bags.py and gives what it printed; `None` when no Python is named.
fn bags_py(arguments: &[&str]) -> Option<Value> {
    let Ok(python) = std::env::var("PI0_TT_PYTHON") else {
        println!("Skipped: PI0_TT_PYTHON is not set (. build/env.sh)");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/bags.py");
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Every message of a bag, decoded here, in the peer's form.
fn read_here(path: &Path) -> Value {
    fn fields<T: Serialize>(message: Result<T, pi0_tt::replay::CdrError>) -> Value {
        serde_json::to_value(message.unwrap()).unwrap()
    }
    let bag = BagReader::open(path).unwrap();
    let messages = bag.messages().map(|message| {
        let message = message.unwrap();
        let topic = &bag.topics()[message.topic];
        let data = &message.data;
        let fields = match topic.type_name.as_str() {
            ActionChunk::NAME => fields(cdr::decode::<ActionChunk>(data)),
            CompressedImage::NAME => fields(CompressedImage::decode(data)),
            DiagnosticArray::NAME => fields(cdr::decode::<DiagnosticArray>(data)),
            Image::NAME => fields(Image::decode(data)),
            JointState::NAME => fields(cdr::decode::<JointState>(data)),
            JointTrajectory::NAME => fields(cdr::decode::<JointTrajectory>(data)),
            Text::NAME => fields(cdr::decode::<Text>(data)),
            other => panic!("{other} is no type of the peer's bag"),
        };
        json!([topic.name, topic.type_name, message.log_time, fields])
    });
    messages.collect()
}

#[test]
fn every_message_type_written_by_rosbags_is_decoded_in_both_byte_orders() {
    let folder = tempfile::tempdir().unwrap();
    for storage in ["mcap", "sqlite3", "mcap-message", "sqlite3-message"] {
        let path = folder.path().join(storage);
        let Some(written) = bags_py(&["write", storage, path.to_str().unwrap()]) else { return };
        assert_eq!(written.as_array().unwrap().len(), 8);
        assert_eq!(read_here(&path), written, "{storage}");
        // What the bag's own reader finds is the same, so the comparison is not with what was meant to be written.
        assert_eq!(bags_py(&["read", "rosbags", path.to_str().unwrap()]).unwrap(), written, "{storage}");
    }
}

#[test]
fn rosbags_and_mcap_ros2_support_read_every_message_type_that_is_written_here() {
    let folder = tempfile::tempdir().unwrap();
    let [theirs, ours] = ["theirs", "ours"].map(|name| folder.path().join(name));
    let Some(written) = bags_py(&["write", "mcap", theirs.to_str().unwrap()]) else { return };
    // The peer's messages, encoded again and with this package's own definitions.
    let source = BagReader::open(&theirs).unwrap();
    let mut bag = BagWriter::create(&ours).unwrap();
    let qos = Qos::keep_last(5, Reliability::BestEffort);
    let topics: Vec<_> = source
        .topics()
        .iter()
        .map(|topic| {
            bag.add_topic(&topic.name, &topic.type_name, &pi0_tt::replay::definition(&topic.type_name).unwrap(), qos).unwrap()
        })
        .collect();
    for message in source.messages() {
        let message = message.unwrap();
        let (topic, time, data) = (topics[message.topic], message.log_time, &message.data);
        match source.topics()[message.topic].type_name.as_str() {
            ActionChunk::NAME => bag.write_message(topic, time, &cdr::decode::<ActionChunk>(data).unwrap()),
            CompressedImage::NAME => bag.write_message(topic, time, &CompressedImage::decode(data).unwrap()),
            DiagnosticArray::NAME => bag.write_message(topic, time, &cdr::decode::<DiagnosticArray>(data).unwrap()),
            Image::NAME => bag.write_message(topic, time, &Image::decode(data).unwrap()),
            JointState::NAME => bag.write_message(topic, time, &cdr::decode::<JointState>(data).unwrap()),
            JointTrajectory::NAME => bag.write_message(topic, time, &cdr::decode::<JointTrajectory>(data).unwrap()),
            _ => bag.write_message(topic, time, &cdr::decode::<Text>(data).unwrap()),
        }
        .unwrap();
    }
    bag.finish().unwrap();
    for reader in ["rosbags", "mcap-ros2-support"] {
        assert_eq!(bags_py(&["read", reader, ours.to_str().unwrap()]).unwrap(), written, "{reader}");
    }
    let file = ours.join("ours_0.mcap");
    assert_eq!(bags_py(&["read", "rosbags", file.to_str().unwrap()]).unwrap(), written);
}

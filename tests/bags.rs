//! Bags: what is written is read again, what rosbags wrote is read, and damaged files are refused by name.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use pi0_tt::replay::{
    BagReader, BagWriter, CdrError, Durability, History, Qos, Reliability, ReplayError, cdr,
    messages::{CompressedImage, Header, Image, JointState, MessageType, Text, Time},
};
use proptest::prelude::*;

/// Rendered by tools/make_aloha_bag.py, written by Python rosbags.
fn demo_bag() -> PathBuf {
    common::data("bags/aloha_transfer_cube")
}

fn joint_state(at: u64, position: f64) -> JointState {
    let header = Header { stamp: Time::from_nanos(at).unwrap(), frame_id: String::new() };
    JointState {
        header,
        name: vec!["elbow".into(), "wrist".into()],
        position: vec![position, -position],
        ..JointState::default()
    }
}

/// A bag of 100 joint states, 10 ms apart, written in pairs of the wrong order, and one instruction.
fn write_small_bag(path: &Path) {
    let mut bag = BagWriter::create(path).unwrap();
    let joints = bag.add_topic_of::<JointState>("/joint_states", Qos::keep_last(10, Reliability::Reliable)).unwrap();
    let text = bag.add_topic_of::<Text>("/instruction", Qos::keep_last(1, Reliability::BestEffort)).unwrap();
    for index in (0..100_u64).map(|index| index ^ 1) {
        bag.write_message(joints, index * 10_000_000, &joint_state(index * 10_000_000, index as f64)).unwrap();
    }
    bag.write_message(text, 5, &Text { data: "stack the cups".into() }).unwrap();
    bag.finish().unwrap();
}

fn storage_file(folder: &Path) -> PathBuf {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "mcap").unwrap()
}

fn read_all(path: &Path) -> Result<Vec<(usize, u64)>, ReplayError> {
    BagReader::open(path)?.messages().map(|message| message.map(|message| (message.topic, message.log_time))).collect()
}

#[test]
fn a_bag_by_rosbags_gives_its_topics_types_and_every_message_in_time_order() {
    let bag = BagReader::open(&demo_bag()).unwrap();
    let mut topics: Vec<_> =
        bag.topics().iter().map(|topic| (topic.name.as_str(), topic.type_name.as_str(), topic.message_count)).collect();
    topics.sort_unstable();
    assert_eq!(
        topics,
        [
            ("/camera/base_0_rgb/image/compressed", CompressedImage::NAME, 125),
            ("/instruction", Text::NAME, 5),
            ("/joint_states", JointState::NAME, 250),
        ]
    );
    let start = 1_767_225_600_000_000_000;
    assert_eq!(bag.time_range(), Some((start, start + 4_980_000_000)));
    let (camera, topic) = bag.topic("/camera/base_0_rgb/image/compressed", CompressedImage::NAME).unwrap();
    let qos = topic.qos.unwrap();
    assert_eq!((qos.history, qos.depth), (History::KeepLast, 5));
    assert_eq!((qos.reliability, qos.durability), (Reliability::BestEffort, Durability::Volatile));
    assert!(topic.has_header());
    assert!(!bag.topic("/instruction", Text::NAME).unwrap().1.has_header());

    let joints = bag.topic("/joint_states", JointState::NAME).unwrap().0;
    let mut last = 0;
    for message in bag.messages() {
        let message = message.unwrap();
        assert!(message.log_time >= last);
        last = message.log_time;
        if message.topic == camera {
            let image = CompressedImage::decode(&message.data).unwrap();
            assert_eq!(Some(image.header.stamp), Time::from_nanos(message.log_time));
            let pixels = image::load_from_memory(image.data).unwrap();
            assert_eq!((pixels.width(), pixels.height()), (640, 480));
        } else if message.topic == joints {
            let state: JointState = cdr::decode(&message.data).unwrap();
            assert_eq!((state.name.len(), state.position.len(), state.velocity.len(), state.effort.len()), (14, 14, 14, 0));
            assert_eq!(state.name[0], "left_waist");
        } else {
            assert_eq!(cdr::decode::<Text>(&message.data).unwrap().data, "Transfer the red cube to the other arm");
        }
    }
}

#[test]
fn a_bare_mcap_file_reads_like_its_folder() {
    assert_eq!(read_all(&demo_bag()).unwrap(), read_all(&storage_file(&demo_bag())).unwrap());
}

#[test]
fn what_is_written_is_read_again_in_time_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bag");
    write_small_bag(&path);
    let bag = BagReader::open(&path).unwrap();
    assert_eq!(bag.message_count(), 101);
    assert_eq!(bag.time_range(), Some((0, 990_000_000)));
    let (joints, topic) = bag.topic("/joint_states", JointState::NAME).unwrap();
    assert_eq!(topic.qos, Some(Qos::keep_last(10, Reliability::Reliable)));
    let messages: Vec<_> = bag.messages().map(Result::unwrap).collect();
    let times: Vec<_> = messages.iter().map(|message| message.log_time).collect();
    assert!(times.is_sorted());
    let states: Vec<JointState> =
        messages.iter().filter(|message| message.topic == joints).map(|message| cdr::decode(&message.data).unwrap()).collect();
    assert_eq!(states, (0..100).map(|index| joint_state(index * 10_000_000, index as f64)).collect::<Vec<_>>());
}

#[test]
fn two_split_files_are_merged_by_time() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["bag", "other"].map(|name| folder.path().join(name));
    write_small_bag(&path);
    write_small_bag(&other);
    fs::copy(other.join("other_0.mcap"), path.join("bag_1.mcap")).unwrap();
    let metadata = fs::read_to_string(path.join("metadata.yaml")).unwrap();
    let entry = metadata.lines().find(|line| line.ends_with("- bag_0.mcap")).unwrap();
    let both = format!("{entry}\n{}", entry.replace("bag_0", "bag_1"));
    fs::write(path.join("metadata.yaml"), metadata.replacen(entry, &both, 1)).unwrap();
    let read = read_all(&path).unwrap();
    assert_eq!(read.len(), 202);
    assert!(read.is_sorted_by_key(|(_, time)| *time));
}

#[test]
fn a_bag_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(BagWriter::create(folder.path()), Err(ReplayError::Exists(_))));
}

#[test]
fn a_missing_topic_is_reported_with_what_is_there() {
    let bag = BagReader::open(&demo_bag()).unwrap();
    let error = bag.topic("/odom", JointState::NAME).unwrap_err().to_string();
    assert!(error.contains("/odom") && error.contains("/joint_states (sensor_msgs/msg/JointState)"), "{error}");
    let error = bag.topic("/instruction", JointState::NAME).unwrap_err().to_string();
    assert!(error.contains("std_msgs/msg/String"), "{error}");
}

#[test]
fn every_cut_off_file_is_refused_with_record_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bag");
    write_small_bag(&path);
    let whole = fs::read(storage_file(&path)).unwrap();
    let cut = folder.path().join("cut.mcap");
    for length in 0..whole.len() {
        fs::write(&cut, &whole[..length]).unwrap();
        match read_all(&cut) {
            Err(ReplayError::Truncated { offset, .. }) => assert!(offset as usize <= length),
            other => panic!("cut to {length} of {} bytes: {other:?}", whole.len()),
        }
    }
}

#[test]
fn no_flipped_bit_panics_or_changes_a_message_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bag");
    write_small_bag(&path);
    let whole = fs::read(storage_file(&path)).unwrap();
    let messages = |path: &Path| -> Result<Vec<bytes::Bytes>, ReplayError> {
        BagReader::open(path)?.messages().map(|message| message.map(|message| message.data)).collect()
    };
    let original = messages(&storage_file(&path)).unwrap();
    let flipped = folder.path().join("flipped.mcap");
    for bit in (0..whole.len() * 8).step_by(13) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&flipped, &bytes).unwrap();
        if let Ok(read) = messages(&flipped) {
            assert!(read == original, "bit {bit} changed a message and nothing was said");
        }
    }
}

#[test]
fn lengths_of_gigabytes_are_refused_without_allocating_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("huge.mcap");
    let magic = b"\x89MCAP0\r\n";
    let record = |opcode: u8, length: u64, body: &[u8]| [&[opcode][..], &length.to_le_bytes(), body].concat();
    // A record that claims 10 GB.
    fs::write(&file, [&magic[..], &record(6, 10 << 30, &[0; 64]), magic].concat()).unwrap();
    assert!(matches!(BagReader::open(&file), Err(ReplayError::Truncated { record: "chunk record", offset: 8, .. })));
    // A chunk that claims 10 GB after decompression.
    let chunk =
        [&[0; 16][..], &(10_u64 << 30).to_le_bytes(), &[0; 4], &4_u32.to_le_bytes(), b"zstd", &0_u64.to_le_bytes()].concat();
    fs::write(&file, [&magic[..], &record(6, chunk.len() as u64, &chunk), &record(2, 20, &[0; 20]), magic].concat()).unwrap();
    let error = BagReader::open(&file).unwrap_err().to_string();
    assert!(error.contains("chunk record at byte 8") && error.contains("10737418240"), "{error}");
    // A channel whose topic claims 4 GB.
    let channel = [&[0; 4][..], &u32::MAX.to_le_bytes()].concat();
    fs::write(&file, [&magic[..], &record(4, channel.len() as u64, &channel), magic].concat()).unwrap();
    assert!(matches!(BagReader::open(&file), Err(ReplayError::Corrupt { record: "channel record", .. })));
}

#[test]
fn other_files_and_folders_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(BagReader::open(folder.path()), Err(ReplayError::NotABag(_))));
    assert!(matches!(BagReader::open(&folder.path().join("none")), Err(ReplayError::Io { .. })));
    let text = folder.path().join("bag.txt");
    fs::write(&text, "x").unwrap();
    assert!(matches!(BagReader::open(&text), Err(ReplayError::NotABag(_))));
    let metadata = folder.path().join("metadata.yaml");
    fs::write(&metadata, "nothing: here").unwrap();
    assert!(matches!(BagReader::open(folder.path()), Err(ReplayError::Metadata { .. })));
    let original = fs::read_to_string(demo_bag().join("metadata.yaml")).unwrap();
    for (from, to, word) in [
        ("storage_identifier: mcap", "storage_identifier: rocks", "rocks"),
        ("compression_mode: ''", "compression_mode: FILE", "per file"),
    ] {
        fs::write(&metadata, original.replace(from, to)).unwrap();
        let error = BagReader::open(folder.path()).unwrap_err();
        assert!(matches!(error, ReplayError::Unsupported { .. }) && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn qos_of_older_bags_is_read_from_numbers() {
    // As rosbag2 of ROS 2 Humble writes it into a channel.
    let text = "- history: 1\n  depth: 7\n  reliability: 2\n  durability: 1\n  deadline:\n    sec: 9223372036\n    nsec: 854775807\n  \
                lifespan:\n    sec: 9223372036\n    nsec: 854775807\n  liveliness: 1\n  liveliness_lease_duration:\n    \
                sec: 9223372036\n    nsec: 854775807\n  avoid_ros_namespace_conventions: false";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("humble.mcap");
    let mut writer = mcap::WriteOptions::new().profile("ros2").create(fs::File::create(&file).unwrap()).unwrap();
    let schema = writer.add_schema(Text::NAME, "ros2msg", b"string data").unwrap();
    let metadata = [("offered_qos_profiles".to_string(), text.to_string())].into();
    writer.add_channel(schema, "/instruction", "cdr", &metadata).unwrap();
    writer.finish().unwrap();
    let bag = BagReader::open(&file).unwrap();
    let qos = bag.topics()[0].qos.unwrap();
    assert_eq!((qos.history, qos.depth), (History::KeepLast, 7));
    assert_eq!((qos.reliability, qos.durability), (Reliability::BestEffort, Durability::TransientLocal));
    assert_eq!(bag.time_range(), None);
    assert_eq!(bag.messages().count(), 0);
}

#[test]
fn files_without_chunks_or_summary_and_with_lz4_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let options = || mcap::WriteOptions::new().profile("ros2");
    for (name, options) in [
        ("loose", options().use_chunks(false)),
        ("lz4", options().compression(Some(mcap::Compression::Lz4))),
        ("bare", options().emit_summary_records(false).emit_message_indexes(false).repeat_channels(false).repeat_schemas(false)),
    ] {
        let file = folder.path().join(format!("{name}.mcap"));
        let mut writer = options.create(fs::File::create(&file).unwrap()).unwrap();
        let schema = writer.add_schema(Text::NAME, "ros2msg", b"string data").unwrap();
        let channel_id = writer.add_channel(schema, "/instruction", "cdr", &[].into()).unwrap();
        for (sequence, log_time) in [(0, 30), (1, 10), (2, 20)] {
            let header = mcap::records::MessageHeader { channel_id, sequence, log_time, publish_time: 0 };
            writer.write_to_known_channel(&header, &cdr::encode(&Text { data: name.into() }).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(read_all(&file).unwrap(), [(0, 10), (0, 20), (0, 30)], "{name}");
        assert_eq!(BagReader::open(&file).unwrap().topics()[0].message_count, 3, "{name}");
    }
}

#[test]
fn both_byte_orders_decode_to_the_same_message() {
    let state = joint_state(1_500_000_000, 0.25);
    let big = ::cdr::serialize::<_, _, ::cdr::CdrBe>(&state, ::cdr::Infinite).unwrap();
    let little = cdr::encode(&state).unwrap();
    assert_ne!(big, little);
    assert_eq!(cdr::decode::<JointState>(&big).unwrap(), state);
    assert_eq!(cdr::decode::<JointState>(&little).unwrap(), state);
    let image = Image {
        header: state.header.clone(),
        height: 1,
        width: 2,
        encoding: "rgb8".into(),
        is_bigendian: 0,
        step: 6,
        data: &[1, 2, 3, 4, 5, 6],
    };
    assert_eq!(Image::decode(&::cdr::serialize::<_, _, ::cdr::CdrBe>(&image, ::cdr::Infinite).unwrap()).unwrap(), image);
    let compressed = CompressedImage { header: state.header.clone(), format: "jpeg".into(), data: &[255, 216, 0] };
    let bytes = ::cdr::serialize::<_, _, ::cdr::CdrBe>(&compressed, ::cdr::Infinite).unwrap();
    assert_eq!(CompressedImage::decode(&bytes).unwrap(), compressed);
    let text = Text { data: "stack".into() };
    assert_eq!(cdr::decode::<Text>(&::cdr::serialize::<_, _, ::cdr::CdrBe>(&text, ::cdr::Infinite).unwrap()).unwrap(), text);
    let parameter_list = [&[0, 3, 0, 0][..], &little[4..]].concat();
    assert!(matches!(cdr::decode::<JointState>(&parameter_list), Err(CdrError::Encapsulation(3))));
    assert!(matches!(cdr::decode::<JointState>(&little[..3]), Err(CdrError::NoHeader(3))));
}

#[test]
fn a_stamp_is_replaced_in_both_byte_orders_and_nothing_else() {
    let mut state = joint_state(1_500_000_000, 0.25);
    let mut big = ::cdr::serialize::<_, _, ::cdr::CdrBe>(&state, ::cdr::Infinite).unwrap();
    let mut little = cdr::encode(&state).unwrap();
    state.header.stamp = Time { sec: 77, nanosec: 123_456_789 };
    for bytes in [&mut big, &mut little] {
        cdr::restamp(bytes, state.header.stamp).unwrap();
        assert_eq!(cdr::decode::<JointState>(bytes).unwrap(), state);
    }
    assert!(matches!(cdr::restamp(&mut [0, 1, 0, 0, 9], state.header.stamp), Err(CdrError::Data { .. })));
}

#[test]
fn images_lend_their_pixels_from_the_message() {
    let pixels: Vec<u8> = (0..24).collect();
    let header = Header { stamp: Time { sec: 1, nanosec: 2 }, frame_id: "optical".into() };
    let image = Image { header, height: 2, width: 4, encoding: "rgb8".into(), is_bigendian: 0, step: 12, data: &pixels };
    let bytes = cdr::encode(&image).unwrap();
    let decoded = Image::decode(&bytes).unwrap();
    assert_eq!(decoded, image);
    assert!(bytes.as_ptr_range().contains(&decoded.data.as_ptr()));
    assert!(matches!(Image::decode(&bytes[..bytes.len() - 1]), Err(CdrError::Data { claimed: 24, left: 23 })));
}

#[test]
fn strings_that_claim_gigabytes_are_refused() {
    let huge = [&[0, 1, 0, 0][..], &u32::MAX.to_le_bytes(), b"abc"].concat();
    assert!(matches!(cdr::decode::<Text>(&huge), Err(CdrError::Fields { .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_the_decoders(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = cdr::decode::<JointState>(&bytes);
        let _ = cdr::decode::<pi0_tt::replay::messages::ActionChunk>(&bytes);
        let _ = cdr::decode::<pi0_tt::replay::messages::DiagnosticArray>(&bytes);
        let _ = Image::decode(&bytes);
        let _ = CompressedImage::decode(&bytes);
    }
}

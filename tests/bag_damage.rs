//! Damaged MCAP bags: what lies in front of the damage is read when that was asked for, and the damage is told.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mcap::records::MessageHeader;
use pi0_tt::replay::{
    BagReader, ReplayError, cdr,
    messages::{MessageType, Text},
};

/// An MCAP file of 60 messages, 10 ms apart, in chunks of a few.
fn write(path: &Path, summary: bool, chunks: bool) {
    let options = mcap::WriteOptions::new().profile("ros2").chunk_size(Some(400)).use_chunks(chunks);
    let options = options.emit_summary_records(summary).repeat_channels(summary).repeat_schemas(summary);
    let mut writer = options.create(fs::File::create(path).unwrap()).unwrap();
    let schema = writer.add_schema(Text::NAME, "ros2msg", b"string data").unwrap();
    let channel_id = writer.add_channel(schema, "/instruction", "cdr", &[].into()).unwrap();
    for sequence in 0..60 {
        let log_time = u64::from(sequence) * 10_000_000;
        let data = cdr::encode(&Text { data: format!("message {sequence}") }).unwrap();
        writer.write_to_known_channel(&MessageHeader { channel_id, sequence, log_time, publish_time: log_time }, &data).unwrap();
    }
    writer.finish().unwrap();
}

/// The messages' texts, and the error that ended them.
fn texts(bag: &BagReader) -> (Vec<String>, Option<ReplayError>) {
    let (mut texts, mut end) = (Vec::new(), None);
    for message in bag.messages() {
        match message {
            Ok(message) => texts.push(cdr::decode::<Text>(&message.data).unwrap().data),
            Err(error) => end = Some(error),
        }
    }
    (texts, end)
}

/// Offsets of the records of an opcode.
fn records(bytes: &[u8], wanted: u8) -> Vec<usize> {
    let (mut offset, mut found) = (8, Vec::new());
    while offset + 9 < bytes.len() - 8 {
        if bytes[offset] == wanted {
            found.push(offset);
        }
        offset += 9 + u64::from_le_bytes(bytes[offset + 1..offset + 9].try_into().unwrap()) as usize;
    }
    found
}

const CHUNK: u8 = 6;

#[test]
fn a_cut_off_file_gives_the_whole_chunks_in_front_of_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bag.mcap");
    for (summary, chunks) in [(true, true), (false, true), (true, false)] {
        write(&file, summary, chunks);
        let whole = fs::read(&file).unwrap();
        let (all, end) = texts(&BagReader::open(&file).unwrap());
        assert!(all.len() == 60 && end.is_none());
        let ends: Vec<_> = records(&whole, if chunks { CHUNK } else { 5 })
            .into_iter()
            .map(|offset| offset + 9 + u64::from_le_bytes(whole[offset + 1..offset + 9].try_into().unwrap()) as usize)
            .collect();
        assert!(ends.len() > 5);
        let mut most = 0;
        for length in (0..whole.len()).step_by(7) {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(matches!(BagReader::open(&file), Err(ReplayError::Truncated { .. })), "cut to {length}");
            let complete = ends.iter().filter(|end| **end <= length).count();
            match BagReader::open_salvaging(&file) {
                Ok((bag, damage)) => {
                    let Some(ReplayError::Truncated { offset, .. }) = damage else { panic!("cut to {length}: {damage:?}") };
                    assert!(offset as usize <= length && complete > 0);
                    let (read, end) = texts(&bag);
                    assert!(end.is_none(), "the damage is told once");
                    assert_eq!(read, all[..read.len()], "cut to {length}");
                    assert!(read.len() >= most, "more bytes give no fewer messages");
                    most = read.len();
                }
                Err(error) => {
                    assert!(complete == 0 && matches!(error, ReplayError::Truncated { .. }), "cut to {length}: {error}")
                }
            }
        }
        assert_eq!(most, 60);
    }
}

#[test]
fn a_damaged_chunk_ends_the_reading_behind_what_was_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bag.mcap");
    for summary in [true, false] {
        write(&file, summary, true);
        let whole = fs::read(&file).unwrap();
        let (all, _) = texts(&BagReader::open(&file).unwrap());
        let chunk = records(&whole, CHUNK)[3];
        let mut bytes = whole.clone();
        bytes[chunk + 9 + 60] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let (bag, damage) = BagReader::open_salvaging(&file).unwrap();
        let (read, end) = texts(&bag);
        assert!((10..50).contains(&read.len()) && read == all[..read.len()], "{read:?}");
        // With a summary, opening does not look into chunks.
        let told = if summary { end } else { damage };
        let Some(ReplayError::Corrupt { record: "chunk record", offset, .. }) = told else { panic!("{told:?}") };
        assert_eq!(offset as usize, chunk);
    }
}

#[test]
fn a_bag_without_a_readable_message_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bag.mcap");
    for bytes in [&b""[..], b"\x89MCAP0\r", b"PK\x03\x04 something else", b"\x89MCAP0\r\n"] {
        fs::write(&file, bytes).unwrap();
        let error = BagReader::open_salvaging(&file).unwrap_err();
        assert!(matches!(error, ReplayError::Truncated { .. } | ReplayError::Corrupt { .. }), "{error}");
    }
    let writer = mcap::WriteOptions::new().profile("ros2").create(fs::File::create(&file).unwrap()).unwrap();
    { writer }.finish().unwrap();
    assert!(matches!(BagReader::open_salvaging(&file), Err(ReplayError::Empty(_))));
    // As an empty database: SQLite itself would accept a file of no bytes.
    let database = folder.path().join("bag.db3");
    for bytes in [&b""[..], b"SQLite format 3\0", &[7; 4096]] {
        fs::write(&database, bytes).unwrap();
        let error = BagReader::open_salvaging(&database).unwrap_err();
        assert!(matches!(error, ReplayError::Truncated { .. } | ReplayError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn files_of_a_recorder_that_was_killed_are_read_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["bag_2.mcap", "bag_10.mcap"];
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
    for path in &paths {
        write(path, false, true);
    }
    let whole = fs::read(&paths[1]).unwrap();
    fs::write(&paths[1], &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(BagReader::open(folder.path()), Err(ReplayError::NoMetadata(_))));
    let (bag, damage) = BagReader::open_salvaging(folder.path()).unwrap();
    assert!(matches!(damage, Some(ReplayError::NoMetadata(_))));
    let (read, end) = texts(&bag);
    assert!(end.is_none() && (70..120).contains(&read.len()), "{} messages", read.len());
}

#[test]
fn chunks_that_all_overlap_are_refused_before_they_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bag.mcap");
    let options = mcap::WriteOptions::new().profile("ros2").chunk_size(Some(1 << 20)).compression(Some(mcap::Compression::Zstd));
    let mut writer = options.create(fs::File::create(&file).unwrap()).unwrap();
    let schema = writer.add_schema(Text::NAME, "ros2msg", b"string data").unwrap();
    let channel_id = writer.add_channel(schema, "/instruction", "cdr", &[].into()).unwrap();
    let data = vec![0; 4 << 20];
    for sequence in 0..50_u32 {
        // Every chunk begins with the bag and ends after it.
        for log_time in [0, 1_000_000 + u64::from(sequence)] {
            let header = MessageHeader { channel_id, sequence, log_time, publish_time: 0 };
            writer.write_to_known_channel(&header, if log_time == 0 { &[0; 4] } else { &data }).unwrap();
        }
    }
    writer.finish().unwrap();
    let error = BagReader::open(&file).unwrap().messages().find_map(Result::err).unwrap();
    assert!(matches!(error, ReplayError::Unsupported { .. }) && error.to_string().contains("mcap sort"), "{error}");
}

//! Bags with SQLite storage: every version of rosbag2's tables is read, hostile tables are refused, damage is named by its row.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pi0_tt::replay::{
    BagReader, Durability, History, Reliability, ReplayError, cdr,
    messages::{Header, Image, JointState, MessageType, Text, Time},
};
use rusqlite::{Connection, params};

/// `CREATE TABLE` statements of rosbag2's SQLite storage, by the version of its schema.
/// From rosbag2_storage_sqlite3/sqlite_storage.cpp of Eloquent, Foxy, Humble and Iron.
const TABLES: [&str; 4] = [
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL);",
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,
                         offered_qos_profiles TEXT NOT NULL);",
    "CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
     CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
     CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,
                         offered_qos_profiles TEXT NOT NULL);",
    "CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
     CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
     CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,
                         offered_qos_profiles TEXT NOT NULL, type_description_hash TEXT NOT NULL);
     CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
                                      encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);",
];
const MESSAGES: &str =
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, data BLOB NOT NULL);
                        CREATE INDEX timestamp_idx ON messages (timestamp ASC);";
const QOS: &str = "- history: 1\n  depth: 7\n  reliability: 2\n  durability: 1";

/// Messages 10 ms apart, written in pairs of the wrong order: joint states, and an image of 30 kB every tenth.
fn write(path: &Path, version: usize, messages: u64) {
    let bag = Connection::open(path).unwrap();
    bag.execute_batch(TABLES[version - 1]).unwrap();
    bag.execute_batch(MESSAGES).unwrap();
    for (id, name, kind) in [(3, "/joint_states", JointState::NAME), (7, "/image", Image::NAME)] {
        let mut columns = vec![name, kind, "cdr"];
        if version > 1 {
            columns.push(QOS);
        }
        if version > 3 {
            columns.push("RIHS01_0");
        }
        let values: Vec<_> = columns.iter().map(|column| format!("'{column}'")).collect();
        bag.execute_batch(&format!("INSERT INTO topics VALUES ({id}, {})", values.join(", "))).unwrap();
    }
    bag.execute_batch("BEGIN").unwrap();
    for index in (0..messages).map(|index| index ^ 1) {
        let time = index * 10_000_000;
        let header = Header { stamp: Time::from_nanos(time).unwrap(), frame_id: String::new() };
        let (topic, data) = if index % 10 == 0 {
            let pixels = vec![index as u8; 100 * 100 * 3];
            let (encoding, data) = ("rgb8".to_string(), &pixels[..]);
            (7, cdr::encode(&Image { header, height: 100, width: 100, encoding, is_bigendian: 0, step: 300, data }).unwrap())
        } else {
            (3, cdr::encode(&JointState { header, position: vec![index as f64], ..JointState::default() }).unwrap())
        };
        let insert = "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)";
        bag.execute(insert, params![topic, time as i64, data]).unwrap();
    }
    bag.execute_batch("COMMIT").unwrap();
}

fn bag(folder: &Path, version: usize, messages: u64) -> PathBuf {
    let path = folder.join(format!("version {version}?#.db3"));
    write(&path, version, messages);
    path
}

/// Log times of the messages, and the error that ended them.
fn times(bag: &BagReader) -> (Vec<u64>, Option<ReplayError>) {
    let (mut times, mut end) = (Vec::new(), None);
    for message in bag.messages() {
        match message {
            Ok(message) => times.push(message.log_time),
            Err(error) => end = Some(error),
        }
    }
    (times, end)
}

#[test]
fn every_version_of_the_tables_gives_topics_and_messages_in_time_order() {
    let folder = tempfile::tempdir().unwrap();
    for version in 1..=4 {
        let path = bag(folder.path(), version, 40);
        let before = fs::read(&path).unwrap();
        let bag = BagReader::open(&path).unwrap();
        assert_eq!((bag.message_count(), bag.time_range()), (40, Some((0, 390_000_000))));
        let (joints, topic) = bag.topic("/joint_states", JointState::NAME).unwrap();
        assert!(topic.has_header() && topic.message_count == 36, "{topic:?}");
        let qos = topic.qos.map(|qos| (qos.history, qos.depth, qos.reliability, qos.durability));
        let offered = (History::KeepLast, 7, Reliability::BestEffort, Durability::TransientLocal);
        assert_eq!(qos, (version > 1).then_some(offered));
        for (index, message) in bag.messages().enumerate() {
            let message = message.unwrap();
            assert_eq!(message.log_time, index as u64 * 10_000_000);
            if message.topic == joints {
                assert_eq!(cdr::decode::<JointState>(&message.data).unwrap().position, [index as f64]);
            } else {
                let image = Image::decode(&message.data).unwrap();
                assert!(image.data.len() == 30_000 && image.data.iter().all(|&byte| byte == index as u8));
            }
        }
        // The bag is the user's: not a byte of it or beside it changes.
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn split_files_of_a_folder_are_merged_by_time() {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..3 {
        write(&folder.path().join(format!("bag_{file}.db3")), 3, 20);
    }
    let metadata = "rosbag2_bagfile_information:\n  version: 5\n  storage_identifier: sqlite3\n  relative_file_paths: \
                    [bag_0.db3, bag_1.db3, bag_2.db3]\n  duration: {nanoseconds: 1}\n  starting_time: {nanoseconds_since_epoch: 0}\n  \
                    message_count: 60\n  compression_format: ''\n  compression_mode: ''\n";
    fs::write(folder.path().join("metadata.yaml"), metadata).unwrap();
    let (read, end) = times(&BagReader::open(folder.path()).unwrap());
    assert!(end.is_none() && read.len() == 60 && read.is_sorted(), "{end:?} {read:?}");
    // The recorder says that there were more.
    fs::write(folder.path().join("metadata.yaml"), metadata.replace("60", "61")).unwrap();
    assert!(matches!(BagReader::open(folder.path()), Err(ReplayError::Lost { claimed: 61, found: 60, .. })));
    let (bag, damage) = BagReader::open_salvaging(folder.path()).unwrap();
    assert!(matches!(damage, Some(ReplayError::Lost { .. })));
    assert_eq!(times(&bag).0, read);
}

#[test]
fn more_rows_than_are_looked_up_at_once_come_in_order_with_and_without_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.db3");
    let bag = Connection::open(&path).unwrap();
    bag.execute_batch(TABLES[0]).unwrap();
    bag.execute_batch(MESSAGES).unwrap();
    bag.execute_batch(
        "INSERT INTO topics VALUES (1, '/text', 'std_msgs/msg/String', 'cdr');
         WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n WHERE i < 39999)
         INSERT INTO messages SELECT i, 1, (i * 7919) % 1000, x'000100000100000000' FROM n;",
    )
    .unwrap();
    for index in ["timestamp_idx", ""] {
        let reader = BagReader::open(&path).unwrap();
        let (read, end) = times(&reader);
        assert!(end.is_none() && read.len() == 40_000 && read.is_sorted());
        assert!(reader.messages().all(|message| cdr::decode::<Text>(&message.unwrap().data).unwrap().data.is_empty()));
        bag.execute_batch(&format!("DROP INDEX IF EXISTS \"{index}\"")).unwrap();
    }
}

#[test]
fn tables_that_are_not_those_of_a_bag_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let topics = "CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format);";
    for (name, sql, words) in [
        ("none", "CREATE TABLE other(id);".to_string(), "no table topics"),
        ("half", topics.to_string(), "no table messages"),
        ("column", format!("{topics} CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp);"), "the column data"),
        (
            // A query that never ends.
            "view",
            format!(
                "{topics} CREATE VIEW messages AS WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n)
                 SELECT i AS id, 1 AS topic_id, i AS timestamp, zeroblob(1000000000) AS data FROM n;"
            ),
            "messages is a view",
        ),
        (
            "computed",
            format!(
                "{topics} CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id, timestamp, data AS (zeroblob(1000000000)));"
            ),
            "the column data",
        ),
        (
            "type",
            format!(
                "{topics} INSERT INTO topics VALUES (1, '/x', 7, 'cdr'); CREATE TABLE messages(id, topic_id, timestamp, data);"
            ),
            "type",
        ),
    ] {
        let path = folder.path().join(format!("{name}.db3"));
        Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
        let error = BagReader::open(&path).unwrap_err();
        assert!(matches!(error, ReplayError::Database { .. }) && error.to_string().contains(words), "{name}: {error}");
        assert!(BagReader::open_salvaging(&path).is_err(), "{name}");
    }
}

#[test]
fn rows_that_are_not_messages_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (change, words) in [
        ("UPDATE messages SET topic_id = 99 WHERE id = 31", "row 31 of its messages: it refers to topic 99"),
        ("UPDATE messages SET timestamp = 'noon' WHERE id = 31", "rows after it cannot be found"),
        ("UPDATE messages SET timestamp = -5 WHERE id = 31", "row 31 has the negative time"),
        ("UPDATE messages SET data = 5 WHERE id = 31", "row 31 of its messages"),
    ] {
        let path = bag(folder.path(), 3, 40);
        Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let error = BagReader::open(&path).map_or_else(Some, |bag| times(&bag).1).unwrap();
        assert!(error.is_data_loss() && error.to_string().contains(words), "{change}: {error}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_cut_off_file_is_refused_and_gives_its_beginning_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = bag(folder.path(), 3, 200);
    let whole = fs::read(&path).unwrap();
    let all = times(&BagReader::open(&path).unwrap()).0;
    let mut most = 0;
    for length in (0..whole.len()).step_by(1009) {
        fs::write(&path, &whole[..length]).unwrap();
        let error = BagReader::open(&path).unwrap_err();
        assert!(matches!(error, ReplayError::Truncated { offset, .. } if offset as usize == length), "{length}: {error}");
        let Ok((bag, damage)) = BagReader::open_salvaging(&path) else { continue };
        assert!(damage.is_some_and(|damage| damage.is_data_loss()));
        let (read, _) = times(&bag);
        assert_eq!(read, all[..read.len()], "cut to {length}");
        most = most.max(read.len());
    }
    assert!((100..200).contains(&most), "{most} of 200 messages were saved");
}

#[test]
fn messages_that_the_recorder_left_in_a_journal_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = bag(folder.path(), 3, 20);
    fs::write(folder.path().join("version 3?#.db3-wal"), "x").unwrap();
    assert!(matches!(BagReader::open(&path), Err(ReplayError::Journal(_))));
    let (bag, damage) = BagReader::open_salvaging(&path).unwrap();
    assert!(matches!(damage, Some(ReplayError::Journal(_))));
    assert_eq!(times(&bag).0.len(), 20);
}

#[test]
fn no_flipped_bit_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = bag(folder.path(), 4, 60);
    let whole = fs::read(&path).unwrap();
    let flipped = folder.path().join("flipped.db3");
    // SQLite has no checksums: a flipped pixel cannot be seen. Pages of tables and indices are dense, overflow pages are not.
    for bit in (0..whole.len() * 8).step_by(1021) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&flipped, &bytes).unwrap();
        if let Ok((bag, _)) = BagReader::open_salvaging(&flipped) {
            let (read, end) = times(&bag);
            assert!(read.len() <= 60 && end.is_none_or(|error| error.is_data_loss()), "bit {bit}");
        }
    }
}

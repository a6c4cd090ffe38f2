//! Bags that claim gigabytes are refused before the memory is taken. One test alone in its process, so that its allocator sees nothing else.

mod counting;

use std::{fs, path::Path};

use counting::peak;
use pi0_tt::replay::{
    BagReader, CdrError, ReplayError, cdr,
    messages::{CompressedImage, Image, JointState, Text},
};
use rusqlite::{Connection, params};

type Decoder = fn(&[u8]) -> Result<(), CdrError>;

/// What a reader may take besides the file: its own tables, and the 1 MiB that serde takes at once for a sequence.
const OVERHEAD: usize = 3 << 19;

/// Reads a whole bag in one of the two ways.
fn read(path: &Path, salvaging: bool) -> Result<usize, ReplayError> {
    let bag = if salvaging { BagReader::open_salvaging(path)?.0 } else { BagReader::open(path)? };
    bag.messages().map(|message| Ok(message?.data.len())).sum()
}

fn refused(path: &Path, place: &str) {
    let size = fs::metadata(path).unwrap().len() as usize;
    for salvaging in [false, true] {
        let (result, peak) = peak(|| read(path, salvaging));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(place), "{place}: {error}");
        assert!(peak < size + OVERHEAD, "{place}: {peak} bytes for a file of {size}");
    }
}

const MAGIC: &[u8] = b"\x89MCAP0\r\n";

fn record(opcode: u8, body: &[u8]) -> Vec<u8> {
    [&[opcode][..], &(body.len() as u64).to_le_bytes(), body].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// An MCAP file with a schema, a channel and the given records.
fn mcap(records: &[u8]) -> Vec<u8> {
    let schema = [&1_u16.to_le_bytes()[..], &string("std_msgs/msg/String"), &string("ros2msg"), &string("string data")].concat();
    let channel = [&0_u16.to_le_bytes()[..], &1_u16.to_le_bytes(), &string("/text"), &string("cdr"), &[0; 4]].concat();
    [MAGIC, &record(1, &[0; 8]), &record(3, &schema), &record(4, &channel), records, &record(2, &[0; 20]), MAGIC].concat()
}

fn chunk(unpacked: u64, compression: &str, packed: &[u8]) -> Vec<u8> {
    let times = [0; 16];
    let length = (packed.len() as u64).to_le_bytes();
    record(6, &[&times[..], &unpacked.to_le_bytes(), &[0; 4], &string(compression), &length, packed].concat())
}

#[test]
fn claims_of_gigabytes_cost_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bag.mcap");
    let write = |bytes: &[u8]| fs::write(&file, bytes).unwrap();

    // A record of 10 GB.
    let mut huge = mcap(&record(6, &[0; 64]));
    let at = mcap(&[]).len() - 37;
    huge[at + 1..at + 9].copy_from_slice(&(10_u64 << 30).to_le_bytes());
    write(&huge);
    refused(&file, &format!("chunk record at byte {at}"));
    // A chunk that unpacks to 10 GB, and one that unpacks to as much as is accepted, with nothing in it.
    for size in [10 << 30, 64 << 20] {
        for compression in ["zstd", "lz4", ""] {
            write(&mcap(&chunk(size, compression, &[7; 30])));
            refused(&file, &format!("chunk record at byte {at}"));
        }
    }
    // zstd and lz4 frames that claim more than they hold: the size is in the frame's header.
    let zeros = vec![0; 60 << 20];
    let frame = zstd::bulk::compress(&zeros, 1).unwrap();
    write(&mcap(&chunk(60 << 20, "zstd", &frame[..frame.len() / 100])));
    refused(&file, "chunk record");
    // A chunk whose message claims more than the chunk.
    let message = [&[5][..], &(10_u64 << 30).to_le_bytes(), &[0; 30]].concat();
    write(&mcap(&chunk(message.len() as u64, "", &message)));
    refused(&file, "chunk record");
    // A channel whose topic claims 4 GB.
    write(&mcap(&record(4, &[&[0; 4][..], &u32::MAX.to_le_bytes()].concat())));
    refused(&file, "channel record");
    // Statistics whose table claims 4 GB.
    write(&mcap(&record(11, &[&[0; 42][..], &u32::MAX.to_le_bytes()].concat())));
    refused(&file, "statistics record");

    // A row whose data claims 134 MB in a file of 2 MB: SQLite's own sizes are in front of the row.
    let database = folder.path().join("bag.db3");
    let connection = Connection::open(&database).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name, type, serialization_format);
             CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);
             INSERT INTO topics VALUES (1, '/text', 'std_msgs/msg/String', 'cdr');",
        )
        .unwrap();
    connection.execute("INSERT INTO messages VALUES (7, 1, 5, ?)", params![vec![1_u8; 2_100_000]]).unwrap();
    drop(connection);
    let mut bytes = fs::read(&database).unwrap();
    let varint =
        |value: u32| [0x80 | (value >> 21) as u8, 0x80 | (value >> 14) as u8, 0x80 | (value >> 7) as u8, value as u8 & 0x7f];
    let serial = bytes.windows(4).position(|window| window == varint(2_100_000 * 2 + 12)).unwrap();
    bytes[serial..serial + 4].copy_from_slice(&varint(134_000_000 * 2 + 12));
    fs::write(&database, &bytes).unwrap();
    refused(&database, "row 7");
    // SAFETY: the function has no preconditions.
    let sqlite = unsafe { rusqlite::ffi::sqlite3_memory_highwater(0) };
    assert!((1..8 << 20).contains(&sqlite), "SQLite held {sqlite} bytes");

    // Fields of messages.
    let message = |fields: &[u32]| {
        let fields: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        [&[0, 1, 0, 0][..], &fields].concat()
    };
    let huge = u32::MAX;
    for (name, bytes) in [
        ("text", message(&[huge, 0])),
        ("frame", message(&[0, 0, huge])),
        ("names", message(&[0, 0, 1, 0, huge])),
        ("name", message(&[0, 0, 1, 0, 1, huge])),
        ("positions", message(&[0, 0, 1, 0, 0, huge])),
        ("velocities", message(&[0, 0, 1, 0, 0, 0, huge, 0])),
        ("pixels", message(&[0, 0, 1, 0, 480, 640, 1, 0, 0, 1920, huge])),
    ] {
        let decoders: [Decoder; 4] = [
            |bytes| cdr::decode::<Text>(bytes).map(drop),
            |bytes| cdr::decode::<JointState>(bytes).map(drop),
            |bytes| Image::decode(bytes).map(drop),
            |bytes| CompressedImage::decode(bytes).map(drop),
        ];
        for decode in decoders {
            let (_, peak) = peak(|| decode(&bytes));
            assert!(peak < OVERHEAD, "{name}: {peak} bytes");
        }
    }
}

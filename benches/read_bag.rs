//! Reads and decodes bags of a robot with three raw cameras: times real time, and the most memory that it took.
//!
//! `cargo bench --bench read_bag` writes bags of 640x480 rgb8 at 30 Hz and joint states at 50 Hz to a scratch folder, in every storage and
//! with two kinds of pictures: frames of the committed demo bag, and noise, which no compression helps. Each is then read in a process of
//! its own: every message is taken in time order and its CDR decoded; pixels stay where they are, as only an observation needs them as RGB.
//! `cargo bench --bench read_bag -- read BAG` does the latter for any bag.

use std::{
    error::Error,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use mcap::{Compression, WriteOptions, records::MessageHeader};
use pi0_tt::{
    observation::CompressedImageView,
    replay::{
        BagReader, cdr, definition,
        messages::{CompressedImage, Header, Image, JointState, MessageType, Text, Time},
    },
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use rusqlite::{Connection, params};

const CAMERAS: usize = 3;
const FRAME_RATE: u64 = 30;
const JOINT_RATE: u64 = 50;
const SECOND: u64 = 1_000_000_000;
const PIXELS: usize = 640 * 480 * 3;
/// Seconds of the bags: the memory must not depend on it.
const LENGTHS: [u64; 2] = [5, 20];
/// rosbag2's default.
const CHUNK_SIZE: u64 = 786_432;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [command, bag] = &arguments[..]
        && command == "read"
    {
        return read(Path::new(bag));
    }
    let folder = tempfile::tempdir()?;
    println!("pictures  storage      length  size in GB  times real time  GB/s decoded  peak memory in MB");
    for (pictures, frames) in [("rendered", rendered()?), ("noise", noise())] {
        for storage in ["mcap", "mcap lz4", "mcap zstd", "db3"] {
            for seconds in LENGTHS {
                let bag = folder.path().join(if storage == "db3" { "bag.db3" } else { "bag.mcap" });
                match storage {
                    "db3" => write_sqlite(&bag, &frames, seconds)?,
                    "mcap lz4" => write_mcap(&bag, &frames, seconds, Some(Compression::Lz4))?,
                    "mcap zstd" => write_mcap(&bag, &frames, seconds, Some(Compression::Zstd))?,
                    _ => write_mcap(&bag, &frames, seconds, None)?,
                }
                let size = bag.metadata()?.len() as f64 / 1e9;
                let mut best: Option<Vec<f64>> = None;
                for _ in 0..3 {
                    let child = Command::new(std::env::current_exe()?).arg("read").arg(&bag).output()?;
                    if !child.status.success() {
                        return Err(String::from_utf8_lossy(&child.stderr).into());
                    }
                    let numbers: Vec<f64> =
                        String::from_utf8(child.stdout)?.split(' ').map(str::trim).map(str::parse).collect::<Result<_, _>>()?;
                    if best.as_ref().is_none_or(|best| numbers[0] < best[0]) {
                        best = Some(numbers);
                    }
                }
                let best = best.ok_or("nothing was read")?;
                println!(
                    "{pictures:<9} {storage:<10} {seconds:>6} s  {size:>10.2}  {:>15.1}  {:>12.2}  {:>17.0}",
                    seconds as f64 / best[0],
                    best[1] / 1e9 / best[0],
                    best[2]
                );
                fs::remove_file(&bag)?;
            }
        }
    }
    Ok(())
}

/// Reads a bag and prints seconds, bytes of messages and peak memory in MB.
fn read(bag: &Path) -> Outcome<()> {
    let start = Instant::now();
    let reader = BagReader::open(bag)?;
    let (mut bytes, mut checked) = (0, 0_u64);
    for message in reader.messages() {
        let message = message?;
        bytes += message.data.len();
        match reader.topics()[message.topic].type_name.as_str() {
            Image::NAME => {
                let image = Image::decode(&message.data)?;
                checked += u64::from(image.width) + image.data.len() as u64;
            }
            CompressedImage::NAME => checked += CompressedImage::decode(&message.data)?.data.len() as u64,
            JointState::NAME => checked += cdr::decode::<JointState>(&message.data)?.position.len() as u64,
            Text::NAME => checked += cdr::decode::<Text>(&message.data)?.data.len() as u64,
            _ => {}
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(checked);
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the system tells no peak memory")?;
    let kilobytes: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    println!("{seconds} {bytes} {}", kilobytes / 1000.0);
    Ok(())
}

/// The frames of the committed demo bag, unpacked.
fn rendered() -> Outcome<Vec<Vec<u8>>> {
    let bag = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/bags/aloha_transfer_cube");
    let bag = BagReader::open(&bag)?;
    let (camera, _) = bag.topic_of_type(CompressedImage::NAME)?;
    let mut frames = Vec::new();
    for message in bag.messages() {
        let message = message?;
        if message.topic == camera {
            let image = CompressedImage::decode(&message.data)?;
            frames.push(CompressedImageView { format: &image.format, data: image.data }.decode()?.pixels().to_vec());
        }
    }
    Ok(frames)
}

fn noise() -> Vec<Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let frame = |_| {
        let mut pixels = vec![0; PIXELS];
        random.fill_bytes(&mut pixels);
        pixels
    };
    (0..20).map(frame).collect()
}

/// Gives topic, time and data of every message of a bag to `write`.
fn record(frames: &[Vec<u8>], seconds: u64, mut write: impl FnMut(usize, u64, Vec<u8>) -> Outcome<()>) -> Outcome<()> {
    let header = |at: u64| -> Outcome<Header> {
        Ok(Header { stamp: Time::from_nanos(at).ok_or("the bag is too long")?, frame_id: "camera".into() })
    };
    let mut due: Vec<(u64, usize)> = (0..seconds * FRAME_RATE)
        .flat_map(|frame| (0..CAMERAS).map(move |camera| (frame * SECOND / FRAME_RATE, camera)))
        .chain((0..seconds * JOINT_RATE).map(|step| (step * SECOND / JOINT_RATE, CAMERAS)))
        .collect();
    due.sort_unstable();
    for (index, (at, topic)) in due.into_iter().enumerate() {
        let data = if topic == CAMERAS {
            let name = (0..14).map(|joint| format!("joint_{joint}")).collect();
            let (position, velocity) = (vec![0.5; 14], vec![0.0; 14]);
            cdr::encode(&JointState { header: header(at)?, name, position, velocity, effort: Vec::new() })?
        } else {
            let data = &frames[(index + topic * 40) % frames.len()];
            let (encoding, step) = ("rgb8".to_string(), 640 * 3);
            cdr::encode(&Image { header: header(at)?, height: 480, width: 640, encoding, is_bigendian: 0, step, data })?
        };
        write(topic, at, data)?;
    }
    Ok(())
}

/// Name and type of each topic.
fn topics() -> Vec<(String, &'static str)> {
    let cameras = (0..CAMERAS).map(|camera| (format!("/camera_{camera}/image"), Image::NAME));
    cameras.chain([("/joint_states".to_string(), JointState::NAME)]).collect()
}

fn write_mcap(path: &Path, frames: &[Vec<u8>], seconds: u64, compression: Option<Compression>) -> Outcome<()> {
    let options = WriteOptions::new().profile("ros2").chunk_size(Some(CHUNK_SIZE)).compression(compression);
    let mut writer = options.create(BufWriter::new(File::create(path)?))?;
    let mut channels = Vec::new();
    for (name, type_name) in topics() {
        let schema = writer.add_schema(type_name, "ros2msg", definition(type_name)?.as_bytes())?;
        channels.push(writer.add_channel(schema, &name, "cdr", &[].into())?);
    }
    record(frames, seconds, |topic, log_time, data| {
        let header = MessageHeader { channel_id: channels[topic], sequence: 0, log_time, publish_time: log_time };
        Ok(writer.write_to_known_channel(&header, &data)?)
    })?;
    writer.finish()?;
    Ok(())
}

fn write_sqlite(path: &Path, frames: &[Vec<u8>], seconds: u64) -> Outcome<()> {
    let bag = Connection::open(path)?;
    bag.execute_batch(
        "PRAGMA synchronous = OFF;
         CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL);
         CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, data BLOB NOT NULL);
         CREATE INDEX timestamp_idx ON messages (timestamp ASC);
         BEGIN",
    )?;
    for (id, (name, type_name)) in topics().into_iter().enumerate() {
        bag.execute("INSERT INTO topics VALUES (?, ?, ?, 'cdr')", params![id as i64, name, type_name])?;
    }
    record(frames, seconds, |topic, log_time, data| {
        let insert = "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)";
        bag.execute(insert, params![topic as i64, log_time as i64, data])?;
        Ok(())
    })?;
    bag.execute_batch("COMMIT")?;
    Ok(())
}

//! Writes rosbag2 bags with MCAP storage, as `ros2 bag record --storage mcap` does.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use mcap::{Compression, WriteOptions, records::MessageHeader};
use serde::Serialize;

use super::{
    cdr,
    definitions::definition_of,
    error::ReplayError,
    messages::MessageType,
    metadata::{Information, Qos, TopicMetadata, TopicWithCount},
};

/// A topic of the bag being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicId(usize);

struct WrittenTopic {
    channel: u16,
    sequence: u32,
    name: String,
    type_name: String,
    qos: Qos,
    count: u64,
}

/// A bag being written: a folder with one MCAP file (zstd chunks with checksums) and, after [`BagWriter::finish`], `metadata.yaml`.
///
/// Dropped without `finish`, the MCAP file is complete but the folder has no metadata.
pub struct BagWriter {
    path: PathBuf,
    file_name: String,
    mcap: mcap::Writer<BufWriter<File>>,
    topics: Vec<WrittenTopic>,
    /// Log times of the first and last message.
    range: Option<(u64, u64)>,
}

impl BagWriter {
    /// Makes the folder, which must not exist.
    pub fn create(path: &Path) -> Result<Self, ReplayError> {
        if path.exists() {
            return Err(ReplayError::Exists(path.into()));
        }
        fs::create_dir_all(path).map_err(|source| ReplayError::Io { path: path.into(), source })?;
        let stem = path.file_name().map_or("bag".into(), |name| name.to_string_lossy().into_owned());
        let file_name = format!("{stem}_0.mcap");
        let file_path = path.join(&file_name);
        let file = File::create_new(&file_path).map_err(|source| ReplayError::Io { path: file_path, source })?;
        let options = WriteOptions::new().profile("ros2").library(concat!("pi0_tt ", env!("CARGO_PKG_VERSION")));
        let options = options.compression(Some(Compression::Zstd)).compression_threads(0);
        let mcap = options.create(BufWriter::new(file)).map_err(|error| write_error(path, error))?;
        Ok(Self { path: path.into(), file_name, mcap, topics: Vec::new(), range: None })
    }

    /// Adds a topic; `schema` is its type's definition in `.msg` syntax with those of the types it uses.
    pub fn add_topic(&mut self, name: &str, type_name: &str, schema: &str, qos: Qos) -> Result<TopicId, ReplayError> {
        if self.topics.iter().any(|topic| topic.name == name) {
            return Err(ReplayError::DuplicateTopic(name.into()));
        }
        let metadata = BTreeMap::from([("offered_qos_profiles".to_string(), qos.to_channel())]);
        let schema =
            self.mcap.add_schema(type_name, "ros2msg", schema.as_bytes()).map_err(|error| write_error(&self.path, error))?;
        let channel = self.mcap.add_channel(schema, name, "cdr", &metadata).map_err(|error| write_error(&self.path, error))?;
        let (name, type_name) = (name.to_string(), type_name.to_string());
        self.topics.push(WrittenTopic { channel, sequence: 0, name, type_name, qos, count: 0 });
        Ok(TopicId(self.topics.len() - 1))
    }

    /// Adds a topic of a type that this project knows.
    pub fn add_topic_of<T: MessageType>(&mut self, name: &str, qos: Qos) -> Result<TopicId, ReplayError> {
        self.add_topic(name, T::NAME, &definition_of::<T>()?, qos)
    }

    /// Writes a message: CDR with its encapsulation header, as it came over the wire. `log_time` in nanoseconds since the epoch.
    pub fn write(&mut self, topic: TopicId, log_time: u64, data: &[u8]) -> Result<(), ReplayError> {
        // Ids are only made by `add_topic`; topics are never removed.
        let topic = &mut self.topics[topic.0];
        topic.sequence = topic.sequence.wrapping_add(1);
        let header = MessageHeader { channel_id: topic.channel, sequence: topic.sequence, log_time, publish_time: log_time };
        self.mcap.write_to_known_channel(&header, data).map_err(|error| write_error(&self.path, error))?;
        topic.count += 1;
        let (start, end) = self.range.unwrap_or((log_time, log_time));
        self.range = Some((start.min(log_time), end.max(log_time)));
        Ok(())
    }

    /// Encodes and writes a message.
    pub fn write_message<T: MessageType + Serialize>(
        &mut self,
        topic: TopicId,
        log_time: u64,
        message: &T,
    ) -> Result<(), ReplayError> {
        let data =
            cdr::encode(message).map_err(|error| ReplayError::Write { path: self.path.clone(), reason: error.to_string() })?;
        self.write(topic, log_time, &data)
    }

    /// Completes the bag.
    pub fn finish(mut self) -> Result<(), ReplayError> {
        self.mcap.finish().map_err(|error| write_error(&self.path, error))?;
        let topics = self.topics.into_iter().map(|topic| TopicWithCount {
            topic_metadata: TopicMetadata {
                name: topic.name,
                r#type: topic.type_name,
                serialization_format: "cdr".into(),
                offered_qos_profiles: vec![topic.qos],
                type_description_hash: String::new(),
            },
            message_count: topic.count,
        });
        let (start, end) = self.range.unwrap_or_default();
        Information::of_one_file(&self.file_name, start, end, topics.collect()).write(&self.path.join("metadata.yaml"))
    }
}

fn write_error(path: &Path, error: mcap::McapError) -> ReplayError {
    ReplayError::Write { path: path.into(), reason: error.to_string() }
}

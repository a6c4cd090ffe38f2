//! Reads rosbag2 bags with MCAP storage.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs,
    path::{Path, PathBuf},
};

use super::{
    error::ReplayError,
    mcap_file::{Block, Channel, McapFile, RawMessage},
    metadata::{Information, Qos},
};

/// A topic of a bag.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    /// `sensor_msgs/msg/JointState`
    pub type_name: String,
    /// Definition of the type and of those it uses, in `.msg` syntax ("ros2msg").
    pub schema: String,
    /// What the recorded publisher offered, when the bag knows.
    pub qos: Option<Qos>,
    pub message_count: u64,
}

impl Topic {
    /// Whether messages begin with a `std_msgs/Header`, so that their first field is a stamp.
    pub fn has_header(&self) -> bool {
        let mut fields = self.schema.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let first = fields.find(|line| !line.is_empty()).unwrap_or_default();
        matches!(first.split_whitespace().next(), Some("std_msgs/Header" | "std_msgs/msg/Header"))
    }
}

/// One recorded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BagMessage {
    /// Index into [`BagReader::topics`].
    pub topic: usize,
    /// Nanoseconds since the epoch.
    pub log_time: u64,
    /// CDR with its encapsulation header.
    pub data: Vec<u8>,
}

/// An opened bag: a rosbag2 folder or a bare `.mcap` file.
///
/// Opening walks over the files' records and unpacks nothing. Iterating holds only those chunks in memory that overlap in time.
pub struct BagReader {
    path: PathBuf,
    files: Vec<McapFile>,
    topics: Vec<Topic>,
    /// Topic of each channel of each file.
    topic_of: Vec<BTreeMap<u16, usize>>,
}

impl std::fmt::Debug for BagReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BagReader").field("path", &self.path).field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl BagReader {
    pub fn open(path: &Path) -> Result<Self, ReplayError> {
        let kind = fs::metadata(path).map_err(|source| ReplayError::Io { path: path.into(), source })?;
        let files = if kind.is_dir() {
            storage_files(path)?
        } else if path.extension().is_some_and(|extension| extension == "mcap") {
            vec![path.to_path_buf()]
        } else {
            return Err(ReplayError::NotABag(path.into()));
        };
        let files = files.iter().map(|file| McapFile::open(file)).collect::<Result<Vec<_>, _>>()?;
        let mut bag = Self { path: path.into(), files, topics: Vec::new(), topic_of: Vec::new() };
        for file in &bag.files {
            let mut topic_of = BTreeMap::new();
            for (&id, channel) in &file.channels {
                let topic = add_topic(&mut bag.topics, channel, file.path())?;
                bag.topics[topic].message_count += file.counts.get(&id).copied().unwrap_or(0);
                topic_of.insert(id, topic);
            }
            bag.topic_of.push(topic_of);
        }
        Ok(bag)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Index and description of a topic that must be in the bag and have the given type.
    pub fn topic(&self, name: &str, type_name: &str) -> Result<(usize, &Topic), ReplayError> {
        let found = self.topics.iter().enumerate().find(|(_, topic)| topic.name == name);
        let (index, topic) = found.ok_or_else(|| self.missing(format!("topic {name}")))?;
        if topic.type_name != type_name {
            let (found, expected) = (topic.type_name.clone(), type_name.to_string());
            return Err(ReplayError::TopicType { topic: name.into(), found, expected });
        }
        Ok((index, topic))
    }

    /// The first topic of a type, by name.
    pub fn topic_of_type(&self, type_name: &str) -> Result<(usize, &Topic), ReplayError> {
        let found =
            self.topics.iter().enumerate().filter(|(_, topic)| topic.type_name == type_name).min_by_key(|(_, topic)| &topic.name);
        found.ok_or_else(|| self.missing(format!("topic of type {type_name}")))
    }

    fn missing(&self, what: String) -> ReplayError {
        let found: Vec<_> = self.topics.iter().map(|topic| format!("{} ({})", topic.name, topic.type_name)).collect();
        let found = if found.is_empty() { "no topics".into() } else { found.join(", ") };
        ReplayError::Missing { path: self.path.clone(), what, found }
    }

    pub fn message_count(&self) -> u64 {
        self.topics.iter().map(|topic| topic.message_count).sum()
    }

    /// Log times of the first and last message in nanoseconds; `None` for an empty bag.
    pub fn time_range(&self) -> Option<(u64, u64)> {
        // A chunk that only defines channels has both times zero.
        let blocks = || self.files.iter().flat_map(|file| &file.blocks).filter(|block| block.end > 0);
        Some((blocks().map(|block| block.start).min()?, blocks().map(|block| block.end).max()?))
    }

    /// All messages in log-time order; equal times in file order. Ends after the first error.
    pub fn messages(&self) -> Messages<'_> {
        let mut blocks: Vec<_> =
            self.files.iter().enumerate().flat_map(|(file, mcap)| mcap.blocks.iter().map(move |block| (file, *block))).collect();
        blocks.sort_by_key(|(file, block)| Reverse((block.start, *file, block.offset)));
        Messages { bag: self, blocks, pending: BinaryHeap::new(), read: 0, done: false }
    }
}

/// Paths of the storage files that a bag folder's metadata lists.
fn storage_files(folder: &Path) -> Result<Vec<PathBuf>, ReplayError> {
    let metadata = folder.join("metadata.yaml");
    if !metadata.is_file() {
        return Err(ReplayError::NotABag(folder.into()));
    }
    let information = Information::read(&metadata)?;
    let unsupported = |what| Err(ReplayError::Unsupported { path: folder.into(), what });
    if information.storage_identifier != "mcap" {
        return unsupported(format!("its storage is {:?}, not \"mcap\"", information.storage_identifier));
    }
    if !information.compression_mode.is_empty() {
        let (mode, format) = (information.compression_mode.to_lowercase(), &information.compression_format);
        return unsupported(format!("it is compressed per {mode} with {format}"));
    }
    if information.relative_file_paths.is_empty() {
        return Err(ReplayError::Metadata { path: metadata, reason: "it lists no storage files".into() });
    }
    Ok(information.relative_file_paths.iter().map(|file| folder.join(file)).collect())
}

/// Finds or makes the topic of a channel.
fn add_topic(topics: &mut Vec<Topic>, channel: &Channel, path: &Path) -> Result<usize, ReplayError> {
    if channel.encoding != "cdr" {
        let what = format!("{} has the message encoding {:?}, not \"cdr\"", channel.topic, channel.encoding);
        return Err(ReplayError::Unsupported { path: path.into(), what });
    }
    if channel.schema_encoding != "ros2msg" {
        let what = format!("{} has a schema in {:?}, not \"ros2msg\"", channel.topic, channel.schema_encoding);
        return Err(ReplayError::Unsupported { path: path.into(), what });
    }
    if let Some(found) = topics.iter().position(|topic| topic.name == channel.topic) {
        let topic = &topics[found];
        if topic.type_name == channel.type_name {
            return Ok(found);
        }
        let (found, expected) = (channel.type_name.clone(), topic.type_name.clone());
        return Err(ReplayError::TopicType { topic: channel.topic.clone(), found, expected });
    }
    topics.push(Topic {
        name: channel.topic.clone(),
        type_name: channel.type_name.clone(),
        schema: channel.schema.clone(),
        qos: channel.offered_qos_profiles.as_deref().and_then(Qos::from_channel),
        message_count: 0,
    });
    Ok(topics.len() - 1)
}

/// Iterator over the messages of a bag: see [`BagReader::messages`].
pub struct Messages<'a> {
    bag: &'a BagReader,
    /// File and block still to be read, the earliest last.
    blocks: Vec<(usize, Block)>,
    pending: BinaryHeap<Reverse<Pending>>,
    read: u64,
    done: bool,
}

struct Pending {
    /// Log time, then file, block and place in the block.
    order: (u64, usize, u64, usize),
    message: RawMessage,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl Messages<'_> {
    fn advance(&mut self) -> Result<Option<BagMessage>, ReplayError> {
        // A block may hold earlier messages than those at hand as long as it begins no later.
        while let Some((file, block)) = self.blocks.last()
            && self.pending.peek().is_none_or(|Reverse(next)| block.start <= next.order.0)
        {
            let messages = self.bag.files[*file].read(block)?;
            let order = |index, log_time| (log_time, *file, block.offset, index);
            let numbered = messages.into_iter().enumerate();
            self.pending
                .extend(numbered.map(|(index, message)| Reverse(Pending { order: order(index, message.log_time), message })));
            self.blocks.pop();
        }
        let Some(Reverse(Pending { order: (log_time, file, offset, _), message })) = self.pending.pop() else {
            let (claimed, found) = (self.bag.message_count(), self.read);
            if claimed != found {
                return Err(ReplayError::Lost { path: self.bag.path.clone(), claimed, found });
            }
            return Ok(None);
        };
        let topic = self.bag.topic_of[file].get(&message.channel).copied().ok_or_else(|| ReplayError::Corrupt {
            path: self.bag.files[file].path().into(),
            record: "message record",
            offset,
            reason: format!("it refers to channel {}, which is not defined", message.channel),
        })?;
        self.read += 1;
        Ok(Some(BagMessage { topic, log_time, data: message.data }))
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<BagMessage, ReplayError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

//! Reads rosbag2 bags with MCAP or SQLite storage.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    chunk::{LARGEST_CHUNK, Unpacker},
    error::ReplayError,
    mcap_file::{Channel, McapFile},
    merge::{BlockMerge, RowMerge, StoredMessage, new_unpacker},
    metadata::{Information, Qos},
    sqlite_file::SqliteFile,
};

/// A topic of a bag.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    /// `sensor_msgs/msg/JointState`
    pub type_name: String,
    /// Definition of the type and of those it uses, in `.msg` syntax ("ros2msg"). Empty when neither the bag nor this package has it.
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
    /// CDR with its encapsulation header. It shares the memory of the chunk that it came in, so keep copies only of what is needed.
    pub data: Bytes,
}

/// An opened bag: a rosbag2 folder or a bare `.mcap` or `.db3` file.
///
/// Opening walks over the files' records and unpacks nothing where they have a summary. Iterating holds only those chunks in memory that
/// overlap in time.
pub struct BagReader {
    path: PathBuf,
    storage: Storage,
    topics: Vec<Topic>,
    /// Topic of each channel of each file.
    topic_of: Vec<BTreeMap<i64, usize>>,
    /// Whether each message is compressed by itself.
    packed_messages: bool,
}

enum Storage {
    Mcap(Arc<Vec<McapFile>>),
    Sqlite(Vec<SqliteFile>),
}

impl std::fmt::Debug for BagReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BagReader").field("path", &self.path).field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl BagReader {
    /// Opens a bag that must be whole. Damage inside a chunk or message shows when it is read.
    pub fn open(path: &Path) -> Result<Self, ReplayError> {
        let (bag, damage) = Self::read_files(path)?;
        damage.map_or(Ok(bag), Err)
    }

    /// Opens a bag that may be damaged. The reader has what lies in front of the first damage, which is given too; a damage that opening
    /// does not see ends [`BagReader::messages`]. A bag without one readable message is an error.
    ///
    /// A folder without metadata, as a recorder leaves it that was killed, is read as the storage files in it.
    pub fn open_salvaging(path: &Path) -> Result<(Self, Option<ReplayError>), ReplayError> {
        let (bag, damage) = Self::read_files(path)?;
        if bag.message_count() == 0 {
            return Err(damage.unwrap_or(ReplayError::Empty(path.into())));
        }
        Ok((bag, damage))
    }

    fn read_files(path: &Path) -> Result<(Self, Option<ReplayError>), ReplayError> {
        let contents = Contents::find(path)?;
        let mut damage = contents.damage;
        let (mut mcap, mut sqlite) = (Vec::new(), Vec::new());
        for file in &contents.files {
            let opened = match contents.kind {
                Kind::Mcap => McapFile::open_salvaging(file).map(|(file, damage)| {
                    mcap.push(file);
                    damage
                }),
                Kind::Sqlite => SqliteFile::open_salvaging(file, file).map(|(file, damage)| {
                    sqlite.push(file);
                    damage
                }),
            };
            // What follows a damage would leave a hole in front of it.
            match opened {
                Ok(None) => {}
                Ok(Some(found)) => {
                    damage = damage.or(Some(found));
                    break;
                }
                Err(found) if mcap.is_empty() && sqlite.is_empty() => return Err(found),
                Err(found) => {
                    damage = damage.or(Some(found));
                    break;
                }
            }
        }
        let storage = match contents.kind {
            Kind::Mcap => Storage::Mcap(Arc::new(mcap)),
            Kind::Sqlite => Storage::Sqlite(sqlite),
        };
        let mut bag = Self {
            path: path.into(),
            storage,
            topics: Vec::new(),
            topic_of: Vec::new(),
            packed_messages: contents.packed_messages,
        };
        bag.add_topics()?;
        let (claimed, found) = (contents.message_count, bag.message_count());
        if claimed > found {
            damage = damage.or(Some(ReplayError::Lost { path: path.into(), claimed, found }));
        }
        Ok((bag, damage))
    }

    fn add_topics(&mut self) -> Result<(), ReplayError> {
        let topics = &mut self.topics;
        let mut of_file = |path: &Path, channels: Vec<(i64, &Channel, Option<&u64>)>| -> Result<_, ReplayError> {
            let mut topic_of = BTreeMap::new();
            for (id, channel, count) in channels {
                let topic = add_topic(topics, channel, path)?;
                topics[topic].message_count += count.copied().unwrap_or(0);
                topic_of.insert(id, topic);
            }
            Ok(topic_of)
        };
        self.topic_of = match &self.storage {
            Storage::Mcap(files) => files
                .iter()
                .map(|file| {
                    let channels = file.channels.iter();
                    let channels = channels.map(|(&id, channel)| (id.into(), channel, file.counts.get(&id)));
                    of_file(file.path(), channels.collect())
                })
                .collect::<Result<_, _>>()?,
            Storage::Sqlite(files) => files
                .iter()
                .map(|file| {
                    let channels = file.channels.iter();
                    let channels = channels.map(|(&id, channel)| (id, channel, file.counts.get(&id)));
                    of_file(file.path(), channels.collect())
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(())
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

    /// The error of a message that was read and cannot be used.
    fn damaged(&self, message: &StoredMessage, reason: String) -> ReplayError {
        match &self.storage {
            Storage::Mcap(files) => {
                let path = files[message.file].path().into();
                ReplayError::Corrupt { path, record: "message record", offset: message.place.unsigned_abs(), reason }
            }
            Storage::Sqlite(files) => ReplayError::Row { path: files[message.file].path().into(), row: message.place, reason },
        }
    }

    pub fn message_count(&self) -> u64 {
        self.topics.iter().map(|topic| topic.message_count).sum()
    }

    /// Log times of the first and last message in nanoseconds; `None` for an empty bag.
    pub fn time_range(&self) -> Option<(u64, u64)> {
        let ranges: Vec<_> = match &self.storage {
            // A chunk that only defines channels has both times zero.
            Storage::Mcap(files) => {
                let blocks = files.iter().flat_map(|file| &file.blocks).filter(|block| block.end > 0);
                blocks.map(|block| (block.start, block.end)).collect()
            }
            Storage::Sqlite(files) => files.iter().filter_map(|file| file.range).collect(),
        };
        Some((ranges.iter().map(|range| range.0).min()?, ranges.iter().map(|range| range.1).max()?))
    }

    /// All messages in log-time order; equal times in file order. Ends after the first error.
    ///
    /// A damaged chunk or row ends it behind what was whole in front of it.
    pub fn messages(&self) -> Messages<'_> {
        Messages { bag: self, state: State::New, unpacker: None, read: 0 }
    }
}

/// What a path holds.
struct Contents {
    kind: Kind,
    files: Vec<PathBuf>,
    /// As the metadata says.
    message_count: u64,
    packed_messages: bool,
    damage: Option<ReplayError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mcap,
    Sqlite,
}

impl Kind {
    fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "mcap" => Some(Self::Mcap),
            "db3" => Some(Self::Sqlite),
            _ => None,
        }
    }
}

impl Contents {
    fn find(path: &Path) -> Result<Self, ReplayError> {
        let found = fs::metadata(path).map_err(|source| ReplayError::Io { path: path.into(), source })?;
        if found.is_dir() {
            return if path.join("metadata.yaml").is_file() { Self::listed(path) } else { Self::unlisted(path) };
        }
        let kind = Kind::of_file(path).ok_or_else(|| ReplayError::NotABag(path.into()))?;
        Ok(Self { kind, files: vec![path.into()], message_count: 0, packed_messages: false, damage: None })
    }

    /// The storage files that a bag folder's metadata lists.
    fn listed(folder: &Path) -> Result<Self, ReplayError> {
        let metadata = folder.join("metadata.yaml");
        let information = Information::read(&metadata)?;
        let unsupported = |what| ReplayError::Unsupported { path: folder.into(), what };
        let kind = match information.storage_identifier.as_str() {
            "mcap" => Kind::Mcap,
            "sqlite3" => Kind::Sqlite,
            other => return Err(unsupported(format!("its storage is {other:?}, neither \"mcap\" nor \"sqlite3\""))),
        };
        let (mode, format) = (information.compression_mode.to_lowercase(), &information.compression_format);
        let packed_messages = match (mode.as_str(), format.as_str()) {
            ("" | "none", _) => false,
            ("message", "zstd") => true,
            _ => return Err(unsupported(format!("it is compressed per {mode} with {format}"))),
        };
        if information.relative_file_paths.is_empty() {
            return Err(ReplayError::Metadata { path: metadata, reason: "it lists no storage files".into() });
        }
        let files = information.relative_file_paths.iter().map(|file| folder.join(file)).collect();
        Ok(Self { kind, files, message_count: information.message_count, packed_messages, damage: None })
    }

    /// The storage files of a folder that has no metadata, in the order of their numbers.
    fn unlisted(folder: &Path) -> Result<Self, ReplayError> {
        let io = |source| ReplayError::Io { path: folder.into(), source };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(io)? {
            let file = entry.map_err(io)?.path();
            files.extend(Kind::of_file(&file).map(|kind| (kind, file)));
        }
        let Some(&(kind, _)) = files.first() else { return Err(ReplayError::NotABag(folder.into())) };
        if files.iter().any(|(other, _)| *other != kind) {
            return Err(ReplayError::NotABag(folder.into()));
        }
        let mut files: Vec<_> = files.into_iter().map(|(_, file)| file).collect();
        // bag_2.mcap comes before bag_10.mcap.
        files.sort_by_cached_key(|file| (file.as_os_str().len(), file.clone()));
        let damage = Some(ReplayError::NoMetadata(folder.into()));
        Ok(Self { kind, files, message_count: 0, packed_messages: false, damage })
    }
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
    state: State,
    /// For messages that are compressed one by one.
    unpacker: Option<Unpacker>,
    read: u64,
}

enum State {
    New,
    Blocks(BlockMerge),
    Rows(RowMerge),
    Done,
}

impl Messages<'_> {
    fn advance(&mut self) -> Result<Option<BagMessage>, ReplayError> {
        let bag = self.bag;
        if matches!(self.state, State::New) {
            self.state = match &bag.storage {
                Storage::Mcap(files) => State::Blocks(BlockMerge::new(files)),
                Storage::Sqlite(files) => State::Rows(RowMerge::new(files)?),
            };
        }
        let next = match &mut self.state {
            State::Blocks(blocks) => blocks.next()?,
            State::Rows(rows) => rows.next()?,
            State::New | State::Done => None,
        };
        let Some(message) = next else {
            let (claimed, found) = (bag.message_count(), self.read);
            if claimed != found {
                return Err(ReplayError::Lost { path: bag.path.clone(), claimed, found });
            }
            return Ok(None);
        };
        let topic = bag.topic_of[message.file].get(&message.channel).copied();
        let topic = topic.ok_or_else(|| bag.damaged(&message, "it belongs to no topic of the bag".into()))?;
        let data = if bag.packed_messages { self.unpack(&message)? } else { message.data };
        self.read += 1;
        Ok(Some(BagMessage { topic, log_time: message.log_time, data }))
    }

    fn unpack(&mut self, message: &StoredMessage) -> Result<Bytes, ReplayError> {
        let unpacker = match &mut self.unpacker {
            Some(unpacker) => unpacker,
            none => none.insert(new_unpacker(&self.bag.path)?),
        };
        // A size below 2^26 fits into every address space.
        unpacker.zstd(&message.data, LARGEST_CHUNK as usize).map_err(|reason| self.bag.damaged(message, reason))
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<BagMessage, ReplayError>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.state, State::Done) {
            return None;
        }
        let next = self.advance().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.state = State::Done;
        }
        next
    }
}

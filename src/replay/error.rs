use std::{io, path::PathBuf};

/// Why a bag could not be read, written or understood.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("Cannot access {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is neither a rosbag2 folder (no metadata.yaml in it) nor an .mcap or .db3 file", .0.display())]
    NotABag(PathBuf),
    #[error("{} exists already and no bag is written over. Remove it or choose another folder", .0.display())]
    Exists(PathBuf),
    #[error("{} is not the metadata of a rosbag2 bag: {reason}", path.display())]
    Metadata { path: PathBuf, reason: String },
    #[error("{} cannot be read here: {what}. Convert it with `ros2 bag convert` to uncompressed or chunk-compressed MCAP", path.display())]
    Unsupported { path: PathBuf, what: String },
    #[error(
        "{} ends inside the {record} at byte {offset}. The recording was cut off; `mcap recover` saves what is whole",
        path.display()
    )]
    Truncated { path: PathBuf, record: &'static str, offset: u64 },
    #[error("{} is damaged in the {record} at byte {offset}: {reason}", path.display())]
    Corrupt { path: PathBuf, record: &'static str, offset: u64, reason: String },
    #[error("{} is no rosbag2 database: {reason}", path.display())]
    Database { path: PathBuf, reason: String },
    #[error("{} is damaged at row {row} of its messages: {reason}", path.display())]
    Row { path: PathBuf, row: i64, reason: String },
    #[error(
        "{} holds messages that the recorder did not move into the database. `sqlite3 BAG.db3 vacuum` does so, on a copy of both files",
        .0.display()
    )]
    Journal(PathBuf),
    #[error("{} has no metadata.yaml. The recording was not ended properly; `ros2 bag reindex` makes one", .0.display())]
    NoMetadata(PathBuf),
    #[error("{} holds no messages", .0.display())]
    Empty(PathBuf),
    #[error("{} lists {claimed} messages and holds {found}. Some were lost", path.display())]
    Lost { path: PathBuf, claimed: u64, found: u64 },
    #[error("Topic {topic} has the type {found} and {expected} was expected")]
    TopicType { topic: String, found: String, expected: String },
    #[error("Topic {0} was added to the bag twice")]
    DuplicateTopic(String),
    #[error("The definition of {0} is not known here, so it cannot be recorded")]
    UnknownType(String),
    #[error("Message {index} of {topic} is not a valid {type_name}: {reason}")]
    Message { topic: String, index: u64, type_name: &'static str, reason: String },
    #[error("{} cannot be written: {reason}", path.display())]
    Write { path: PathBuf, reason: String },
    #[error("The bag {} has no {what}. It has: {found}", path.display())]
    Missing { path: PathBuf, what: String, found: String },
    #[error("Cannot draw {}: {reason}", path.display())]
    Picture { path: PathBuf, reason: String },
}

impl ReplayError {
    /// Whether a part of a bag is lost and the rest can be read: see [`super::BagReader::open_salvaging`].
    pub fn is_data_loss(&self) -> bool {
        matches!(
            self,
            Self::Truncated { .. }
                | Self::Corrupt { .. }
                | Self::Row { .. }
                | Self::Journal(_)
                | Self::NoMetadata(_)
                | Self::Lost { .. }
        )
    }
}

/// Why bytes are not the CDR encoding of a message.
#[derive(Debug, thiserror::Error)]
pub enum CdrError {
    #[error("{0} bytes are too few for the encapsulation header")]
    NoHeader(usize),
    #[error("The encapsulation {0:#06x} is not plain CDR (XCDR1)")]
    Encapsulation(u16),
    #[error("The fields do not fit into {length} bytes: {source}")]
    Fields { length: usize, source: cdr::Error },
    #[error("The data field claims {claimed} bytes and {left} are left")]
    Data { claimed: usize, left: usize },
}

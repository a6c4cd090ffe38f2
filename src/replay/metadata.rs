//! rosbag2's `metadata.yaml` and the QoS profiles that it and the MCAP channels carry.

use std::{fs, path::Path};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::error::ReplayError;

/// The version that is written; rosbag2 of ROS 2 Iron and later reads it.
const VERSION: u32 = 9;

#[derive(Debug, Deserialize, Serialize)]
struct File {
    rosbag2_bagfile_information: Information,
}

/// What this project reads of `rosbag2_bagfile_information`, and all that rosbag2 wants written.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Information {
    pub version: u32,
    pub storage_identifier: String,
    pub relative_file_paths: Vec<String>,
    #[serde(default)]
    pub compression_mode: String,
    #[serde(default)]
    pub compression_format: String,
    pub duration: Nanoseconds,
    pub starting_time: NanosecondsSinceEpoch,
    pub message_count: u64,
    #[serde(default)]
    pub topics_with_message_count: Vec<TopicWithCount>,
    #[serde(default)]
    pub files: Vec<FileInformation>,
    #[serde(default)]
    pub custom_data: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    pub ros_distro: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Nanoseconds {
    pub nanoseconds: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct NanosecondsSinceEpoch {
    pub nanoseconds_since_epoch: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct TopicWithCount {
    pub topic_metadata: TopicMetadata,
    pub message_count: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct TopicMetadata {
    pub name: String,
    pub r#type: String,
    pub serialization_format: String,
    /// A list since version 9, YAML text before. Read from the MCAP channels instead, which have it in bare files too.
    #[serde(skip_deserializing)]
    pub offered_qos_profiles: Vec<Qos>,
    #[serde(default)]
    pub type_description_hash: String,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct FileInformation {
    pub path: String,
    pub starting_time: NanosecondsSinceEpoch,
    pub duration: Nanoseconds,
    pub message_count: u64,
}

impl Information {
    pub fn read(path: &Path) -> Result<Self, ReplayError> {
        let text = fs::read_to_string(path).map_err(|source| ReplayError::Io { path: path.into(), source })?;
        let file: File = serde_saphyr::from_str(&text)
            .map_err(|error| ReplayError::Metadata { path: path.into(), reason: error.to_string() })?;
        Ok(file.rosbag2_bagfile_information)
    }

    pub fn write(self, path: &Path) -> Result<(), ReplayError> {
        let file = File { rosbag2_bagfile_information: self };
        let text = serde_saphyr::to_string(&file)
            .map_err(|error| ReplayError::Write { path: path.into(), reason: error.to_string() })?;
        fs::write(path, text).map_err(|source| ReplayError::Io { path: path.into(), source })
    }

    /// A bag of one MCAP file.
    pub fn of_one_file(name: &str, start: u64, end: u64, topics: Vec<TopicWithCount>) -> Self {
        let starting_time = NanosecondsSinceEpoch { nanoseconds_since_epoch: start };
        let duration = Nanoseconds { nanoseconds: end.saturating_sub(start) };
        let message_count = topics.iter().map(|topic| topic.message_count).sum();
        Self {
            version: VERSION,
            storage_identifier: "mcap".into(),
            relative_file_paths: vec![name.into()],
            compression_mode: String::new(),
            compression_format: String::new(),
            duration,
            starting_time,
            message_count,
            topics_with_message_count: topics,
            files: vec![FileInformation { path: name.into(), starting_time, duration, message_count }],
            custom_data: None,
            ros_distro: String::new(),
        }
    }
}

/// Quality of service that a recorded publisher offered. Numbers are those of rmw, which bags up to version 8 hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Qos {
    pub history: History,
    pub depth: u32,
    pub reliability: Reliability,
    pub durability: Durability,
    #[serde(skip_deserializing)]
    deadline: Span,
    #[serde(skip_deserializing)]
    lifespan: Span,
    #[serde(skip_deserializing)]
    liveliness: Liveliness,
    #[serde(skip_deserializing)]
    liveliness_lease_duration: Span,
    #[serde(skip_deserializing)]
    avoid_ros_namespace_conventions: bool,
}

impl Qos {
    /// Keeps the last `depth` messages, volatile, with no deadline.
    pub fn keep_last(depth: u32, reliability: Reliability) -> Self {
        Self {
            history: History::KeepLast,
            depth,
            reliability,
            durability: Durability::Volatile,
            deadline: Span::default(),
            lifespan: Span::default(),
            liveliness: Liveliness::Automatic,
            liveliness_lease_duration: Span::default(),
            avoid_ros_namespace_conventions: false,
        }
    }

    /// The first of the profiles in an MCAP channel's `offered_qos_profiles`; `None` when there is none that can be understood.
    pub(super) fn from_channel(text: &str) -> Option<Self> {
        serde_saphyr::from_str::<Vec<Self>>(text).ok()?.into_iter().next()
    }

    pub(super) fn to_channel(self) -> String {
        // Serialising numbers, booleans and fixed words cannot fail.
        serde_saphyr::to_string(&[self]).unwrap_or_default()
    }
}

/// A time span of a QoS profile; zero means that none is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Span {
    sec: u64,
    nsec: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
enum Liveliness {
    #[default]
    #[serde(rename = "automatic")]
    Automatic,
}

/// A policy's words in metadata version 9 and rmw's numbers before.
macro_rules! qos_policy {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $number:literal $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $name {
            $(#[serde(rename = $word)] $variant,)*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let found = String::deserialize(deserializer)?;
                $(if found == $word || found == stringify!($number) {
                    return Ok(Self::$variant);
                })*
                Err(D::Error::custom(format!(concat!("Unknown ", stringify!($name), " {}"), found)))
            }
        }
    };
}

qos_policy! {
    History { SystemDefault = 0 "system_default", KeepLast = 1 "keep_last", KeepAll = 2 "keep_all", Unknown = 3 "unknown" }
}
qos_policy! {
    Reliability {
        SystemDefault = 0 "system_default", Reliable = 1 "reliable", BestEffort = 2 "best_effort", Unknown = 3 "unknown",
        BestAvailable = 4 "best_available",
    }
}
qos_policy! {
    Durability {
        SystemDefault = 0 "system_default", TransientLocal = 1 "transient_local", Volatile = 2 "volatile", Unknown = 3 "unknown",
        BestAvailable = 4 "best_available",
    }
}

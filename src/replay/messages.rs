//! The message types that bags of this project hold, field by field in the order of their definitions.

use serde::{Deserialize, Serialize};

use super::{
    cdr::{decode_with_data, text, texts},
    error::CdrError,
};

/// A message type with its ROS name (`sensor_msgs/msg/JointState`).
pub trait MessageType {
    const NAME: &'static str;
}

macro_rules! message_types {
    ($($type:ty: $name:literal),* $(,)?) => {
        $(impl MessageType for $type {
            const NAME: &'static str = $name;
        })*
    };
}

message_types! {
    Image<'_>: "sensor_msgs/msg/Image",
    CompressedImage<'_>: "sensor_msgs/msg/CompressedImage",
    JointState: "sensor_msgs/msg/JointState",
    Text: "std_msgs/msg/String",
    JointTrajectory: "trajectory_msgs/msg/JointTrajectory",
    ActionChunk: "pi0_tt/msg/ActionChunk",
    DiagnosticArray: "diagnostic_msgs/msg/DiagnosticArray",
}

/// `builtin_interfaces/Time`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    pub sec: i32,
    pub nanosec: u32,
}

impl Time {
    /// Nanoseconds since the epoch, as bags count. `None` after the year 2038, where `sec` ends.
    pub fn from_nanos(nanos: u64) -> Option<Self> {
        // The remainder is below 10^9 and fits.
        Some(Self { sec: i32::try_from(nanos / 1_000_000_000).ok()?, nanosec: (nanos % 1_000_000_000) as u32 })
    }

    /// Seconds since the epoch.
    pub fn seconds(self) -> f64 {
        f64::from(self.sec) + f64::from(self.nanosec) * 1e-9
    }
}

/// `builtin_interfaces/Duration`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duration {
    pub sec: i32,
    pub nanosec: u32,
}

impl Duration {
    pub fn seconds(self) -> f64 {
        f64::from(self.sec) + f64::from(self.nanosec) * 1e-9
    }
}

/// `std_msgs/Header`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub stamp: Time,
    #[serde(deserialize_with = "text")]
    pub frame_id: String,
}

/// `std_msgs/String`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    #[serde(deserialize_with = "text")]
    pub data: String,
}

/// `sensor_msgs/JointState`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JointState {
    pub header: Header,
    #[serde(deserialize_with = "texts")]
    pub name: Vec<String>,
    pub position: Vec<f64>,
    pub velocity: Vec<f64>,
    pub effort: Vec<f64>,
}

/// `sensor_msgs/Image`; the pixels stay in the message's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image<'a> {
    pub header: Header,
    pub height: u32,
    pub width: u32,
    pub encoding: String,
    pub is_bigendian: u8,
    /// Bytes of one row.
    pub step: u32,
    pub data: &'a [u8],
}

impl<'a> Image<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CdrError> {
        #[derive(Deserialize)]
        struct Fields {
            header: Header,
            height: u32,
            width: u32,
            #[serde(deserialize_with = "text")]
            encoding: String,
            is_bigendian: u8,
            step: u32,
            length: u32,
        }
        let (fields, data) = decode_with_data(bytes, |fields: &Fields| fields.length)?;
        let Fields { header, height, width, encoding, is_bigendian, step, .. } = fields;
        Ok(Self { header, height, width, encoding, is_bigendian, step, data })
    }
}

/// `sensor_msgs/CompressedImage`; the compressed picture stays in the message's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CompressedImage<'a> {
    pub header: Header,
    pub format: String,
    pub data: &'a [u8],
}

impl<'a> CompressedImage<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CdrError> {
        #[derive(Deserialize)]
        struct Fields {
            header: Header,
            #[serde(deserialize_with = "text")]
            format: String,
            length: u32,
        }
        let (Fields { header, format, .. }, data) = decode_with_data(bytes, |fields: &Fields| fields.length)?;
        Ok(Self { header, format, data })
    }
}

/// `trajectory_msgs/JointTrajectory`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JointTrajectory {
    pub header: Header,
    #[serde(deserialize_with = "texts")]
    pub joint_names: Vec<String>,
    pub points: Vec<JointTrajectoryPoint>,
}

/// `trajectory_msgs/JointTrajectoryPoint`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JointTrajectoryPoint {
    pub positions: Vec<f64>,
    pub velocities: Vec<f64>,
    pub accelerations: Vec<f64>,
    pub effort: Vec<f64>,
    pub time_from_start: Duration,
}

/// `pi0_tt/ActionChunk`: see msg/ActionChunk.msg.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActionChunk {
    pub header: Header,
    pub observation_stamp: Time,
    pub chunk_index: u64,
    pub seed: u64,
    #[serde(deserialize_with = "text")]
    pub backend: String,
    #[serde(deserialize_with = "text")]
    pub instruction: String,
    pub dropped_prompt_tokens: u32,
    pub horizon: u32,
    pub period: f64,
    pub model_action_dim: u32,
    pub model_actions: Vec<f32>,
    #[serde(deserialize_with = "texts")]
    pub joint_names: Vec<String>,
    pub actions: Vec<f64>,
    #[serde(deserialize_with = "text")]
    pub chunking: String,
    pub delay_rows: u32,
    pub guided_rows: u32,
    pub stage_times: StageTimes,
    pub input_ages: Vec<InputAge>,
    pub input_skew: f64,
}

/// `pi0_tt/StageTimes`: seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTimes {
    pub observation: f64,
    pub vision: f64,
    pub prefix: f64,
    pub denoise_steps: Vec<f64>,
    pub total: f64,
}

/// `pi0_tt/InputAge`: seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InputAge {
    #[serde(deserialize_with = "text")]
    pub name: String,
    pub age: f64,
}

/// `diagnostic_msgs/DiagnosticArray`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosticArray {
    pub header: Header,
    pub status: Vec<DiagnosticStatus>,
}

/// `diagnostic_msgs/DiagnosticStatus`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosticStatus {
    /// 0 OK, 1 WARN, 2 ERROR, 3 STALE
    pub level: u8,
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(deserialize_with = "text")]
    pub message: String,
    #[serde(deserialize_with = "text")]
    pub hardware_id: String,
    pub values: Vec<KeyValue>,
}

/// `diagnostic_msgs/KeyValue`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    #[serde(deserialize_with = "text")]
    pub key: String,
    #[serde(deserialize_with = "text")]
    pub value: String,
}

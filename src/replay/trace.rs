//! What a policy did over a bag: everything that two runs are compared by, in the order of the data flow.
//!
//! Plain data without I/O. The runner makes a [`Trace`], a baseline stores one, a comparison holds two against each other,
//! and a report shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::robot::CommandKind;

/// One run of a policy over a bag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub setup: Setup,
    /// Every input of the policy, with what the bag holds of it.
    pub inputs: Vec<BagInput>,
    /// Nanoseconds since the epoch: the first and the last message.
    pub span: (i64, i64),
    /// Every chunk that the policy computed, refused ones included, in the order of computation.
    pub chunks: Vec<ChunkTrace>,
    /// One entry for each control step that commanded something, in order.
    pub commands: Vec<Command>,
    /// Times in which no observation could be made, after every input had been there once.
    pub gaps: Vec<Gap>,
    /// Inferences that gave no chunk, by reason. They are not among the chunks.
    pub failed: BTreeMap<String, u64>,
    /// Why the rest of the bag could not be read, with record and offset; `None` when it was read to its end.
    pub damage: Option<String>,
    /// Why the controller stopped for good, when it did.
    pub latch: Option<String>,
}

/// What decides the outcome of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Of this package.
    pub version: String,
    /// Hash of the program that computed.
    pub build: Digest,
    /// What chooses the kernels, and with them the last bits: architecture and instruction set.
    pub machine: String,
    /// Value of the `backend` parameter.
    pub backend: String,
    pub dtypes: String,
    /// The bag, as it was named.
    pub bag: String,
    /// Hash of the files that a policy is made of, by what they are: `weights`, `normalizer`, `tokenizer`, `config`, `robot`, `urdf`.
    pub files: BTreeMap<String, Digest>,
    /// Value of every parameter that decides what is computed or commanded, by its name.
    pub parameters: BTreeMap<String, String>,
    pub seed: u64,
    /// Euler steps.
    pub steps: usize,
    /// Bag time from an observation to its chunk, in seconds.
    pub latency: f64,
    /// Rows of a chunk.
    pub horizon: usize,
    /// Columns of the model's output.
    pub action_dim: usize,
    /// Seconds between two rows.
    pub period: f64,
    /// The commanded joints, in the order of every row.
    pub joints: Vec<Joint>,
    /// The state's joints, in the order of [`ModelTrace::state`].
    pub state_joints: Vec<String>,
    /// Every camera slot of the checkpoint, in the order of [`ModelTrace::cameras`].
    pub cameras: Vec<String>,
}

/// A commanded joint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joint {
    pub name: String,
    /// Position in rad or m, velocity in rad/s or m/s.
    pub kind: CommandKind,
    pub gripper: bool,
}

/// An input of the policy in the bag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BagInput {
    /// Camera slot, `joint_states` or `instruction`.
    pub name: String,
    pub topic: String,
    pub type_name: String,
    /// Messages that were read.
    pub messages: u64,
    /// Those that were refused (no stamp, late, not decodable), by reason.
    pub refused: BTreeMap<String, u64>,
}

/// One chunk from its samples to its commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkTrace {
    /// With the seed it gives the noise.
    pub index: u64,
    /// Nanoseconds: when the observation was taken, and when its chunk was there.
    pub observed: i64,
    pub ready: i64,
    /// The samples of the observation, by input.
    pub samples: BTreeMap<String, Sample>,
    /// Largest difference between the exposure times of the cameras, in seconds.
    pub skew: f64,
    pub instruction: String,
    /// Positions of [`Setup::state_joints`] at the time of the images, in the robot's units.
    pub positions: Vec<f64>,
    pub model: ModelTrace,
    /// Normalized model output `[horizon, action_dim]`.
    pub model_actions: Vec<f32>,
    /// Commands in the robot's units `[horizon, joints]`, before joining and limits.
    pub actions: Vec<f64>,
    pub outcome: Outcome,
    pub times: Times,
}

/// One sample of an observation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds before the observation.
    pub age: f64,
    /// Of the decoded fields, not of the message's bytes: their padding is arbitrary.
    pub digest: Digest,
}

/// What really arrived at the backend, and what it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelTrace {
    /// Every camera slot of the checkpoint.
    pub cameras: Vec<CameraTrace>,
    /// Token ids of the prompt.
    pub tokens: Vec<u32>,
    /// Normalized and padded state.
    pub state: Vec<f32>,
    pub noise: Digest,
    /// Of the rows and weights that guided the chunk; `None` when nothing did.
    pub guidance: Option<Digest>,
    /// Of the normalized actions that it answered: those of [`ChunkTrace::model_actions`], unless something changed them on the way.
    pub answer: Digest,
    /// Intermediate tensors in the order in which they are computed; of the first chunk only.
    pub intermediates: Vec<Intermediate>,
}

/// One camera slot at the backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CameraTrace {
    Masked,
    /// The resized image: values in -1..=1.
    Present {
        digest: Digest,
        mean: f32,
        /// Standard deviation.
        deviation: f32,
        /// Mean of red, green and blue over each of 8 x 8 fields `[3, 8, 8]`.
        fields: Vec<f32>,
    },
}

/// A tensor inside of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intermediate {
    /// The probe's name: `prefix.kv.3.key`, `step.0.layer.5`, ...
    pub name: String,
    pub digest: Digest,
    /// Root mean square.
    pub rms: f64,
    /// Up to 64 values, evenly spread.
    pub values: Vec<f32>,
}

/// What the controller made of a chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Installed {
        /// Nanoseconds: the time of row 0.
        start: i64,
        /// The first row that was commanded: those before it had passed.
        delay_rows: usize,
        guided_rows: usize,
        /// How it was joined to the chunk before: `rtc`, `crossfade`, `none`.
        join: String,
        /// Rows that were executed before another chunk took over.
        executed: usize,
    },
    /// Nothing of it was commanded.
    Refused { reason: String },
}

/// Wall times of one chunk in seconds. They are shown and never compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Decoding, resizing, normalizing, tokenizing.
    pub observation: f64,
    pub vision: f64,
    pub prefix: f64,
    pub denoise: f64,
    pub total: f64,
}

/// What was commanded in one control step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Nanoseconds
    pub stamp: i64,
    /// One value for each of [`Setup::joints`].
    pub row: Vec<f64>,
}

/// A time in which no observation could be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Nanoseconds
    pub from: i64,
    pub to: i64,
    /// Each input that was in the way, with the first reason.
    pub inputs: BTreeMap<String, String>,
}

/// A hash, in 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(String);

impl Digest {
    /// Of all parts one after the other.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.to_hex()[..32].to_owned())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
pub(crate) mod synthetic;

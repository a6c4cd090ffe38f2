//! What changed between two runs, in words that name it.

use serde::Serialize;

/// One thing that changed. Displayed as a sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Something that decides the outcome is set up differently.
    Setup {
        item: SetupItem,
        baseline: String,
        current: String,
    },
    /// The bag has other messages of an input, or other ones were usable.
    Messages {
        input: String,
        baseline: String,
        current: String,
    },
    /// A chunk of one run alone.
    OnlyIn {
        side: Side,
        index: u64,
        observed: i64,
    },
    /// Times without an observation are others.
    Gaps {
        baseline: usize,
        current: usize,
    },
    /// Inferences that gave no chunk, by reason.
    Failed {
        reason: String,
        baseline: u64,
        current: u64,
    },
    /// The controller stopped for good in one of the runs, or for another reason.
    Latch {
        baseline: Option<String>,
        current: Option<String>,
    },

    /// A chunk was made of another sample of this input.
    Sample {
        chunk: u64,
        input: String,
    },
    Instruction {
        chunk: u64,
        baseline: String,
        current: String,
    },
    /// The prompt's tokens differ from index `first` on.
    Tokens {
        chunk: u64,
        first: usize,
        baseline: Vec<u32>,
        current: Vec<u32>,
    },
    /// Joint positions of the observation.
    Positions {
        chunk: u64,
        change: ArrayChange,
    },

    /// The baseline masked this camera and now the model sees an image of it.
    MaskDropped {
        camera: String,
    },
    /// The baseline saw this camera and now it is masked.
    MaskAdded {
        camera: String,
    },
    /// Every pixel of the camera has this value (-1 is black, 0 gray, 1 white).
    CameraConstant {
        camera: String,
        value: f32,
    },
    CamerasSwapped {
        first: String,
        second: String,
    },
    /// By 180 degrees.
    CameraTurned {
        camera: String,
    },
    /// Left and right, or up and down.
    CameraMirrored {
        camera: String,
        axis: &'static str,
    },
    /// Red and blue were exchanged.
    CameraColours {
        camera: String,
    },
    /// The same picture with other pixels: resize, crop or colour. The distance is the largest between the means of 8 x 8 fields, of
    /// values in -1..=1; 0 when only single pixels differ.
    CameraImage {
        camera: String,
        distance: f32,
    },

    /// Normalized state at the backend.
    State {
        chunk: u64,
        change: ArrayChange,
    },
    /// Another noise for the same seed and chunk.
    Noise {
        chunk: u64,
    },
    /// What a chunk is guided by, although the chunks before are the same.
    Guidance {
        chunk: u64,
        baseline: bool,
        current: bool,
    },
    /// The positions that RoPE turns by: `prefix` or `suffix`, and the first position of both runs.
    RopePositions {
        tower: String,
        baseline: f32,
        current: f32,
    },
    /// Keys of a layer are turned by other angles: they keep their size, and the values beside them are the same.
    RopeRotation {
        layer: String,
    },
    /// Euler steps that the backend made.
    Steps {
        baseline: usize,
        current: usize,
    },
    /// The first intermediate tensor that differs beyond rounding.
    Intermediate {
        name: String,
        place: String,
        relative_rms: f64,
    },
    /// The model's own output, although everything before is the same. `on_the_way`: the backend answered the same.
    ModelActions {
        chunk: u64,
        on_the_way: bool,
        change: ArrayChange,
    },
    /// Actions in the robot's units, although the model actions are the same.
    Actions {
        chunk: u64,
        change: ArrayChange,
    },

    /// A chunk was refused in one of the runs, or for another reason. `None` is installed.
    Refused {
        chunk: u64,
        baseline: Option<String>,
        current: Option<String>,
    },
    /// First commanded row: the delay of the chunk.
    Delay {
        chunk: u64,
        baseline: usize,
        current: usize,
    },
    /// Rows that a chunk was guided by.
    GuidedRows {
        chunk: u64,
        baseline: usize,
        current: usize,
    },
    Joining {
        chunk: u64,
        baseline: String,
        current: String,
    },
    /// Time of row 0 in nanoseconds.
    Start {
        chunk: u64,
        baseline: i64,
        current: i64,
    },
    /// Rows that were executed before another chunk took over.
    Executed {
        chunk: u64,
        baseline: usize,
        current: usize,
    },

    /// Commands differ although chunks and outcomes are the same, from this stamp on.
    Commands {
        stamp: i64,
        change: ArrayChange,
    },
    /// The commands of one run alone: their number, and the first stamp.
    CommandTimes {
        side: Side,
        count: usize,
        first: i64,
    },
}

/// Which of the two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Baseline,
    Current,
}

/// What of a setup is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SetupItem {
    Parameter(String),
    /// `weights`, `normalizer`, `tokenizer`, `config`, `robot`, `urdf`
    File(String),
    Seed,
    Steps,
    Latency,
    Horizon,
    ActionDim,
    Period,
    /// Names, kinds and order of the commanded joints.
    Joints,
    StateJoints,
    Cameras,
    Backend,
    Dtypes,
    Version,
    Build,
    Machine,
    Bag,
}

impl SetupItem {
    /// Whether it decides what is computed. The others choose the last bits or are only names.
    pub fn decides(&self) -> bool {
        !matches!(self, Self::Backend | Self::Dtypes | Self::Version | Self::Build | Self::Machine | Self::Bag)
    }
}

/// How the values of named columns changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayChange {
    /// Each of these columns has the values that another one should have: (column, whose values).
    Permuted(Vec<(String, String)>),
    /// `v` became `-v`, in the robot's units.
    Negated(Vec<String>),
    /// `v` became `sum - v`.
    Reversed { column: String, sum: f64 },
    /// `v` became `scale v + offset`.
    Affine(Vec<AffineColumn>),
    /// Every one of these columns is 0.
    Zero(Vec<String>),
    /// Rows come this much later (earlier when negative).
    Shifted { rows: i64 },
    /// One run stays within a limit that the other one exceeds.
    Limited { limit: Limit, columns: Vec<String> },
    /// None of these: the columns that differ, and the first value beyond its bound.
    Values { columns: Vec<String>, row: usize, column: String, baseline: f64, current: f64 },
    /// Another number of values.
    Length { baseline: usize, current: usize },
}

/// A limit of a joint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Position,
    /// Or of the step from one row to the next.
    Velocity,
    Acceleration,
}

/// A column that was scaled and moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AffineColumn {
    pub column: String,
    pub scale: f64,
    pub offset: f64,
}

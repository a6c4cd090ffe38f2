//! The node's parameters: declared with description, range and constraints, checked when they are set.
//!
//! What decides the arithmetic or the topics is read-only; what an operator tunes can be set while the node runs.

use std::{path::PathBuf, sync::Arc};

use rclrs::{
    DeclarationError, MandatoryParameter, NodeState, ParameterBuilder, ParameterRange, ParameterVariant, QoSDurabilityPolicy,
    ReadOnlyParameter,
};

use super::{control_parameters::ControlParameters, instruction};
use crate::{
    backend::{BackendKind, BackendOptions},
    control::{AgeLimit, CameraRules, Rules, StampSource},
    observation::ResizeKernel,
    policy::PolicyOptions,
    robot::{self, RobotError},
};

/// A text that is set once.
pub type TextParameter = ReadOnlyParameter<Arc<str>>;

/// The parameters that every policy has.
pub struct Parameters {
    autostart: ReadOnlyParameter<bool>,
    checkpoint: TextParameter,
    robot: TextParameter,
    backend: TextParameter,
    tokenizer: TextParameter,
    norm_stats: TextParameter,
    resize: TextParameter,
    seed: ReadOnlyParameter<i64>,
    denoise_steps: ReadOnlyParameter<i64>,
    threads: ReadOnlyParameter<i64>,
    weight_cache: TextParameter,
    trace: ReadOnlyParameter<bool>,
    pub control: ControlParameters,
    pub default_instruction: MandatoryParameter<Arc<str>>,
    instruction_durability: TextParameter,
}

/// Why the node did not accept its parameters.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    #[error("Parameter {name} is not set. {description}")]
    NotSet { name: String, description: &'static str },
    #[error("Parameter {name}: {reason}")]
    Rejected { name: String, reason: String },
    #[error("Parameter {name} has a value of the wrong type, it must be {expected}. {description}")]
    Type { name: String, expected: &'static str, description: &'static str },
    #[error("Parameter {name} is out of range: {constraints}")]
    Range { name: String, constraints: String },
    #[error("Parameter {name} cannot be declared: {source}")]
    Declaration { name: String, source: DeclarationError },
    #[error(transparent)]
    Robot(#[from] RobotError),
}

/// How a camera's images arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `sensor_msgs/Image`
    Raw,
    /// `sensor_msgs/CompressedImage`, JPEG or PNG
    Compressed,
}

/// The parameters of one camera slot. Declared when the checkpoint has told which slots there are.
pub struct CameraParameters {
    transport: TextParameter,
    max_age_ms: MandatoryParameter<f64>,
    stamp_offset_ms: MandatoryParameter<f64>,
}

/// The parameters that tell which samples belong together.
pub struct SyncParameters {
    stamps: TextParameter,
    max_skew_ms: MandatoryParameter<f64>,
    joint_max_age_ms: MandatoryParameter<f64>,
}

impl Parameters {
    pub fn declare(node: &NodeState) -> Result<Self, ParameterError> {
        Ok(Self {
            autostart: boolean(node, "autostart", true, "Configure and activate at start. false: wait for ~/change_state.")?,
            checkpoint: Text::new("checkpoint", "Folder of the checkpoint: LeRobot or openpi's PyTorch conversion.")
                .checked("a path, required", not_empty)
                .read_only(node)?,
            robot: Text::new("robot", "Robot profile: a name from share/pi0_tt/config/robots or the path of a YAML file.")
                .checked("a name or a path, required", not_empty)
                .read_only(node)?,
            backend: Text::new("backend", "Where the model runs: the CPU in float32, a Tenstorrent card, or the card's graph on the CPU.")
                .default("reference")
                .one_of::<BackendKind>()
                .read_only(node)?,
            tokenizer: Text::new("tokenizer", "Tokenizer file for a checkpoint folder that has none: tokenizer.json or SentencePiece .model.")
                .default("")
                .noted("a path, or empty: from the checkpoint folder")
                .read_only(node)?,
            norm_stats: Text::new("norm_stats", "Normalization statistics for a checkpoint folder with several or none: norm_stats.json.")
                .default("")
                .noted("a path, or empty: from the checkpoint folder")
                .read_only(node)?,
            resize: Text::new("resize", "Image resize the checkpoint was trained with. auto follows the checkpoint's family.")
                .default("auto")
                .one_of::<Option<ResizeKernel>>()
                .read_only(node)?,
            seed: integer(node, "seed", 0, 0, i64::MAX, "Seed of the noise. The same seed and observations give the same chunks.")?,
            denoise_steps: integer(node, "denoise_steps", 0, 0, 1000, "Euler steps of the flow matching. 0: the checkpoint's (10).")?,
            threads: integer(node, "threads", 0, 0, 1024, "CPU threads of the backend. 0: all cores.")?,
            weight_cache: Text::new("weight_cache", "Folder for weights packed for the card, which make the next start fast.")
                .default("")
                .noted("a path, or empty: pi0_tt in the user's cache folder")
                .read_only(node)?,
            trace: boolean(node, "trace", true, "Replay captured traces on the card. false: op by op, for bring-up and simulators.")?,
            control: ControlParameters::declare(node)?,
            default_instruction: Text::new(
                "instruction.default",
                "Instruction until one arrives on ~/instruction; the newest of the two counts.",
            )
            .default("")
            .checked("at most 1024 bytes; empty: the robot profile's, else inference waits for ~/instruction", |text| {
                if text.is_empty() { Ok(()) } else { instruction::check(text.as_bytes()).map(drop).map_err(|error| error.to_string()) }
            })
            .mandatory(node)?,
            instruction_durability: Text::new(
                "instruction.qos_durability",
                "Durability that ~/instruction asks of its publishers. A transient_local subscription never matches a volatile publisher.",
            )
            .default("volatile")
            .one_of::<QoSDurabilityPolicy>()
            .read_only(node)?,
        })
    }

    /// Whether the node configures and activates itself.
    pub fn autostart(&self) -> bool {
        self.autostart.get()
    }

    /// Everything that decides what the policy computes.
    pub fn policy_options(&self) -> Result<PolicyOptions, ParameterError> {
        let path = |parameter: &TextParameter| Some(PathBuf::from(&*parameter.get())).filter(|path| !path.as_os_str().is_empty());
        // The casts keep the value: the ranges above begin at 0.
        let positive = |parameter: &ReadOnlyParameter<i64>| Some(parameter.get() as usize).filter(|&value| value > 0);
        Ok(PolicyOptions {
            checkpoint: PathBuf::from(&*self.checkpoint.get()),
            robot: robot::find(&self.robot.get())?,
            backend: BackendOptions {
                kind: parsed("backend", &self.backend)?,
                threads: positive(&self.threads),
                weight_cache: path(&self.weight_cache),
                trace: self.trace.get(),
            },
            tokenizer: path(&self.tokenizer),
            norm_stats: path(&self.norm_stats),
            resize: parsed("resize", &self.resize)?,
            seed: self.seed.get() as u64,
            steps: positive(&self.denoise_steps),
        })
    }

    pub fn instruction_durability(&self) -> Result<QoSDurabilityPolicy, ParameterError> {
        parsed("instruction.qos_durability", &self.instruction_durability)
    }
}

impl CameraParameters {
    pub fn declare(node: &NodeState, slot: &str) -> Result<Self, ParameterError> {
        Ok(Self {
            transport: Text::new(
                &transport_name(slot),
                "Message type of this camera: sensor_msgs/Image or sensor_msgs/CompressedImage.",
            )
            .default("raw")
            .one_of::<Transport>()
            .read_only(node)?,
            max_age_ms: max_age(node, &format!("cameras.{slot}.max_age_ms"), 200.0)?,
            stamp_offset_ms: number(
                node,
                &format!("cameras.{slot}.stamp_offset_ms"),
                0.0,
                (-1000.0, 1000.0),
                "Added to the stamps of this camera, so that they tell when the image was taken. Negative for a driver that stamps late.",
            )?,
        })
    }

    pub fn rules(&self) -> CameraRules {
        CameraRules {
            max_age: AgeLimit::from_milliseconds(self.max_age_ms.get()),
            stamp_offset: self.stamp_offset_ms.get() * 1e-3,
        }
    }

    pub fn transport(&self, slot: &str) -> Result<Transport, ParameterError> {
        parsed(&transport_name(slot), &self.transport)
    }
}

fn transport_name(slot: &str) -> String {
    format!("cameras.{slot}.transport")
}

impl SyncParameters {
    pub fn declare(node: &NodeState) -> Result<Self, ParameterError> {
        Ok(Self {
            stamps: Text::new(
                STAMPS,
                "Time of a sample: header.stamp, or its arrival at this node for drivers that do not fill it.",
            )
            .default("header")
            .one_of::<StampSource>()
            .read_only(node)?,
            max_skew_ms: number(
                node,
                "sync.max_skew_ms",
                100.0,
                (0.0, 60_000.0),
                "Largest difference between the times at which the cameras took their images. A larger one stops inference. 0: any.",
            )?,
            joint_max_age_ms: max_age(node, "joint_states.max_age_ms", 100.0)?,
        })
    }

    pub fn stamps(&self) -> Result<StampSource, ParameterError> {
        parsed(STAMPS, &self.stamps)
    }

    pub fn rules(&self, stamps: StampSource) -> Rules {
        Rules {
            stamps,
            max_skew: Some(self.max_skew_ms.get() * 1e-3).filter(|&limit| limit > 0.0),
            joint_age: AgeLimit::from_milliseconds(self.joint_max_age_ms.get()),
        }
    }
}

const STAMPS: &str = "sync.stamps";

/// Oldest usable sample of an input.
fn max_age(node: &NodeState, name: &str, default: f64) -> Result<MandatoryParameter<f64>, ParameterError> {
    number(node, name, default, (1.0, 60_000.0), "Oldest usable sample. An older one stops inference.")
}

/// A value that a text parameter chooses from a few words.
pub(super) trait Choice: Copy + 'static {
    const CHOICES: &'static [(&'static str, Self)];

    fn parse(text: &str) -> Result<Self, String> {
        let found = Self::CHOICES.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| format!("\"{text}\" is not one of {}", Self::words()))
    }

    fn words() -> String {
        Self::CHOICES.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
    }
}

impl Choice for BackendKind {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("reference", Self::Reference), ("ttnn", Self::Ttnn), ("ttnn_host", Self::TtnnHost)];
}

/// `None`: the checkpoint family's.
impl Choice for Option<ResizeKernel> {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", None),
        ("openpi", Some(ResizeKernel::Openpi)),
        ("lerobot", Some(ResizeKernel::Lerobot)),
        ("lerobot_legacy", Some(ResizeKernel::LerobotLegacy)),
    ];
}

impl Choice for QoSDurabilityPolicy {
    const CHOICES: &'static [(&'static str, Self)] = &[("volatile", Self::Volatile), ("transient_local", Self::TransientLocal)];
}

impl Choice for StampSource {
    const CHOICES: &'static [(&'static str, Self)] = &[("header", Self::Header), ("receive", Self::Receive)];
}

impl Choice for Transport {
    const CHOICES: &'static [(&'static str, Self)] = &[("raw", Self::Raw), ("compressed", Self::Compressed)];
}

pub(super) fn parsed<T: Choice>(name: &str, parameter: &TextParameter) -> Result<T, ParameterError> {
    T::parse(&parameter.get()).map_err(|reason| ParameterError::Rejected { name: name.to_owned(), reason })
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

/// Declaration of a text parameter.
pub(super) struct Text<'a> {
    name: &'a str,
    description: &'static str,
    default: Option<&'static str>,
    constraints: String,
    check: fn(&str) -> Result<(), String>,
}

impl<'a> Text<'a> {
    pub fn new(name: &'a str, description: &'static str) -> Self {
        Self { name, description, default: None, constraints: String::new(), check: |_| Ok(()) }
    }

    pub fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    pub fn noted(self, constraints: &str) -> Self {
        Self { constraints: constraints.to_owned(), ..self }
    }

    pub fn checked(self, constraints: &str, check: fn(&str) -> Result<(), String>) -> Self {
        Self { check, ..self }.noted(constraints)
    }

    pub fn one_of<T: Choice>(self) -> Self {
        self.checked(&T::words(), |text| T::parse(text).map(drop))
    }

    fn builder<'n>(&self, node: &'n NodeState) -> ParameterBuilder<'n, Arc<str>> {
        let check = self.check;
        let builder = node
            .declare_parameter::<Arc<str>>(self.name)
            .description(self.description)
            .constraints(self.constraints.as_str())
            .validate(move |text: &Arc<str>| check(text));
        match self.default {
            Some(default) => builder.default(default.into()),
            None => builder,
        }
    }

    pub fn read_only(self, node: &NodeState) -> Result<TextParameter, ParameterError> {
        self.builder(node).read_only().map_err(|source| explain(self.name, TEXT, self.description, &self.constraints, source))
    }

    fn mandatory(self, node: &NodeState) -> Result<MandatoryParameter<Arc<str>>, ParameterError> {
        self.builder(node).mandatory().map_err(|source| explain(self.name, TEXT, self.description, &self.constraints, source))
    }
}

pub(super) fn integer(
    node: &NodeState,
    name: &str,
    default: i64,
    lower: i64,
    upper: i64,
    description: &'static str,
) -> Result<ReadOnlyParameter<i64>, ParameterError> {
    let constraints = format!("{lower} to {upper}");
    node.declare_parameter(name)
        .default(default)
        .range(range(lower, upper))
        .description(description)
        .constraints(constraints.as_str())
        .read_only()
        .map_err(|source| explain(name, INTEGER, description, &constraints, source))
}

pub(super) fn boolean(
    node: &NodeState,
    name: &str,
    default: bool,
    description: &'static str,
) -> Result<ReadOnlyParameter<bool>, ParameterError> {
    node.declare_parameter(name)
        .default(default)
        .description(description)
        .constraints(BOOLEAN)
        .read_only()
        .map_err(|source| explain(name, BOOLEAN, description, BOOLEAN, source))
}

/// A number that can be set at run time.
pub(super) fn number(
    node: &NodeState,
    name: &str,
    default: f64,
    bounds: (f64, f64),
    description: &'static str,
) -> Result<MandatoryParameter<f64>, ParameterError> {
    let (builder, constraints) = bounded(node, name, default, bounds, description);
    builder.mandatory().map_err(|source| explain(name, NUMBER, description, &constraints, source))
}

/// A number that is set once. Where the default is NaN, NaN means that there is none.
pub(super) fn read_only_number(
    node: &NodeState,
    name: &str,
    default: f64,
    bounds: (f64, f64),
    description: &'static str,
) -> Result<ReadOnlyParameter<f64>, ParameterError> {
    let (builder, constraints) = bounded(node, name, default, bounds, description);
    builder.read_only().map_err(|source| explain(name, NUMBER, description, &constraints, source))
}

/// Declaration of a number, and its constraints in words.
fn bounded<'n>(
    node: &'n NodeState,
    name: &str,
    default: f64,
    (lower, upper): (f64, f64),
    description: &'static str,
) -> (ParameterBuilder<'n, f64>, String) {
    let constraints = format!("{lower} to {upper}{}", if default.is_nan() { ", or .nan for none" } else { "" });
    let reason = constraints.clone();
    let builder = node
        .declare_parameter(name)
        .default(default)
        .range(range(lower, upper))
        .description(description)
        .constraints(constraints.as_str())
        // The range that clients see lets NaN and the infinities pass.
        .validate(move |value: &f64| {
            let none = value.is_nan() && default.is_nan();
            if none || (lower..=upper).contains(value) { Ok(()) } else { Err(format!("{value} is out of range: {reason}")) }
        });
    (builder, constraints)
}

fn range<T: ParameterVariant + PartialOrd>(lower: T, upper: T) -> ParameterRange<T> {
    ParameterRange { lower: Some(lower), upper: Some(upper), step: None }
}

// What a value of each type looks like in a parameter file.
const TEXT: &str = "text, in quotes if it looks like a number";
const INTEGER: &str = "an integer";
const BOOLEAN: &str = "true or false";
const NUMBER: &str = "a number with a decimal point, such as 10.0";

/// rclrs does not name the parameter in its errors.
fn explain(
    name: &str,
    expected: &'static str,
    description: &'static str,
    constraints: &str,
    source: DeclarationError,
) -> ParameterError {
    let name = name.to_owned();
    match source {
        DeclarationError::NoValueAvailable => ParameterError::NotSet { name, description },
        DeclarationError::OverrideValueTypeMismatch => ParameterError::Type { name, expected, description },
        DeclarationError::InitialValueOutOfRange => ParameterError::Range { name, constraints: constraints.to_owned() },
        DeclarationError::InitialValueRejected(reason) => ParameterError::Rejected { name, reason },
        source => ParameterError::Declaration { name, source },
    }
}

//! Which topics of a bag are the inputs of the policy.

use std::{fmt, str::FromStr};

use super::{
    super::{
        BagReader, Topic,
        messages::{CompressedImage, Image, JointState, MessageType, Text},
    },
    RunError,
};
use crate::{
    control::JOINT_STATES,
    parameters::{CameraParameters, ParameterError, Transport},
};

/// Full name of the node, which `~` stands for.
const NODE: &str = "/policy";
/// Name of the instruction among the inputs.
pub(super) const INSTRUCTION: &str = "instruction";

/// A remapping rule of ROS: the topic that the policy calls one name is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    from: String,
    to: String,
}

impl FromStr for Remap {
    type Err = RunError;

    fn from_str(rule: &str) -> Result<Self, RunError> {
        match rule.split_once(":=") {
            // Rules such as __node give the node another name, not a topic.
            Some((from, to)) if !from.is_empty() && !to.is_empty() && !from.starts_with("__") => {
                Ok(Self { from: expand(from), to: expand(to) })
            }
            _ => Err(RunError::Remap(rule.to_owned())),
        }
    }
}

impl fmt::Display for Remap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:={}", self.from, self.to)
    }
}

/// The full name of a topic that the node calls `name`.
fn expand(name: &str) -> String {
    match name.strip_prefix('~') {
        Some(rest) => format!("{NODE}/{}", rest.trim_start_matches('/')),
        None if name.starts_with('/') => name.to_owned(),
        None => format!("/{name}"),
    }
}

/// A topic that the policy subscribes to.
pub(super) struct Wanted {
    /// Camera slot, `joint_states` or `instruction`.
    input: String,
    /// Behind the node's name: `/joint_states`.
    name: String,
    type_name: &'static str,
    /// The policy can do without.
    optional: bool,
    other: Option<Other>,
}

/// How the same images would come with the other transport.
struct Other {
    name: String,
    type_name: &'static str,
    remedy: String,
}

/// A topic of the bag that is an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub input: String,
    /// Index into [`BagReader::topics`].
    pub index: usize,
    pub topic: String,
    pub type_name: &'static str,
}

impl Wanted {
    /// The topics of a policy with these cameras.
    pub fn of(cameras: &[(String, CameraParameters)], has_instruction: bool) -> Result<Vec<Self>, ParameterError> {
        let plain = |input: &str, type_name, optional| Self {
            input: input.to_owned(),
            name: format!("/{input}"),
            type_name,
            optional,
            other: None,
        };
        let mut wanted = Vec::new();
        for (slot, parameters) in cameras {
            let raw = (format!("/camera/{slot}/image"), Image::NAME);
            let compressed = (format!("/camera/{slot}/image/compressed"), CompressedImage::NAME);
            let ((name, type_name), (other_name, other_type), word) = match parameters.transport(slot)? {
                Transport::Raw => (raw, compressed, "compressed"),
                Transport::Compressed => (compressed, raw, "raw"),
            };
            let remedy = format!("Set cameras.{slot}.transport to {word}");
            let other = Some(Other { name: other_name, type_name: other_type, remedy });
            wanted.push(Self { input: slot.clone(), name, type_name, optional: false, other });
        }
        wanted.push(plain(JOINT_STATES, JointState::NAME, false));
        wanted.push(plain(INSTRUCTION, Text::NAME, has_instruction));
        Ok(wanted)
    }

    /// The topic in the bag; `None` when it is missing and not needed. Without a rule and without a topic of the node's own name the only
    /// topic whose name ends like it is taken.
    fn find(&self, topics: &[Topic], rules: &[Remap]) -> Result<Option<Found>, String> {
        let own = expand(&format!("~{}", self.name));
        let rule = rules.iter().find(|rule| rule.from == own);
        let name = rule.map_or(&own, |rule| &rule.to);
        let index = match topics.iter().position(|topic| topic.name == *name) {
            None if rule.is_none() => self.find_by_end(topics, &own)?,
            index => index,
        };
        match index {
            Some(index) if topics[index].type_name == self.type_name => {
                let topic = topics[index].name.clone();
                if topic != *name {
                    tracing::info!("Input {} is taken from {topic}: the bag has no {own}", self.input);
                }
                Ok(Some(Found { input: self.input.clone(), index, topic, type_name: self.type_name }))
            }
            Some(index) => {
                let Topic { name, type_name, .. } = &topics[index];
                let remedy = self.other.as_ref().filter(|other| other.type_name == type_name);
                let remedy = remedy.map(|other| format!(". {}", other.remedy)).unwrap_or_default();
                Err(format!("{}: {name} has the type {type_name}, and {} is expected{remedy}", self.input, self.type_name))
            }
            None if self.optional && rule.is_none() => Ok(None),
            None => Err(format!("{}: there is no topic {name} ({}){}", self.input, self.type_name, self.advice(topics, rule))),
        }
    }

    fn find_by_end(&self, topics: &[Topic], own: &str) -> Result<Option<usize>, String> {
        let alike: Vec<usize> = (0..topics.len()).filter(|&index| topics[index].name.ends_with(&self.name)).collect();
        let typed: Vec<usize> = alike.iter().copied().filter(|&index| topics[index].type_name == self.type_name).collect();
        match (&alike[..], &typed[..]) {
            ([], _) => Ok(None),
            ([index], _) | (_, [index]) => Ok(Some(*index)),
            _ => {
                let names: Vec<_> = alike.iter().map(|&index| topics[index].name.as_str()).collect();
                Err(format!("{}: which of {} is it? Say -r {own}:=TOPIC", self.input, names.join(", ")))
            }
        }
    }

    /// What may help when there is no topic.
    fn advice(&self, topics: &[Topic], rule: Option<&Remap>) -> String {
        let other = self.other.iter().find_map(|other| {
            let topic = topics.iter().find(|topic| topic.name.ends_with(&other.name) && topic.type_name == other.type_name)?;
            Some(format!(", but {} ({}). {}", topic.name, topic.type_name, other.remedy))
        });
        match (rule, other) {
            (Some(rule), _) => format!(", which the rule {rule} names"),
            (None, Some(other)) => other,
            (None, None) if self.input == INSTRUCTION => {
                ", and neither the parameter instruction.default nor the robot profile has an instruction".to_owned()
            }
            (None, None) => format!(", nor one that ends with {}. Say -r ~{}:=TOPIC", self.name, self.name),
        }
    }
}

/// The topics of all inputs, or everything that is missing.
pub(super) fn find(bag: &BagReader, wanted: &[Wanted], rules: &[Remap]) -> Result<Vec<Found>, RunError> {
    for rule in rules {
        if !wanted.iter().any(|wanted| rule.from == expand(&format!("~{}", wanted.name))) {
            tracing::warn!("The rule {rule} has no effect: the policy reads no topic {}", rule.from);
        }
    }
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for result in wanted.iter().map(|wanted| wanted.find(bag.topics(), rules)) {
        match result {
            Ok(topic) => found.extend(topic),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        return Ok(found);
    }
    let describe = |topic: &Topic| format!("{} ({}, {} messages)", topic.name, topic.type_name, topic.message_count);
    Err(RunError::Topics { path: bag.path().into(), problems, found: bag.topics().iter().map(describe).collect() })
}

use std::{io, path::PathBuf};

use crate::robot::RobotError;

/// Why parameters were not accepted.
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
    #[error("Parameter {name} cannot be declared: {reason}")]
    Declaration { name: String, reason: String },
    #[error(transparent)]
    Robot(#[from] RobotError),

    #[error("{origin}: {error}")]
    At { origin: String, error: Box<ParameterError> },
    #[error("Cannot read the parameter file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a parameter file of ROS: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("{} has no parameters for the node {node}, only for {}. Name it {node} or /**", path.display(), found.join(", "))]
    OtherNode { path: PathBuf, node: &'static str, found: Vec<String> },
    #[error("{origin}: There is no parameter {name}.{}", nearest.as_ref().map(|name| format!(" Is it {name}?")).unwrap_or_default())]
    Unknown { origin: String, name: String, nearest: Option<String> },
}

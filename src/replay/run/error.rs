use std::{
    io,
    path::{Path, PathBuf},
};

use super::{super::ReplayError, topics::Found};
use crate::{
    control::ControlError, observation::InstructionError, parameters::ParameterError, policy::PolicyError, robot::RobotError,
};

/// Why a policy could not be run over a bag.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error(transparent)]
    Robot(#[from] RobotError),
    #[error("The policy cannot be opened. {0}")]
    Policy(#[from] PolicyError),
    #[error("The robot cannot be commanded like this. {0}")]
    Control(#[from] ControlError),
    #[error("The robot profile's instruction was refused. {0}")]
    Instruction(#[from] InstructionError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("The backend does not answer any more: {0}")]
    Lost(String),
    #[error("A chunk was computed without the backend that was opened for it")]
    NotWitnessed,
    #[error("Cannot read {} to tell what was run: {source}", path.display())]
    Identify { path: PathBuf, source: io::Error },
    #[error("The bag {} does not have what the policy needs:{}\nIt has:{}", path.display(), list(problems), list(found))]
    Topics { path: PathBuf, problems: Vec<String>, found: Vec<String> },
    #[error("Nothing could be computed from the bag {}:{}", path.display(), list(problems))]
    Unusable { path: PathBuf, problems: Vec<String> },
    #[error("{0} is no remapping rule. Write FROM:=TO, such as ~/joint_states:=/joint_states")]
    Remap(String),
}

impl RunError {
    /// There is no message of any input.
    pub(super) fn empty(path: &Path, found: &[Found]) -> Self {
        let problem = |found: &Found| format!("{}: {} has no messages", found.input, found.topic);
        Self::Unusable { path: path.to_owned(), problems: found.iter().map(problem).collect() }
    }
}

fn list(lines: &[String]) -> String {
    if lines.is_empty() { "\n- nothing".to_owned() } else { lines.iter().map(|line| format!("\n- {line}")).collect() }
}

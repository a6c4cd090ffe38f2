use std::{io, path::PathBuf};

use crate::{
    backend::{
        BackendError,
        ttnn::{coverage::CoverageError, record::RecordingError},
    },
    checkpoint::CheckpointError,
    cli::simulate::SimulatedPolicyError,
    control::ControlError,
    observation::ObservationError,
    policy::PolicyError,
    replay::{ReplayError, baseline::BaselineError, compare::ToleranceError, report::ReportError, run::RunError},
    robot::RobotError,
    verify::VerifyError,
};

/// Why a subcommand stopped.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("Cannot write to standard output: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Robot(#[from] RobotError),
    #[error(transparent)]
    Simulated(#[from] SimulatedPolicyError),
    #[error(transparent)]
    Tolerances(#[from] ToleranceError),
    #[error(transparent)]
    Verify(#[from] VerifyError),

    #[error("The reference backend is what others are compared with. Give --backend ttnn or ttnn_host, or --golden")]
    NothingToCompare,
    #[error("Cannot read {path}: {reason}. Give the bench.json that benches/against_lerobot.sh writes")]
    Against { path: PathBuf, reason: String },

    #[error("Cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Coverage { path: PathBuf, source: CoverageError },
    #[error("Cannot draw {path}: {reason}")]
    Picture { path: PathBuf, reason: String },
    #[error("Cannot read the image {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Image { path: PathBuf, source: Box<ObservationError> },
    #[error("Two images were given for the camera slot {0}. Give --image once for each slot")]
    SlotTwice(String),
    #[error("Joint{} {} missing from --joints. Give every joint of the robot profile's state",
        if .0.len() == 1 { "" } else { "s" },
        format_args!("{} {}", .0.join(", "), if .0.len() == 1 { "is" } else { "are" }))]
    MissingJoints(Vec<String>),
    #[error("--joints: {0}")]
    Joints(ObservationError),
    #[error("No instruction was given and the robot profile has none. Give --instruction")]
    NoInstruction,
}

//! A policy: checkpoint, robot profile and backend joined. The node, the command line and the replay all call this.

use std::path::PathBuf;

use crate::{
    model::StageTimes,
    observation::{Observation, ResizeKernel},
};

/// Which backend computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    Reference,
    Ttnn,
}

/// Everything that decides what a policy computes.
#[derive(Clone, Debug)]
pub struct PolicyOptions {
    pub checkpoint: PathBuf,
    /// Path of a robot profile (`config/robots/*.yaml`).
    pub robot: PathBuf,
    pub backend: BackendKind,
    /// Overrides for what the checkpoint folder does not hold.
    pub tokenizer: Option<PathBuf>,
    pub norm_stats: Option<PathBuf>,
    /// Overrides the checkpoint family's resize.
    pub resize: Option<ResizeKernel>,
    /// Seed of the noise; a chunk counter makes every chunk's noise different.
    pub seed: u64,
    /// Euler steps; `None` takes the checkpoint's.
    pub steps: Option<usize>,
    /// Threads of the backend; `None` takes all cores.
    pub threads: Option<usize>,
}

/// A resident policy.
pub struct Policy {}

/// One chunk in robot units with everything needed to compute it again.
#[derive(Clone, Debug)]
pub struct PolicyChunk {
    /// Counts from 0; with the seed it gives the noise.
    pub index: u64,
    pub seed: u64,
    pub horizon: usize,
    /// Normalised model output `[horizon, action_dim]`.
    pub model_actions: Vec<f32>,
    pub action_dim: usize,
    /// Joint names of the robot's commands.
    pub joints: Vec<String>,
    /// Commands in robot units `[horizon, joints]`, absolute.
    pub actions: Vec<f64>,
    /// Seconds between two rows.
    pub period: f64,
    /// Decode and resize, normalise, tokenise.
    pub observation_time: std::time::Duration,
    pub times: StageTimes,
    /// Prompt tokens cut off because the model has fewer slots.
    pub dropped_tokens: usize,
}

impl Policy {
    /// Opens the checkpoint, the profile and the backend. Nothing is random and nothing is defaulted in silence.
    pub fn open(_options: &PolicyOptions) -> Result<Self, PolicyError> {
        todo!("skeleton")
    }

    /// Camera slots that must have an image, in the checkpoint's order.
    pub fn required_cameras(&self) -> &[String] {
        todo!("skeleton")
    }

    /// Joint names in the order of [`Observation::joints`].
    pub fn state_joints(&self) -> &[String] {
        todo!("skeleton")
    }

    /// Computes the next chunk. A refused observation does not advance the chunk counter.
    pub fn infer(&mut self, _observation: &Observation) -> Result<PolicyChunk, PolicyError> {
        todo!("skeleton")
    }
}

/// Why a policy could not be opened or an observation was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    #[error(transparent)]
    Backend(#[from] crate::backend::BackendError),
}

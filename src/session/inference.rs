//! From samples to a chunk.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{ImageMessage, JointMessage, Snapshot, Taken};
use crate::{
    control::{ChunkError, CommandRows, ComputedChunk, Stamp},
    observation::{JointSelector, Observation, ObservationError},
    policy::{Policy, PolicyChunk, PolicyError, PrefixGuidance},
};

/// Computes chunks from snapshots.
pub struct Inference {
    policy: Policy,
    joints: JointSelector,
}

/// A computed chunk with what a reader of it wants to know.
#[derive(Clone, Debug)]
pub struct Finished {
    pub chunk: PolicyChunk,
    pub backend: &'static str,
    pub instruction: String,
    /// Joint values of the observation, in the policy's order.
    pub positions: Vec<f64>,
    /// When the observation was taken.
    pub observed: Stamp,
    /// Name and age in seconds of each input at that moment.
    pub input_ages: Vec<(String, f64)>,
    /// Largest difference between the exposure times of the cameras, in seconds.
    pub input_skew: f64,
    /// Image decoding, joint selection, and what the policy does with them before the model runs.
    pub observation_time: Duration,
    /// From taking the observation to a finished chunk.
    pub total_time: Duration,
}

/// Why a request produced no chunk, or none that may be executed.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    #[error("Input {input} was refused: {source}")]
    Input { input: String, source: Box<ObservationError> },
    #[error("No chunk was computed: {0}")]
    Policy(#[from] PolicyError),
    #[error("The chunk was refused and nothing of it is commanded: {0}")]
    Refused(#[from] ChunkError),
    #[error("The chunk could not be published: {0}")]
    Publish(String),
}

impl Inference {
    pub fn new(policy: Policy) -> Self {
        Self { joints: JointSelector::new(policy.state_joints()), policy }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Computes the next chunk. What is wrong with a sample is noted with its input.
    pub fn infer<C: ImageMessage, J: JointMessage>(
        &mut self,
        snapshot: &Snapshot<C, J>,
        guidance: Option<&PrefixGuidance>,
    ) -> Result<Finished, InferenceError> {
        let started = Instant::now();
        let observation = self.observe(snapshot)?;
        let decoded = started.elapsed();
        let chunk = self.policy.infer(&observation, guidance)?;
        let Observation { joints, instruction, .. } = observation;
        Ok(Finished {
            backend: self.policy.info().backend.name,
            instruction,
            positions: joints,
            observed: snapshot.stamp,
            input_ages: snapshot.ages(),
            input_skew: snapshot.skew,
            observation_time: decoded + chunk.observation_time,
            total_time: started.elapsed(),
            chunk,
        })
    }

    /// Decodes the images, picks the joints and interpolates them.
    fn observe<C: ImageMessage, J: JointMessage>(&self, snapshot: &Snapshot<C, J>) -> Result<Observation, InferenceError> {
        let mut images = BTreeMap::new();
        for camera in &snapshot.cameras {
            images.insert(camera.input.name().to_owned(), accept(camera, |image| image.decode())?);
        }
        let select = |message: &J| self.joints.select(&message.names(), message.positions());
        Ok(Observation {
            images,
            joints: accept(&snapshot.joint_states, |state| state.positions(|message| select(message)))?,
            instruction: snapshot.instruction.value.to_string(),
        })
    }
}

impl Finished {
    /// What the controller takes over, when the whole chunk may be executed.
    pub fn computed(&self) -> Result<ComputedChunk, ChunkError> {
        let PolicyChunk { model_actions, action_dim, joints, horizon, period, actions, anchor, .. } = &self.chunk;
        CommandRows::check_model_output(model_actions, *action_dim)?;
        let rows = CommandRows::check(joints, *horizon, *period, actions.clone())?;
        Ok(ComputedChunk { rows, model_actions: model_actions.clone(), action_dim: *action_dim, anchor: anchor.clone() })
    }
}

/// Reads a sample and notes the outcome with its input.
fn accept<M, T>(taken: &Taken<M>, read: impl FnOnce(&M) -> Result<T, ObservationError>) -> Result<T, InferenceError> {
    match read(&taken.value) {
        Ok(value) => {
            taken.input.accept();
            Ok(value)
        }
        Err(source) => {
            taken.input.refuse(source.to_string());
            Err(InferenceError::Input { input: taken.input.name().to_owned(), source: Box::new(source) })
        }
    }
}

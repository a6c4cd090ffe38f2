//! A policy: checkpoint, robot profile and backend joined. The node, the command line and the replay all call this.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    backend::{self, Backend, BackendError, BackendInfo, BackendOptions},
    checkpoint::{Checkpoint, CheckpointError, Family, Normalizer, OpenOptions, Weights},
    control::GuidanceRequest,
    model::{Chunk, DenoiseRequest, Geometry, Guidance, ModelInputs, PrefixSchedule, StageTimes, noise},
    observation::{Observation, ObservationError, Pipeline, ResizeKernel},
    robot::{ActionColumn, CommandKind, RobotError, RobotProfile},
};

/// Everything that decides what a policy computes.
#[derive(Clone, Debug)]
pub struct PolicyOptions {
    pub checkpoint: PathBuf,
    /// Path of a robot profile (`config/robots/*.yaml`).
    pub robot: PathBuf,
    pub backend: BackendOptions,
    /// Overrides for what the checkpoint folder does not hold.
    pub tokenizer: Option<PathBuf>,
    pub norm_stats: Option<PathBuf>,
    /// Overrides the resize of profile and checkpoint family.
    pub resize: Option<ResizeKernel>,
    /// Seed of the noise; a chunk counter makes every chunk's noise different.
    pub seed: u64,
    /// Euler steps; `None` takes the checkpoint's.
    pub steps: Option<usize>,
}

/// What an opened policy is.
#[derive(Clone, Debug)]
pub struct PolicyInfo {
    pub checkpoint: PathBuf,
    pub family: Family,
    /// The weights were made by `pi0_tt synth`: the actions mean nothing.
    pub synthetic: bool,
    pub geometry: Geometry,
    pub robot: String,
    pub backend: BackendInfo,
    pub steps: usize,
    pub seed: u64,
    /// The tokenizer's file.
    pub tokenizer: PathBuf,
}

/// A resident policy.
pub struct Policy {
    pipeline: Pipeline,
    backend: Box<dyn Backend>,
    info: PolicyInfo,
    required_cameras: Vec<String>,
    state_joints: Vec<String>,
    commands: Vec<ActionColumn>,
    execution_horizon: Option<usize>,
    default_instruction: Option<String>,
    /// Seconds between two rows of a chunk.
    period: f64,
    next_index: u64,
}

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
    /// The state in the policy's units, which relative actions are added to: with `model_actions`, what the next chunk is guided by.
    pub anchor: Vec<f32>,
    /// Joint names of the robot's commands, and what their values are.
    pub joints: Vec<String>,
    pub kinds: Vec<CommandKind>,
    /// Commands in robot units `[horizon, joints]`, absolute.
    pub actions: Vec<f64>,
    /// Seconds between two rows.
    pub period: f64,
    /// Resize, normalise, tokenise.
    pub observation_time: Duration,
    pub times: StageTimes,
    /// Prompt tokens cut off because the model has fewer slots.
    pub dropped_tokens: usize,
}

/// Real-time chunking: what is still to be executed of the chunk before, and how closely the next one follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct PrefixGuidance {
    /// Unexecuted rows of [`PolicyChunk::model_actions`], `[rows, action_dim]` with at least one row and at most a chunk's: row 0 was to
    /// be commanded next when the observation was taken.
    pub previous: Vec<f32>,
    /// [`PolicyChunk::anchor`] of the chunk that they are from.
    pub previous_anchor: Vec<f32>,
    /// Rows that will be executed while the chunk is computed.
    pub delay: usize,
    /// Rows that are guided at all; at most those that there are.
    pub horizon: usize,
    pub schedule: PrefixSchedule,
    /// The most that a step's guidance may weigh (LeRobot: 10); above 0.
    pub max_weight: f64,
}

impl PrefixGuidance {
    /// What the controller asks for, in a form that an operator chooses.
    pub fn new(request: GuidanceRequest, schedule: PrefixSchedule, max_weight: f64) -> Self {
        let GuidanceRequest { previous, previous_anchor, delay, horizon } = request;
        Self { previous, previous_anchor, delay, horizon, schedule, max_weight }
    }
}

impl Policy {
    /// Opens the checkpoint, the profile and the backend. Nothing is random and nothing is defaulted in silence.
    pub fn open(options: &PolicyOptions) -> Result<Self, PolicyError> {
        Self::open_with(options, backend::open)
    }

    /// The same with a backend that the caller opens: another one, or one that is looked at.
    pub fn open_with(
        options: &PolicyOptions,
        open_backend: impl FnOnce(Geometry, Weights, &BackendOptions) -> Result<Box<dyn Backend>, BackendError>,
    ) -> Result<Self, PolicyError> {
        // The profile first: a mistake there should not wait for a 6 GB checkpoint.
        let profile = RobotProfile::load(&options.robot)?;
        if options.steps == Some(0) {
            return Err(BackendError::NoSteps.into());
        }
        let from = OpenOptions { tokenizer: options.tokenizer.clone(), norm_stats: options.norm_stats.clone() };
        let checkpoint = Checkpoint::open(&options.checkpoint, &from)?;
        let pipeline = Pipeline::new(&checkpoint, &profile, options.resize)?;
        let backend = open_backend(checkpoint.geometry, checkpoint.weights, &options.backend)?;
        Ok(Self {
            required_cameras: pipeline.required_cameras().map(str::to_owned).collect(),
            state_joints: profile.state_joints().map(str::to_owned).collect(),
            commands: profile.actions,
            execution_horizon: profile.execution_horizon,
            default_instruction: profile.default_instruction,
            period: 1.0 / profile.control_rate_hz,
            info: PolicyInfo {
                checkpoint: checkpoint.dir,
                family: checkpoint.family,
                synthetic: checkpoint.synthetic,
                geometry: checkpoint.geometry,
                robot: profile.name,
                backend: backend.describe(),
                steps: options.steps.unwrap_or(checkpoint.steps),
                seed: options.seed,
                tokenizer: checkpoint.prompt.path().to_owned(),
            },
            pipeline,
            backend,
            next_index: 0,
        })
    }

    pub fn info(&self) -> &PolicyInfo {
        &self.info
    }

    /// Camera slots that must have an image, in the checkpoint's order.
    pub fn required_cameras(&self) -> &[String] {
        &self.required_cameras
    }

    /// Every camera slot, absent ones included, in the checkpoint's order.
    pub fn camera_slots(&self) -> impl Iterator<Item = &str> {
        self.pipeline.camera_slots()
    }

    /// The statistics of the state and of the actions.
    pub fn normalizers(&self) -> [&Normalizer; 2] {
        self.pipeline.normalizers()
    }

    /// Joint names in the order of [`Observation::joints`].
    pub fn state_joints(&self) -> &[String] {
        &self.state_joints
    }

    /// The commanded joints, in the order of [`PolicyChunk::joints`].
    pub fn commands(&self) -> &[ActionColumn] {
        &self.commands
    }

    /// Rows of a chunk to execute before the next one replaces it, when the robot profile says so.
    pub fn execution_horizon(&self) -> Option<usize> {
        self.execution_horizon
    }

    /// Seconds between two rows.
    pub fn period(&self) -> f64 {
        self.period
    }

    /// The instruction of the robot profile, for when nobody gives one.
    pub fn default_instruction(&self) -> Option<&str> {
        self.default_instruction.as_deref()
    }

    /// Computes what the first chunks need besides: a whole inference on gray images and the middle state, and another one that is guided
    /// when `guided` chunks will follow. The chunk counter stays.
    pub fn warm_up(&mut self, instruction: &str, guided: bool) -> Result<(), PolicyError> {
        let neutral = self.pipeline.neutral_inputs(instruction)?;
        let Geometry { horizon, action_dim, .. } = self.info.geometry;
        let mut kinds = Vec::new();
        // First, because its tensors are made while a card has no traces: those of a free chunk would be captured in vain.
        if guided {
            kinds.push(Some(Guidance {
                previous: vec![0.0; horizon * action_dim],
                weights: vec![1.0; horizon],
                max_weight: 1.0,
            }));
        }
        kinds.push(None);
        for guidance in kinds {
            let chunk = self.compute(&neutral.inputs, self.next_index, guidance)?;
            self.pipeline.robot_actions(&chunk.actions, &neutral.anchor)?;
        }
        Ok(())
    }

    /// Computes the next chunk, guided by the chunk before or freely. A refused observation does not advance the chunk counter.
    pub fn infer(&mut self, observation: &Observation, guidance: Option<&PrefixGuidance>) -> Result<PolicyChunk, PolicyError> {
        self.infer_at(observation, self.next_index, guidance)
    }

    /// Computes chunk `index` of this policy's seed; the next chunk is `index + 1`.
    pub fn infer_at(
        &mut self,
        observation: &Observation,
        index: u64,
        guidance: Option<&PrefixGuidance>,
    ) -> Result<PolicyChunk, PolicyError> {
        let start = Instant::now();
        let prepared = self.pipeline.model_inputs(observation)?;
        let guidance = guidance.map(|guidance| self.guidance(guidance, &prepared.anchor)).transpose()?;
        let observation_time = start.elapsed();

        let Geometry { horizon, action_dim, .. } = self.info.geometry;
        let chunk = self.compute(&prepared.inputs, index, guidance)?;
        let actions = self.pipeline.robot_actions(&chunk.actions, &prepared.anchor)?;
        self.next_index = index + 1;
        Ok(PolicyChunk {
            index,
            seed: self.info.seed,
            horizon,
            model_actions: chunk.actions,
            action_dim,
            anchor: prepared.anchor,
            joints: actions.joints,
            kinds: actions.kinds,
            actions: actions.rows,
            period: self.period,
            observation_time,
            times: chunk.times,
            dropped_tokens: prepared.dropped_tokens,
        })
    }

    fn guidance(&self, prefix: &PrefixGuidance, anchor: &[f32]) -> Result<Guidance, ObservationError> {
        let Geometry { horizon, action_dim, .. } = self.info.geometry;
        let previous = self.pipeline.previous_rows(&prefix.previous, &prefix.previous_anchor, anchor)?;
        let guided = prefix.horizon.min(prefix.previous.len() / action_dim);
        let weights = prefix.schedule.prefix_weights(prefix.delay, guided, horizon);
        Ok(Guidance { previous, weights, max_weight: prefix.max_weight })
    }

    fn compute(&mut self, inputs: &ModelInputs, index: u64, guidance: Option<Guidance>) -> Result<Chunk, BackendError> {
        let Geometry { horizon, action_dim, .. } = self.info.geometry;
        let noise = noise(self.info.seed, index, horizon * action_dim);
        self.backend.infer(inputs, &DenoiseRequest { noise, steps: self.info.steps, guidance })
    }
}

/// Why a policy could not be opened or an observation was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Robot(#[from] RobotError),
    #[error(transparent)]
    Observation(#[from] ObservationError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

//! A policy over a bag, in the time of the bag: the same observation, control and policy code as in the node, without ROS.
//!
//! ```text
//! BagReader ─► samples ─► Session (inputs, controller) ─► ChunkRequest ─► Inference ─► [fault] ─► Witness ─► backend
//!                            │                                               │
//!                            └── commands ─────────► Trace ◄─────────────────┘
//! ```
//!
//! The clock shows the log time of the messages. The policy is activated at the first message of an input, a control step follows every
//! period, and a chunk is there a set latency after its observation, however long it took to compute. Of what happens at the same time a
//! finished chunk comes first, then messages in the bag's order, then the control step. The run ends with the bag's last message; a chunk that
//! would come later is not computed. Nobody follows the commands, so drift is not watched.

mod engine;
mod error;
mod frames;
mod samples;
mod setup;
mod topics;
mod witness;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub use error::RunError;
pub use frames::frames;
pub use topics::Remap;
pub use witness::{Witness, Witnessed};

use self::{
    engine::{Engine, Parts, Ran},
    topics::Wanted,
};
use super::{
    BagMessage, BagReader, ReplayError,
    trace::{Setup, Trace},
};
use crate::{
    backend::{self, Backend, BackendError, BackendOptions},
    checkpoint::Weights,
    control::{Controller, Installed, Stamp, Tick},
    model::Geometry,
    parameters::{CameraParameters, JointParameters, ParameterFiles, Parameters, SyncParameters},
    policy::Policy,
    progress,
    robot::{ActionColumn, CameraSlot, RobotProfile},
    session::{Finished, Inference, Inputs, Instruction, Session},
};

/// What is run over which bag.
#[derive(Debug)]
pub struct RunOptions {
    pub bag: PathBuf,
    pub parameters: ParameterFiles,
    /// Rules that give topics of the policy other names.
    pub remaps: Vec<Remap>,
    /// Bag time from an observation to its chunk, in seconds; not negative.
    pub latency: f64,
}

/// Opens a backend.
pub type OpenBackend = Box<dyn FnOnce(Geometry, Weights, &BackendOptions) -> Result<Box<dyn Backend>, BackendError>>;

/// Where something may be put between the policy and what it computes with.
pub struct Seam {
    /// Opens what computes, which the [`Witness`] looks at.
    pub open: OpenBackend,
    /// Puts something between the policy and the witness.
    pub around: Box<dyn FnOnce(Box<dyn Backend>) -> Box<dyn Backend>>,
}

impl Default for Seam {
    fn default() -> Self {
        Self { open: Box::new(backend::open), around: Box::new(|witness| witness) }
    }
}

/// Receives what the node would publish, in order.
pub trait Outputs {
    /// Before everything else, when it is known what is commanded.
    fn begin(&mut self, setup: &Setup, commands: &[ActionColumn]) -> Result<(), ReplayError>;
    /// A chunk was taken over at `now`.
    fn chunk(&mut self, now: Stamp, finished: &Finished, installed: &Installed) -> Result<(), ReplayError>;
    /// What the control step of `now` commands.
    fn tick(&mut self, now: Stamp, tick: &Tick) -> Result<(), ReplayError>;
}

/// Publishes nothing.
pub struct NoOutputs;

impl Outputs for NoOutputs {
    fn begin(&mut self, _: &Setup, _: &[ActionColumn]) -> Result<(), ReplayError> {
        Ok(())
    }

    fn chunk(&mut self, _: Stamp, _: &Finished, _: &Installed) -> Result<(), ReplayError> {
        Ok(())
    }

    fn tick(&mut self, _: Stamp, _: &Tick) -> Result<(), ReplayError> {
        Ok(())
    }
}

/// Runs the policy over the bag. What is wrong with parameters, topics and the policy is an error; what is wrong with single messages, the end of
/// a damaged bag, or times without an observation is in the trace.
pub fn run(options: RunOptions, outputs: &mut dyn Outputs) -> Result<Trace, RunError> {
    run_through(options, Seam::default(), outputs)
}

/// The same with something in the seam.
pub fn run_through(options: RunOptions, seam: Seam, outputs: &mut dyn Outputs) -> Result<Trace, RunError> {
    let RunOptions { bag: path, parameters: mut values, remaps, latency } = options;
    // What a person may have mistyped first: it should not wait for a 6 GB checkpoint.
    let parameters = Parameters::declare(&mut values)?;
    let policy_options = parameters.policy_options()?;
    let profile = RobotProfile::load(&policy_options.robot)?;
    let present = |(slot, camera): (&String, &CameraSlot)| (*camera != CameraSlot::Absent).then(|| slot.clone());
    let slots: Vec<String> = profile.cameras.iter().filter_map(present).collect();
    let mut cameras = Vec::new();
    for slot in slots {
        let camera = CameraParameters::declare(&mut values, &slot)?;
        cameras.push((slot, camera));
    }
    let sync = SyncParameters::declare(&mut values)?;
    let limits = JointParameters::declare(&mut values, &profile.actions)?;
    values.check_unknown()?;
    let default_instruction = Some(parameters.default_instruction.get().to_string())
        .filter(|text| !text.is_empty())
        .or_else(|| profile.default_instruction.clone());
    let (bag, mut damage) = BagReader::open_salvaging(&path)?;
    let wanted = Wanted::of(&cameras, default_instruction.is_some())?;
    let found = topics::find(&bag, &wanted, &remaps)?;

    // Nothing happens before the first message of an input.
    let mut messages = bag.messages();
    let is_input = |message: &BagMessage| found.iter().any(|found| found.index == message.topic);
    let first = messages.by_ref().find(|message| message.as_ref().map_or(true, is_input));
    let first = first.ok_or_else(|| RunError::empty(&path, &found))??;
    let start = engine::stamp(first.log_time);

    let witnessed = Witnessed::default();
    let mut weights = None;
    let policy = Policy::open_with(&policy_options, |geometry, tensors, backend| {
        weights = Some(tensors.fingerprint().into());
        let computing = (seam.open)(geometry, tensors, backend)?;
        Ok((seam.around)(Box::new(Witness::new(computing, witnessed.clone()))))
    })?;
    let mut config = parameters.control.config(
        &limits,
        policy.commands(),
        (policy.info().geometry.horizon, policy.period(), policy.execution_horizon()),
    )?;
    config.drift = None;
    let controller = Controller::new(config)?;
    let setup = setup::describe(&setup::Sources {
        bag: &path,
        policy: &policy,
        options: &policy_options,
        urdf: parameters.control.urdf().as_deref(),
        parameters: values.resolved(),
        latency,
        weights: weights.ok_or(RunError::NotWitnessed)?,
    })?;
    outputs.begin(&setup, policy.commands())?;

    // In the policy's order of slots, which are those of the profile.
    cameras.sort_by_key(|(slot, _)| policy.required_cameras().iter().position(|required| required == slot));
    let changed = Arc::new(AtomicBool::new(false));
    let tell = changed.clone();
    let instruction = Arc::new(Instruction::new(move || tell.store(true, Ordering::Relaxed)));
    if let Some(text) = &default_instruction {
        instruction.set(text.as_bytes(), start, None)?;
        changed.store(false, Ordering::Relaxed);
    }
    let joints = policy.commands().iter().map(|column| column.joint.clone()).collect();
    let inputs = Arc::new(Inputs::new(cameras, sync, instruction.clone())?);
    let guidance = parameters.control.guidance()?;
    let parts = Parts {
        session: Session::new(controller, inputs, joints, policy.period(), guidance, start),
        witnessed,
        instruction,
        changed,
        latency,
        outputs,
        inference: Inference::new(policy),
    };
    let slots = parts.inference.policy().required_cameras().to_vec();
    let mut engine = Engine::start(parts, found, &slots, start);
    let begin = first.log_time;
    let mut end = begin;
    let bar = progress::bar("Replay", bag.time_range().map_or(0, |(_, last)| milliseconds(begin, last)));
    for message in std::iter::once(Ok(first)).chain(messages) {
        match message {
            Ok(message) => {
                end = end.max(message.log_time);
                bar.set_position(milliseconds(begin, end));
                engine.receive(message)?;
            }
            // What lies in front of the damage is sound. What is known of it since the opening is the same or lies behind.
            Err(error) => damage = Some(error),
        }
    }
    let damage = damage.map(|damage| damage.to_string());
    let ran = engine.finish(engine::stamp(end))?;
    bar.finish_and_clear();
    let Ran { inputs, chunks, commands, gaps, failed, latch, unusable } = ran;
    if !unusable.is_empty() {
        let problems = unusable.into_iter().chain(damage).collect();
        return Err(RunError::Unusable { path, problems });
    }
    let span = (start.nanoseconds(), engine::stamp(end).nanoseconds());
    Ok(Trace { setup, inputs, span, chunks, commands, gaps, failed, damage, latch })
}

fn milliseconds(from: u64, to: u64) -> u64 {
    to.saturating_sub(from) / 1_000_000
}

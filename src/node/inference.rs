//! The inference thread: turns what the control thread asks for into chunks.
//!
//! It owns the policy and holds no ROS entities, so that a node which is told to end does not wait for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use ros_env::sensor_msgs::msg::rmw::JointState;

use super::{
    control::Message,
    inputs::{CameraMessage, Snapshot, Taken},
    log::{Change, ChangeLog, LOG_INTERVAL},
    meter::Lateness,
    outputs::Finished,
};
use crate::{
    control::{ChunkError, CommandRows, ComputedChunk, ControlStatus, Ticket},
    observation::{CompressedImageView, ImageView, JointSelector, Observation, ObservationError, RgbImage},
    policy::{Policy, PolicyChunk, PolicyError, PrefixGuidance},
};

/// How often the idle inference thread looks whether it is to end.
const END_POLL: Duration = Duration::from_millis(100);

/// What the control thread asks for.
pub struct Request {
    pub snapshot: Snapshot,
    pub ticket: Ticket,
    /// What the chunk is to be guided by.
    pub guidance: Option<PrefixGuidance>,
    pub answer: Sender<Message>,
}

/// What came of a request.
pub struct Computed {
    pub ticket: Ticket,
    pub result: Result<(Finished, ComputedChunk, LastChunk), InferenceError>,
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
    Publish(#[from] rclrs::RclrsError),
}

/// Counters of the inference for the diagnostics. They never go back.
#[derive(Clone, Debug, Default)]
pub struct InferenceStatus {
    pub chunks: u64,
    /// Inferences that ended without a chunk.
    pub failed: u64,
    /// Why there is no chunk now; `None` after a chunk.
    pub problem: Option<Problem>,
    pub last: Option<LastChunk>,
    /// When the inference that runs now began.
    pub running: Option<Instant>,
}

/// An inference takes this many times as long as the one before when the backend is taken to have stopped answering.
const OVERDUE: u32 = 4;
/// Shorter than this nothing is overdue.
const NEVER_OVERDUE: Duration = Duration::from_millis(200);

impl InferenceStatus {
    /// How long the running inference takes already, when that is too long to be true: a card that is lost in the middle of a chunk
    /// may never answer.
    pub fn overdue(&self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.running?);
        (elapsed > NEVER_OVERDUE.max(OVERDUE * self.last.as_ref()?.total)).then_some(elapsed)
    }

    /// The running inference came to an end, with `problem` when it is an error.
    pub fn ended(&mut self, result: Result<LastChunk, InferenceError>, problem: Option<String>) {
        self.running = None;
        self.problem = problem.map(Problem::Failed);
        match result {
            Ok(last) => {
                self.chunks += 1;
                self.last = Some(last);
            }
            // The controller counts the chunks that it refuses, by reason.
            Err(InferenceError::Refused(_)) => {}
            Err(_) => self.failed += 1,
        }
    }
}

/// What keeps the node from having a chunk.
#[derive(Clone, Debug)]
pub enum Problem {
    /// Inputs without a usable sample.
    Waiting(String),
    /// An inference that failed.
    Failed(String),
}

/// Times of the newest chunk.
#[derive(Clone, Debug)]
pub struct LastChunk {
    pub observation: Duration,
    pub vision: Duration,
    pub prefix: Duration,
    pub denoise: Duration,
    pub total: Duration,
    pub dropped_tokens: usize,
}

/// The control thread's report to the diagnostics.
#[derive(Default)]
pub struct ControlReport {
    /// `None` before the first control step.
    pub status: Option<ControlStatus>,
    pub lateness: Lateness,
}

/// What the threads share with the diagnostics.
#[derive(Clone, Default)]
pub struct Shared {
    ending: Arc<AtomicBool>,
    status: Arc<Mutex<InferenceStatus>>,
    control: Arc<Mutex<ControlReport>>,
}

impl Shared {
    /// Tells the inference thread to end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    pub fn status(&self) -> MutexGuard<'_, InferenceStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn control(&self) -> MutexGuard<'_, ControlReport> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the inference thread works with.
pub struct Worker {
    pub policy: Policy,
    pub shared: Shared,
}

impl Worker {
    /// Answers requests until it is told to end or the other side is dropped.
    pub fn run(mut self, requests: &Receiver<Request>) {
        let joints = JointSelector::new(self.policy.state_joints());
        let mut log = ChangeLog::new(LOG_INTERVAL, Instant::now());
        while !self.shared.ending.load(Ordering::Acquire) {
            match requests.recv_timeout(END_POLL) {
                Ok(Request { snapshot, ticket, guidance, answer }) => {
                    let result = self.infer(&joints, &mut log, snapshot, guidance.as_ref());
                    // Nobody waits any more when the node is on its way out.
                    let _ = answer.send(Message::Computed(Box::new(Computed { ticket, result })));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn infer(
        &mut self,
        joints: &JointSelector,
        log: &mut ChangeLog,
        snapshot: Snapshot,
        guidance: Option<&PrefixGuidance>,
    ) -> Result<(Finished, ComputedChunk, LastChunk), InferenceError> {
        let started = Instant::now();
        let observation = observe(joints, &snapshot)?;
        let decoded = started.elapsed();
        let mut chunk = self.policy.infer(&observation, guidance)?;
        CommandRows::check_model_output(&chunk.model_actions, chunk.action_dim)?;
        let rows = CommandRows::check(&chunk.joints, chunk.horizon, chunk.period, std::mem::take(&mut chunk.actions))?;
        tell_truncation(log, &observation.instruction, chunk.dropped_tokens);
        let (observation_time, total_time) = (decoded + chunk.observation_time, started.elapsed());
        let last = last_chunk(&chunk, observation_time, total_time);
        let computed = ComputedChunk {
            rows: rows.clone(),
            model_actions: chunk.model_actions.clone(),
            action_dim: chunk.action_dim,
            anchor: std::mem::take(&mut chunk.anchor),
        };
        let finished = Finished {
            chunk,
            rows,
            backend: self.policy.info().backend.name,
            instruction: observation.instruction,
            observed: snapshot.stamp,
            input_ages: input_ages(&snapshot),
            input_skew: snapshot.skew,
            observation_time,
            total_time,
        };
        Ok((finished, computed, last))
    }
}

/// One line for each instruction that does not fit.
fn tell_truncation(log: &mut ChangeLog, instruction: &str, dropped: usize) {
    let problem = (dropped > 0).then_some(instruction);
    if let (Some(Change::Problem), Some(text)) = (log.observe("prompt", problem, Instant::now()), problem) {
        tracing::warn!("The instruction {text:?} is too long for the model: {dropped} tokens were cut off");
    }
}

/// Decodes the images, picks the joints and interpolates them.
fn observe(joints: &JointSelector, snapshot: &Snapshot) -> Result<Observation, InferenceError> {
    let mut images = BTreeMap::new();
    for camera in &snapshot.cameras {
        images.insert(camera.input.name().to_owned(), accept(camera, |image| decode(image))?);
    }
    Ok(Observation {
        images,
        joints: accept(&snapshot.joint_states, |state| state.positions(|message| select(joints, message)))?,
        instruction: snapshot.instruction.value.to_string(),
    })
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

fn decode(message: &CameraMessage) -> Result<RgbImage, ObservationError> {
    match message {
        CameraMessage::Raw(image) => ImageView {
            width: image.width,
            height: image.height,
            encoding: &image.encoding.to_string(),
            is_bigendian: image.is_bigendian != 0,
            step: image.step,
            data: &image.data,
        }
        .decode(),
        CameraMessage::Compressed(image) => CompressedImageView { format: &image.format.to_string(), data: &image.data }.decode(),
    }
}

fn select(joints: &JointSelector, message: &JointState) -> Result<Vec<f64>, ObservationError> {
    let names: Vec<String> = message.name.iter().map(ToString::to_string).collect();
    joints.select(&names, &message.position)
}

fn input_ages(snapshot: &Snapshot) -> Vec<(String, f64)> {
    let cameras = snapshot.cameras.iter().map(|camera| (camera.input.name().to_owned(), camera.age));
    let (joint_states, instruction) = (&snapshot.joint_states, &snapshot.instruction);
    cameras
        .chain([(joint_states.input.name().to_owned(), joint_states.age), (instruction.input.name().to_owned(), instruction.age)])
        .collect()
}

fn last_chunk(chunk: &PolicyChunk, observation: Duration, total: Duration) -> LastChunk {
    let times = &chunk.times;
    LastChunk {
        observation,
        vision: times.vision,
        prefix: times.prefix,
        denoise: times.steps.iter().sum(),
        total,
        dropped_tokens: chunk.dropped_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_stops_answering_is_noticed_when_it_takes_four_times_as_long_as_before() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let last = LastChunk {
            observation: Duration::ZERO,
            vision: Duration::ZERO,
            prefix: Duration::ZERO,
            denoise: Duration::ZERO,
            total: Duration::from_millis(60),
            dropped_tokens: 0,
        };
        let mut status = InferenceStatus { running: Some(start), last: Some(last), ..Default::default() };
        assert_eq!(status.overdue(after(200)), None, "an inference may be a little slow");
        assert_eq!(status.overdue(after(400)), Some(Duration::from_millis(400)));
        status.last = None;
        assert_eq!(status.overdue(after(400)), None, "the first inference prepares what the others use");
    }
}

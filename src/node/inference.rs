//! The inference thread and the timer tick that feeds it.
//!
//! The tick never waits: while an inference runs, or an input has no usable sample, it counts and returns. The thread owns the policy and
//! holds no ROS entities, so that a node which is told to end does not wait for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use rclrs::Clock;
use ros_env::sensor_msgs::msg::rmw::JointState;

use super::{
    inputs::{CameraMessage, Inputs, Snapshot, Taken},
    log::{Change, ChangeLog},
    outputs::{Finished, Outputs},
};
use crate::{
    control::{ChunkError, CommandRows, NotUsable, Stamp},
    observation::{CompressedImageView, ImageView, JointSelector, Observation, ObservationError, RgbImage},
    policy::{Policy, PolicyChunk, PolicyError},
};

/// One line a second and cause is what a console bears.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// How often the idle inference thread looks whether it is to end.
const END_POLL: Duration = Duration::from_millis(100);

/// Why a tick produced no chunk.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    #[error("Input {input} was refused: {source}")]
    Input { input: String, source: Box<ObservationError> },
    #[error("No chunk was computed: {0}")]
    Policy(#[from] PolicyError),
    #[error("The chunk was refused and nothing of it published: {0}")]
    Chunk(#[from] ChunkError),
    #[error("The chunk could not be published: {0}")]
    Publish(#[from] rclrs::RclrsError),
}

/// Counters of the inference for the diagnostics. They never go back.
#[derive(Clone, Debug, Default)]
pub struct InferenceStatus {
    pub chunks: u64,
    /// Ticks that found the inference before them still running.
    pub overruns: u64,
    /// Ticks that found an input without a usable sample.
    pub waiting: u64,
    pub refused_observations: u64,
    pub refused_chunks: u64,
    /// Why there is no chunk now; `None` after a chunk.
    pub problem: Option<Problem>,
    pub last: Option<LastChunk>,
    /// The inference that runs now: when it began, and the overruns until then.
    pub running: Option<(Instant, u64)>,
}

/// An inference takes this many times as long as the one before when the backend is taken to have stopped answering.
const OVERDUE: u32 = 4;

impl InferenceStatus {
    /// How long the running inference takes already, when that is too long to be true: a card that is lost in the middle of a chunk
    /// may never answer.
    pub fn overdue(&self, now: Instant) -> Option<Duration> {
        let ((started, overruns), last) = (self.running?, self.last.as_ref()?);
        let elapsed = now.saturating_duration_since(started);
        (self.overruns >= overruns + 2 && elapsed > OVERDUE * last.total).then_some(elapsed)
    }
}

/// What keeps the node from publishing chunks.
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

/// What the tick and the thread share.
#[derive(Clone, Default)]
pub struct Shared {
    busy: Arc<AtomicBool>,
    ending: Arc<AtomicBool>,
    status: Arc<Mutex<InferenceStatus>>,
}

impl Shared {
    /// Tells the inference thread to end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    pub fn status(&self) -> MutexGuard<'_, InferenceStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The timer's side.
pub struct Dispatcher {
    inputs: Arc<Inputs>,
    shared: Shared,
    requests: SyncSender<Snapshot>,
    log: ChangeLog,
}

impl Dispatcher {
    pub fn new(inputs: Arc<Inputs>, shared: Shared, requests: SyncSender<Snapshot>) -> Self {
        Self { inputs, shared, requests, log: ChangeLog::new(LOG_INTERVAL, Instant::now()) }
    }

    /// Starts an inference on the newest samples, if none is running and every input has one.
    pub fn tick(&mut self, now: Stamp) {
        if self.shared.busy.load(Ordering::Acquire) {
            self.shared.status().overruns += 1;
            return;
        }
        match self.inputs.snapshot(now) {
            Ok(snapshot) => {
                self.tell(&BTreeMap::new());
                // The inference may take a while, and until it has ended nothing else would say that the inputs are there.
                let mut status = self.shared.status();
                status.problem.take_if(|problem| matches!(problem, Problem::Waiting(_)));
                status.running = Some((Instant::now(), status.overruns));
                drop(status);
                self.shared.busy.store(true, Ordering::Release);
                // An error means that the thread has ended, which ends the node elsewhere.
                let _ = self.requests.send(snapshot);
            }
            Err(problems) => {
                let problems = problems.into_iter().collect();
                self.tell(&problems);
                let mut status = self.shared.status();
                status.waiting += 1;
                let problems: Vec<_> = problems.iter().map(|(input, problem)| format!("{input}: {problem}")).collect();
                status.problem = Some(Problem::Waiting(problems.join("; ")));
            }
        }
    }

    /// One line when an input is lost and one when it is back.
    fn tell(&mut self, problems: &BTreeMap<String, NotUsable>) {
        let now = Instant::now();
        for input in self.inputs.names() {
            let problem = problems.get(input);
            let kind = problem.map(|problem| match problem {
                NotUsable::Missing => "missing",
                NotUsable::Stale { .. } => "stale",
                NotUsable::Future { .. } => "future",
                NotUsable::Unstamped => "unstamped",
            });
            match (self.log.observe(input, kind, now), problem) {
                (Some(_), Some(problem)) => tracing::warn!("Input {input}: {problem}. No inference until it is back"),
                (Some(_), None) => tracing::info!("Input {input} is usable again"),
                (None, _) => {}
            }
        }
    }
}

/// The thread's side.
pub struct Worker {
    pub policy: Policy,
    pub outputs: Outputs,
    pub clock: Clock,
    pub shared: Shared,
}

impl Worker {
    /// Answers requests until it is told to end or the other side is dropped.
    pub fn run(mut self, requests: &Receiver<Snapshot>) {
        let joints = JointSelector::new(self.policy.state_joints());
        let mut log = ChangeLog::new(LOG_INTERVAL, Instant::now());
        while !self.shared.ending.load(Ordering::Acquire) {
            match requests.recv_timeout(END_POLL) {
                Ok(snapshot) => {
                    let result = self.infer(&joints, &mut log, snapshot);
                    self.record(&mut log, result);
                    self.shared.busy.store(false, Ordering::Release);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn infer(&mut self, joints: &JointSelector, log: &mut ChangeLog, snapshot: Snapshot) -> Result<LastChunk, InferenceError> {
        let started = Instant::now();
        let observation = observe(joints, &snapshot)?;
        let decoded = started.elapsed();
        let mut chunk = self.policy.infer(&observation, None)?;
        CommandRows::check_model_output(&chunk.model_actions, chunk.action_dim)?;
        let rows = CommandRows::check(&chunk.joints, chunk.horizon, chunk.period, std::mem::take(&mut chunk.actions))?;
        tell_truncation(log, &observation.instruction, chunk.dropped_tokens);
        let (observation_time, total_time) = (decoded + chunk.observation_time, started.elapsed());
        let last = last_chunk(&chunk, observation_time, total_time);
        let finished = Finished {
            chunk,
            rows,
            backend: self.policy.info().backend.name,
            instruction: observation.instruction,
            observed: snapshot.stamp,
            input_ages: input_ages(&snapshot),
            observation_time,
            total_time,
        };
        self.outputs.publish(finished, Stamp::from_nanoseconds(self.clock.now().nsec))?;
        Ok(last)
    }

    fn record(&self, log: &mut ChangeLog, result: Result<LastChunk, InferenceError>) {
        let problem = result.as_ref().err().map(InferenceError::to_string);
        match (log.observe("inference", problem.as_deref(), Instant::now()), &problem) {
            (Some(Change::Problem), Some(problem)) => tracing::warn!("{problem}"),
            (Some(Change::Recovered), _) => tracing::info!("Inference succeeds again"),
            _ => {}
        }
        let mut status = self.shared.status();
        status.running = None;
        status.problem = problem.map(Problem::Failed);
        match result {
            Ok(last) => {
                status.chunks += 1;
                status.last = Some(last);
            }
            Err(
                InferenceError::Chunk(_)
                | InferenceError::Publish(_)
                | InferenceError::Policy(PolicyError::Observation(ObservationError::ActionNotFinite { .. })),
            ) => status.refused_chunks += 1,
            Err(InferenceError::Input { .. } | InferenceError::Policy(_)) => status.refused_observations += 1,
        }
    }
}

/// One line for each instruction that does not fit.
fn tell_truncation(log: &mut ChangeLog, instruction: &str, dropped: usize) {
    let problem = (dropped > 0).then_some(instruction);
    if let (Some(Change::Problem), Some(text)) = (log.observe("prompt", problem, Instant::now()), problem) {
        tracing::warn!("The instruction {text:?} is too long for the model: {dropped} tokens were cut off");
    }
}

/// Decodes the images and picks the joints.
fn observe(joints: &JointSelector, snapshot: &Snapshot) -> Result<Observation, InferenceError> {
    let mut images = BTreeMap::new();
    for camera in &snapshot.cameras {
        images.insert(camera.input.name().to_owned(), accept(camera, decode)?);
    }
    Ok(Observation {
        images,
        joints: accept(&snapshot.joint_states, |message| select(joints, message))?,
        instruction: snapshot.instruction.sample.message.clone(),
    })
}

/// Reads a sample and notes the outcome with its input.
fn accept<M, T>(taken: &Taken<M>, read: impl FnOnce(&M) -> Result<T, ObservationError>) -> Result<T, InferenceError> {
    match read(&taken.sample.message) {
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
    fn a_backend_that_stops_answering_is_noticed_after_two_periods() {
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
        let mut status = InferenceStatus { overruns: 7, running: Some((start, 7)), last: Some(last), ..Default::default() };
        assert_eq!(status.overdue(after(5000)), None, "no period has passed");
        status.overruns = 9;
        assert_eq!(status.overdue(after(200)), None, "an inference may be a little slow");
        assert_eq!(status.overdue(after(400)), Some(Duration::from_millis(400)));
        status.last = None;
        assert_eq!(status.overdue(after(400)), None, "the first inference prepares what the others use");
    }
}

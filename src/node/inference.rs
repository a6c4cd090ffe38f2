//! The inference thread: turns what the control thread asks for into chunks.
//!
//! It owns the policy and holds no ROS entities, so that a node which is told to end does not wait for it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use super::{
    control::Message,
    log::{Change, ChangeLog, LOG_INTERVAL},
    messages::ChunkRequest,
};
use crate::{
    control::{ComputedChunk, ControlStatus, Ticket},
    policy::Policy,
    session::{Finished, Inference, InferenceError, meter::Lateness},
};

/// How often the idle inference thread looks whether it is to end.
const END_POLL: Duration = Duration::from_millis(100);

/// What the control thread asks for.
pub struct Request {
    pub asked: ChunkRequest,
    pub answer: Sender<Message>,
}

/// What came of a request.
pub struct Computed {
    pub ticket: Ticket,
    pub result: Result<(Finished, ComputedChunk, LastChunk), InferenceError>,
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
    pub fn run(self, requests: &Receiver<Request>) {
        let mut inference = Inference::new(self.policy);
        let mut log = ChangeLog::new(LOG_INTERVAL, Instant::now());
        while !self.shared.ending.load(Ordering::Acquire) {
            match requests.recv_timeout(END_POLL) {
                Ok(Request { asked, answer }) => {
                    let ChunkRequest { snapshot, ticket, guidance } = asked;
                    let result = inference.infer(&snapshot, guidance.as_ref()).and_then(|finished| {
                        let computed = finished.computed()?;
                        tell_truncation(&mut log, &finished.instruction, finished.chunk.dropped_tokens);
                        let last = LastChunk::of(&finished);
                        Ok((finished, computed, last))
                    });
                    // Nobody waits any more when the node is on its way out.
                    let _ = answer.send(Message::Computed(Box::new(Computed { ticket, result })));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
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

impl LastChunk {
    fn of(finished: &Finished) -> Self {
        let times = &finished.chunk.times;
        Self {
            observation: finished.observation_time,
            vision: times.vision,
            prefix: times.prefix,
            denoise: times.steps.iter().sum(),
            total: finished.total_time,
            dropped_tokens: finished.chunk.dropped_tokens,
        }
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

//! Newest-wins slots between the subscriptions and the inference.
//!
//! A callback only swaps the newest sample in: it decodes nothing, copies no pixels and never waits for an inference. Holds no ROS handles,
//! so that an inference which outlives the node keeps none of them alive.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    time::Instant,
};

use rclrs::{MandatoryParameter, MessageInfo};
use ros_env::sensor_msgs::msg::rmw;

use super::{
    control::Message,
    instruction::{self, InstructionError},
    meter::{Meter, Report},
};
use crate::control::{AgeLimit, NotUsable, Stamp};

/// A received message; `stamp` is `None` when its header has none.
pub struct Sample<T> {
    pub stamp: Option<Stamp>,
    pub message: T,
}

/// An image as the camera driver sent it.
pub enum CameraMessage {
    Raw(rmw::Image),
    Compressed(rmw::CompressedImage),
}

/// The newest sample of one subscription.
pub struct Input<T> {
    name: String,
    state: Mutex<State<T>>,
}

struct State<T> {
    newest: Option<Arc<Sample<T>>>,
    /// Whether an inference has taken `newest`.
    taken: bool,
    /// Why the last sample that an inference or a callback looked at was refused.
    refusal: Option<String>,
    meter: Meter,
}

/// Counters and health of one input for the diagnostics.
pub struct InputReport {
    pub received: u64,
    pub superseded: u64,
    pub lost: u64,
    pub refused: u64,
    pub refusal: Option<String>,
    pub rates: Report,
}

impl<T> Input<T> {
    pub fn new(name: impl Into<String>) -> Self {
        let state = State { newest: None, taken: false, refusal: None, meter: Meter::default() };
        Self { name: name.into(), state: Mutex::new(state) }
    }

    /// Camera slot, `joint_states` or `instruction`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes `sample` the newest. `entered` is when its callback began.
    pub fn store(&self, entered: Instant, sample: Sample<T>, info: Option<&MessageInfo>) {
        let sample = Arc::new(sample);
        let replaced = {
            let mut state = self.lock();
            match info {
                Some(info) => state.meter.receive(publisher(info), sequence(info)),
                None => state.meter.received += 1,
            }
            let replaced = state.newest.replace(sample);
            if replaced.is_some() && !state.taken {
                state.meter.superseded += 1;
            }
            state.taken = false;
            replaced
        };
        // Freeing an image takes longer than the swap, so it happens outside of the lock.
        drop(replaced);
        let delivery = info.and_then(|info| info.source_timestamp?.elapsed().ok());
        self.lock().meter.time(entered.elapsed(), delivery);
    }

    /// Counts a sample that could not be used.
    pub fn refuse(&self, reason: String) {
        let mut state = self.lock();
        state.meter.refused += 1;
        state.refusal = Some(reason);
    }

    /// The input's last sample was used.
    pub fn accept(&self) {
        self.lock().refusal = None;
    }

    pub fn report(&self, now: Instant) -> InputReport {
        let mut state = self.lock();
        let rates = state.meter.report(now);
        InputReport {
            received: state.meter.received,
            superseded: state.meter.superseded,
            lost: state.meter.lost,
            refused: state.meter.refused,
            refusal: state.refusal.clone(),
            rates,
        }
    }

    fn newest(&self) -> Option<Arc<Sample<T>>> {
        self.lock().newest.clone()
    }

    /// An inference works with `sample`.
    fn mark_taken(&self, sample: &Arc<Sample<T>>) {
        let mut state = self.lock();
        if state.newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, sample)) {
            state.taken = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic ends the process (see `node::run`), so a poisoned lock is never looked at again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn publisher(info: &MessageInfo) -> [u8; 16] {
    // The storage of a GID is 16 bytes or more, depending on the distribution; a DDS GUID has 16.
    let mut id = [0; 16];
    id.iter_mut().zip(info.publisher_gid.data).for_each(|(to, from)| *to = from);
    id
}

fn sequence(info: &MessageInfo) -> Option<u64> {
    // u64::MAX: this middleware has no sequence numbers.
    Some(info.publication_sequence_number).filter(|&number| number != u64::MAX)
}

/// A sample that an inference works with.
pub struct Taken<T> {
    pub input: Arc<Input<T>>,
    pub sample: Arc<Sample<T>>,
    /// Seconds between the sample's stamp and the observation.
    pub age: f64,
}

impl<T> Taken<T> {
    fn mark(&self) {
        self.input.mark_taken(&self.sample);
    }
}

/// One look at all inputs.
pub struct Snapshot {
    pub stamp: Stamp,
    /// In the policy's order of camera slots.
    pub cameras: Vec<Taken<CameraMessage>>,
    pub joint_states: Taken<rmw::JointState>,
    pub instruction: Taken<String>,
}

/// An input with the parameter that limits the age of its samples.
pub struct Limited<T> {
    pub input: Arc<Input<T>>,
    pub max_age_ms: MandatoryParameter<f64>,
}

impl<T> Limited<T> {
    /// Age of the newest sample at `now`.
    pub fn check(&self, now: Stamp) -> Result<f64, NotUsable> {
        self.look(now).map(|taken| taken.age)
    }

    /// The newest sample, if it is usable at `now`.
    fn look(&self, now: Stamp) -> Result<Taken<T>, NotUsable> {
        let sample = self.input.newest().ok_or(NotUsable::Missing)?;
        let age = AgeLimit::from_milliseconds(self.max_age_ms.get()).check(sample.stamp, now)?;
        Ok(Taken { input: self.input.clone(), sample, age })
    }
}

/// Everything that an observation is made of.
pub struct Inputs {
    pub cameras: Vec<Limited<CameraMessage>>,
    pub joint_states: Limited<rmw::JointState>,
    pub instruction: Arc<Instruction>,
}

impl Inputs {
    /// Takes the newest sample of every input, or tells for each input that has no usable one why.
    pub fn snapshot(&self, now: Stamp) -> Result<Snapshot, Vec<(String, NotUsable)>> {
        let mut problems = Vec::new();
        let cameras: Vec<_> =
            self.cameras.iter().filter_map(|camera| note(camera.look(now), camera.input.name(), &mut problems)).collect();
        let joint_states = note(self.joint_states.look(now), self.joint_states.input.name(), &mut problems);
        let instruction = note(self.instruction.look(now), self.instruction.input.name(), &mut problems);
        match (joint_states, instruction) {
            (Some(joint_states), Some(instruction)) if problems.is_empty() => {
                cameras.iter().for_each(Taken::mark);
                joint_states.mark();
                instruction.mark();
                Ok(Snapshot { stamp: now, cameras, joint_states, instruction })
            }
            _ => Err(problems),
        }
    }

    /// Names of all inputs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let cameras = self.cameras.iter().map(|camera| camera.input.name());
        cameras.chain([self.joint_states.input.name(), self.instruction.input.name()])
    }
}

/// The value, or `None` with a note of the problem.
fn note<T>(taken: Result<T, NotUsable>, name: &str, problems: &mut Vec<(String, NotUsable)>) -> Option<T> {
    taken.map_err(|problem| problems.push((name.to_owned(), problem))).ok()
}

/// The instruction in force: the newest of the topic and the parameter. It does not grow stale.
pub struct Instruction {
    pub input: Arc<Input<String>>,
    /// The control thread, which is told of another text.
    changes: Sender<Message>,
}

impl Instruction {
    pub fn new(changes: Sender<Message>) -> Self {
        Self { input: Arc::new(Input::new("instruction")), changes }
    }

    /// Makes a text that arrived at `now` the instruction, or refuses it and keeps the instruction before.
    pub fn set(&self, bytes: &[u8], now: Stamp, info: Option<&MessageInfo>) -> Result<(), InstructionError> {
        let entered = Instant::now();
        match instruction::check(bytes) {
            Ok(text) => {
                let known = self.input.newest();
                self.input.store(entered, Sample { stamp: Some(now), message: text.to_owned() }, info);
                self.input.accept();
                if known.is_none_or(|known| known.message != text) {
                    // An error means that the control thread has ended.
                    let _ = self.changes.send(Message::InstructionChanged);
                }
                Ok(())
            }
            Err(error) => {
                self.input.refuse(error.to_string());
                Err(error)
            }
        }
    }

    /// Whether there is none yet.
    pub fn is_missing(&self) -> bool {
        self.input.newest().is_none()
    }

    /// Seconds since the instruction arrived. A clock that jumped back makes it 0, not the future.
    pub fn check(&self, now: Stamp) -> Result<f64, NotUsable> {
        self.look(now).map(|taken| taken.age)
    }

    fn look(&self, now: Stamp) -> Result<Taken<String>, NotUsable> {
        let sample = self.input.newest().ok_or(NotUsable::Missing)?;
        let arrival = sample.stamp.ok_or(NotUsable::Missing)?;
        let age = now.seconds_since(arrival).max(0.0);
        Ok(Taken { input: self.input.clone(), sample, age })
    }
}

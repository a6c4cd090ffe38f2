//! What was received and waits to be used, between the subscriptions and the threads that use it.
//!
//! Which samples make an observation is decided by [`Synchronizer`]; here are its messages and locks. A callback only hands its message
//! over: it decodes nothing, copies no pixels and never waits for an inference. A [`Snapshot`] holds no ROS handles, so that an inference
//! which outlives the node keeps none of them alive.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    time::Instant,
};

use rclrs::{Clock, MessageInfo};
use ros_env::sensor_msgs::msg::rmw;

use super::{
    control::Message,
    instruction::{self, InstructionError},
    meter::{Meter, Report},
    parameters::{CameraParameters, ParameterError, SyncParameters},
};
use crate::control::{Arrival, JOINT_STATES, NotUsable, Stamp, StateAt, Synchronizer, Verdict};

/// An image as the camera driver sent it.
pub enum CameraMessage {
    Raw(rmw::Image),
    Compressed(rmw::CompressedImage),
}

/// Counters and health of one subscription.
pub struct Input {
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Why the last sample that an inference or a callback looked at was refused.
    refusal: Option<String>,
    meter: Meter,
}

/// The same for the diagnostics.
pub struct InputReport {
    pub received: u64,
    pub superseded: u64,
    pub late: u64,
    pub unstamped: u64,
    pub lost: u64,
    pub refused: u64,
    pub refusal: Option<String>,
    pub rates: Report,
}

impl Input {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), state: Mutex::default() }
    }

    /// Camera slot, `joint_states` or `instruction`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a sample whose callback began at `entered`. What it replaces is freed here, where nobody waits for it: freeing an image
    /// takes longer than everything else.
    fn count<T>(&self, entered: Instant, arrival: Arrival<T>, info: Option<&MessageInfo>) {
        drop(arrival.dropped);
        let delivery = info.and_then(|info| info.source_timestamp?.elapsed().ok());
        let mut state = self.lock();
        match info {
            Some(info) => state.meter.receive(publisher(info), sequence(info)),
            None => state.meter.received += 1,
        }
        match arrival.verdict {
            Verdict::Newest { superseded } => state.meter.superseded += u64::from(superseded),
            Verdict::Late => state.meter.late += 1,
            Verdict::Unstamped => state.meter.unstamped += 1,
        }
        state.meter.time(entered.elapsed(), delivery);
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
        let meter = &state.meter;
        InputReport {
            received: meter.received,
            superseded: meter.superseded,
            late: meter.late,
            unstamped: meter.unstamped,
            lost: meter.lost,
            refused: meter.refused,
            refusal: state.refusal.clone(),
            rates,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
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

/// What an inference works with of one input.
pub struct Taken<T> {
    pub input: Arc<Input>,
    pub value: T,
    /// Seconds between the time that it is of and the observation.
    pub age: f64,
}

/// One look at all inputs.
pub struct Snapshot {
    pub stamp: Stamp,
    /// In the policy's order of camera slots.
    pub cameras: Vec<Taken<Arc<CameraMessage>>>,
    /// Seconds between the first and the last image.
    pub skew: f64,
    /// Of the middle between the first and the last image.
    pub joint_states: Taken<StateAt<Arc<rmw::JointState>>>,
    pub instruction: Taken<Arc<str>>,
}

type Messages = Synchronizer<Arc<CameraMessage>, Arc<rmw::JointState>>;

/// The samples, which the callbacks fill.
pub struct Samples {
    synchronizer: Mutex<Messages>,
    clock: Clock,
    cameras: Vec<Arc<Input>>,
    joint_states: Arc<Input>,
}

impl Samples {
    /// Takes an image of the camera that [`Inputs::new`] got at this index; `stamp` is that of its header.
    pub fn receive_image(&self, camera: usize, stamp: Option<Stamp>, message: CameraMessage, info: &MessageInfo) {
        let entered = Instant::now();
        let message = Arc::new(message);
        let mut synchronizer = self.lock();
        let arrival = synchronizer.push_image(camera, stamp, self.now(), message);
        drop(synchronizer);
        self.cameras[camera].count(entered, arrival, Some(info));
    }

    /// Takes joint states; `stamp` is that of their header.
    pub fn receive_joints(&self, stamp: Option<Stamp>, message: rmw::JointState, info: &MessageInfo) {
        let entered = Instant::now();
        let message = Arc::new(message);
        let mut synchronizer = self.lock();
        let arrival = synchronizer.push_joints(stamp, self.now(), message);
        drop(synchronizer);
        self.joint_states.count(entered, arrival, Some(info));
    }

    /// The synchronizer wants the clock read under its lock: in the order of the arrivals.
    fn now(&self) -> Stamp {
        Stamp::from_nanoseconds(self.clock.now().nsec)
    }

    fn lock(&self) -> MutexGuard<'_, Messages> {
        // A panic ends the process (see `node::run`), so a poisoned lock is never looked at again.
        self.synchronizer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that an observation is made of, with the parameters that tell what may be part of one.
pub struct Inputs {
    /// Outlives the parameters, which are undeclared when this is dropped: the middleware may hold a callback a little longer.
    samples: Arc<Samples>,
    cameras: Vec<CameraParameters>,
    parameters: SyncParameters,
    instruction: Arc<Instruction>,
}

impl Inputs {
    /// For cameras of these slots.
    pub fn new(
        cameras: Vec<(String, CameraParameters)>,
        parameters: SyncParameters,
        instruction: Arc<Instruction>,
        clock: Clock,
    ) -> Result<Self, ParameterError> {
        let rules = parameters.rules(parameters.stamps()?);
        let (slots, cameras): (Vec<_>, Vec<_>) = cameras.into_iter().unzip();
        let samples = Samples {
            cameras: slots.iter().map(|slot| Arc::new(Input::new(slot))).collect(),
            joint_states: Arc::new(Input::new(JOINT_STATES)),
            synchronizer: Mutex::new(Synchronizer::new(
                rules,
                slots.into_iter().zip(cameras.iter().map(CameraParameters::rules)),
            )),
            clock,
        };
        Ok(Self { samples: Arc::new(samples), cameras, parameters, instruction })
    }

    /// What the callbacks fill.
    pub fn samples(&self) -> &Arc<Samples> {
        &self.samples
    }

    /// Takes what makes an observation, or tells for each input that keeps it from being made why.
    pub fn snapshot(&self, now: Stamp) -> Result<Snapshot, Vec<(String, NotUsable)>> {
        let instruction = self.instruction.look(now);
        let mut synchronizer = self.synchronizer();
        let aligned = synchronizer.align(now);
        let (aligned, (text, age)) = match (aligned, instruction) {
            (Ok(aligned), Ok(instruction)) => (aligned, instruction),
            (aligned, instruction) => {
                let mut problems = aligned.err().unwrap_or_default();
                problems.extend(instruction.err().map(|problem| (self.instruction.input.name.clone(), problem)));
                return Err(problems);
            }
        };
        self.instruction.mark_used();
        let camera = |(input, (image, age)): (&Arc<Input>, (&Arc<CameraMessage>, f64))| Taken {
            input: input.clone(),
            value: image.clone(),
            age,
        };
        Ok(Snapshot {
            stamp: now,
            cameras: self.samples.cameras.iter().zip(aligned.cameras).map(camera).collect(),
            skew: aligned.skew,
            joint_states: Taken {
                input: self.samples.joint_states.clone(),
                value: aligned.joints.map(Arc::clone),
                age: aligned.joint_age,
            },
            instruction: Taken { input: self.instruction.input.clone(), value: text, age },
        })
    }

    /// The newest joint states and their stamp, while they are fresh.
    pub fn measured(&self, now: Stamp) -> Option<(Arc<rmw::JointState>, Stamp)> {
        let synchronizer = self.synchronizer();
        synchronizer.newest_joints(now).ok().map(|(message, stamp)| (message.clone(), stamp))
    }

    /// The clock jumped: drops the samples of the time before.
    pub fn reset(&self, now: Stamp) {
        self.samples.lock().observe_clock(now);
    }

    /// Every input with its age in seconds at `now`, or what keeps it from being used.
    pub fn check(&self, now: Stamp) -> Vec<(&Input, Result<f64, NotUsable>)> {
        let ages = self.synchronizer().check(now);
        let instruction = (&*self.instruction.input, self.instruction.look(now).map(|(_, age)| age));
        self.received().zip(ages).chain([instruction]).collect()
    }

    /// Names of all inputs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.received().chain([&*self.instruction.input]).map(Input::name)
    }

    fn received(&self) -> impl Iterator<Item = &Input> {
        self.samples.cameras.iter().chain([&self.samples.joint_states]).map(|input| &**input)
    }

    /// The synchronizer with the parameters as they are now.
    fn synchronizer(&self) -> MutexGuard<'_, Messages> {
        let mut synchronizer = self.samples.lock();
        synchronizer.rules = self.parameters.rules(synchronizer.rules.stamps);
        for (rules, parameters) in synchronizer.camera_rules().zip(&self.cameras) {
            *rules = parameters.rules();
        }
        synchronizer
    }
}

/// The instruction in force: the newest of the topic and the parameter. It does not grow stale.
pub struct Instruction {
    input: Arc<Input>,
    newest: Mutex<Option<Text>>,
    /// The control thread, which is told of another text.
    changes: Sender<Message>,
}

struct Text {
    text: Arc<str>,
    arrival: Stamp,
    /// Whether it was part of an observation.
    used: bool,
}

impl Instruction {
    pub fn new(changes: Sender<Message>) -> Self {
        Self { input: Arc::new(Input::new("instruction")), newest: Mutex::default(), changes }
    }

    /// Makes a text that arrived at `now` the instruction, or refuses it and keeps the instruction before.
    pub fn set(&self, bytes: &[u8], now: Stamp, info: Option<&MessageInfo>) -> Result<(), InstructionError> {
        let entered = Instant::now();
        match instruction::check(bytes) {
            Ok(text) => {
                let before = self.lock().replace(Text { text: text.into(), arrival: now, used: false });
                let superseded = before.as_ref().is_some_and(|before| !before.used);
                self.input.count(entered, Arrival { verdict: Verdict::Newest { superseded }, dropped: None::<()> }, info);
                self.input.accept();
                if before.is_none_or(|before| *before.text != *text) {
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
        self.lock().is_none()
    }

    /// The text and the seconds since it arrived. A clock that jumped back makes them 0, not the future.
    fn look(&self, now: Stamp) -> Result<(Arc<str>, f64), NotUsable> {
        let newest = self.lock();
        let Text { text, arrival, .. } = newest.as_ref().ok_or(NotUsable::Missing)?;
        Ok((text.clone(), now.seconds_since(*arrival).max(0.0)))
    }

    fn mark_used(&self) {
        if let Some(newest) = &mut *self.lock() {
            newest.used = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Text>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

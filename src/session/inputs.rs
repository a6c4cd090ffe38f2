//! What was received and waits to be used, between whoever receives and whoever computes.
//!
//! Which samples make an observation is decided by [`Synchronizer`]; here are its messages and locks. A callback only hands its message
//! over: it decodes nothing, copies no pixels and never waits for an inference. A [`Snapshot`] holds no handle of whoever received it, so
//! that an inference which outlives them keeps none of them alive.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use super::{
    Instruction,
    meter::{Meter, PublisherId, Report},
};
use crate::{
    control::{Arrival, JOINT_STATES, NotUsable, Stamp, StateAt, Synchronizer, Verdict},
    observation::{ObservationError, RgbImage},
    parameters::{CameraParameters, ParameterError, SyncParameters},
};

/// An image as the camera driver sent it.
pub trait ImageMessage: Send + Sync {
    fn decode(&self) -> Result<RgbImage, ObservationError>;
}

/// Joint states as a driver sent them.
pub trait JointMessage: Send + Sync {
    fn names(&self) -> Vec<String>;
    fn positions(&self) -> &[f64];
}

/// How the middleware delivered a sample.
pub struct Delivery {
    pub publisher: PublisherId,
    /// The publisher's number of the sample, where the middleware knows one.
    pub sequence: Option<u64>,
    /// When the publisher wrote it, where the middleware knows.
    pub written: Option<SystemTime>,
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
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), state: Mutex::default() }
    }

    /// Camera slot, `joint_states` or `instruction`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a sample whose callback began at `entered`. What it replaces is freed here, where nobody waits for it: freeing an image
    /// takes longer than everything else.
    pub(super) fn count<T>(&self, entered: Instant, arrival: Arrival<T>, delivery: Option<&Delivery>) {
        drop(arrival.dropped);
        let took = delivery.and_then(|delivery| delivery.written?.elapsed().ok());
        let mut state = self.lock();
        match delivery {
            Some(delivery) => state.meter.receive(delivery.publisher, delivery.sequence),
            None => state.meter.received += 1,
        }
        match arrival.verdict {
            Verdict::Newest { superseded } => state.meter.superseded += u64::from(superseded),
            Verdict::Late => state.meter.late += 1,
            Verdict::Unstamped => state.meter.unstamped += 1,
        }
        state.meter.time(entered.elapsed(), took);
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
        // A panic ends the process, so a poisoned lock is never looked at again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an inference works with of one input.
pub struct Taken<T> {
    pub input: Arc<Input>,
    pub value: T,
    /// Seconds between the time that it is of and the observation.
    pub age: f64,
}

/// One look at all inputs.
pub struct Snapshot<C, J> {
    pub stamp: Stamp,
    /// In the policy's order of camera slots.
    pub cameras: Vec<Taken<Arc<C>>>,
    /// Seconds between the first and the last image.
    pub skew: f64,
    /// Of the middle between the first and the last image.
    pub joint_states: Taken<StateAt<Arc<J>>>,
    pub instruction: Taken<Arc<str>>,
}

impl<C, J> Snapshot<C, J> {
    /// Name and age in seconds of each input.
    pub fn ages(&self) -> Vec<(String, f64)> {
        let cameras = self.cameras.iter().map(|camera| (camera.input.name().to_owned(), camera.age));
        let (joint_states, instruction) = (&self.joint_states, &self.instruction);
        cameras
            .chain([
                (joint_states.input.name().to_owned(), joint_states.age),
                (instruction.input.name().to_owned(), instruction.age),
            ])
            .collect()
    }
}

type Messages<C, J> = Synchronizer<Arc<C>, Arc<J>>;

/// The samples, which the callbacks fill.
pub struct Samples<C, J> {
    synchronizer: Mutex<Messages<C, J>>,
    cameras: Vec<Arc<Input>>,
    joint_states: Arc<Input>,
}

impl<C, J> Samples<C, J> {
    /// Takes an image of the camera that [`Inputs::new`] got at this index; `stamp` is that of its header. The clock is read in the order
    /// of the arrivals.
    pub fn receive_image(
        &self,
        camera: usize,
        stamp: Option<Stamp>,
        message: C,
        clock: impl FnOnce() -> Stamp,
        delivery: Option<&Delivery>,
    ) -> Verdict {
        let entered = Instant::now();
        let message = Arc::new(message);
        let mut synchronizer = self.lock();
        let arrival = synchronizer.push_image(camera, stamp, clock(), message);
        drop(synchronizer);
        let verdict = arrival.verdict;
        self.cameras[camera].count(entered, arrival, delivery);
        verdict
    }

    /// Takes joint states, as [`Self::receive_image`] does an image.
    pub fn receive_joints(
        &self,
        stamp: Option<Stamp>,
        message: J,
        clock: impl FnOnce() -> Stamp,
        delivery: Option<&Delivery>,
    ) -> Verdict {
        let entered = Instant::now();
        let message = Arc::new(message);
        let mut synchronizer = self.lock();
        let arrival = synchronizer.push_joints(stamp, clock(), message);
        drop(synchronizer);
        let verdict = arrival.verdict;
        self.joint_states.count(entered, arrival, delivery);
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, Messages<C, J>> {
        // A panic ends the process, so a poisoned lock is never looked at again.
        self.synchronizer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that an observation is made of, with the parameters that tell what may be part of one.
pub struct Inputs<C, J> {
    /// Outlives the parameters, which are undeclared when this is dropped: the middleware may hold a callback a little longer.
    samples: Arc<Samples<C, J>>,
    cameras: Vec<CameraParameters>,
    parameters: SyncParameters,
    instruction: Arc<Instruction>,
}

impl<C, J> Inputs<C, J> {
    /// For cameras of these slots.
    pub fn new(
        cameras: Vec<(String, CameraParameters)>,
        parameters: SyncParameters,
        instruction: Arc<Instruction>,
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
        };
        Ok(Self { samples: Arc::new(samples), cameras, parameters, instruction })
    }

    /// What the callbacks fill.
    pub fn samples(&self) -> &Arc<Samples<C, J>> {
        &self.samples
    }

    /// Takes what makes an observation, or tells for each input that keeps it from being made why.
    pub fn snapshot(&self, now: Stamp) -> Result<Snapshot<C, J>, Vec<(String, NotUsable)>> {
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
        let camera =
            |(input, (image, age)): (&Arc<Input>, (&Arc<C>, f64))| Taken { input: input.clone(), value: image.clone(), age };
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
    pub fn measured(&self, now: Stamp) -> Option<(Arc<J>, Stamp)> {
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
    fn synchronizer(&self) -> MutexGuard<'_, Messages<C, J>> {
        let mut synchronizer = self.samples.lock();
        synchronizer.rules = self.parameters.rules(synchronizer.rules.stamps);
        for (rules, parameters) in synchronizer.camera_rules().zip(&self.cameras) {
            *rules = parameters.rules();
        }
        synchronizer
    }
}

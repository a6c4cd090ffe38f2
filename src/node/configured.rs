//! What a configured node has: subscriptions, publishers, and while it is active the tick of the inference.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rclrs::{IntoTimerOptions, Node, RclrsError, Time, Worker, WorkerTimer};

use super::{
    NodeError,
    diagnostics::Reporter,
    inference::Dispatcher,
    inputs::{Inputs, Instruction},
    now,
    parameters::Parameters,
    policy_thread::PolicyThread,
    process::Opened,
    subscriptions::{self, Subscriptions},
};
use crate::{backend::BackendInfo, control::Stamp, policy::PolicyInfo};

/// The workers of the node. They live as long as the executor, whoever drops them, so they are made once.
pub struct Workers {
    /// Takes all samples, so that neither an inference nor a service call delays them.
    pub samples: Worker<()>,
    /// Runs the timers.
    pub timers: Worker<()>,
}

impl Workers {
    pub fn new(node: &Node) -> Self {
        Self { samples: node.create_worker(()), timers: node.create_worker(()) }
    }
}

/// Ends with [`Configured::close`].
pub struct Configured {
    inputs: Arc<Inputs>,
    subscriptions: Subscriptions,
    timers: Worker<()>,
    /// `Some` while the node is active. The timer's closure outlives the timer for a moment, so it holds this and not the dispatcher.
    dispatcher: Arc<Mutex<Option<Dispatcher>>>,
    tick: Option<WorkerTimer<()>>,
}

impl Configured {
    /// Subscribes and makes the publishers.
    pub fn new(
        node: &Node,
        parameters: &Parameters,
        opened: &Opened,
        thread: &PolicyThread,
        workers: &Workers,
    ) -> Result<Self, NodeError> {
        let instruction = instruction(node, parameters);
        if let Some(text) = &opened.default_instruction
            && instruction.is_missing()
        {
            instruction.set(text.as_bytes(), now(&node.get_clock()), None)?;
        }
        let durability = parameters.instruction_durability()?;
        let (inputs, subscriptions) = subscriptions::subscribe(node, &workers.samples, &opened.cameras, instruction, durability)?;
        thread.outputs.advertise(node, &opened.command_kinds)?;
        Ok(Self {
            inputs: Arc::new(inputs),
            subscriptions,
            timers: workers.timers.clone(),
            dispatcher: Arc::default(),
            tick: None,
        })
    }

    /// What reports the inputs and the inference.
    pub fn reporter(&self, node: &Node, opened: &Opened, thread: &PolicyThread) -> Reporter {
        let topics = self.subscriptions.topics.clone();
        Reporter::new(node, device(&opened.info.backend), self.inputs.clone(), topics, thread.shared.clone())
    }

    /// From here on chunks are computed and published.
    pub fn activate(&mut self, thread: &PolicyThread, rate: f64) -> Result<(), RclrsError> {
        *self.dispatcher() = Some(Dispatcher::new(self.inputs.clone(), thread.shared.clone(), thread.requests.clone()));
        thread.outputs.open();
        self.tick_at(rate)
    }

    /// When this returns, nothing is published any more, not even by an inference that still runs.
    pub fn deactivate(&mut self, thread: &PolicyThread) {
        self.tick = None;
        *self.dispatcher() = None;
        thread.outputs.close();
    }

    /// Changes the rate of the inference, if it runs.
    pub fn tick_again_at(&mut self, rate: f64) -> Result<(), RclrsError> {
        if self.tick.is_some() {
            self.tick_at(rate)?;
            tracing::info!("Inference runs at {rate} Hz from now on");
        }
        Ok(())
    }

    fn tick_at(&mut self, rate: f64) -> Result<(), RclrsError> {
        let dispatcher = self.dispatcher.clone();
        // On the node's clock, so that inference follows `/clock` under `use_sim_time`.
        let period = Duration::from_secs_f64(rate.recip()).node_time();
        self.tick = Some(self.timers.create_timer_repeating(period, move |_: &mut (), now: Time| {
            if let Some(dispatcher) = &mut *lock(&dispatcher) {
                dispatcher.tick(Stamp::from_nanoseconds(now.nsec));
            }
        })?);
        Ok(())
    }

    /// Takes publishers and subscriptions down and undeclares the cameras' parameters.
    pub fn close(mut self, thread: &PolicyThread) {
        self.deactivate(thread);
        thread.outputs.withdraw();
    }

    fn dispatcher(&self) -> MutexGuard<'_, Option<Dispatcher>> {
        lock(&self.dispatcher)
    }

    /// What the operator compares with the robot in front of him.
    pub fn summary(&self, opened: &Opened, parameters: &Parameters) -> String {
        let Opened { info, joints, time, .. } = opened;
        let PolicyInfo { checkpoint, family, geometry, robot, backend, steps, seed, synthetic: _ } = info;
        format!(
            "Ready after {:.1} s\n  checkpoint  {} ({family:?}), {} px images, chunks of {} rows, {steps} denoise steps, seed {seed}\n  \
             backend     {}, {}, {:.0} MB of weights\n  robot       {robot}, {} joints: {}\n  inputs      {}\n  \
             inference   at {} Hz",
            time.as_secs_f64(),
            checkpoint.display(),
            geometry.vision.image_size,
            geometry.horizon,
            device(backend),
            backend.dtypes,
            backend.weight_bytes as f64 / 1e6,
            joints.len(),
            joints.join(", "),
            self.subscriptions.topics.join(", "),
            parameters.rate_hz.get(),
        )
    }
}

fn lock(dispatcher: &Mutex<Option<Dispatcher>>) -> MutexGuard<'_, Option<Dispatcher>> {
    // A panic ends the process (see `node::run`), so a poisoned lock is never looked at again.
    dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instruction in force, which follows its parameter from now on.
fn instruction(node: &Node, parameters: &Parameters) -> Arc<Instruction> {
    let instruction = Arc::new(Instruction::new());
    let (set, clock) = (instruction.clone(), node.get_clock());
    let follow = move |text: &Arc<str>| {
        // The parameter was validated; only an empty text, which sets nothing, is refused here.
        if !text.is_empty() {
            let _ = set.set(text.as_bytes(), now(&clock), None);
        }
    };
    follow(&parameters.default_instruction.get());
    parameters.default_instruction.on_change(follow);
    instruction
}

fn device(backend: &BackendInfo) -> String {
    format!("{}: {}", backend.name, backend.device)
}

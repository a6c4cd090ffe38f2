//! The ROS 2 node: parameters, subscriptions, the inference thread, publishers, diagnostics.
//!
//! Thin: what is computed is [`crate::policy`], what may be published is decided in [`crate::control`]. The executor's threads take samples
//! and run the timers, and never wait. The inference thread owns the policy. The main thread wires them up, waits for a reason to end, and
//! takes the ROS entities down; it does not wait for a running inference.

mod diagnostics;
mod inference;
mod inputs;
mod instruction;
mod log;
mod meter;
mod outputs;
mod parameters;
mod process;
mod subscriptions;

use std::{
    io,
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rclrs::{Clock, Context, CreateBasicExecutor, InitOptions, IntoTimerOptions, Node, RclrsError, Time, Worker, WorkerTimer};

use self::{
    diagnostics::Reporter,
    inference::{Dispatcher, Shared},
    inputs::{Instruction, Snapshot},
    instruction::InstructionError,
    outputs::Outputs,
    parameters::{ParameterError, Parameters},
    process::{Event, Opened, Spinner},
    subscriptions::{SubscriptionError, Subscriptions},
};
use crate::{
    backend::{BackendInfo, BackendKind},
    control::Stamp,
    policy::{Policy, PolicyError, PolicyInfo, PolicyOptions},
};

/// Name of the node unless `-r __node:=` gives another.
const NODE_NAME: &str = "policy";
/// Time for a card to finish its chunk and to be closed. TTNN itself gives up after five seconds.
const CARD_LIMIT: Duration = Duration::from_secs(10);
const DIAGNOSTICS_PERIOD: Duration = Duration::from_secs(1);
/// Time for a fatal message to reach subscribers of `/rosout` that are still being discovered.
const FATAL_LINGER: Duration = Duration::from_millis(500);

/// Why the node ended with a failure.
#[derive(Debug, thiserror::Error)]
enum NodeError {
    #[error("Cannot start: {0}")]
    Start(#[from] io::Error),
    #[error("ROS refused: {0}")]
    Ros(#[from] RclrsError),
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    #[error("The policy cannot be opened. {0}")]
    Policy(#[from] PolicyError),
    #[error("The robot profile's instruction was refused. {0}")]
    Instruction(#[from] InstructionError),
    #[error("The node ends because a thread panicked: {0}")]
    Panicked(String),
    #[error("The executor ended: {}", list(.0))]
    SpinEnded(Vec<RclrsError>),
}

const USAGE: &str = "\
The ROS 2 node of a pi0 policy. It takes ROS arguments only:

    policy_node --ros-args --params-file policy.yaml -p checkpoint:=FOLDER -p robot:=PROFILE

`ros2 param describe` and README.md tell what the parameters are.";

/// Runs the node until it is told to end. Exit code 0 after SIGINT or SIGTERM; 1 after an error, which stderr and `/rosout` name;
/// 2 after a wrong command line.
pub fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.into_iter().collect();
    match process::foreign_arguments(&arguments)[..] {
        [] => {}
        ["--help" | "-h", ..] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [unknown, ..] => {
            eprintln!("Unknown argument {unknown}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    match start(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// An error is one from before there was a logger.
fn start(arguments: Vec<String>) -> Result<ExitCode, NodeError> {
    let (events, inbox) = mpsc::channel();
    process::watch(&events)?;
    let executor = Context::new(arguments, InitOptions::default())?.create_basic_executor();
    let node = executor.create_node(NODE_NAME)?;
    // Fails only where the process has a subscriber already, which then gets the lines.
    let _ = log::install(node.logger().clone());
    let spinner = Spinner::start(executor, events.clone())?;
    let (result, card) = serve(&node, events, &inbox);
    if let Err(error) = &result {
        tracing::error!("{error}");
        process::linger(&inbox, FATAL_LINGER);
    }
    drop(node);
    spinner.stop();
    if card == Card::Held {
        // The C++ library would take its device apart under a thread that still uses it.
        signal_hook::low_level::exit(1);
    }
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a card was closed when the node ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Card {
    /// Or there was none.
    Closed,
    /// The inference thread did not come back from it.
    Held,
}

/// Opens the policy, wires it up and waits for the end.
fn serve(node: &Node, events: Sender<Event>, inbox: &Receiver<Event>) -> (Result<(), NodeError>, Card) {
    let outputs = Outputs::default();
    let (shared, mut inference) = (Shared::default(), None);
    let result = Parameters::declare(node).map_err(NodeError::from).and_then(|parameters| {
        let options = parameters.policy_options()?;
        let kind = options.backend.kind;
        let (requests, thread) = infer_in_background(node, options, outputs.clone(), shared.clone(), events.clone())?;
        inference = Some((kind, thread));
        serve_policy(node, &parameters, (requests, shared.clone()), &outputs, events, inbox)
    });
    // The inference thread may still be busy and holds a clone.
    outputs.close();
    // It closes the card after the chunk that it computes now.
    shared.end();
    let card = match inference {
        Some((BackendKind::Ttnn, thread)) if !process::ends_within(&thread, CARD_LIMIT) => {
            tracing::error!("The card does not answer and is left open. Reset it (tt-smi -r) before the next start");
            Card::Held
        }
        // On the CPU there is nothing to close.
        _ => Card::Closed,
    };
    (result, card)
}

fn serve_policy(
    node: &Node,
    parameters: &Parameters,
    (requests, shared): (SyncSender<Snapshot>, Shared),
    outputs: &Outputs,
    events: Sender<Event>,
    inbox: &Receiver<Event>,
) -> Result<(), NodeError> {
    let clock = node.get_clock();
    let instruction = instruction(node, parameters);
    let rate_changes = events.clone();
    parameters.rate_hz.on_change(move |&rate| {
        let _ = rate_changes.send(Event::RateChanged(rate));
    });
    let mut wiring = None;
    while let Ok(event) = inbox.recv() {
        match event {
            Event::Opened(opened) => {
                if let Some(text) = &opened.default_instruction
                    && instruction.is_missing()
                {
                    instruction.set(text.as_bytes(), now(&clock), None)?;
                }
                outputs.advertise(node, &opened.command_kinds)?;
                let wired = Wiring::new(node, parameters, &opened, instruction.clone(), &shared, outputs, requests.clone())?;
                tracing::info!("{}", wired.summary(&opened, parameters));
                if opened.info.synthetic {
                    tracing::warn!("The weights are SYNTHETIC: the commands mean nothing and must not reach a robot");
                }
                wiring = Some(wired);
            }
            Event::NotOpened(error) => return Err(error.into()),
            Event::RateChanged(rate) => {
                if let Some(wiring) = &mut wiring {
                    wiring.tick_at(rate)?;
                }
            }
            Event::Signal(signal) => {
                tracing::info!("Ending after signal {signal}");
                return Ok(());
            }
            Event::Panicked(message) => return Err(NodeError::Panicked(message)),
            Event::SpinEnded(errors) => return Err(NodeError::SpinEnded(errors)),
        }
    }
    Ok(())
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

/// Starts the thread that opens the policy and answers the requests that are sent to it.
fn infer_in_background(
    node: &Node,
    options: PolicyOptions,
    outputs: Outputs,
    shared: Shared,
    events: Sender<Event>,
) -> io::Result<(SyncSender<Snapshot>, JoinHandle<()>)> {
    tracing::info!("Opening {}", options.checkpoint.display());
    let (requests, queue) = mpsc::sync_channel(1);
    let clock = node.get_clock();
    let thread = thread::Builder::new().name("inference".to_owned()).spawn(move || {
        let started = Instant::now();
        // Sending fails only when the main thread is already on its way out.
        match Policy::open(&options) {
            Ok(policy) => {
                let opened = Opened {
                    info: policy.info().clone(),
                    cameras: policy.required_cameras().to_vec(),
                    joints: policy.state_joints().to_vec(),
                    command_kinds: policy.command_kinds().to_vec(),
                    default_instruction: policy.default_instruction().map(str::to_owned),
                    time: started.elapsed(),
                };
                let _ = events.send(Event::Opened(Box::new(opened)));
                inference::Worker { policy, outputs, clock, shared }.run(&queue);
            }
            Err(error) => {
                let _ = events.send(Event::NotOpened(error));
            }
        }
    })?;
    Ok((requests, thread))
}

/// Subscriptions and timers of an opened policy; dropping it ends them.
struct Wiring {
    worker: Worker<Dispatcher>,
    tick: WorkerTimer<Dispatcher>,
    subscriptions: Subscriptions,
    _diagnostics: WorkerTimer<Dispatcher>,
}

impl Wiring {
    fn new(
        node: &Node,
        parameters: &Parameters,
        opened: &Opened,
        instruction: Arc<Instruction>,
        shared: &Shared,
        outputs: &Outputs,
        requests: SyncSender<Snapshot>,
    ) -> Result<Self, NodeError> {
        let durability = parameters.instruction_durability()?;
        let (inputs, subscriptions) = subscriptions::subscribe(node, &opened.cameras, instruction, durability)?;
        let inputs = Arc::new(inputs);
        let mut reporter = Reporter::new(
            node,
            device(&opened.info.backend),
            inputs.clone(),
            subscriptions.topics.clone(),
            shared.clone(),
            outputs.clone(),
        );
        let worker = node.create_worker(Dispatcher::new(inputs, shared.clone(), requests));
        let clock = node.get_clock();
        // On the steady clock: a paused simulation is to be seen in the diagnostics, not to stop them.
        let diagnostics = worker.create_timer_repeating(DIAGNOSTICS_PERIOD, move |_: &mut Dispatcher| {
            if let Err(error) = reporter.publish(now(&clock)) {
                tracing::debug!("The diagnostics could not be published: {error}");
            }
        })?;
        let tick = tick_timer(&worker, parameters.rate_hz.get())?;
        Ok(Self { worker, tick, subscriptions, _diagnostics: diagnostics })
    }

    fn tick_at(&mut self, rate: f64) -> Result<(), RclrsError> {
        self.tick = tick_timer(&self.worker, rate)?;
        tracing::info!("Inference runs at {rate} Hz from now on");
        Ok(())
    }

    /// What the operator compares with the robot in front of him.
    fn summary(&self, opened: &Opened, parameters: &Parameters) -> String {
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

fn device(backend: &BackendInfo) -> String {
    format!("{}: {}", backend.name, backend.device)
}

fn now(clock: &Clock) -> Stamp {
    Stamp::from_nanoseconds(clock.now().nsec)
}

/// On the node's clock, so that inference follows `/clock` under `use_sim_time`.
fn tick_timer(worker: &Worker<Dispatcher>, rate: f64) -> Result<WorkerTimer<Dispatcher>, RclrsError> {
    worker.create_timer_repeating(Duration::from_secs_f64(rate.recip()).node_time(), |dispatcher: &mut Dispatcher, now: Time| {
        dispatcher.tick(Stamp::from_nanoseconds(now.nsec))
    })
}

fn list(errors: &[RclrsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

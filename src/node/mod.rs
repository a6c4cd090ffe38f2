//! The ROS 2 node: lifecycle, parameters, subscriptions, the inference thread, publishers, diagnostics.
//!
//! Thin: what is received, asked for, computed and taken over is decided in [`crate::session`], which a replay runs too; here are threads,
//! messages, and what is told. The executor's threads take samples,
//! answer services and run the timers. The control thread is the one that publishes commands. The inference thread owns the policy. The
//! main thread carries the transitions of the lifecycle out ([`manager`]) until there is a reason to end, and takes the ROS entities down;
//! then it does not wait for a running inference.

mod configured;
mod control;
mod control_health;
mod diagnostics;
mod health;
mod inference;
mod lifecycle;
mod log;
mod manager;
mod messages;
mod outputs;
mod parameters;
mod policy_thread;
mod priority;
mod process;
mod services;
mod subscriptions;

use std::{
    io,
    process::ExitCode,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use rclrs::{Clock, Context, CreateBasicExecutor, InitOptions, Node, RclrsError};

use self::{
    manager::Manager,
    process::{Card, Event, Spinner},
    subscriptions::SubscriptionError,
};
use crate::{
    control::{ControlError, Stamp},
    observation::InstructionError,
    parameters::ParameterError,
    policy::PolicyError,
};

/// Name of the node unless `-r __node:=` gives another.
const NODE_NAME: &str = "policy";
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
    #[error("The robot cannot be commanded like this. {0}")]
    Control(#[from] ControlError),
    #[error("The policy cannot be opened. {0}")]
    Policy(#[from] PolicyError),
    #[error("The robot profile's instruction was refused. {0}")]
    Instruction(#[from] InstructionError),
    #[error("The robot may not have got its last command. {0}")]
    Order(String),
    #[error("The policy is not open after 60 s. It is still being opened: ask for configure again to go on waiting for it")]
    StillOpening,
    #[error("The backend did not end within 60 s and its memory is not free. Restart the node")]
    NotFreed,
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
    process::limit_shutdown()?;
    drop(node);
    spinner.stop();
    if card == Card::Held {
        // The C++ library would take its device apart under a thread that still uses it.
        signal_hook::low_level::exit(1);
    }
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(node: &Node, events: Sender<Event>, inbox: &Receiver<Event>) -> (Result<(), NodeError>, Card) {
    match Manager::new(node, events, inbox) {
        Ok(mut manager) => (manager.run(), manager.close()),
        Err(error) => (Err(error), Card::Closed),
    }
}

fn now(clock: &Clock) -> Stamp {
    Stamp::from_nanoseconds(clock.now().nsec)
}

fn list(errors: &[RclrsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

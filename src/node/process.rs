//! The life of the process: signals, panics, the executor's thread, and the way down.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_channel::oneshot;
use rclrs::{Executor, ExecutorCommands, RclrsError, SpinOptions};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use super::lifecycle::Running;
use crate::{
    policy::{PolicyError, PolicyInfo},
    robot::ActionColumn,
};

/// A middleware that does not come down in this time is left behind.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(1800);

/// Whether `thread` ends before `limit`.
pub fn ends_within(thread: &JoinHandle<()>, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while !thread.is_finished() && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    thread.is_finished()
}

/// What the main thread waits for.
pub enum Event {
    /// A client has begun a transition of the lifecycle and waits for the answer whether it succeeded.
    Begun(Running, oneshot::Sender<bool>),
    /// The policy is open, or why it is not.
    Opened(Result<Box<Opened>, PolicyError>),
    /// The policy is freed.
    Closed,
    /// The card does not answer any more.
    Lost(String),
    End(End),
}

/// Why the node ends.
pub enum End {
    /// SIGINT or SIGTERM.
    Signal(i32),
    Panicked(String),
    SpinEnded(Vec<RclrsError>),
}

/// Whether a card was closed when the node ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// Or there was none.
    Closed,
    /// The inference thread did not come back from it.
    Held,
}

/// What the main thread has to know of an opened policy.
pub struct Opened {
    pub info: PolicyInfo,
    /// Camera slots that must have an image.
    pub cameras: Vec<String>,
    pub joints: Vec<String>,
    pub commands: Vec<ActionColumn>,
    /// The robot profile's.
    pub execution_horizon: Option<usize>,
    /// Seconds between two rows.
    pub period: f64,
    pub default_instruction: Option<String>,
    /// How long it took.
    pub time: Duration,
}

/// Arguments outside of `--ros-args ... --`. The node has none of its own.
pub fn foreign_arguments(arguments: &[String]) -> Vec<&str> {
    let mut ros = false;
    let mut foreign = Vec::new();
    for argument in arguments.iter().skip(1) {
        match argument.as_str() {
            "--ros-args" => ros = true,
            "--" if ros => ros = false,
            argument if !ros => foreign.push(argument),
            _ => {}
        }
    }
    foreign
}

/// Turns signals and panics of any thread into events.
pub fn watch(events: &Sender<Event>) -> io::Result<()> {
    let panics = events.clone();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        // An error means that the main thread is already on its way out.
        let _ = panics.send(Event::End(End::Panicked(info.to_string())));
    }));
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let events = events.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = events.send(Event::End(End::Signal(signal)));
        }
    })?;
    Ok(())
}

/// From now on the process has a short time left.
pub fn limit_shutdown() -> io::Result<()> {
    thread::Builder::new().name("shutdown".to_owned()).spawn(|| {
        thread::sleep(SHUTDOWN_LIMIT);
        signal_hook::low_level::exit(1);
    })?;
    Ok(())
}

/// Waits at most `limit` for a signal.
pub fn linger(inbox: &Receiver<Event>, limit: Duration) {
    let deadline = Instant::now() + limit;
    while let Ok(event) = inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Event::End(End::Signal(_)) = event {
            return;
        }
    }
}

/// The thread that runs the executor.
pub struct Spinner {
    commands: Arc<ExecutorCommands>,
    thread: JoinHandle<()>,
}

impl Spinner {
    pub fn start(mut executor: Executor, events: Sender<Event>) -> io::Result<Self> {
        let commands = executor.commands().clone();
        let thread = thread::Builder::new().name("executor".to_owned()).spawn(move || {
            let errors = executor.spin(SpinOptions::default());
            let _ = events.send(Event::End(End::SpinEnded(errors)));
        })?;
        Ok(Self { commands, thread })
    }

    /// Ends the spinning and drops the executor.
    pub fn stop(self) {
        // Repeated, because an executor forgets a halt that comes before it spins.
        while !self.thread.is_finished() {
            self.commands.halt_spinning();
            thread::sleep(Duration::from_millis(5));
        }
        // A panic in the executor was reported by the hook.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(line: &str) -> Vec<String> {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        foreign_arguments(&arguments).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn what_ros_reads_is_not_foreign() {
        assert!(foreign("policy_node").is_empty());
        assert!(foreign("policy_node --ros-args -p seed:=1 -r __ns:=/left --log-level debug").is_empty());
        assert!(foreign("policy_node --ros-args -p seed:=1 -- --ros-args -p threads:=2").is_empty());
    }

    #[test]
    fn everything_else_is_named() {
        assert_eq!(foreign("policy_node --help"), ["--help"]);
        assert_eq!(foreign("policy_node --ros-args -p seed:=1 -- checkpoint"), ["checkpoint"]);
    }
}

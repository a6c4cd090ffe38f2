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

use rclrs::{Executor, ExecutorCommands, RclrsError, SpinOptions};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::policy::PolicyError;

/// A middleware that does not come down in this time after a signal is left behind.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(1800);

/// What the main thread waits for.
pub enum Event {
    Opened(Opened),
    NotOpened(PolicyError),
    RateChanged(f64),
    /// SIGINT or SIGTERM.
    Signal(i32),
    Panicked(String),
    SpinEnded(Vec<RclrsError>),
}

/// What the main thread has to know of an opened policy.
pub struct Opened {
    /// Camera slots that must have an image.
    pub cameras: Vec<String>,
    pub joints: Vec<String>,
    pub time: Duration,
}

/// Turns signals and panics of any thread into events.
pub fn watch(events: &Sender<Event>) -> io::Result<()> {
    let panics = events.clone();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        // An error means that the main thread is already on its way out.
        let _ = panics.send(Event::Panicked(info.to_string()));
    }));
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let events = events.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = events.send(Event::Signal(signal));
            thread::sleep(SHUTDOWN_LIMIT);
            signal_hook::low_level::exit(1);
        }
    })?;
    Ok(())
}

/// Waits at most `limit` for a signal.
pub fn linger(inbox: &Receiver<Event>, limit: Duration) {
    let deadline = Instant::now() + limit;
    while let Ok(event) = inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Event::Signal(_) = event {
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
            let _ = events.send(Event::SpinEnded(errors));
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

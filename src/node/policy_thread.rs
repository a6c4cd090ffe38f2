//! The thread that opens the policy, owns it, and computes.

use std::{
    io,
    sync::mpsc::{self, Sender, SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    inference::{self, Request, Shared},
    priority,
    process::{self, Event, Opened},
};
use crate::{
    backend::BackendKind,
    policy::{Policy, PolicyError, PolicyOptions},
};

/// What a policy is warmed up with when nobody has said yet what it is to do.
const ANY_INSTRUCTION: &str = "pick up the object";

/// A thread at work. It ends when it is told to, after what it computes now.
pub struct PolicyThread {
    pub requests: SyncSender<Request>,
    pub shared: Shared,
    pub events: Sender<Event>,
    kind: BackendKind,
    thread: JoinHandle<()>,
}

impl PolicyThread {
    /// Starts it; the policy is warmed up with `instruction`, else with one of its own. It sends [`Event::Opened`] when the policy is ready or
    /// refused, and [`Event::Closed`] when a policy that was ready is freed.
    pub fn start(options: PolicyOptions, instruction: Option<String>, events: Sender<Event>) -> io::Result<Self> {
        tracing::info!("Opening {}", options.checkpoint.display());
        let (requests, queue) = mpsc::sync_channel(1);
        let (shared, kind) = (Shared::default(), options.backend.kind);
        let (theirs, told) = (shared.clone(), events.clone());
        let thread = thread::Builder::new().name("inference".to_owned()).spawn(move || {
            priority::yield_to_others();
            let started = Instant::now();
            // Sending fails only when the main thread is already on its way out.
            match open(&options, instruction) {
                Ok(policy) => {
                    let opened = Opened {
                        info: policy.info().clone(),
                        cameras: policy.required_cameras().to_vec(),
                        joints: policy.state_joints().to_vec(),
                        commands: policy.commands().to_vec(),
                        execution_horizon: policy.execution_horizon(),
                        period: policy.period(),
                        default_instruction: policy.default_instruction().map(str::to_owned),
                        time: started.elapsed(),
                    };
                    let _ = told.send(Event::Opened(Ok(Box::new(opened))));
                    inference::Worker { policy, shared: theirs }.run(&queue);
                    let _ = told.send(Event::Closed);
                }
                Err(error) => {
                    let _ = told.send(Event::Opened(Err(error)));
                }
            }
        })?;
        Ok(Self { requests, shared, events, kind, thread })
    }

    /// Tells it to end.
    pub fn end(&self) {
        self.shared.end();
    }

    /// Whether a card is left open: one that did not come back from its work within `limit` after it was told to end. On the CPU there is
    /// nothing to close.
    pub fn leaves_card_open(&self, limit: Duration) -> bool {
        self.kind == BackendKind::Ttnn && !process::ends_within(&self.thread, limit)
    }
}

/// Opens the policy and lets it compute once, so that the first chunk takes no longer than the others.
fn open(options: &PolicyOptions, instruction: Option<String>) -> Result<Policy, PolicyError> {
    let mut policy = Policy::open(options)?;
    let instruction = instruction.or_else(|| policy.default_instruction().map(str::to_owned));
    // A card captures its op sequences for guided chunks apart; the CPU has nothing to prepare for them.
    let guided = options.backend.kind == BackendKind::Ttnn;
    policy.warm_up(instruction.as_deref().unwrap_or(ANY_INSTRUCTION), guided)?;
    Ok(policy)
}

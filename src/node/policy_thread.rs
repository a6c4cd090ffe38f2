//! The thread that opens the policy, owns it, and computes.

use std::{
    io,
    sync::mpsc::{self, Sender, SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rclrs::Clock;

use super::{
    inference::{self, Shared},
    inputs::Snapshot,
    outputs::Outputs,
    process::{self, Event, Opened},
};
use crate::{
    backend::BackendKind,
    policy::{Policy, PolicyOptions},
};

/// A thread at work. It ends when it is told to, after what it computes now.
pub struct PolicyThread {
    pub requests: SyncSender<Snapshot>,
    pub shared: Shared,
    pub outputs: Outputs,
    kind: BackendKind,
    thread: JoinHandle<()>,
}

impl PolicyThread {
    /// Starts it. It sends [`Event::Opened`] when the policy is ready or refused, and [`Event::Closed`] when a policy that was ready is
    /// freed.
    pub fn start(options: PolicyOptions, clock: Clock, events: Sender<Event>) -> io::Result<Self> {
        tracing::info!("Opening {}", options.checkpoint.display());
        let (requests, queue) = mpsc::sync_channel(1);
        let (shared, outputs, kind) = (Shared::default(), Outputs::default(), options.backend.kind);
        let (theirs, publish) = (shared.clone(), outputs.clone());
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
                    let _ = events.send(Event::Opened(Ok(Box::new(opened))));
                    inference::Worker { policy, outputs: publish, clock, shared: theirs, events: events.clone() }.run(&queue);
                    let _ = events.send(Event::Closed);
                }
                Err(error) => {
                    let _ = events.send(Event::Opened(Err(error)));
                }
            }
        })?;
        Ok(Self { requests, shared, outputs, kind, thread })
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

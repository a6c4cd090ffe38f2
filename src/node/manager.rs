//! What the transitions of the lifecycle do. Runs on the main thread, one transition at a time.

use std::{
    mem,
    sync::mpsc::{Receiver, Sender},
    time::{Duration, Instant},
};

use rclrs::Node;

use super::{
    NodeError,
    configured::{Configured, Workers},
    health::Health,
    lifecycle::{Lifecycle, Next, Outcome, Phase, Primary, Request, Running, Services, State},
    parameters::Declaring,
    policy_thread::PolicyThread,
    process::{Card, End, Event, Opened},
};
use crate::parameters::Parameters;

/// Longest time that a transition may take.
const TRANSITION_LIMIT: Duration = Duration::from_secs(60);
/// Time for a card to finish its chunk and to be closed when the node ends. TTNN itself gives up after five seconds.
pub const CARD_LIMIT: Duration = Duration::from_secs(10);

/// Carries transitions out until the node is to end.
pub struct Manager<'a> {
    node: &'a Node,
    parameters: Parameters,
    lifecycle: Lifecycle,
    _services: Services,
    health: Health,
    workers: Workers,
    events: Sender<Event>,
    inbox: &'a Receiver<Event>,
    held: Held,
    /// The robot was stopped when its policy was closed, and not reset: the next policy must not move it either.
    stopped: bool,
}

/// How much of a policy the node has.
enum Held {
    Nothing,
    /// Configuring, or a configuring that was given up before the policy was ready.
    Opening(PolicyThread),
    /// It was ready after the configuring that waited for it had been given up.
    Opened(PolicyThread, Box<Opened>),
    /// Inactive or active.
    Configured(PolicyThread, Box<Configured>),
    /// It was told to end.
    Ending(PolicyThread),
}

/// Why a transition did not succeed.
enum Fault {
    /// Nothing has changed.
    Refused(NodeError),
    /// Error processing is to free what is left.
    Broken(NodeError),
    /// The node ends.
    Interrupted(End),
}

/// Why something that was waited for did not come.
enum NotCome {
    Late,
    Interrupted(End),
}

impl Fault {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) | Self::Interrupted(_) => Outcome::Failure,
            Self::Broken(_) => Outcome::Error,
        }
    }
}

impl<'a> Manager<'a> {
    pub fn new(node: &'a Node, events: Sender<Event>, inbox: &'a Receiver<Event>) -> Result<Self, NodeError> {
        let parameters = Parameters::declare(&mut Declaring(node))?;
        let workers = Workers::new(node);
        let lifecycle = Lifecycle::new(node)?;
        let health = Health::start(node, &workers.timers, lifecycle.clone())?;
        let services = Services::offer(node, &lifecycle, events.clone())?;
        Ok(Self {
            node,
            parameters,
            lifecycle,
            _services: services,
            health,
            workers,
            events,
            inbox,
            held: Held::Nothing,
            stopped: false,
        })
    }

    /// Works until something ends the node.
    pub fn run(&mut self) -> Result<(), NodeError> {
        if self.parameters.autostart() {
            match self.autostart() {
                Ok(()) => {}
                Err(Fault::Interrupted(end)) => return self.end(end),
                Err(Fault::Refused(error) | Fault::Broken(error)) => return Err(error),
            }
        }
        // This manager holds a sender, so the inbox never closes.
        while let Ok(event) = self.inbox.recv() {
            match event {
                Event::Begun(running, answer) => {
                    let result = self.carry_out(running);
                    // The client may be gone.
                    let _ = answer.send(result.is_ok());
                    match result {
                        Ok(()) => {}
                        Err(Fault::Interrupted(end)) => return self.end(end),
                        Err(Fault::Refused(error) | Fault::Broken(error)) => self.tell_failure(&error),
                    }
                }
                Event::Opened(result) => self.opened_late(result.map_err(NodeError::from)),
                Event::Closed => {}
                Event::Lost(reason) => {
                    if let Some(end) = self.lost(reason) {
                        return self.end(end);
                    }
                }
                Event::End(end) => return self.end(end),
            }
        }
        Ok(())
    }

    /// Configures and activates. Nobody waits for an answer, so it waits for a policy that takes longer than a transition may.
    fn autostart(&mut self) -> Result<(), Fault> {
        for request in [Request::Configure, Request::Activate] {
            // Illegal only when a client has asked for a transition before; then the client is the one who decides.
            while let Ok(running) = self.lifecycle.begin(request) {
                match self.carry_out(running) {
                    Err(Fault::Refused(error @ NodeError::StillOpening)) => tracing::warn!("{error}"),
                    result => {
                        result?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Does the work of a transition that has begun, ends it, and processes its errors.
    fn carry_out(&mut self, running: Running) -> Result<(), Fault> {
        let deadline = Instant::now() + TRANSITION_LIMIT;
        let result = match running.phase() {
            Phase::Configuring => self.configure(deadline),
            Phase::Activating => self.configured().map_or(Ok(()), Configured::activate).map_err(Fault::Refused),
            Phase::Deactivating => self.configured().map_or(Ok(()), Configured::deactivate).map_err(Fault::Broken),
            Phase::CleaningUp | Phase::ShuttingDown => {
                self.stop_commands();
                self.release(deadline)
            }
            // What led here has sent the last command, or could not.
            Phase::ErrorProcessing => self.release(deadline),
        };
        if let Err(Fault::Refused(error) | Fault::Broken(error)) = &result {
            self.lifecycle.blame(error.to_string());
        }
        let outcome = result.as_ref().err().map_or(Outcome::Success, Fault::outcome);
        if let Next::Process(running) = self.lifecycle.end(running, outcome)
            && let Err(Fault::Interrupted(end)) = self.carry_out(running)
        {
            return Err(Fault::Interrupted(end));
        }
        if result.is_ok() {
            tracing::info!("The node is {}", self.lifecycle.state().label());
        }
        result
    }

    fn configure(&mut self, deadline: Instant) -> Result<(), Fault> {
        if let Held::Nothing = self.held {
            let options = self.parameters.policy_options().map_err(|error| Fault::Refused(error.into()))?;
            let instruction = Some(self.parameters.default_instruction.get().to_string()).filter(|text| !text.is_empty());
            let thread = PolicyThread::start(options, instruction, self.events.clone());
            self.held = Held::Opening(thread.map_err(|error| Fault::Refused(error.into()))?);
        }
        if let Held::Opening(_) = self.held {
            let opened = self.wait(deadline, |event| if let Event::Opened(result) = event { Some(result) } else { None });
            match opened {
                Ok(result) => self.keep(result.map_err(NodeError::from)).map_err(Fault::Refused)?,
                Err(NotCome::Late) => return Err(Fault::Refused(NodeError::StillOpening)),
                Err(NotCome::Interrupted(end)) => return Err(Fault::Interrupted(end)),
            }
        }
        match mem::replace(&mut self.held, Held::Nothing) {
            Held::Opened(thread, opened) => match self.set_up(&thread, &opened) {
                Ok(configured) => {
                    self.stopped = false;
                    self.held = Held::Configured(thread, Box::new(configured));
                    Ok(())
                }
                Err(error) => {
                    self.held = Held::Opened(thread, opened);
                    self.release(deadline)?;
                    Err(Fault::Refused(error))
                }
            },
            held => {
                self.held = held;
                Ok(())
            }
        }
    }

    /// Keeps the policy that the thread has opened, or lets the thread go that could not.
    fn keep(&mut self, result: Result<Box<Opened>, NodeError>) -> Result<(), NodeError> {
        match (mem::replace(&mut self.held, Held::Nothing), result) {
            (Held::Opening(thread), Ok(opened)) => self.held = Held::Opened(thread, opened),
            (Held::Opening(_), Err(error)) => return Err(error),
            // It was told to end meanwhile.
            (held, _) => self.held = held,
        }
        Ok(())
    }

    fn set_up(&self, thread: &PolicyThread, opened: &Opened) -> Result<Configured, NodeError> {
        let configured = Configured::new(self.node, &self.parameters, opened, thread, &self.workers)?;
        if self.stopped {
            configured.stop()?;
            tracing::warn!("The robot was stopped when its policy was closed, and stays so until ~/reset");
        }
        self.health.show(configured.reporter(self.node, opened, thread));
        tracing::info!("{}", configured.summary(opened, &self.parameters));
        match configured.unlimited_joints()[..] {
            [] => {}
            ref joints if joints.len() == opened.commands.len() => tracing::warn!(
                "No joint has a limit: commands are only checked to be finite. Give the node a urdf or joint_limits"
            ),
            ref joints => {
                tracing::warn!("Joints without a limit, whose commands are only checked to be finite: {}", joints.join(", "))
            }
        }
        if opened.info.synthetic {
            tracing::warn!("The weights are SYNTHETIC: the commands mean nothing and must not reach a robot");
        }
        Ok(configured)
    }

    fn configured(&self) -> Option<&Configured> {
        if let Held::Configured(_, configured) = &self.held { Some(configured) } else { None }
    }

    /// Sends the robot its last command on the way to something else.
    fn stop_commands(&self) {
        if let Some(Err(error)) = self.configured().map(Configured::deactivate) {
            tracing::error!("{error}");
        }
    }

    /// Frees the policy and everything that belongs to it.
    fn release(&mut self, deadline: Instant) -> Result<(), Fault> {
        let Some(thread) = self.let_go() else { return Ok(()) };
        thread.end();
        self.held = Held::Ending(thread);
        // A policy that was still being opened may be refused instead.
        match self.wait(deadline, |event| matches!(event, Event::Closed | Event::Opened(Err(_))).then_some(())) {
            Ok(()) => {
                self.held = Held::Nothing;
                Ok(())
            }
            Err(NotCome::Late) => Err(Fault::Broken(NodeError::NotFreed)),
            Err(NotCome::Interrupted(end)) => Err(Fault::Interrupted(end)),
        }
    }

    /// Takes down what was made around the policy. Returns the thread that still has it.
    fn let_go(&mut self) -> Option<PolicyThread> {
        self.health.hide();
        match mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => None,
            Held::Configured(thread, configured) => {
                self.stopped |= configured.close(&thread);
                Some(thread)
            }
            Held::Opening(thread) | Held::Opened(thread, _) | Held::Ending(thread) => Some(thread),
        }
    }

    /// A policy that became ready, or was refused, after the configuring that waited for it.
    fn opened_late(&mut self, result: Result<Box<Opened>, NodeError>) {
        match self.keep(result) {
            Ok(()) => {
                if let Held::Opened(..) = self.held {
                    tracing::info!("The policy is open now. Ask for configure to take it into use");
                }
            }
            Err(error) => {
                self.lifecycle.blame(error.to_string());
                self.tell_failure(&error);
            }
        }
    }

    /// The card does not answer any more. Returns why the node ends, if it was interrupted.
    fn lost(&mut self, reason: String) -> Option<End> {
        let request = match self.lifecycle.state() {
            State::Primary(Primary::Active) => Request::Deactivate,
            State::Primary(Primary::Inactive) => Request::CleanUp,
            _ => return None,
        };
        let running = self.lifecycle.begin(request).ok()?;
        tracing::error!("{reason}");
        self.stop_commands();
        self.lifecycle.blame(reason);
        let Next::Process(running) = self.lifecycle.end(running, Outcome::Error) else { return None };
        match self.carry_out(running) {
            Err(Fault::Interrupted(end)) => Some(end),
            _ => None,
        }
    }

    /// The last transition: the robot gets its last command, and nothing waits for an inference.
    fn end(&mut self, end: End) -> Result<(), NodeError> {
        if let End::Signal(signal) = end {
            tracing::info!("Ending after signal {signal}");
        }
        // Illegal only when the node is finalized already, or a client has just begun another transition, which is dropped.
        let running = self.lifecycle.begin(Request::ShutDown);
        self.stop_commands();
        let (outcome, result) = match end {
            End::Signal(_) => (Outcome::Success, Ok(())),
            End::Panicked(message) => (Outcome::Error, Err(NodeError::Panicked(message))),
            End::SpinEnded(errors) => (Outcome::Error, Err(NodeError::SpinEnded(errors))),
        };
        if let Err(error) = &result {
            self.lifecycle.blame(error.to_string());
        }
        if let Ok(running) = running
            && let Next::Process(running) = self.lifecycle.end(running, outcome)
        {
            self.lifecycle.end(running, Outcome::Failure);
        }
        result
    }

    /// Takes everything down, and waits for a card.
    pub fn close(mut self) -> Card {
        let Some(thread) = self.let_go() else { return Card::Closed };
        thread.end();
        if thread.leaves_card_open(CARD_LIMIT) {
            tracing::error!("The card does not answer and is left open. Reset it (tt-smi -r) before the next start");
            return Card::Held;
        }
        Card::Closed
    }

    fn tell_failure(&self, error: &NodeError) {
        tracing::error!("The node is {}: {error}", self.lifecycle.state().label());
    }

    /// Waits for an event.
    fn wait<T>(&self, deadline: Instant, pick: impl Fn(Event) -> Option<T>) -> Result<T, NotCome> {
        loop {
            match self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::End(end)) => return Err(NotCome::Interrupted(end)),
                Ok(event) => {
                    if let Some(value) = pick(event) {
                        return Ok(value);
                    }
                }
                Err(_) => return Err(NotCome::Late),
            }
        }
    }
}

#[cfg(test)]
mod tests;

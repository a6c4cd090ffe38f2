//! The node as a managed node: its state, the services that change and tell it, and the events of its changes. rclrs has none of this.
//!
//! A request is judged where it arrives, on an executor's thread, and its work is done by the main thread. The answer is sent when the work
//! is over; what asks for a transition meanwhile is refused at once.

mod services;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rclrs::{Clock, IntoPrimitiveOptions, Node, Publisher, RclrsError};
use ros_env::lifecycle_msgs::msg::TransitionEvent;

pub use self::{
    services::Services,
    state::{Illegal, Next, Outcome, Phase, Primary, Request, Running, State},
};
use self::{
    services::{state_message, transition_message},
    state::{Machine, Transition},
};

/// The state of this node, shared by everything that asks for it.
#[derive(Clone)]
pub struct Lifecycle(Arc<Shared>);

struct Shared {
    record: Mutex<Record>,
    events: Publisher<TransitionEvent>,
    clock: Clock,
}

struct Record {
    machine: Machine,
    since: Instant,
    failure: Option<String>,
}

/// What the diagnostics tell of the lifecycle.
pub struct Condition {
    pub state: State,
    pub since: Instant,
    /// Why the last transition failed; `None` after one that succeeded.
    pub failure: Option<String>,
}

impl Lifecycle {
    pub fn new(node: &Node) -> Result<Self, RclrsError> {
        let record = Record { machine: Machine::new(), since: Instant::now(), failure: None };
        Ok(Self(Arc::new(Shared {
            record: Mutex::new(record),
            // rcl's own quality of service for these events.
            events: node.create_publisher("~/transition_event".reliable().keep_last(10))?,
            clock: node.get_clock(),
        })))
    }

    pub fn condition(&self) -> Condition {
        let record = self.lock();
        Condition { state: record.machine.state(), since: record.since, failure: record.failure.clone() }
    }

    pub fn state(&self) -> State {
        self.lock().machine.state()
    }

    /// Begins a transition that the node asks for itself.
    pub fn begin(&self, request: Request) -> Result<Running, Illegal> {
        self.begin_in(&mut self.lock(), request)
    }

    /// Begins the transition that a client names by its label, or by its id when it gives no label.
    pub fn begin_named(&self, id: u8, label: &str) -> Result<Running, Illegal> {
        let mut record = self.lock();
        let request = record.machine.resolve(id, label)?;
        self.begin_in(&mut record, request)
    }

    fn begin_in(&self, record: &mut Record, request: Request) -> Result<Running, Illegal> {
        let (running, transition) = record.machine.begin(request)?;
        self.tell(record, transition);
        Ok(running)
    }

    /// Notes why the transition at work is going to fail.
    pub fn blame(&self, failure: String) {
        self.lock().failure = Some(failure);
    }

    /// Ends a transition.
    pub fn end(&self, running: Running, outcome: Outcome) -> Next {
        let mut record = self.lock();
        if outcome == Outcome::Success && running.phase() != Phase::ErrorProcessing {
            record.failure = None;
        }
        let (next, transition) = record.machine.end(running, outcome);
        self.tell(&mut record, transition);
        next
    }

    /// Under the lock, so that events arrive in the order of the changes.
    fn tell(&self, record: &mut Record, transition: Transition) {
        record.since = Instant::now();
        let event = TransitionEvent {
            timestamp: self.0.clock.now().nsec.try_into().unwrap_or(0),
            transition: transition_message(transition),
            start_state: state_message(transition.start.id_and_label()),
            goal_state: state_message(transition.goal.id_and_label()),
        };
        if let Err(error) = self.0.events.publish(event) {
            tracing::warn!("The event of transition {} could not be published: {error}", transition.label);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // Nothing in here panics between two changes that belong together.
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What no client can ask for: panics and a lost card. Everything else is tested on the wire (tests/peers/test_wire_lifecycle.py).

use std::{
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use futures_channel::oneshot;
use rclrs::{Context, CreateBasicExecutor, InitOptions};

use super::*;
use crate::{
    checkpoint::synth::{self, Precision},
    model::Geometry,
    node::lifecycle::Condition,
};

/// What the main thread gets while it runs.
struct Outside {
    events: Sender<Event>,
    lifecycle: Lifecycle,
}

impl Outside {
    fn wait_for(&self, state: Primary) -> Condition {
        let deadline = Instant::now() + TRANSITION_LIMIT;
        while self.lifecycle.state() != State::Primary(state) {
            assert!(Instant::now() < deadline, "The node is {}", self.lifecycle.state().label());
            thread::sleep(Duration::from_millis(5));
        }
        self.lifecycle.condition()
    }

    fn send(&self, event: Event) {
        self.events.send(event).unwrap();
    }

    /// Asks as a client does.
    fn ask(&self, label: &str) {
        let (answer, _) = oneshot::channel();
        self.send(Event::Begun(self.lifecycle.begin_named(0, label).unwrap(), answer));
    }
}

/// Runs a node with a tiny model, which configures and activates itself, and `script` beside it. Returns how the node ended.
fn run(script: impl FnOnce(&Outside) + Send) -> Result<(), NodeError> {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    synth::write_synthetic(&checkpoint, &Geometry::tiny(), Precision::Float32, |_| ()).unwrap();
    let robot = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/robots/aloha_sim.yaml");
    let parameters = [("checkpoint", checkpoint), ("robot", robot)];
    let parameters = parameters.iter().flat_map(|(name, path)| ["-p".to_owned(), format!("{name}:={}", path.display())]);
    let arguments = ["policy_node".to_owned(), "--ros-args".to_owned()].into_iter().chain(parameters);

    let executor = Context::new(arguments, InitOptions::default()).unwrap().create_basic_executor();
    let node = executor.create_node("manager_test").unwrap();
    let (events, inbox) = mpsc::channel();
    let mut manager = Manager::new(&node, events.clone(), &inbox).unwrap();
    let outside = Outside { events, lifecycle: manager.lifecycle.clone() };
    thread::scope(|scope| {
        scope.spawn(move || script(&outside));
        let result = manager.run();
        assert!(manager.close() == Card::Closed);
        result
    })
}

#[test]
fn a_panic_while_active_finalizes_the_node_and_ends_it_with_the_message() {
    let result = run(|node| {
        node.wait_for(Primary::Active);
        node.send(Event::End(End::Panicked("index out of bounds".to_owned())));
        let failure = node.wait_for(Primary::Finalized).failure.unwrap();
        assert!(failure.contains("index out of bounds"), "{failure}");
    });
    assert!(matches!(result, Err(NodeError::Panicked(message)) if message.contains("index out of bounds")));
}

#[test]
fn a_card_that_is_lost_while_active_or_inactive_leaves_an_unconfigured_node_that_says_why() {
    let result = run(|node| {
        for reached in [Primary::Active, Primary::Inactive] {
            node.wait_for(reached);
            node.send(Event::Lost("The card does not answer".to_owned()));
            let condition = node.wait_for(Primary::Unconfigured);
            assert_eq!(condition.failure.as_deref(), Some("The card does not answer"));
            node.ask("configure");
        }
        assert_eq!(node.wait_for(Primary::Inactive).failure, None);
        node.send(Event::End(End::Signal(15)));
        node.wait_for(Primary::Finalized);
    });
    assert!(result.is_ok());
}

#[test]
fn a_card_that_is_lost_when_no_policy_is_open_changes_nothing() {
    let result = run(|node| {
        node.wait_for(Primary::Active);
        node.ask("shutdown");
        node.wait_for(Primary::Finalized);
        node.send(Event::Lost("The card does not answer".to_owned()));
        node.send(Event::End(End::Signal(15)));
    });
    assert!(result.is_ok());
}

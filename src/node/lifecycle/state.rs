//! The states of a managed node and the ways between them: ids, labels and order are those of `lifecycle_msgs` and `rcl_lifecycle`.
//!
//! Pure. A [`Machine`] that works on a transition has handed out the only [`Running`], so a transition ends once, and no other begins
//! before.

/// A state that a node rests in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primary {
    Unconfigured,
    Inactive,
    Active,
    Finalized,
}

/// A state that a node is in while it works on a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Configuring,
    CleaningUp,
    ShuttingDown,
    Activating,
    Deactivating,
    ErrorProcessing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Primary(Primary),
    Phase(Phase),
}

/// What a client can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Configure,
    CleanUp,
    Activate,
    Deactivate,
    ShutDown,
}

/// How the work of a transition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Nothing has changed: back to the state before.
    Failure,
    /// What was there before may be broken: error processing decides.
    Error,
}

/// One step of the machine, as `lifecycle_msgs/TransitionDescription` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub id: u8,
    pub label: &'static str,
    pub start: State,
    pub goal: State,
}

/// `lifecycle_msgs` has a state that no node is ever in.
pub const UNKNOWN: (u8, &str) = (0, "unknown");

/// Every state, in the order of their ids.
pub const STATES: [State; 10] = [
    State::Primary(Primary::Unconfigured),
    State::Primary(Primary::Inactive),
    State::Primary(Primary::Active),
    State::Primary(Primary::Finalized),
    State::Phase(Phase::Configuring),
    State::Phase(Phase::CleaningUp),
    State::Phase(Phase::ShuttingDown),
    State::Phase(Phase::Activating),
    State::Phase(Phase::Deactivating),
    State::Phase(Phase::ErrorProcessing),
];

const PRIMARIES: [Primary; 4] = [Primary::Unconfigured, Primary::Inactive, Primary::Active, Primary::Finalized];
const REQUESTS: [Request; 5] = [Request::Configure, Request::CleanUp, Request::Activate, Request::Deactivate, Request::ShutDown];
const OUTCOMES: [Outcome; 3] = [Outcome::Success, Outcome::Failure, Outcome::Error];

impl State {
    /// Id and label of `lifecycle_msgs/State`.
    pub fn id_and_label(self) -> (u8, &'static str) {
        match self {
            Self::Primary(Primary::Unconfigured) => (1, "unconfigured"),
            Self::Primary(Primary::Inactive) => (2, "inactive"),
            Self::Primary(Primary::Active) => (3, "active"),
            Self::Primary(Primary::Finalized) => (4, "finalized"),
            Self::Phase(Phase::Configuring) => (10, "configuring"),
            Self::Phase(Phase::CleaningUp) => (11, "cleaningup"),
            Self::Phase(Phase::ShuttingDown) => (12, "shuttingdown"),
            Self::Phase(Phase::Activating) => (13, "activating"),
            Self::Phase(Phase::Deactivating) => (14, "deactivating"),
            Self::Phase(Phase::ErrorProcessing) => (15, "errorprocessing"),
        }
    }

    pub fn label(self) -> &'static str {
        self.id_and_label().1
    }
}

impl Request {
    fn phase(self) -> Phase {
        match self {
            Self::Configure => Phase::Configuring,
            Self::CleanUp => Phase::CleaningUp,
            Self::Activate => Phase::Activating,
            Self::Deactivate => Phase::Deactivating,
            Self::ShutDown => Phase::ShuttingDown,
        }
    }

    /// The transition that begins, if the request is legal in this state.
    fn transition(self, start: Primary) -> Option<Transition> {
        let (id, label) = match (self, start) {
            (Self::Configure, Primary::Unconfigured) => (1, "configure"),
            (Self::CleanUp, Primary::Inactive) => (2, "cleanup"),
            (Self::Activate, Primary::Inactive) => (3, "activate"),
            (Self::Deactivate, Primary::Active) => (4, "deactivate"),
            (Self::ShutDown, Primary::Unconfigured) => (5, "shutdown"),
            (Self::ShutDown, Primary::Inactive) => (6, "shutdown"),
            (Self::ShutDown, Primary::Active) => (7, "shutdown"),
            _ => return None,
        };
        Some(Transition { id, label, start: State::Primary(start), goal: State::Phase(self.phase()) })
    }
}

impl Phase {
    /// The transition that ends this phase.
    fn end(self, outcome: Outcome) -> Transition {
        let (first_id, success, failure, error) = match self {
            Self::Configuring => (10, Primary::Inactive, Primary::Unconfigured, None),
            Self::CleaningUp => (20, Primary::Unconfigured, Primary::Inactive, None),
            Self::Activating => (30, Primary::Active, Primary::Inactive, None),
            Self::Deactivating => (40, Primary::Inactive, Primary::Active, None),
            Self::ShuttingDown => (50, Primary::Finalized, Primary::Finalized, None),
            Self::ErrorProcessing => (60, Primary::Unconfigured, Primary::Finalized, Some(Primary::Finalized)),
        };
        let (offset, label, goal) = match outcome {
            Outcome::Success => (0, "transition_success", State::Primary(success)),
            Outcome::Failure => (1, "transition_failure", State::Primary(failure)),
            Outcome::Error => (2, "transition_error", error.map_or(State::Phase(Self::ErrorProcessing), State::Primary)),
        };
        Transition { id: first_id + offset, label, start: State::Phase(self), goal }
    }
}

/// Every transition, in the order of `rcl_lifecycle`.
pub fn graph() -> Vec<Transition> {
    let mut transitions = Vec::new();
    for request in REQUESTS {
        transitions.extend(PRIMARIES.iter().filter_map(|&start| request.transition(start)));
        transitions.extend(OUTCOMES.map(|outcome| request.phase().end(outcome)));
    }
    transitions.extend(OUTCOMES.map(|outcome| Phase::ErrorProcessing.end(outcome)));
    transitions
}

/// The transitions out of `state`.
pub fn available(state: State) -> Vec<Transition> {
    graph().into_iter().filter(|transition| transition.start == state).collect()
}

/// A request that is not legal now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    #[error("There is no transition {asked} from state {}. Possible are {}", .state.label(), labels(*.state))]
    NoSuchTransition { asked: String, state: State },
    #[error("Transition {asked} was refused: the node is {} and takes the next one when that is over", .state.label())]
    Busy { asked: String, state: State },
}

fn labels(state: State) -> String {
    match &available(state)[..] {
        [] => "none".to_owned(),
        transitions => transitions.iter().map(|transition| transition.label).collect::<Vec<_>>().join(", "),
    }
}

/// The state of a node.
#[derive(Debug)]
pub struct Machine {
    state: State,
}

/// The transition that a [`Machine`] works on. There is never more than one.
#[derive(Debug, PartialEq, Eq)]
pub struct Running {
    phase: Phase,
}

impl Running {
    pub fn phase(&self) -> Phase {
        self.phase
    }
}

/// Where the end of a transition leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Rest(Primary),
    /// Error processing, which has begun.
    Process(Running),
}

impl Machine {
    pub fn new() -> Self {
        Self { state: State::Primary(Primary::Unconfigured) }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// What a `ChangeState` request means in this state: its label, or its id when it has no label.
    pub fn resolve(&self, id: u8, label: &str) -> Result<Request, Illegal> {
        let asked = || if label.is_empty() { id.to_string() } else { format!("{label:?}") };
        let State::Primary(start) = self.state else {
            return Err(Illegal::Busy { asked: asked(), state: self.state });
        };
        let meant = |transition: Transition| if label.is_empty() { transition.id == id } else { transition.label == label };
        let found = REQUESTS.into_iter().find(|request| request.transition(start).is_some_and(meant));
        found.ok_or_else(|| Illegal::NoSuchTransition { asked: asked(), state: self.state })
    }

    /// Begins a transition.
    pub fn begin(&mut self, request: Request) -> Result<(Running, Transition), Illegal> {
        let asked = || format!("{request:?}").to_lowercase();
        let State::Primary(start) = self.state else {
            return Err(Illegal::Busy { asked: asked(), state: self.state });
        };
        let transition =
            request.transition(start).ok_or_else(|| Illegal::NoSuchTransition { asked: asked(), state: self.state })?;
        self.state = transition.goal;
        Ok((Running { phase: request.phase() }, transition))
    }

    /// Ends the transition.
    pub fn end(&mut self, running: Running, outcome: Outcome) -> (Next, Transition) {
        let transition = running.phase.end(outcome);
        self.state = transition.goal;
        let next = match transition.goal {
            State::Primary(primary) => Next::Rest(primary),
            State::Phase(phase) => Next::Process(Running { phase }),
        };
        (next, transition)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    /// What `rcl_lifecycle` has and what rclpy answers, recorded by tests/peers/rclpy_lifecycle.py.
    #[derive(Deserialize)]
    struct Oracle {
        states: Vec<(u8, String)>,
        /// id, label, start, goal
        graph: Vec<(u8, String, u8, u8)>,
        /// Transitions that rclpy's node offers in each state that it rests in.
        available: BTreeMap<String, Vec<(u8, String, u8, u8)>>,
        /// Of all ids from 0 to 255 and all labels: those that rclpy's node takes in each state that it rests in.
        accepted_ids: BTreeMap<String, Vec<u8>>,
        accepted_labels: BTreeMap<String, Vec<String>>,
        /// "configure transition_error transition_success": the labels of the steps after it, and the state that they end in.
        walks: BTreeMap<String, String>,
    }

    fn oracle() -> Oracle {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/rclpy_lifecycle.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn row(transition: Transition) -> (u8, String, u8, u8) {
        let Transition { id, label, start, goal } = transition;
        (id, label.to_owned(), start.id_and_label().0, goal.id_and_label().0)
    }

    fn at(start: Primary) -> Machine {
        Machine { state: State::Primary(start) }
    }

    fn outcome(label: &str) -> Outcome {
        OUTCOMES.into_iter().find(|&outcome| Phase::Configuring.end(outcome).label == label).unwrap()
    }

    #[test]
    fn the_states_are_those_of_rcl_lifecycle_in_its_order() {
        let states = [UNKNOWN].into_iter().chain(STATES.map(State::id_and_label));
        assert_eq!(states.map(|(id, label)| (id, label.to_owned())).collect::<Vec<_>>(), oracle().states);
    }

    #[test]
    fn the_graph_is_that_of_rcl_lifecycle_in_its_order() {
        assert_eq!(graph().into_iter().map(row).collect::<Vec<_>>(), oracle().graph);
    }

    #[test]
    fn each_state_offers_the_transitions_that_rclpy_offers() {
        let oracle = oracle();
        assert_eq!(oracle.available.len(), PRIMARIES.len());
        for (label, transitions) in oracle.available {
            let state = STATES.into_iter().find(|state| state.label() == label).unwrap();
            assert_eq!(available(state).into_iter().map(row).collect::<Vec<_>>(), transitions, "{label}");
        }
    }

    #[test]
    fn each_id_and_label_is_taken_or_refused_in_each_state_as_by_rclpy() {
        let oracle = oracle();
        let labels: Vec<String> =
            graph().into_iter().map(|transition| transition.label.to_owned()).chain(["no_such".to_owned()]).collect();
        for start in PRIMARIES {
            let state = State::Primary(start).label();
            let ids: Vec<u8> = (0..=255).filter(|&id| at(start).resolve(id, "").is_ok()).collect();
            assert_eq!(ids, oracle.accepted_ids[state], "{state}");
            for label in &labels {
                let taken = at(start).resolve(0, label).is_ok();
                assert_eq!(taken, oracle.accepted_labels[state].contains(label), "{label} in {state}");
            }
        }
    }

    #[test]
    fn a_label_counts_more_than_an_id() {
        assert_eq!(at(Primary::Inactive).resolve(2, "activate"), Ok(Request::Activate));
        assert!(at(Primary::Inactive).resolve(2, "configure").is_err());
    }

    #[test]
    fn every_request_in_every_state_begins_its_transition_or_changes_nothing() {
        let graph = graph();
        for state in STATES {
            for request in REQUESTS {
                let mut machine = Machine { state };
                let legal = graph.iter().find(|step| {
                    matches!(state, State::Primary(_)) && step.start == state && step.goal == State::Phase(request.phase())
                });
                match (machine.begin(request), legal) {
                    (Ok((running, transition)), Some(legal)) => {
                        assert_eq!(transition, *legal);
                        assert_eq!((machine.state(), running.phase()), (legal.goal, request.phase()));
                    }
                    (Err(error), None) => {
                        assert_eq!(machine.state(), state);
                        assert!(error.to_string().contains(state.label()), "{error}");
                    }
                    (result, legal) => panic!("{request:?} in {state:?}: {result:?}, and the graph has {legal:?}"),
                }
            }
        }
    }

    #[test]
    fn while_the_node_works_on_a_transition_nothing_else_is_taken() {
        for request in REQUESTS {
            for start in PRIMARIES {
                let mut machine = at(start);
                if machine.begin(request).is_ok() {
                    for transition in graph() {
                        assert!(matches!(machine.resolve(transition.id, ""), Err(Illegal::Busy { .. })));
                        assert!(matches!(machine.resolve(0, transition.label), Err(Illegal::Busy { .. })));
                    }
                }
            }
        }
    }

    #[test]
    fn every_outcome_of_every_phase_leads_where_rcl_lifecycle_leads() {
        let graph = oracle().graph;
        for state in STATES {
            let State::Phase(phase) = state else { continue };
            for outcome in OUTCOMES {
                let mut machine = Machine { state };
                let (next, transition) = machine.end(Running { phase }, outcome);
                assert!(graph.contains(&row(transition)), "{transition:?}");
                assert_eq!(machine.state(), transition.goal);
                match next {
                    Next::Rest(primary) => assert_eq!(transition.goal, State::Primary(primary)),
                    Next::Process(running) => assert_eq!(transition.goal, State::Phase(running.phase())),
                }
            }
        }
    }

    #[test]
    fn whatever_the_callbacks_return_the_walk_ends_where_that_of_rclpy_ends() {
        let walks = oracle().walks;
        // Every request that is legal somewhere, with three outcomes of its own and three of the error processing after it.
        assert_eq!(walks.len(), 7 * (2 + 3));
        for (walk, end) in walks {
            let mut words = walk.split(' ');
            let start = words
                .next()
                .and_then(|start| PRIMARIES.into_iter().find(|&state| State::Primary(state).label() == start))
                .unwrap();
            let mut machine = at(start);
            let request = machine.resolve(0, words.next().unwrap()).unwrap();
            let mut running = Some(machine.begin(request).unwrap().0);
            for label in words {
                running = match machine.end(running.take().unwrap(), outcome(label)).0 {
                    Next::Process(running) => Some(running),
                    Next::Rest(_) => None,
                };
            }
            assert_eq!((running, machine.state().label()), (None, end.as_str()), "{walk}");
        }
    }

    #[test]
    fn a_refusal_names_what_is_possible() {
        let refusal = at(Primary::Inactive).resolve(1, "").unwrap_err();
        assert_eq!(refusal.to_string(), "There is no transition 1 from state inactive. Possible are cleanup, activate, shutdown");
        let refusal = at(Primary::Finalized).resolve(0, "configure").unwrap_err();
        assert_eq!(refusal.to_string(), "There is no transition \"configure\" from state finalized. Possible are none");
    }
}

//! The five services of a managed node.

use std::sync::mpsc::Sender;

use futures_channel::oneshot;
use rclrs::{Node, RclrsError, Service};
use ros_env::lifecycle_msgs::{
    msg,
    srv::{
        ChangeState, ChangeState_Request, ChangeState_Response, GetAvailableStates, GetAvailableStates_Request,
        GetAvailableStates_Response, GetAvailableTransitions, GetAvailableTransitions_Request, GetAvailableTransitions_Response,
        GetState, GetState_Request, GetState_Response,
    },
};

use super::{
    Lifecycle,
    state::{STATES, State, Transition, UNKNOWN, available, graph},
};
use crate::node::process::Event;

/// Dropping it ends the services.
pub struct Services {
    _change_state: Service<ChangeState>,
    _get_state: Service<GetState>,
    _get_available_states: Service<GetAvailableStates>,
    _get_available_transitions: Service<GetAvailableTransitions>,
    _get_transition_graph: Service<GetAvailableTransitions>,
}

impl Services {
    /// Offers the services; transitions are sent to whoever receives `events`.
    pub fn offer(node: &Node, lifecycle: &Lifecycle, events: Sender<Event>) -> Result<Self, RclrsError> {
        let (changed, told, offered) = (lifecycle.clone(), lifecycle.clone(), lifecycle.clone());
        Ok(Self {
            _change_state: node.create_async_service("~/change_state", move |request: ChangeState_Request| {
                let answer = ask(&changed, &events, &request.transition);
                async move {
                    let success = match answer {
                        // An error means that the node ends and dropped the sender.
                        Some(answer) => answer.await.unwrap_or(false),
                        None => false,
                    };
                    ChangeState_Response { success }
                }
            })?,
            _get_state: node.create_service("~/get_state", move |_: GetState_Request| GetState_Response {
                current_state: state_message(told.state().id_and_label()),
            })?,
            _get_available_states: node.create_service("~/get_available_states", |_: GetAvailableStates_Request| {
                let states = [UNKNOWN].into_iter().chain(STATES.map(State::id_and_label));
                GetAvailableStates_Response { available_states: states.map(state_message).collect() }
            })?,
            _get_available_transitions: node
                .create_service("~/get_available_transitions", move |_: GetAvailableTransitions_Request| {
                    descriptions(available(offered.state()))
                })?,
            _get_transition_graph: node
                .create_service("~/get_transition_graph", |_: GetAvailableTransitions_Request| descriptions(graph()))?,
        })
    }
}

/// Begins the transition, or says why it is refused.
fn ask(lifecycle: &Lifecycle, events: &Sender<Event>, asked: &msg::Transition) -> Option<oneshot::Receiver<bool>> {
    match lifecycle.begin_named(asked.id, &asked.label) {
        Ok(running) => {
            let (answer, receiver) = oneshot::channel();
            // An error means that the node ends, and drops the sender of the answer.
            let _ = events.send(Event::Begun(running, answer));
            Some(receiver)
        }
        Err(illegal) => {
            tracing::warn!("{illegal}");
            None
        }
    }
}

pub fn state_message((id, label): (u8, &str)) -> msg::State {
    msg::State { id, label: label.to_owned() }
}

pub fn transition_message(transition: Transition) -> msg::Transition {
    msg::Transition { id: transition.id, label: transition.label.to_owned() }
}

fn descriptions(transitions: Vec<Transition>) -> GetAvailableTransitions_Response {
    let describe = |transition: Transition| msg::TransitionDescription {
        transition: transition_message(transition),
        start_state: state_message(transition.start.id_and_label()),
        goal_state: state_message(transition.goal.id_and_label()),
    };
    GetAvailableTransitions_Response { available_transitions: transitions.into_iter().map(describe).collect() }
}

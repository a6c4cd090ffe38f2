//! `~/stop` and `~/reset`.

use std::sync::mpsc::Sender;

use rclrs::{Node, RclrsError, Service};
use ros_env::std_srvs::srv::{Trigger, Trigger_Request, Trigger_Response};

use super::control::{Message, Order, send_order};

/// The services of a configured policy; dropping them ends them.
pub struct Services {
    _stop: Service<Trigger>,
    _reset: Service<Trigger>,
}

impl Services {
    /// An answer comes when its last command has been published.
    pub fn offer(node: &Node, messages: &Sender<Message>) -> Result<Self, RclrsError> {
        let offer = |name: &str, order| {
            let messages = messages.clone();
            node.create_service::<Trigger, _>(name, move |_: Trigger_Request| {
                let answer = send_order(&messages, order);
                let success = answer.is_ok();
                let (Ok(message) | Err(message)) = answer;
                Trigger_Response { success, message }
            })
        };
        Ok(Self { _stop: offer("~/stop", Order::Stop)?, _reset: offer("~/reset", Order::Reset)? })
    }
}

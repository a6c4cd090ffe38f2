//! Subscriptions that fill the inputs.

use std::{any::Any, sync::Arc, time::Instant};

use rclrs::{
    Clock, IntoPrimitiveOptions, MessageInfo, Node, QoSDurabilityPolicy, RclrsError, SubscriptionState, Worker,
    rosidl_runtime_rs::Message,
};
use ros_env::{sensor_msgs::msg::rmw, std_msgs};

use super::{
    inputs::{CameraMessage, Input, Inputs, Instruction, Limited, Sample},
    parameters::{CameraParameters, ParameterError, Transport, max_age},
};
use crate::control::Stamp;

/// Samples that wait while a callback of another input runs.
const SENSOR_DEPTH: u32 = 5;

/// Holds the subscriptions and what belongs to them; dropping it ends them.
pub struct Subscriptions {
    kept: Vec<Arc<dyn Any + Send + Sync>>,
    /// Resolved topic names, in the order of [`Inputs::names`].
    pub topics: Vec<String>,
}

/// Why an input could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SubscriptionError {
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error("Cannot subscribe: {0}")]
    Ros(#[from] RclrsError),
}

/// Subscribes to one topic per camera slot, the joint states and the instruction; `worker` takes all samples.
pub fn subscribe(
    node: &Node,
    worker: &Worker<()>,
    slots: &[String],
    instruction: Arc<Instruction>,
    durability: QoSDurabilityPolicy,
) -> Result<(Inputs, Subscriptions), SubscriptionError> {
    let mut subscriptions = Subscriptions { kept: Vec::new(), topics: Vec::new() };
    let mut cameras = Vec::new();
    for slot in slots {
        let parameters = CameraParameters::declare(node, slot)?;
        let input = Arc::new(Input::new(slot));
        let topic = format!("~/camera/{slot}/image");
        match parameters.transport(slot)? {
            Transport::Raw => subscriptions.add(worker, &topic, input.clone(), CameraMessage::Raw)?,
            Transport::Compressed => {
                subscriptions.add(worker, &format!("{topic}/compressed"), input.clone(), CameraMessage::Compressed)?;
            }
        }
        subscriptions.kept.push(Arc::new(parameters.transport));
        cameras.push(Limited { input, max_age_ms: parameters.max_age_ms });
    }
    let joint_states =
        Limited { input: Arc::new(Input::new("joint_states")), max_age_ms: max_age(node, "joint_states.max_age_ms", 100.0)? };
    subscriptions.add(worker, "~/joint_states", joint_states.input.clone(), |message: rmw::JointState| message)?;
    subscriptions.add_instruction(worker, node.get_clock(), instruction.clone(), durability)?;
    Ok((Inputs { cameras, joint_states, instruction }, subscriptions))
}

impl Subscriptions {
    fn add<M: Stamped, T: Send + Sync + 'static>(
        &mut self,
        worker: &Worker<()>,
        topic: &str,
        input: Arc<Input<T>>,
        wrap: impl Fn(M) -> T + Send + 'static,
    ) -> Result<(), RclrsError> {
        let options = topic.sensor_data_qos().keep_last(SENSOR_DEPTH);
        let subscription = worker.create_subscription(options, move |message: M, info: MessageInfo| {
            let entered = Instant::now();
            let stamp = message.stamp();
            input.store(entered, Sample { stamp, message: wrap(message) }, Some(&info));
        })?;
        self.keep(subscription);
        Ok(())
    }

    fn add_instruction(
        &mut self,
        worker: &Worker<()>,
        clock: Clock,
        instruction: Arc<Instruction>,
        durability: QoSDurabilityPolicy,
    ) -> Result<(), RclrsError> {
        let options = "~/instruction".reliable().keep_last(1).durability(durability);
        let subscription =
            worker.create_subscription(options, move |message: std_msgs::msg::rmw::String, info: MessageInfo| {
                let bytes: Vec<u8> = message.data.iter().map(|&byte| byte as u8).collect();
                match instruction.set(&bytes, Stamp::from_nanoseconds(clock.now().nsec), Some(&info)) {
                    Ok(()) => tracing::info!("New instruction: {:?}", String::from_utf8_lossy(&bytes)),
                    Err(error) => tracing::warn!("{error}. The instruction before stays in force"),
                }
            })?;
        self.keep(subscription);
        Ok(())
    }

    fn keep<M: Message>(&mut self, subscription: Arc<SubscriptionState<M, Worker<()>>>) {
        self.topics.push(subscription.topic_name());
        self.kept.push(subscription);
    }
}

/// A message with a header, in the middleware's layout: it is moved, not converted.
trait Stamped: Message + 'static {
    fn stamp(&self) -> Option<Stamp>;
}

macro_rules! stamped {
    ($($message:ty),+) => {
        $(impl Stamped for $message {
            fn stamp(&self) -> Option<Stamp> {
                Stamp::from_ros(self.header.stamp.sec, self.header.stamp.nanosec)
            }
        })+
    };
}

stamped!(rmw::Image, rmw::CompressedImage, rmw::JointState);

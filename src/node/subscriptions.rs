//! Subscriptions that fill the inputs.

use std::{any::Any, sync::Arc};

use rclrs::{
    Clock, IntoPrimitiveOptions, MessageInfo, Node, QoSDurabilityPolicy, RclrsError, SubscriptionState, Worker,
    rosidl_runtime_rs::Message,
};
use ros_env::{sensor_msgs::msg::rmw, std_msgs};

use super::{
    messages::{CameraMessage, Inputs, delivery},
    now,
    parameters::Declaring,
};
use crate::{
    control::Stamp,
    parameters::{CameraParameters, ParameterError, SyncParameters, Transport},
    session::Instruction,
};

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
    let cameras = slots.iter().map(|slot| Ok((slot.clone(), CameraParameters::declare(&mut Declaring(node), slot)?)));
    let cameras: Vec<_> = cameras.collect::<Result<_, ParameterError>>()?;
    let transports = cameras.iter().map(|(slot, parameters)| parameters.transport(slot)).collect::<Result<Vec<_>, _>>()?;
    let inputs = Inputs::new(cameras, SyncParameters::declare(&mut Declaring(node))?, instruction.clone())?;
    let mut subscriptions = Subscriptions { kept: Vec::new(), topics: Vec::new() };
    for (camera, (slot, transport)) in slots.iter().zip(transports).enumerate() {
        let (samples, clock) = (inputs.samples().clone(), node.get_clock());
        let topic = format!("~/camera/{slot}/image");
        match transport {
            Transport::Raw => subscriptions.add(worker, &topic, move |stamp, image, info| {
                samples.receive_image(camera, stamp, CameraMessage::Raw(image), || now(&clock), Some(&delivery(info)));
            })?,
            Transport::Compressed => subscriptions.add(worker, &format!("{topic}/compressed"), move |stamp, image, info| {
                samples.receive_image(camera, stamp, CameraMessage::Compressed(image), || now(&clock), Some(&delivery(info)));
            })?,
        }
    }
    let (samples, clock) = (inputs.samples().clone(), node.get_clock());
    subscriptions.add(worker, "~/joint_states", move |stamp, joints: rmw::JointState, info| {
        samples.receive_joints(stamp, joints, || now(&clock), Some(&delivery(info)));
    })?;
    subscriptions.add_instruction(worker, node.get_clock(), instruction, durability)?;
    Ok((inputs, subscriptions))
}

impl Subscriptions {
    fn add<M: Stamped>(
        &mut self,
        worker: &Worker<()>,
        topic: &str,
        receive: impl Fn(Option<Stamp>, M, &MessageInfo) + Send + 'static,
    ) -> Result<(), RclrsError> {
        let options = topic.sensor_data_qos().keep_last(SENSOR_DEPTH);
        let subscription = worker.create_subscription(options, move |message: M, info: MessageInfo| {
            receive(message.stamp(), message, &info);
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
                match instruction.set(&bytes, now(&clock), Some(&delivery(&info))) {
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

//! An r2r node with raw subscriptions.

use std::{
    pin::Pin,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::{FutureExt, Stream, StreamExt};
use pi0_tt::replay::{CdrError, Durability, Reliability, ReplayError};
use r2r::{
    Node, PublisherUntyped, QosProfile,
    qos::{DurabilityPolicy, ReliabilityPolicy},
};

/// Why playing or recording failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("ROS 2 refused {what}: {source}")]
    Ros { what: String, source: r2r::Error },
    #[error(transparent)]
    Bag(#[from] ReplayError),
    #[error("A message of {topic} cannot get a new stamp: {source}")]
    Stamp { topic: String, source: CdrError },
    #[error("Nobody subscribed to {topics} within {seconds:.0} s. Is the node running with these topics, in this ROS_DOMAIN_ID?")]
    NoSubscriber { topics: String, seconds: f64 },
    #[error("Nobody publishes {topics} after {seconds:.0} s. Is the node running with these topics, in this ROS_DOMAIN_ID?")]
    NoPublisher { topics: String, seconds: f64 },
    #[error("The clock is outside of the years that ROS time can hold")]
    Clock,
    #[error("--map {0:?} is not BAG_TOPIC=TOPIC")]
    Remap(String),
    #[error("The bag has no topic {topic}. It has {found}")]
    NoTopic { topic: String, found: String },
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// One received message.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Index of the subscription, in the order of [`Client::subscribe`].
    pub subscription: usize,
    /// CDR as it came over the wire.
    pub data: Vec<u8>,
}

struct Subscription {
    topic: String,
    messages: Pin<Box<dyn Stream<Item = Vec<u8>>>>,
}

/// A ROS 2 node of this process.
pub struct Client {
    node: Node,
    subscriptions: Vec<Subscription>,
}

impl Client {
    pub fn new(name: &str) -> Result<Self, ClientError> {
        let ros = |source| ClientError::Ros { what: format!("the node {name}"), source };
        let context = r2r::Context::create().map_err(ros)?;
        Ok(Self { node: Node::create(context, name, "").map_err(ros)?, subscriptions: Vec::new() })
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn advertise(&mut self, topic: &str, type_name: &str, qos: QosProfile) -> Result<PublisherUntyped, ClientError> {
        let publisher = self.node.create_publisher_untyped(topic, type_name, qos);
        publisher.map_err(|source| ClientError::Ros { what: format!("a publisher of {topic} ({type_name})"), source })
    }

    pub fn subscribe(&mut self, topic: &str, type_name: &str, qos: QosProfile) -> Result<usize, ClientError> {
        let messages = self.node.subscribe_raw(topic, type_name, qos);
        let messages =
            messages.map_err(|source| ClientError::Ros { what: format!("a subscription of {topic} ({type_name})"), source })?;
        self.subscriptions.push(Subscription { topic: topic.to_string(), messages: Box::pin(messages) });
        Ok(self.subscriptions.len() - 1)
    }

    /// Waits at most `timeout` for something to arrive and gives all that did.
    pub fn spin(&mut self, timeout: Duration) -> Vec<Incoming> {
        if self.subscriptions.is_empty() {
            // rcl refuses to wait for nothing.
            thread::sleep(timeout);
        } else {
            self.node.spin_once(timeout);
        }
        let mut incoming = Vec::new();
        for (index, subscription) in self.subscriptions.iter_mut().enumerate() {
            while let Some(Some(data)) = subscription.messages.next().now_or_never() {
                incoming.push(Incoming { subscription: index, data });
            }
        }
        incoming
    }

    /// Waits until every subscription has a publisher.
    pub fn wait_for_publishers(&mut self, patience: Duration) -> Result<(), ClientError> {
        let start = Instant::now();
        loop {
            let topics = self.subscriptions.iter().map(|subscription| &subscription.topic);
            let missing: Vec<_> = topics.filter(|topic| self.publishers(topic) == 0).cloned().collect();
            if missing.is_empty() {
                return Ok(());
            }
            if start.elapsed() > patience {
                return Err(ClientError::NoPublisher { topics: missing.join(", "), seconds: patience.as_secs_f64() });
            }
            self.spin(Duration::from_millis(20));
        }
    }

    fn publishers(&self, topic: &str) -> usize {
        self.node.get_publishers_info_by_topic(topic, false).map_or(0, |publishers| publishers.len())
    }
}

/// The QoS that a bag recorded, for publishing; reliable with a depth of 10 when it recorded none.
pub fn qos(recorded: Option<pi0_tt::replay::Qos>) -> QosProfile {
    let Some(recorded) = recorded else { return QosProfile::default() };
    let reliability = match recorded.reliability {
        Reliability::BestEffort => ReliabilityPolicy::BestEffort,
        _ => ReliabilityPolicy::Reliable,
    };
    let durability = match recorded.durability {
        Durability::TransientLocal => DurabilityPolicy::TransientLocal,
        _ => DurabilityPolicy::Volatile,
    };
    QosProfile::default().keep_last(recorded.depth.max(1) as usize).reliability(reliability).durability(durability)
}

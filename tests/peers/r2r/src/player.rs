//! Publishes the messages of a bag with the bag's timing.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use pi0_tt::replay::{BagReader, Topic, cdr, messages::Time};
use r2r::PublisherUntyped;

use crate::client::{Client, ClientError, now, qos};

/// A topic of the bag that is published under another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    pub from: String,
    pub to: String,
}

impl FromStr for Remap {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        match text.split_once('=') {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok(Self { from: from.into(), to: to.into() }),
            _ => Err(ClientError::Remap(text.into())),
        }
    }
}

struct Played {
    publisher: PublisherUntyped,
    topic: String,
    has_header: bool,
}

/// A bag's topics, advertised.
pub struct Player<'a> {
    bag: &'a BagReader,
    /// In the order of the bag's topics.
    topics: Vec<Played>,
}

impl<'a> Player<'a> {
    /// Advertises every topic of the bag with the QoS that the bag recorded.
    pub fn new(client: &mut Client, bag: &'a BagReader, remaps: &[Remap]) -> Result<Self, ClientError> {
        if let Some(unknown) = remaps.iter().find(|remap| bag.topics().iter().all(|topic| topic.name != remap.from)) {
            let found: Vec<_> = bag.topics().iter().map(|topic| topic.name.as_str()).collect();
            return Err(ClientError::NoTopic { topic: unknown.from.clone(), found: found.join(", ") });
        }
        let topics = bag.topics().iter().map(|topic: &Topic| {
            let name = remaps.iter().find(|remap| remap.from == topic.name).map_or(&topic.name, |remap| &remap.to);
            let publisher = client.advertise(name, &topic.type_name, qos(topic.qos))?;
            Ok(Played { publisher, topic: name.clone(), has_header: topic.has_header() })
        });
        Ok(Self { bag, topics: topics.collect::<Result<_, ClientError>>()? })
    }

    /// Waits until every topic has a subscriber.
    pub fn wait_for_subscribers(&self, client: &mut Client, patience: Duration) -> Result<(), ClientError> {
        let start = Instant::now();
        loop {
            let missing: Vec<_> = self
                .topics
                .iter()
                .filter(|played| played.publisher.get_inter_process_subscription_count().unwrap_or(0) == 0)
                .map(|played| played.topic.as_str())
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if start.elapsed() > patience {
                return Err(ClientError::NoSubscriber { topics: missing.join(", "), seconds: patience.as_secs_f64() });
            }
            client.spin(Duration::from_millis(20));
        }
    }

    /// Plays the bag once at `rate` times its speed. Header stamps become the time of publishing. `published` sees every message with
    /// its topic's index in the bag; `idle` is called with the time into the bag while there is nothing to publish, and must not take
    /// longer than it is told. Either ends playing by giving false.
    pub fn play(
        &self,
        rate: f64,
        mut published: impl FnMut(usize, u64, &[u8]) -> Result<bool, ClientError>,
        mut idle: impl FnMut(Duration, Duration) -> Result<bool, ClientError>,
    ) -> Result<bool, ClientError> {
        let Some((first, _)) = self.bag.time_range() else { return Ok(true) };
        let start = Instant::now();
        for message in self.bag.messages() {
            let message = message?;
            let due = Duration::from_nanos(message.log_time.saturating_sub(first)).div_f64(rate);
            loop {
                let elapsed = start.elapsed();
                if !idle(elapsed.mul_f64(rate), due.saturating_sub(elapsed))? {
                    return Ok(false);
                }
                if start.elapsed() >= due {
                    break;
                }
            }
            // The bag's reader gives indices of its own topics.
            let played = &self.topics[message.topic];
            let time = now();
            let mut data = Vec::from(message.data);
            if played.has_header {
                let stamp = Time::from_nanos(time).ok_or(ClientError::Clock)?;
                cdr::restamp(&mut data, stamp).map_err(|source| ClientError::Stamp { topic: played.topic.clone(), source })?;
            }
            let ros = |source| ClientError::Ros { what: format!("a message on {}", played.topic), source };
            played.publisher.publish_raw(&data).map_err(ros)?;
            if !published(message.topic, time, &data)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

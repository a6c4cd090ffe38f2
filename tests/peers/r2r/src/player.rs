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

/// Which time the played messages have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeline {
    /// That of this machine: header stamps become the time of publishing.
    Machine,
    /// That of the bag, told on `/clock`, for a node with `use_sim_time`. Messages are played as they are.
    Bag,
}

const CLOCK: &str = "/clock";
/// Longest time between two messages on `/clock`: a fraction of any control period.
const CLOCK_PERIOD: Duration = Duration::from_millis(4);

struct Played {
    publisher: PublisherUntyped,
    topic: String,
    has_header: bool,
}

/// A bag's topics, advertised.
pub struct Player<'a> {
    bag: &'a BagReader,
    /// `/clock`, when the bag's time is told.
    clock: Option<PublisherUntyped>,
    /// In the order of the bag's topics.
    topics: Vec<Played>,
}

impl<'a> Player<'a> {
    /// Advertises every topic of the bag with the QoS that the bag recorded.
    pub fn new(client: &mut Client, bag: &'a BagReader, remaps: &[Remap], timeline: Timeline) -> Result<Self, ClientError> {
        if let Some(unknown) = remaps.iter().find(|remap| bag.topics().iter().all(|topic| topic.name != remap.from)) {
            let found: Vec<_> = bag.topics().iter().map(|topic| topic.name.as_str()).collect();
            return Err(ClientError::NoTopic { topic: unknown.from.clone(), found: found.join(", ") });
        }
        let topics = bag.topics().iter().map(|topic: &Topic| {
            let name = remaps.iter().find(|remap| remap.from == topic.name).map_or(&topic.name, |remap| &remap.to);
            let publisher = client.advertise(name, &topic.type_name, qos(topic.qos))?;
            Ok(Played { publisher, topic: name.clone(), has_header: topic.has_header() })
        });
        let topics = topics.collect::<Result<_, ClientError>>()?;
        let clock = match timeline {
            Timeline::Machine => None,
            Timeline::Bag => Some(client.advertise(CLOCK, "rosgraph_msgs/msg/Clock", qos(None))?),
        };
        Ok(Self { bag, clock, topics })
    }

    /// The time of something that is so far `into` the bag: the bag's, or that of this machine now. Nanoseconds.
    pub fn time(&self, into: Duration) -> u64 {
        match (&self.clock, self.bag.time_range()) {
            (Some(_), Some((first, _))) => first.saturating_add(into.as_nanos() as u64),
            _ => now(),
        }
    }

    /// Tells the time so far `into` the bag on `/clock`, when the bag's time is told.
    pub fn tell_time(&self, into: Duration) -> Result<(), ClientError> {
        let Some(clock) = &self.clock else { return Ok(()) };
        let time = Time::from_nanos(self.time(into)).ok_or(ClientError::Clock)?;
        // `rosgraph_msgs/Clock` has this one field.
        let data = cdr::encode(&time).map_err(|source| ClientError::Stamp { topic: CLOCK.into(), source })?;
        clock.publish_raw(&data).map_err(|source| ClientError::Ros { what: format!("a message on {CLOCK}"), source })
    }

    /// Waits until every topic has a subscriber.
    pub fn wait_for_subscribers(&self, client: &mut Client, patience: Duration) -> Result<(), ClientError> {
        let start = Instant::now();
        loop {
            let topics = self.topics.iter().map(|played| (played.topic.as_str(), &played.publisher));
            let missing: Vec<_> = topics
                .chain(self.clock.iter().map(|clock| (CLOCK, clock)))
                .filter(|(_, publisher)| publisher.get_inter_process_subscription_count().unwrap_or(0) == 0)
                .map(|(topic, _)| topic)
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

    /// Plays the bag once at `rate` times its speed. `published` sees every message with its topic's index in the bag and its time; `idle`
    /// is called with the time into the bag while there is nothing to publish, and must not take longer than it is told. Either ends
    /// playing by giving false.
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
                let free = due.saturating_sub(elapsed);
                self.tell_time(elapsed.min(due).mul_f64(rate))?;
                if !idle(elapsed.mul_f64(rate), if self.clock.is_some() { free.min(CLOCK_PERIOD) } else { free })? {
                    return Ok(false);
                }
                if start.elapsed() >= due {
                    break;
                }
            }
            // The bag's reader gives indices of its own topics.
            let played = &self.topics[message.topic];
            let time = if self.clock.is_some() { message.log_time } else { now() };
            let mut data = Vec::from(message.data);
            if played.has_header && self.clock.is_none() {
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

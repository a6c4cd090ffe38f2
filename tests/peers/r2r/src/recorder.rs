//! Records what a policy node publishes, and what was played into it, in one bag.

use std::path::Path;

use pi0_tt::replay::{
    BagReader, BagWriter, Qos, Reliability, TopicId,
    messages::{ActionChunk, CompressedImage, DiagnosticArray, Image, JointTrajectory, MessageType},
};
use r2r::QosProfile;

use crate::client::{Client, ClientError, Incoming};

/// A bag being recorded.
pub struct Recorder {
    bag: BagWriter,
    /// Topic of each subscription, in the order of subscribing, and messages so far.
    outputs: Vec<(TopicId, u64)>,
    /// Topic of each played topic, when it is recorded.
    inputs: Vec<Option<TopicId>>,
}

impl Recorder {
    /// Subscribes to the outputs of the node `node` (`/policy`) and records them, and the inputs that are no pictures.
    pub fn new(path: &Path, client: &mut Client, node: &str, inputs: &BagReader) -> Result<Self, ClientError> {
        let mut bag = BagWriter::create(path)?;
        let reliable = Qos::keep_last(100, Reliability::Reliable);
        let mut outputs = Vec::new();
        let mut record = |bag: &mut BagWriter, topic: &str, type_name: &str| -> Result<(), ClientError> {
            client.subscribe(topic, type_name, QosProfile::default().keep_last(100).reliable())?;
            outputs.push((bag.add_topic(topic, type_name, &pi0_tt::replay::definition(type_name)?, reliable)?, 0));
            Ok(())
        };
        record(&mut bag, &format!("{node}/joint_trajectory"), JointTrajectory::NAME)?;
        record(&mut bag, &format!("{node}/action_chunk"), ActionChunk::NAME)?;
        record(&mut bag, "/diagnostics", DiagnosticArray::NAME)?;
        let inputs = inputs.topics().iter().map(|topic| {
            if [Image::NAME, CompressedImage::NAME].contains(&topic.type_name.as_str()) {
                return Ok(None);
            }
            bag.add_topic(&topic.name, &topic.type_name, &topic.schema, topic.qos.unwrap_or(reliable)).map(Some)
        });
        let inputs = inputs.collect::<Result<_, _>>()?;
        Ok(Self { bag, outputs, inputs })
    }

    /// Records what the node published, as of `time` in nanoseconds since the epoch.
    pub fn record(&mut self, time: u64, incoming: &[Incoming]) -> Result<(), ClientError> {
        for message in incoming {
            // Every subscription of the client was made in `new`.
            let (topic, count) = &mut self.outputs[message.subscription];
            self.bag.write(*topic, time, &message.data)?;
            *count += 1;
        }
        Ok(())
    }

    /// Records what was played; `topic` is the index in the played bag.
    pub fn record_input(&mut self, topic: usize, time: u64, data: &[u8]) -> Result<(), ClientError> {
        if let Some(topic) = self.inputs[topic] {
            self.bag.write(topic, time, data)?;
        }
        Ok(())
    }

    /// Trajectories, chunks and diagnostics so far.
    pub fn counts(&self) -> [u64; 3] {
        [0, 1, 2].map(|output| self.outputs[output].1)
    }

    pub fn finish(self) -> Result<(), ClientError> {
        Ok(self.bag.finish()?)
    }
}

//! What the cameras showed when a chunk was computed, found in the bag again.

use std::path::Path;

use super::super::{
    BagReader, ReplayError,
    messages::{CompressedImage, MessageType},
    report::Frame,
    trace::{ChunkTrace, Trace},
};
use super::samples::BagImage;
use crate::session::ImageMessage;

/// The image of every camera of a chunk, in the order of its samples. One that cannot be found or decoded any more is left out.
///
/// A trace keeps hashes of images and no images, so the bag is read again up to the observation.
pub fn frames(bag: &Path, trace: &Trace, chunk: &ChunkTrace) -> Result<Vec<Frame>, ReplayError> {
    let (bag, _) = BagReader::open_salvaging(bag)?;
    // Topic of each camera that has a sample, and the sample's hash.
    let wanted: Vec<_> = trace
        .inputs
        .iter()
        .filter(|input| trace.setup.cameras.contains(&input.name))
        .filter_map(|input| {
            let sample = chunk.samples.get(&input.name)?;
            let topic = bag.topics().iter().position(|topic| topic.name == input.topic)?;
            Some((topic, input, &sample.digest))
        })
        .collect();
    let mut found = Vec::new();
    for message in bag.messages() {
        // What lies behind a damage was no part of the run either.
        let Ok(message) = message else { break };
        if found.len() == wanted.len() || i64::try_from(message.log_time).is_ok_and(|time| time > chunk.observed) {
            break;
        }
        let Some((_, input, digest)) = wanted.iter().find(|(topic, ..)| *topic == message.topic) else { continue };
        let image = if input.type_name == CompressedImage::NAME {
            BagImage::compressed(message.data)
        } else {
            BagImage::raw(message.data)
        };
        // Messages that the run refused are no samples of it.
        if let Ok(image) = image
            && image.digest() == **digest
            && let Ok(pixels) = image.decode()
        {
            let stamp = image.stamp().map_or(message.log_time as i64, |stamp| stamp.nanoseconds());
            found.push(Frame { camera: input.name.clone(), chunk: chunk.index, stamp, image: pixels });
        }
    }
    Ok(found)
}

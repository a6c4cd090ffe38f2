//! Messages in the middleware's layout, as samples of the policy: they are moved, not converted.

use rclrs::MessageInfo;
use ros_env::sensor_msgs::msg::rmw;

use crate::{
    observation::{CompressedImageView, ImageView, ObservationError, RgbImage},
    session::{self, Delivery, ImageMessage, JointMessage},
};

/// An image as the camera driver sent it.
pub enum CameraMessage {
    Raw(rmw::Image),
    Compressed(rmw::CompressedImage),
}

pub type Inputs = session::Inputs<CameraMessage, rmw::JointState>;
pub type Session = session::Session<CameraMessage, rmw::JointState>;
pub type ChunkRequest = session::ChunkRequest<CameraMessage, rmw::JointState>;

impl ImageMessage for CameraMessage {
    fn decode(&self) -> Result<RgbImage, ObservationError> {
        match self {
            Self::Raw(image) => ImageView {
                width: image.width,
                height: image.height,
                encoding: &image.encoding.to_string(),
                is_bigendian: image.is_bigendian != 0,
                step: image.step,
                data: &image.data,
            }
            .decode(),
            Self::Compressed(image) => CompressedImageView { format: &image.format.to_string(), data: &image.data }.decode(),
        }
    }
}

impl JointMessage for rmw::JointState {
    fn names(&self) -> Vec<String> {
        self.name.iter().map(ToString::to_string).collect()
    }

    fn positions(&self) -> &[f64] {
        &self.position
    }
}

/// What the middleware tells of a sample.
pub fn delivery(info: &MessageInfo) -> Delivery {
    // The storage of a GID is 16 bytes or more, depending on the distribution; a DDS GUID has 16.
    let mut publisher = [0; 16];
    publisher.iter_mut().zip(info.publisher_gid.data).for_each(|(to, from)| *to = from);
    Delivery {
        publisher,
        // u64::MAX: this middleware has no sequence numbers.
        sequence: Some(info.publication_sequence_number).filter(|&number| number != u64::MAX),
        written: info.source_timestamp,
    }
}

//! Messages of a bag as samples of the policy.

use std::ops::Range;

use bytes::Bytes;

use super::super::{
    CdrError, cdr,
    messages::{CompressedImage, Header, Image, JointState},
    trace::Digest,
};
use crate::{
    control::{Stamp, StateAt},
    observation::{CompressedImageView, ImageView, ObservationError, RgbImage},
    session::{ImageMessage, JointMessage},
};

/// An image whose pixels stay in the message's bytes.
pub(super) struct BagImage {
    header: Header,
    picture: Picture,
    message: Bytes,
    /// Of the pixels in `message`.
    data: Range<usize>,
}

enum Picture {
    Raw { height: u32, width: u32, encoding: String, is_bigendian: u8, step: u32 },
    Compressed { format: String },
}

impl BagImage {
    pub fn raw(message: Bytes) -> Result<Self, CdrError> {
        let Image { header, height, width, encoding, is_bigendian, step, data } = Image::decode(&message)?;
        let data = range_of(data, &message);
        Ok(Self { header, picture: Picture::Raw { height, width, encoding, is_bigendian, step }, data, message })
    }

    pub fn compressed(message: Bytes) -> Result<Self, CdrError> {
        let CompressedImage { header, format, data } = CompressedImage::decode(&message)?;
        let data = range_of(data, &message);
        Ok(Self { header, picture: Picture::Compressed { format }, data, message })
    }

    /// That of the header; `None` when the driver filled none.
    pub fn stamp(&self) -> Option<Stamp> {
        stamp(&self.header)
    }

    pub fn digest(&self) -> Digest {
        let mut fields = Fields::of(&self.header);
        match &self.picture {
            Picture::Raw { height, width, encoding, is_bigendian, step } => {
                [*height, *width, u32::from(*is_bigendian), *step].iter().for_each(|number| fields.add(&number.to_le_bytes()));
                fields.add(encoding.as_bytes());
            }
            Picture::Compressed { format } => fields.add(format.as_bytes()),
        }
        fields.add(self.data());
        fields.digest()
    }

    fn data(&self) -> &[u8] {
        &self.message[self.data.clone()]
    }
}

impl ImageMessage for BagImage {
    fn decode(&self) -> Result<RgbImage, ObservationError> {
        match &self.picture {
            Picture::Raw { height, width, encoding, is_bigendian, step } => ImageView {
                width: *width,
                height: *height,
                encoding,
                is_bigendian: *is_bigendian != 0,
                step: *step,
                data: self.data(),
            }
            .decode(),
            Picture::Compressed { format } => CompressedImageView { format, data: self.data() }.decode(),
        }
    }
}

/// Joint states of a bag.
pub(super) struct BagJoints(JointState);

impl BagJoints {
    pub fn new(message: &[u8]) -> Result<Self, CdrError> {
        cdr::decode(message).map(Self)
    }

    /// That of the header; `None` when the driver filled none.
    pub fn stamp(&self) -> Option<Stamp> {
        stamp(&self.0.header)
    }

    fn digest(&self) -> Digest {
        let JointState { header, name, position, velocity, effort } = &self.0;
        let mut fields = Fields::of(header);
        name.iter().for_each(|name| fields.add(name.as_bytes()));
        for values in [position, velocity, effort] {
            fields.add(bytemuck::cast_slice(values));
        }
        fields.digest()
    }
}

impl JointMessage for BagJoints {
    fn names(&self) -> Vec<String> {
        self.0.name.clone()
    }

    fn positions(&self) -> &[f64] {
        &self.0.position
    }
}

/// Of the joint states that are held, or of the two that are interpolated.
pub(super) fn joints_digest(state: &StateAt<std::sync::Arc<BagJoints>>) -> Digest {
    match state {
        StateAt::Held(joints) => joints.digest(),
        StateAt::Between { before, after, weight } => {
            let [before, after] = [before, after].map(|joints| joints.digest().to_string());
            Digest::of([before.as_bytes(), after.as_bytes(), &weight.to_le_bytes()])
        }
    }
}

/// The decoded fields of a message, each with its length so that none runs into the next.
struct Fields(blake3::Hasher);

impl Fields {
    fn of(header: &Header) -> Self {
        let mut fields = Self(blake3::Hasher::new());
        fields.add(&header.stamp.sec.to_le_bytes());
        fields.add(&header.stamp.nanosec.to_le_bytes());
        fields.add(header.frame_id.as_bytes());
        fields
    }

    fn add(&mut self, field: &[u8]) {
        self.0.update(&(field.len() as u64).to_le_bytes());
        self.0.update(field);
    }

    fn digest(&self) -> Digest {
        self.0.finalize().into()
    }
}

fn stamp(header: &Header) -> Option<Stamp> {
    Stamp::from_ros(header.stamp.sec, header.stamp.nanosec)
}

/// Where `part`, which is a part of `whole`, lies in it.
fn range_of(part: &[u8], whole: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

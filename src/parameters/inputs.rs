//! The parameters that decide which samples make an observation.

use std::sync::Arc;

use super::{Choice, Handle, ParameterError, Source, Spec, chosen};
use crate::control::{AgeLimit, CameraRules, Rules, StampSource};

/// How a camera's images arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `sensor_msgs/Image`
    Raw,
    /// `sensor_msgs/CompressedImage`, JPEG or PNG
    Compressed,
}

impl Choice for Transport {
    const CHOICES: &'static [(&'static str, Self)] = &[("raw", Self::Raw), ("compressed", Self::Compressed)];
}

/// The parameters of one camera slot. Declared when the checkpoint has told which slots there are.
pub struct CameraParameters {
    transport: Handle<Arc<str>>,
    max_age_ms: Handle<f64>,
    stamp_offset_ms: Handle<f64>,
}

/// The parameters that tell which samples belong together.
pub struct SyncParameters {
    stamps: Handle<Arc<str>>,
    max_skew_ms: Handle<f64>,
    joint_max_age_ms: Handle<f64>,
}

impl CameraParameters {
    pub fn declare(source: &mut dyn Source, slot: &str) -> Result<Self, ParameterError> {
        Ok(Self {
            transport: source.text(
                Spec::text(transport_name(slot), "Message type of this camera: sensor_msgs/Image or sensor_msgs/CompressedImage.")
                    .default("raw")
                    .one_of::<Transport>(),
            )?,
            max_age_ms: source.number(max_age(format!("cameras.{slot}.max_age_ms"), 200.0))?,
            stamp_offset_ms: source.number(
                Spec::number(
                    format!("cameras.{slot}.stamp_offset_ms"),
                    0.0,
                    (-1000.0, 1000.0),
                    "Added to the stamps of this camera, so that they tell when the image was taken. Negative for a driver that stamps late.",
                )
                .settable(),
            )?,
        })
    }

    pub fn rules(&self) -> CameraRules {
        CameraRules {
            max_age: AgeLimit::from_milliseconds(self.max_age_ms.get()),
            stamp_offset: self.stamp_offset_ms.get() * 1e-3,
        }
    }

    pub fn transport(&self, slot: &str) -> Result<Transport, ParameterError> {
        chosen(&transport_name(slot), &self.transport)
    }
}

/// Name of the parameter that tells how a camera's images arrive.
pub fn transport_name(slot: &str) -> String {
    format!("cameras.{slot}.transport")
}

impl SyncParameters {
    pub fn declare(source: &mut dyn Source) -> Result<Self, ParameterError> {
        Ok(Self {
            stamps: source.text(
                Spec::text(STAMPS, "Time of a sample: header.stamp, or its arrival at this node for drivers that do not fill it.")
                    .default("header")
                    .one_of::<StampSource>(),
            )?,
            max_skew_ms: source.number(
                Spec::number(
                    "sync.max_skew_ms",
                    100.0,
                    (0.0, 60_000.0),
                    "Largest difference between the times at which the cameras took their images. A larger one stops inference. 0: any.",
                )
                .settable(),
            )?,
            joint_max_age_ms: source.number(max_age("joint_states.max_age_ms".to_owned(), 100.0))?,
        })
    }

    pub fn stamps(&self) -> Result<StampSource, ParameterError> {
        chosen(STAMPS, &self.stamps)
    }

    pub fn rules(&self, stamps: StampSource) -> Rules {
        Rules {
            stamps,
            max_skew: Some(self.max_skew_ms.get() * 1e-3).filter(|&limit| limit > 0.0),
            joint_age: AgeLimit::from_milliseconds(self.joint_max_age_ms.get()),
        }
    }
}

const STAMPS: &str = "sync.stamps";

/// Oldest usable sample of an input.
fn max_age(name: String, default: f64) -> Spec<f64> {
    Spec::number(name, default, (1.0, 60_000.0), "Oldest usable sample. An older one stops inference.").settable()
}

//! `sensor_msgs/CompressedImage` to RGB.

use std::io::Cursor;

use ::image::{
    DynamicImage, ImageDecoder, ImageError, Limits,
    codecs::{jpeg::JpegDecoder, png::PngDecoder},
};

use super::{ObservationError, RgbImage};

/// Longest side of a compressed image: what it unpacks to is not known from its size, so it is bounded by this.
const MAX_SIDE: u32 = 4096;
/// Bytes that the PNG decoder may hold: the largest image with four 16-bit samples per pixel.
const MAX_ALLOC: u64 = MAX_SIDE as u64 * MAX_SIDE as u64 * 8;

/// The fields of a `sensor_msgs/CompressedImage`, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct CompressedImageView<'a> {
    pub format: &'a str,
    pub data: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Codec {
    Jpeg,
    Png,
}

impl CompressedImageView<'_> {
    /// The image as RGB. Alpha is dropped, grey is repeated, 16-bit samples are scaled by 255/65535; EXIF orientation is ignored.
    ///
    /// A JPEG image with damage inside cannot be told from a sound one: the format has no checksum.
    pub fn decode(&self) -> Result<RgbImage, ObservationError> {
        match self.codec()? {
            Codec::Jpeg => {
                self.check_jpeg_end()?;
                let failed = |source| ObservationError::Codec { codec: "JPEG", source };
                unpack(JpegDecoder::new(Cursor::new(self.data)).map_err(failed)?, failed)
            }
            Codec::Png => {
                let failed = |source| ObservationError::Codec { codec: "PNG", source };
                // Text and profile chunks unpack too.
                let mut limits = Limits::no_limits();
                limits.max_alloc = Some(MAX_ALLOC);
                unpack(PngDecoder::with_limits(Cursor::new(self.data), limits).map_err(failed)?, failed)
            }
        }
    }

    /// The codec that `format` names, when the data agree.
    ///
    /// `format` is a codec name (`jpeg`), or as compressed_image_transport writes it
    /// `<encoding of the raw image>; <codec> compressed <encoding that was compressed>`.
    fn codec(&self) -> Result<Codec, ObservationError> {
        let unsupported = || ObservationError::Format(self.format.to_owned());
        if self.format.contains("compressedDepth") {
            return Err(ObservationError::DepthFormat(self.format.to_owned()));
        }
        let name = match self.format.split_once(';') {
            None => self.format.trim(),
            Some((raw, rest)) => {
                let (codec, compressed) = rest.trim().split_once(" compressed").ok_or_else(unsupported)?;
                // OpenCV's encoders take BGR, so these and no others hold true colours. PNG of a grey image names no encoding; with any
                // other raw encoding and no name the file holds a mosaic or depth.
                match (raw.trim(), compressed.trim()) {
                    (_, "bgr8" | "bgr16" | "mono8" | "mono16") | ("mono8" | "mono16", "") => codec,
                    _ => return Err(unsupported()),
                }
            }
        };
        let named = match name {
            "jpeg" | "jpg" => Codec::Jpeg,
            "png" => Codec::Png,
            _ => return Err(unsupported()),
        };
        let (found, description) = match self.data {
            [0xff, 0xd8, 0xff, ..] => (Some(Codec::Jpeg), "a JPEG file"),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => (Some(Codec::Png), "a PNG file"),
            [] => (None, "nothing: they are empty"),
            _ => (None, "neither JPEG nor PNG"),
        };
        if found != Some(named) {
            return Err(ObservationError::FormatMismatch { format: self.format.to_owned(), found: description });
        }
        Ok(named)
    }

    /// The decoder fills what is missing with grey instead of failing, so the end marker is looked for here.
    fn check_jpeg_end(&self) -> Result<(), ObservationError> {
        // Some cameras pad their frames with zeros.
        let end = self.data.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if self.data[..end].ends_with(&[0xff, 0xd9]) { Ok(()) } else { Err(ObservationError::TruncatedJpeg(self.data.len())) }
    }
}

/// Checks the size before any pixel is unpacked.
fn unpack(decoder: impl ImageDecoder, failed: impl Fn(ImageError) -> ObservationError) -> Result<RgbImage, ObservationError> {
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE {
        return Err(ObservationError::CompressedSize { width, height, limit: MAX_SIDE });
    }
    let pixels = DynamicImage::from_decoder(decoder).map_err(failed)?.into_rgb8();
    RgbImage::new(width as usize, height as usize, pixels.into_raw())
}

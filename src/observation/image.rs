//! `sensor_msgs/Image` to RGB.

use bayer::{BayerDepth, CFA, Demosaic, RasterDepth, RasterMut};

use super::ObservationError;

/// An 8-bit RGB image with at least one pixel, rows tight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// Takes `[height, width, 3]` bytes.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self, ObservationError> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if expected != Some(pixels.len()) || pixels.is_empty() {
            return Err(ObservationError::RgbSize { width, height, found: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// `[height, width, 3]`
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The image of a camera that is mounted upside down.
    pub fn rotated_180(&self) -> Self {
        let (pixels, _) = self.pixels.as_chunks::<3>();
        let turned: Vec<[u8; 3]> = pixels.iter().rev().copied().collect();
        Self { width: self.width, height: self.height, pixels: turned.into_flattened() }
    }
}

/// The fields of a `sensor_msgs/Image`, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    pub width: u32,
    pub height: u32,
    pub encoding: &'a str,
    /// Byte order of 16-bit samples.
    pub is_bigendian: bool,
    /// Bytes from one row to the next; may exceed the row's pixels (aligned rows).
    pub step: u32,
    pub data: &'a [u8],
}

/// How the bytes of a row mean colour.
enum Layout {
    /// Interleaved samples, and at which of them red, green and blue lie.
    Samples { per_pixel: usize, bytes: usize, rgb: [usize; 3] },
    /// A colour filter array with one byte per pixel.
    Mosaic(CFA),
}

impl Layout {
    /// The layouts of `sensor_msgs/image_encodings.hpp` that carry an intensity or a colour.
    ///
    /// `8UC3` names no colour order; it is what cv_bridge writes for an OpenCV image without an encoding, and OpenCV's order is BGR.
    fn of(encoding: &str) -> Option<Self> {
        let samples = |per_pixel, bytes, rgb| Some(Self::Samples { per_pixel, bytes, rgb });
        match encoding {
            "rgb8" => samples(3, 1, [0, 1, 2]),
            "bgr8" | "8UC3" => samples(3, 1, [2, 1, 0]),
            "rgba8" => samples(4, 1, [0, 1, 2]),
            "bgra8" => samples(4, 1, [2, 1, 0]),
            "mono8" => samples(1, 1, [0, 0, 0]),
            "rgb16" => samples(3, 2, [0, 1, 2]),
            "bgr16" => samples(3, 2, [2, 1, 0]),
            "rgba16" => samples(4, 2, [0, 1, 2]),
            "bgra16" => samples(4, 2, [2, 1, 0]),
            "mono16" => samples(1, 2, [0, 0, 0]),
            "bayer_rggb8" => Some(Self::Mosaic(CFA::RGGB)),
            "bayer_bggr8" => Some(Self::Mosaic(CFA::BGGR)),
            "bayer_gbrg8" => Some(Self::Mosaic(CFA::GBRG)),
            "bayer_grbg8" => Some(Self::Mosaic(CFA::GRBG)),
            _ => None,
        }
    }

    fn bytes_per_pixel(&self) -> usize {
        match self {
            Self::Samples { per_pixel, bytes, .. } => per_pixel * bytes,
            Self::Mosaic(_) => 1,
        }
    }
}

impl ImageView<'_> {
    /// The image as RGB. Alpha is dropped, grey is repeated, 16-bit samples are scaled by 255/65535 as cv_bridge does.
    ///
    /// Allocates at most four bytes per byte of `data`.
    pub fn decode(&self) -> Result<RgbImage, ObservationError> {
        let layout = Layout::of(self.encoding).ok_or_else(|| ObservationError::Encoding(self.encoding.to_owned()))?;
        let row_bytes = self.check_size(layout.bytes_per_pixel())?;
        // `check_size` has shown that the step is at least one byte.
        let rows = self.data.chunks_exact(self.step as usize).map(|row| &row[..row_bytes]);
        let (width, height) = (self.width as usize, self.height as usize);
        let pixels = match layout {
            Layout::Samples { per_pixel, bytes, rgb } => {
                let mut pixels = Vec::with_capacity(width * height * 3);
                for row in rows {
                    match (bytes, self.is_bigendian) {
                        (1, _) => append_rgb(&mut pixels, row, per_pixel, rgb, |[sample]: [u8; 1]| sample),
                        (_, true) => append_rgb(&mut pixels, row, per_pixel, rgb, |sample| narrow(u16::from_be_bytes(sample))),
                        (_, false) => append_rgb(&mut pixels, row, per_pixel, rgb, |sample| narrow(u16::from_le_bytes(sample))),
                    }
                }
                pixels
            }
            Layout::Mosaic(cfa) => {
                let mut mosaic = Vec::with_capacity(width * height);
                rows.for_each(|row| mosaic.extend_from_slice(row));
                self.demosaic(cfa, &mosaic)?
            }
        };
        RgbImage::new(width, height, pixels)
    }

    /// Bytes of a row's pixels, once width, height, step and data are known to fit together.
    fn check_size(&self, bytes_per_pixel: usize) -> Result<usize, ObservationError> {
        let &Self { width, height, step, .. } = self;
        if width == 0 || height == 0 {
            return Err(ObservationError::EmptyImage { width, height });
        }
        // Products of two u32 cannot overflow u64, nor can 32 bits times the at most 8 bytes of a pixel.
        let needed = u64::from(width) * bytes_per_pixel as u64;
        if u64::from(step) < needed {
            return Err(ObservationError::Step { step, width, encoding: self.encoding.to_owned(), needed });
        }
        let (expected, found) = (u64::from(step) * u64::from(height), self.data.len() as u64);
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => Err(ObservationError::TruncatedImage { found, height, step, expected }),
            std::cmp::Ordering::Greater => Err(ObservationError::OverlongImage { found, height, step, expected }),
            // Not more than the length of `data`, which is a usize.
            std::cmp::Ordering::Equal => Ok(needed as usize),
        }
    }

    /// Bilinear demosaicing; the border repeats its neighbours.
    fn demosaic(&self, cfa: CFA, mosaic: &[u8]) -> Result<Vec<u8>, ObservationError> {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut pixels = vec![0; mosaic.len() * 3];
        let mut raster = RasterMut::new(width, height, RasterDepth::Depth8, &mut pixels);
        bayer::run_demosaic(&mut &mosaic[..], BayerDepth::Depth8, cfa, Demosaic::Linear, &mut raster).map_err(|_| {
            ObservationError::BayerTooSmall { encoding: self.encoding.to_owned(), width: self.width, height: self.height }
        })?;
        Ok(pixels)
    }
}

/// Appends a row of pixels whose samples are `BYTES` wide.
fn append_rgb<const BYTES: usize>(
    out: &mut Vec<u8>,
    row: &[u8],
    per_pixel: usize,
    rgb: [usize; 3],
    to_u8: impl Fn([u8; BYTES]) -> u8,
) {
    let (samples, _) = row.as_chunks::<BYTES>();
    out.extend(samples.chunks_exact(per_pixel).flat_map(|pixel| rgb.map(|i| to_u8(pixel[i]))));
}

/// `round(sample * 255 / 65535)`
fn narrow(sample: u16) -> u8 {
    // At most (65535 + 128) / 257 = 255.
    ((u32::from(sample) + 128) / 257) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(encoding: &'a str, width: u32, height: u32, step: u32, data: &'a [u8]) -> ImageView<'a> {
        ImageView { width, height, encoding, is_bigendian: false, step, data }
    }

    #[test]
    fn every_colour_order_gives_the_same_rgb() {
        let cases: [(&str, &[u8]); 7] = [
            ("rgb8", &[1, 2, 3, 4, 5, 6]),
            ("bgr8", &[3, 2, 1, 6, 5, 4]),
            ("8UC3", &[3, 2, 1, 6, 5, 4]),
            ("rgba8", &[1, 2, 3, 99, 4, 5, 6, 99]),
            ("bgra8", &[3, 2, 1, 99, 6, 5, 4, 99]),
            ("rgb16", &[0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6]),
            ("bgr16", &[0, 3, 0, 2, 0, 1, 0, 6, 0, 5, 0, 4]),
        ];
        for (encoding, data) in cases {
            let image = view(encoding, 2, 1, data.len() as u32, data).decode().unwrap();
            assert_eq!(image.pixels(), [1, 2, 3, 4, 5, 6], "{encoding}");
        }
    }

    #[test]
    fn grey_is_repeated_and_byte_order_is_honoured() {
        assert_eq!(view("mono8", 2, 1, 2, &[7, 9]).decode().unwrap().pixels(), [7, 7, 7, 9, 9, 9]);
        let mono16 = view("mono16", 2, 1, 4, &[0x00, 0xff, 0xff, 0x00]);
        assert_eq!(mono16.decode().unwrap().pixels()[..], [254, 254, 254, 1, 1, 1]);
        let big = ImageView { is_bigendian: true, ..mono16 };
        assert_eq!(big.decode().unwrap().pixels()[..], [1, 1, 1, 254, 254, 254]);
    }

    #[test]
    fn sixteen_bits_are_rounded_to_the_nearest_of_eight() {
        for sample in 0..=u16::MAX {
            assert_eq!(narrow(sample), (f64::from(sample) * 255.0 / 65535.0).round() as u8);
        }
    }

    #[test]
    fn an_upside_down_camera_is_turned() {
        let image = RgbImage::new(2, 2, (0..12).collect()).unwrap();
        assert_eq!(image.rotated_180().pixels(), [9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2]);
        assert_eq!(image.rotated_180().rotated_180(), image);
    }
}

//! Camera images and joint states to what the model sees, against Pillow, OpenCV and LeRobot.
//!
//! `images.safetensors` is made by tools/golden_images.py; `resize_rows.safetensors` holds rows of what openpi (Pillow 12.3) and
//! LeRobot 0.6.1 (torch 2.11) make of two images.

mod common;

use pi0_tt::observation::{CompressedImageView, ImageView, JointSelector, ObservationError, ResizeKernel, Resizer, RgbImage};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};

/// The bytes of a file of tests/data.
fn data(name: &str) -> Vec<u8> {
    std::fs::read(common::data(name)).unwrap()
}

fn bytes<'a>(file: &'a SafeTensors, name: &str) -> &'a [u8] {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::U8, "{name}");
    tensor.data()
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn rgb_image(file: &SafeTensors, name: &str) -> RgbImage {
    let [height, width, 3] = *file.tensor(name).unwrap().shape() else { panic!("{name} is not RGB") };
    RgbImage::new(width, height, bytes(file, name).to_vec()).unwrap()
}

fn raw<'a>(encoding: &'a str, (width, height): (u32, u32), step: u32, data: &'a [u8]) -> ImageView<'a> {
    ImageView { width, height, encoding, is_bigendian: false, step, data }
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

const ENCODINGS: [(&str, u32); 14] = [
    ("rgb8", 3),
    ("bgr8", 3),
    ("rgba8", 4),
    ("bgra8", 4),
    ("mono8", 1),
    ("8UC3", 3),
    ("rgb16", 6),
    ("bgr16", 6),
    ("rgba16", 8),
    ("bgra16", 8),
    ("mono16", 2),
    ("bayer_rggb8", 1),
    ("bayer_bggr8", 1),
    ("bayer_grbg8", 1),
];

/// Compares rows of both kernels with the goldens: bit-exact for openpi, 1e-6 for LeRobot.
fn check_resize(file: &SafeTensors, size: &str, rows: &[usize]) {
    const SIDE: usize = 224;
    let image = rgb_image(file, &format!("in.{size}"));
    let row = |square: &[f32], y: usize| -> Vec<f32> {
        (0..SIDE * 3).map(|i| square[(i % 3) * SIDE * SIDE + y * SIDE + i / 3]).collect()
    };

    let openpi = Resizer::new(ResizeKernel::Openpi, SIDE).resize(&image).unwrap();
    let expected = bytes(file, &format!("openpi_u8.{size}"));
    for (expected, &y) in expected.chunks_exact(SIDE * 3).zip(rows) {
        let expected: Vec<f32> = expected.iter().map(|&v| f32::from(v) / 255.0 * 2.0 - 1.0).collect();
        assert_eq!(row(&openpi, y), expected, "openpi {size}, row {y}");
    }

    let lerobot = Resizer::new(ResizeKernel::Lerobot, SIDE).resize(&image).unwrap();
    let expected = floats(file, &format!("lerobot_f32.{size}"));
    let mut worst = 0f32;
    for (expected, &y) in expected.chunks_exact(SIDE * 3).zip(rows) {
        worst = row(&lerobot, y).iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    println!("LeRobot resize of {size}: largest difference {worst:e}");
    assert!(worst <= 1e-6, "LeRobot {size}: {worst:e}");
}

#[test]
fn both_resizes_equal_pillow_and_torch_on_chosen_rows() {
    let file = data("resize_rows.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    for size in ["60x80", "180x320"] {
        let rows = file.tensor(&format!("rows.{size}")).unwrap();
        let rows: Vec<usize> = rows.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect();
        check_resize(&file, size, &rows);
    }
}

#[test]
fn both_resizes_equal_pillow_and_torch_on_whole_images() {
    let Some(path) = common::golden("extra/resize_golden.safetensors") else { return };
    let file = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for size in ["60x80", "180x320", "256x256", "400x640", "480x640", "641x479"] {
        check_resize(&file, size, &(0..224).collect::<Vec<_>>());
    }
}

#[test]
fn an_image_of_the_models_size_is_not_touched() {
    let image = RgbImage::new(8, 8, (0..192).collect()).unwrap();
    for kernel in [ResizeKernel::Openpi, ResizeKernel::Lerobot, ResizeKernel::LerobotLegacy] {
        let square = Resizer::new(kernel, 8).resize(&image).unwrap();
        for (i, &value) in image.pixels().iter().enumerate() {
            assert_eq!(square[(i % 3) * 64 + i / 3], f32::from(value) / 255.0 * 2.0 - 1.0);
        }
    }
}

#[test]
fn the_odd_row_or_column_of_padding_is_below_or_right() {
    let white = |width, height| RgbImage::new(width, height, vec![255; width * height * 3]).unwrap();
    for kernel in [ResizeKernel::Openpi, ResizeKernel::Lerobot] {
        let resizer = Resizer::new(kernel, 8);
        let (lying, standing) = (resizer.resize(&white(8, 5)).unwrap(), resizer.resize(&white(5, 8)).unwrap());
        for (i, (lying, standing)) in lying.iter().zip(standing).enumerate() {
            let (y, x) = (i / 8 % 8, i % 8);
            assert_eq!(*lying == 1.0, (1..6).contains(&y), "{kernel:?}, row {y}");
            assert_eq!(standing == 1.0, (1..6).contains(&x), "{kernel:?}, column {x}");
        }
    }
}

#[test]
fn an_image_that_would_vanish_is_refused() {
    let image = RgbImage::new(5000, 1, vec![0; 15000]).unwrap();
    let error = Resizer::new(ResizeKernel::Openpi, 224).resize(&image).unwrap_err();
    assert!(matches!(error, ObservationError::AspectRatio { width: 5000, height: 1, side: 224 }), "{error}");
}

#[test]
fn png_images_decode_to_the_exact_pixels_and_jpeg_images_nearly() {
    let file = data("images.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    // Decoders may round the JPEG transform and interpolate its chroma differently; PNG is exact.
    for (name, format, bound) in [
        ("jpeg", "rgb8; jpeg compressed bgr8", 3),
        ("jpeg", "jpeg", 3),
        ("jpeg", "jpg", 3),
        ("jpeg_progressive", "bgr8; jpeg compressed bgr8", 3),
        ("jpeg_gray", "mono8; jpeg compressed mono8", 1),
        ("png", "rgb8; png compressed bgr8", 0),
        ("png", "png", 0),
        ("png_gray", "mono8; png compressed ", 0),
        ("png_rgba", "png", 0),
        ("png16", "rgb16; png compressed bgr16", 0),
    ] {
        let view = CompressedImageView { format, data: bytes(&file, &format!("{name}.data")) };
        let image = view.decode().unwrap();
        assert_eq!((image.width(), image.height()), (64, 48));
        let difference = largest_difference(image.pixels(), bytes(&file, &format!("{name}.rgb")));
        println!("{name}: largest difference {difference}");
        assert!(difference <= bound, "{name}: {difference}");
    }
}

#[test]
fn mosaics_decode_like_opencv_inside_the_border() {
    let file = data("images.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    for name in ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"] {
        let image = raw(name, (64, 48), 64, bytes(&file, &format!("{name}.data"))).decode().unwrap();
        let expected = rgb_image(&file, &format!("{name}.rgb"));
        for y in 1..47 {
            let row = (y * 64 + 1) * 3..(y * 64 + 63) * 3;
            // OpenCV rounds the means, libbayer truncates them.
            let difference = largest_difference(&image.pixels()[row.clone()], &expected.pixels()[row]);
            assert!(difference <= 1, "{name}, row {y}: {difference}");
        }
    }
}

#[test]
fn padded_rows_give_the_same_image_as_tight_rows() {
    let (width, height, padding) = (5, 4, 3);
    for (encoding, bytes_per_pixel) in ENCODINGS {
        let row = width * bytes_per_pixel;
        let tight: Vec<u8> = (0..row * height).map(|i| (i * 37) as u8).collect();
        let padded: Vec<u8> = tight.chunks(row as usize).flat_map(|row| [row, &[0xee; 3]].concat()).collect();
        assert_eq!(
            raw(encoding, (width, height), row, &tight).decode().unwrap(),
            raw(encoding, (width, height), row + padding, &padded).decode().unwrap(),
            "{encoding}"
        );
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_name() {
    let data = [0; 48];
    let refused = |size, step, data: &[u8]| raw("rgb8", size, step, data).decode().unwrap_err();
    assert!(matches!(refused((0, 4), 12, &data), ObservationError::EmptyImage { width: 0, height: 4 }));
    assert!(matches!(refused((4, 0), 12, &[]), ObservationError::EmptyImage { width: 4, height: 0 }));
    assert!(matches!(refused((4, 4), 0, &data), ObservationError::Step { step: 0, needed: 12, .. }));
    assert!(matches!(refused((4, 4), 11, &data), ObservationError::Step { step: 11, needed: 12, .. }));
    assert!(matches!(refused((4, 4), 12, &data[1..]), ObservationError::TruncatedImage { found: 47, expected: 48, .. }));
    assert!(matches!(refused((4, 3), 12, &data), ObservationError::OverlongImage { found: 48, expected: 36, .. }));
    assert!(matches!(refused((u32::MAX, u32::MAX), u32::MAX, &data), ObservationError::Step { .. }));
    assert!(matches!(refused((1, u32::MAX), u32::MAX, &data), ObservationError::TruncatedImage { .. }));
    let error = raw("bayer_rggb8", (1, 4), 1, &[0; 4]).decode().unwrap_err();
    assert!(matches!(error, ObservationError::BayerTooSmall { width: 1, height: 4, .. }), "{error}");
}

#[test]
fn other_encodings_are_refused_by_name() {
    for encoding in ["", "RGB8", "rgb8 ", "16UC1", "32FC1", "yuv422_yuy2", "nv12", "bayer_rggb16", "8UC1"] {
        let error = raw(encoding, (1, 1), 3, &[0; 3]).decode().unwrap_err();
        assert!(matches!(&error, ObservationError::Encoding(name) if name == encoding), "{error}");
        assert!(error.to_string().contains(&format!("\"{encoding}\"")), "{error}");
    }
}

#[test]
fn compressed_images_that_are_not_what_they_say_are_refused() {
    let file = data("images.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    let (jpeg, png) = (bytes(&file, "jpeg.data"), bytes(&file, "png.data"));
    let refused = |format, data| CompressedImageView { format, data }.decode().unwrap_err();

    for format in ["", "tiff", "rgb8; jpeg compressed rgb8", "rgb8; tiff compressed bgr8", "bayer_rggb8; png compressed ", "h264"]
    {
        assert!(matches!(refused(format, png), ObservationError::Format(name) if name == format), "{format}");
    }
    let depth = refused("16UC1; compressedDepth png", png);
    assert!(matches!(depth, ObservationError::DepthFormat(_)), "{depth}");
    for (format, data) in [("jpeg", png), ("png", jpeg), ("jpeg", &[]), ("png", b"garbage")] {
        let error = refused(format, data);
        assert!(matches!(error, ObservationError::FormatMismatch { .. }), "{error}");
    }
    for length in 3..jpeg.len() {
        let error = refused("jpeg", &jpeg[..length]);
        assert!(matches!(error, ObservationError::TruncatedJpeg(found) if found == length), "{length}: {error}");
    }
    // From the last chunk on nothing of the picture is missing.
    for length in 8..png.len() - 12 {
        let error = refused("png", &png[..length]);
        assert!(matches!(error, ObservationError::Codec { codec: "PNG", .. }), "{length}: {error}");
    }
}

#[test]
fn a_camera_that_pads_its_jpeg_frames_with_zeros_is_read() {
    let file = data("images.safetensors");
    let file = SafeTensors::deserialize(&file).unwrap();
    let padded = [bytes(&file, "jpeg.data"), &[0; 100]].concat();
    assert!(CompressedImageView { format: "jpeg", data: &padded }.decode().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_image_message_is_decoded_or_refused(
        encoding in prop_oneof![prop::sample::select(ENCODINGS.map(|(name, _)| name).to_vec()).prop_map(str::to_owned), ".{0,12}"],
        (width, height, step) in prop_oneof![(0..9u32, 0..9u32, 0..80u32), any::<(u32, u32, u32)>()],
        is_bigendian: bool,
        data in prop::collection::vec(any::<u8>(), 0..600),
        exact: bool,
    ) {
        let mut data = data;
        if exact {
            data.resize((u64::from(step) * u64::from(height)).min(2000) as usize, 7);
        }
        let view = ImageView { width, height, encoding: &encoding, is_bigendian, step, data: &data };
        if let Ok(image) = view.decode() {
            prop_assert_eq!((image.width(), image.height()), (width as usize, height as usize));
            prop_assert_eq!(image.pixels().len(), image.width() * image.height() * 3);
        }
    }

    #[test]
    fn joints_are_found_in_any_order(order in Just((0..9usize).collect::<Vec<_>>()).prop_shuffle(), positions in prop::array::uniform9(-9.0..9.0f64)) {
        let name = |joint: &usize| format!("joint_{joint}");
        let selector = JointSelector::new((0..6).map(|joint| name(&joint)));
        let names: Vec<String> = order.iter().map(name).collect();
        let shuffled: Vec<f64> = order.iter().map(|&joint| positions[joint]).collect();
        prop_assert_eq!(selector.select(&names, &shuffled).unwrap(), &positions[..6]);
    }

    #[test]
    fn damaged_files_are_decoded_or_refused(
        name in prop::sample::select(vec!["jpeg", "jpeg_progressive", "jpeg_gray", "png", "png16", "png_gray"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let file = data("images.safetensors");
        let file = SafeTensors::deserialize(&file).unwrap();
        let mut data = bytes(&file, &format!("{name}.data")).to_vec();
        for (at, value) in damage {
            let at = at.index(data.len());
            data[at] = value;
        }
        if let Some(cut) = cut {
            // With a JPEG end marker, so that the decoder sees it.
            data.truncate(cut.index(data.len()));
            data.extend([0xff, 0xd9]);
        }
        let format = if name.starts_with("jpeg") { "jpeg" } else { "png" };
        if let Ok(image) = (CompressedImageView { format, data: &data }).decode() {
            prop_assert!(image.width().max(image.height()) <= 4096);
        }
    }
}

#[test]
fn old_lerobot_checkpoints_have_their_black_on_top_and_at_the_left() {
    // 64 x 48 on a square of 32 is 32 x 24: eight black rows, four above and below or all above.
    let pixels = (0..64 * 48 * 3).map(|i| 1 + (i * 31 % 255) as u8).collect();
    let image = RgbImage::new(64, 48, pixels).unwrap();
    let [centred, legacy] =
        [ResizeKernel::Lerobot, ResizeKernel::LerobotLegacy].map(|kernel| Resizer::new(kernel, 32).resize(&image).unwrap());
    for (centred, legacy) in centred.chunks(32 * 32).zip(legacy.chunks(32 * 32)) {
        assert_eq!(legacy[..8 * 32], [-1.0; 8 * 32]);
        assert_eq!(legacy[8 * 32..], centred[4 * 32..28 * 32]);
    }
    let tall = RgbImage::new(48, 64, vec![255; 64 * 48 * 3]).unwrap();
    let legacy = Resizer::new(ResizeKernel::LerobotLegacy, 32).resize(&tall).unwrap();
    assert_eq!((legacy[7], legacy[8]), (-1.0, 1.0));
}

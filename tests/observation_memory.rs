//! Hostile images are refused before they cost memory or time. One test alone in its process, so that its allocator sees nothing else.

mod counting;

use std::time::{Duration, Instant};

use counting::peak;
use pi0_tt::observation::{CompressedImageView, ImageView, ObservationError};

/// What `work` returned, the bytes it held at most, and the shortest time of five runs.
fn measure<T>(work: impl Fn() -> T) -> (T, usize, Duration) {
    let (result, held) = peak(&work);
    let timed = || {
        let start = Instant::now();
        let _ = work();
        start.elapsed()
    };
    (result, held, (0..5).map(|_| timed()).min().unwrap_or_default())
}

/// A PNG file whose header names a size and whose only data chunk is empty.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [&kind[..], data].concat();
        let crc = body.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        });
        [&(data.len() as u32).to_be_bytes()[..], &body, &(!crc).to_be_bytes()].concat()
    };
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [&size[..], &[8, 2, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &[]), &chunk(b"IEND", &[])].concat()
}

/// A JPEG file that ends after its frame header.
fn jpeg_header(width: u16, height: u16) -> Vec<u8> {
    let (w, h) = (width.to_be_bytes(), height.to_be_bytes());
    [&[0xff, 0xd8, 0xff, 0xc0, 0, 11, 8][..], &h, &w, &[1, 1, 0x11, 0, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0, 0xff, 0xd9]].concat()
}

#[test]
fn hostile_images_cost_neither_memory_nor_time() {
    for (width, height, step) in
        [(u32::MAX, u32::MAX, u32::MAX), (1 << 31, 2, 1 << 31), (30_000, 30_000, 90_000), (1, u32::MAX, 3)]
    {
        let view = ImageView { width, height, encoding: "rgb8", is_bigendian: false, step, data: &[0; 300] };
        let (result, peak, time) = measure(|| view.decode());
        assert!(result.is_err());
        assert!(peak < 1000 && time < Duration::from_millis(1), "{width} x {height}: {peak} bytes, {time:?}");
    }

    for (format, data) in [("png", png_header(30_000, 30_000)), ("jpeg", jpeg_header(30_000, 30_000))] {
        let (result, peak, time) = measure(|| CompressedImageView { format, data: &data }.decode());
        let error = result.unwrap_err();
        assert!(matches!(error, ObservationError::CompressedSize { width: 30_000, .. }), "{format}: {error}");
        assert!(peak < 1 << 20 && time < Duration::from_millis(50), "{format}: {peak} bytes, {time:?}");
    }

    // The largest size that is let through, with nothing behind it.
    for (format, data) in [("png", png_header(4096, 4096)), ("jpeg", jpeg_header(4096, 4096))] {
        let (result, peak, _) = measure(|| CompressedImageView { format, data: &data }.decode());
        assert!(result.is_err(), "{format}");
        assert!(peak < 4096 * 4096 * 8, "{format}: {peak} bytes");
    }

    let data = vec![9; 640 * 480 * 3];
    let view = ImageView { width: 640, height: 480, encoding: "rgb8", is_bigendian: false, step: 640 * 3, data: &data };
    let (image, peak, _) = measure(|| view.decode());
    assert!(image.is_ok() && peak < data.len() + 1000, "{peak} bytes");
}

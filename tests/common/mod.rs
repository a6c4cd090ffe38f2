//! What several integration tests need.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::PathBuf;

use pi0_tt::{
    checkpoint::synthetic,
    model::{Camera, Geometry, ModelInputs, Prompt},
};

/// A folder of the large golden data: below `PI0_TT_GOLDEN`, else `../shared/golden` beside the checkout.
///
/// `None`, with a message, when it is not there. Where `CI` is set nothing may be skipped, so there it is a failure.
pub fn golden(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PI0_TT_GOLDEN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"), PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is not there, and CI skips nothing", path.display());
    println!("Skipped: {} is not there. Set PI0_TT_GOLDEN to the folder of the large golden data", path.display());
    None
}

/// A file or folder of tests/data.
pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Inputs with two cameras and a masked third.
pub fn model_inputs(geometry: &Geometry) -> ModelInputs {
    let pixels = 3 * geometry.vision.image_size.pow(2);
    let camera = |slot: usize| Camera::Present(synthetic::uniform(&format!("test.camera.{slot}"), pixels));
    ModelInputs {
        cameras: vec![camera(0), camera(1), Camera::Masked],
        prompt: Prompt { ids: vec![2, 17, 301, 108] },
        state: synthetic::uniform("test.state", geometry.state_dim),
    }
}

//! Opening checkpoint folders: the golden ones of LeRobot, and crafted good and bad ones.

use std::path::{Path, PathBuf};

use pi0_tt::checkpoint::{Checkpoint, Family};

/// Golden sets of the reference implementations, when they are on this machine.
fn golden(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PI0_TT_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"), PathBuf::from);
    let dir = root.join(name);
    if !dir.is_dir() {
        println!("skipped: {} is not there (set PI0_TT_GOLDEN)", dir.display());
        return None;
    }
    Some(dir)
}

#[test]
fn lerobots_own_checkpoints_open_with_their_geometry() {
    for name in ["tiny_f32", "tiny_bf16", "small_f32", "small_bf16"] {
        let Some(dir) = golden(name) else { return };
        let model = Checkpoint::open_model_only(&dir).unwrap();
        let expected = if name.starts_with("tiny") { pi0_tt::model::Geometry::tiny() } else { pi0_tt::model::Geometry::small() };
        assert_eq!(model.geometry, expected);
        assert_eq!(model.family, Family::Lerobot);
        assert_eq!(model.cameras, ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]);
        assert_eq!(model.weights.parameters(), expected.parameters());
    }
}

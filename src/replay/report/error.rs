use std::{io, path::PathBuf};

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("Cannot write {}: {source}. Choose another folder with --report", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("Cannot write the chunks as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("Cannot compress the image of camera {camera} ({width} x {height}): {source}")]
    Image { camera: String, width: usize, height: usize, source: image::ImageError },
}

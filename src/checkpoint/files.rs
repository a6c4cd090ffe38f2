//! Small side files of a checkpoint, read whole and with a limit.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::CheckpointError;

/// Largest side file that is read: the largest known one, Gemma 3's tokenizer.json, has 33 MB.
const LIMIT: u64 = 256 << 20;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > LIMIT {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), bytes, limit: LIMIT });
    }
    fs::read(path).map_err(io)
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    parse_json(&read(path)?, path)
}

/// Parses the text of `path`.
pub(super) fn parse_json<T: DeserializeOwned>(text: &[u8], path: &Path) -> Result<T, CheckpointError> {
    serde_json::from_slice(text).map_err(|source| CheckpointError::Json { path: path.to_owned(), source })
}

/// The path of a file that `naming` (an index or a processor) places in its own folder; names that lead elsewhere are refused.
pub(super) fn sibling(naming: &Path, name: &str) -> Result<PathBuf, CheckpointError> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => Ok(naming.with_file_name(name)),
        _ => Err(CheckpointError::FileName { path: naming.to_owned(), name: name.to_owned() }),
    }
}

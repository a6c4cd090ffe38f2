//! openpi's `norm_stats.json`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    CheckpointError, files,
    normalizer::{Normalizer, Source, Statistics},
};

/// Normalizers of state and actions, with every cause why one could not be made.
pub(super) type Normalizers = (Option<Normalizer>, Option<Normalizer>, Vec<CheckpointError>);

/// Reads the statistics in `chosen`, or the only ones under `<dir>/assets/<asset id>/`.
pub(super) fn read(dir: &Path, chosen: Option<&Path>) -> Normalizers {
    let statistics = chosen.map_or_else(|| find(dir), |path| Ok(path.to_owned())).and_then(|path| Ok((parse(&path)?, path)));
    let (statistics, path) = match statistics {
        Ok(found) => found,
        Err(cause) => return (None, None, vec![cause]),
    };
    let (origin, mut causes) = (path.display().to_string(), Vec::new());
    let mut normalizer =
        |feature| Normalizer::openpi(Source { origin: &origin, feature }, &statistics).map_err(|found| causes.extend(found)).ok();
    let (state, action) = (normalizer("state"), normalizer("actions"));
    (state, action, causes)
}

/// Every `norm_stats.json` two levels under `assets`: asset ids may hold a slash (`physical-intelligence/libero`).
fn find(dir: &Path) -> Result<PathBuf, CheckpointError> {
    let assets = dir.join("assets");
    let mut found = Vec::new();
    for asset in folders(&assets) {
        found.push(asset.join("norm_stats.json"));
        found.extend(folders(&asset).map(|asset| asset.join("norm_stats.json")));
    }
    found.retain(|path| path.is_file());
    found.sort();
    match found.len() {
        0 => Err(CheckpointError::NoNormStats { dir: dir.to_owned() }),
        1 => Ok(found.remove(0)),
        _ => Err(CheckpointError::SeveralNormStats { dir: assets, candidates: found }),
    }
}

/// Folders in a folder; none when it cannot be read.
fn folders(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn parse(path: &Path) -> Result<Statistics, CheckpointError> {
    #[derive(Deserialize)]
    struct File {
        norm_stats: BTreeMap<String, Feature>,
    }
    #[derive(Deserialize)]
    struct Feature {
        mean: Vec<f64>,
        std: Vec<f64>,
    }
    let File { norm_stats } = files::read_json(path)?;
    let feature = |Feature { mean, std }| BTreeMap::from([("mean".into(), mean), ("std".into(), std)]);
    Ok(norm_stats.into_iter().map(|(name, statistics)| (name, feature(statistics))).collect())
}

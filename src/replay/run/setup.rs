//! What decides the outcome of a run.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use super::{
    super::trace::{Digest, Joint, Setup},
    RunError,
};
use crate::{
    backend::instructions,
    policy::{Policy, PolicyInfo, PolicyOptions},
};

pub(super) struct Sources<'a> {
    pub bag: &'a Path,
    pub policy: &'a Policy,
    pub options: &'a PolicyOptions,
    pub urdf: Option<&'a Path>,
    /// Of every parameter that decides.
    pub parameters: &'a BTreeMap<String, String>,
    pub latency: f64,
    /// Hash of the checkpoint's tensors.
    pub weights: Digest,
}

pub(super) fn describe(sources: &Sources) -> Result<Setup, RunError> {
    let Sources { bag, policy, options, urdf, parameters, latency, weights } = sources;
    let PolicyInfo { checkpoint, geometry, backend, steps, seed, tokenizer, .. } = policy.info();
    let mut files = BTreeMap::from([("weights".to_owned(), weights.clone()), ("normalizer".to_owned(), normalizer(policy))]);
    let config = checkpoint.join("config.json");
    // openpi's conversions have no configuration.
    let paths = [
        ("config", config.is_file().then_some(config.as_path())),
        ("tokenizer", Some(tokenizer)),
        ("robot", Some(&options.robot)),
        ("urdf", *urdf),
    ];
    for (name, path) in paths {
        if let Some(path) = path {
            files.insert(name.to_owned(), file(path)?);
        }
    }
    let joint =
        |column: &crate::robot::ActionColumn| Joint { name: column.joint.clone(), kind: column.kind, gripper: column.gripper };
    Ok(Setup {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: program()?,
        machine: machine(),
        backend: backend.name.to_owned(),
        dtypes: backend.dtypes.clone(),
        bag: bag.display().to_string(),
        files,
        parameters: (*parameters).clone(),
        seed: *seed,
        steps: *steps,
        latency: *latency,
        horizon: geometry.horizon,
        action_dim: geometry.action_dim,
        period: policy.period(),
        joints: policy.commands().iter().map(joint).collect(),
        state_joints: policy.state_joints().to_vec(),
        cameras: policy.camera_slots().map(str::to_owned).collect(),
    })
}

/// Of the statistics as they are used, wherever they come from.
fn normalizer(policy: &Policy) -> Digest {
    let mut text = format!("{:?}", policy.info().family);
    for normalizer in policy.normalizers() {
        // Debug shows every bit of a number.
        text.push_str(&format!("\n{} {:?}", normalizer.mode(), normalizer.statistics()));
    }
    Digest::of([text.as_bytes()])
}

/// Hash of the program that runs.
fn program() -> Result<Digest, RunError> {
    let path = std::env::current_exe().map_err(|source| RunError::Identify { path: PathBuf::from("this program"), source })?;
    file(&path)
}

fn file(path: &Path) -> Result<Digest, RunError> {
    let refused = |source| RunError::Identify { path: path.to_owned(), source };
    let file = File::open(path).map_err(refused)?;
    // Mapping an empty file is an error.
    if file.metadata().map_err(refused)?.len() == 0 {
        return Ok(Digest::of([]));
    }
    // SAFETY: the bytes are only hashed; a file that is changed meanwhile gives some hash.
    let map = unsafe { Mmap::map(&file) }.map_err(refused)?;
    Ok(blake3::Hasher::new().update_rayon(&map).finalize().into())
}

/// Architecture, and the instruction set that the kernels choose on it.
fn machine() -> String {
    format!("{}, {}", std::env::consts::ARCH, instructions())
}

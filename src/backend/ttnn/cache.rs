//! Packed weights on disk, so that only the first start of a checkpoint packs them.
//!
//! One file for each checkpoint and plan, named by the hashes of both: matrices in the device's layout, then an index in JSON, then the
//! index's length and a magic number. A file is written beside its place and moved there when it is whole. Every matrix is hashed, so
//! that a damaged file is noticed and made again.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    pack::pack,
    runtime::RuntimeError,
    terms::TensorSpec,
    weights::{RECIPES, Recipe, recipes},
};
use crate::{backend::BackendError, checkpoint::Weights, model::Geometry, progress};

/// Ends a whole file. Its last digit is the version of the format.
const MAGIC: &[u8; 8] = b"PI0TTPK1";
/// Matrices begin at multiples of this.
const ALIGNMENT: usize = 64;

#[derive(Serialize, Deserialize)]
struct Entry {
    label: String,
    spec: TensorSpec,
    offset: usize,
    blake3: String,
}

/// All matrices of a graph, packed and mapped.
pub struct PackedWeights {
    file: Bytes,
    entries: Vec<Entry>,
}

/// Why the weights could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(
        "Cannot write the packed weights to {path}: {source}. Make room there or choose another folder with the weight cache option"
    )]
    Write { path: PathBuf, source: std::io::Error },
    #[error("The packed weights {path} were damaged while they were written: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("Neither XDG_CACHE_HOME nor HOME is set. Choose a folder with the weight cache option")]
    NoFolder,
}

/// Where packed weights go unless a folder is chosen: `$XDG_CACHE_HOME/pi0_tt`, else `~/.cache/pi0_tt`.
pub fn default_folder() -> Result<PathBuf, CacheError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(cache.ok_or(CacheError::NoFolder)?.join("pi0_tt"))
}

impl PackedWeights {
    /// The packed weights of a checkpoint from `folder`, where they are made when they are missing, of another plan, or damaged.
    pub fn open_or_pack(folder: &Path, geometry: &Geometry, weights: &Weights) -> Result<Self, BackendError> {
        let recipes = recipes(geometry);
        let path = folder.join(format!("{}-{}.weights", short(&weights.fingerprint()), short(&plan(geometry, &recipes))));
        match Self::open(&path, &recipes) {
            Ok(packed) => return Ok(packed),
            Err(reason) if path.exists() => tracing::warn!("{} is {reason}. Packing the weights again", path.display()),
            Err(_) => (),
        }
        fs::create_dir_all(folder).map_err(|source| CacheError::Write { path: folder.to_owned(), source })?;
        write(&path, &recipes, weights)?;
        Ok(Self::open(&path, &recipes).map_err(|reason| CacheError::Damaged { path, reason })?)
    }

    /// The bytes of one matrix.
    pub fn get(&self, recipe: &Recipe) -> Result<Bytes, RuntimeError> {
        let entry = self.entries.iter().find(|entry| entry.label == recipe.label && entry.spec == recipe.spec);
        let entry = entry.ok_or_else(|| RuntimeError::Weights(format!("{} is missing", recipe.label)))?;
        Ok(self.file.slice(entry.offset..entry.offset + entry.spec.bytes()))
    }

    /// A whole and undamaged file with just these matrices, else what is wrong with it.
    fn open(path: &Path, recipes: &[Recipe]) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("unreadable ({error})"))?;
        // SAFETY: the file is only ever replaced as a whole, by a rename; a program that cuts it short while it is mapped would also
        // break the checkpoint's own mapping.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| format!("unreadable ({error})"))?;
        let file = Bytes::from_owner(map);
        let entries = index(&file).ok_or("cut short")?;
        if entries.len() != recipes.len() || entries.iter().zip(recipes).any(|(e, r)| e.label != r.label || e.spec != r.spec) {
            return Err("of another plan".to_owned());
        }
        let bar = progress::bar("Checking packed weights", file.len() as u64);
        let damaged = entries.par_iter().find_any(|entry| {
            let bytes = file.get(entry.offset..entry.offset.saturating_add(entry.spec.bytes()));
            bar.inc(entry.spec.bytes() as u64);
            bytes.is_none_or(|bytes| blake3::hash(bytes).to_hex().as_str() != entry.blake3)
        });
        bar.finish_and_clear();
        match damaged {
            Some(entry) => Err(format!("damaged in {}", entry.label)),
            None => Ok(Self { file, entries }),
        }
    }
}

/// The index at the end of a file.
fn index(file: &[u8]) -> Option<Vec<Entry>> {
    let body = file.strip_suffix(MAGIC)?;
    let (body, length) = body.split_last_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let start = body.len().checked_sub(length)?;
    serde_json::from_slice(&body[start..]).ok()
}

/// Packs every matrix into `path`.
fn write(path: &Path, recipes: &[Recipe], weights: &Weights) -> Result<(), BackendError> {
    let partial = path.with_extension(format!("partial.{}", std::process::id()));
    let outcome = write_partial(&partial, path, recipes, weights);
    if outcome.is_err() {
        // What is left of it is of no use, and nothing depends on its removal.
        let _ = fs::remove_file(&partial);
    }
    outcome
}

fn write_partial(partial: &Path, path: &Path, recipes: &[Recipe], weights: &Weights) -> Result<(), BackendError> {
    let failed = |source| CacheError::Write { path: partial.to_owned(), source };
    let mut file = BufWriter::with_capacity(1 << 20, File::create(partial).map_err(failed)?);
    let bar = progress::bar("Packing weights for the card", recipes.iter().map(|recipe| recipe.spec.bytes() as u64).sum());
    let (mut entries, mut offset) = (Vec::with_capacity(recipes.len()), 0);
    for recipe in recipes {
        let packed = pack(&recipe.spec, &recipe.values(weights)?);
        let padding = packed.len().next_multiple_of(ALIGNMENT) - packed.len();
        file.write_all(&packed).and_then(|()| file.write_all(&[0; ALIGNMENT][..padding])).map_err(failed)?;
        let blake3 = blake3::hash(&packed).to_hex().to_string();
        entries.push(Entry { label: recipe.label.clone(), spec: recipe.spec, offset, blake3 });
        offset += packed.len() + padding;
        bar.inc(packed.len() as u64);
    }
    bar.finish_and_clear();
    let index = serde_json::to_vec(&entries).map_err(|error| failed(error.into()))?;
    file.write_all(&index)
        .and_then(|()| file.write_all(&(index.len() as u64).to_le_bytes()))
        .and_then(|()| file.write_all(MAGIC))
        .and_then(|()| file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all())
        .and_then(|()| fs::rename(partial, path))
        .map_err(failed)?;
    Ok(())
}

/// Hash of what is packed and how.
fn plan(geometry: &Geometry, recipes: &[Recipe]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{RECIPES} {geometry:?}\n").as_bytes());
    for recipe in recipes {
        hasher.update(format!("{} {:?}\n", recipe.label, recipe.spec).as_bytes());
    }
    hasher.finalize()
}

fn short(hash: &blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Dtype, Tensor, synthetic};

    fn packed_file(folder: &Path) -> PathBuf {
        let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn the_second_start_reads_what_the_first_one_packed() {
        let (folder, geometry) = (tempfile::tempdir().unwrap(), Geometry::small());
        let weights = synthetic::weights(&geometry, Dtype::F32, |_| ());
        let first = PackedWeights::open_or_pack(folder.path(), &geometry, &weights).unwrap();
        let path = packed_file(folder.path());
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        let second = PackedWeights::open_or_pack(folder.path(), &geometry, &weights).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
        for recipe in &recipes(&geometry) {
            let values = pack(&recipe.spec, &recipe.values(&weights).unwrap());
            assert_eq!(first.get(recipe).unwrap(), values);
            assert_eq!(second.get(recipe).unwrap(), values);
        }
    }

    #[test]
    fn a_damaged_or_cut_file_is_packed_again() {
        let (folder, geometry) = (tempfile::tempdir().unwrap(), Geometry::small());
        let weights = synthetic::weights(&geometry, Dtype::F32, |_| ());
        PackedWeights::open_or_pack(folder.path(), &geometry, &weights).unwrap();
        let path = packed_file(folder.path());
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 3] ^= 1;
        for broken in [flipped, whole[..whole.len() / 2].to_vec(), Vec::new()] {
            fs::write(&path, &broken).unwrap();
            PackedWeights::open_or_pack(folder.path(), &geometry, &weights).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn other_head_counts_are_another_plan_even_where_the_matrices_have_the_same_sizes() {
        let geometry = Geometry::small();
        let mut other = geometry;
        (other.vision.heads, other.vlm.heads) = (4, 16);
        assert_ne!(plan(&geometry, &recipes(&geometry)), plan(&other, &recipes(&geometry)));
    }

    #[test]
    fn one_changed_value_of_the_checkpoint_is_another_file() {
        let (folder, geometry) = (tempfile::tempdir().unwrap(), Geometry::small());
        let mut weights = synthetic::weights(&geometry, Dtype::F32, |_| ());
        PackedWeights::open_or_pack(folder.path(), &geometry, &weights).unwrap();
        let name = "state_proj.bias";
        let mut values = weights.get(name).unwrap().to_f32();
        values[3] += 1.0;
        let shape = weights.get(name).unwrap().shape().to_vec();
        weights.insert(name, Tensor::from_f32(shape, values));
        PackedWeights::open_or_pack(folder.path(), &geometry, &weights).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

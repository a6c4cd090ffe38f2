//! The tensors of a checkpoint folder under the names that the files give them, memory-mapped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    path::Path,
    sync::Arc,
};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::{
    Deserialize,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{CheckpointError, Dtype, Tensor, files};

/// Tensors by the names in the file.
pub(super) type RawTensors = BTreeMap<String, Tensor>;

/// Maps `model.safetensors`, or every shard that `model.safetensors.index.json` names.
pub(super) fn open_folder(dir: &Path) -> Result<RawTensors, CheckpointError> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return open(&single);
    }
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        return open_shards(&index);
    }
    if dir.join("adapter_model.safetensors").is_file() {
        return Err(CheckpointError::Adapter { path: dir.to_owned() });
    }
    // Orbax: openpi writes `<step>/params`; the folder given may be either of the two.
    for params in [dir.join("params"), dir.to_owned()] {
        if ["_METADATA", "manifest.ocdbt", "_sharding"].iter().any(|file| params.join(file).is_file()) {
            return Err(CheckpointError::Orbax { path: params });
        }
    }
    Err(CheckpointError::NoWeights { dir: dir.to_owned() })
}

/// Maps one safetensors file.
pub(super) fn open(path: &Path) -> Result<RawTensors, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(CheckpointError::EmptyFile { path: path.to_owned() });
    }
    // SAFETY: the map is read-only. A file that another process shrinks while it is mapped would end this process (SIGBUS);
    // every program that maps its weights accepts that.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(io)?);
    let unsound = |source| CheckpointError::Safetensors { path: path.to_owned(), source };
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(unsound)?;
    // read_metadata proved that 8 bytes of length and `header` bytes of JSON are there.
    let start = 8 + header;
    let keys: HeaderKeys = serde_json::from_slice(&map[8..start])
        .map_err(|source| unsound(safetensors::SafeTensorError::InvalidHeaderDeserialization(source)))?;
    if let Some(name) = keys.duplicate {
        return Err(CheckpointError::DuplicateTensor { path: path.to_owned(), name });
    }
    let mut tensors = RawTensors::new();
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::BF16 => Dtype::BF16,
            safetensors::Dtype::F16 => Dtype::F16,
            dtype => return Err(CheckpointError::ElementType { path: path.to_owned(), name, dtype }),
        };
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        let tensor = Tensor::new_mapped(dtype, info.shape.clone(), Arc::clone(&map), range)
            .ok_or_else(|| unsound(safetensors::SafeTensorError::TensorInvalidInfo))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// The Hub's index of a model in several files.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

fn open_shards(index: &Path) -> Result<RawTensors, CheckpointError> {
    let Index { weight_map } = files::read_json(index)?;
    let shards: BTreeSet<&String> = weight_map.values().collect();
    let mut tensors = RawTensors::new();
    for shard in shards {
        for (name, tensor) in open(&files::sibling(index, shard)?)? {
            if weight_map.get(&name) != Some(shard) {
                return Err(CheckpointError::NotInIndex { index: index.to_owned(), shard: shard.clone(), name });
            }
            tensors.insert(name, tensor);
        }
    }
    match weight_map.into_iter().find(|(name, _)| !tensors.contains_key(name)) {
        Some((name, shard)) => Err(CheckpointError::NotInShard { index: index.to_owned(), shard, name }),
        None => Ok(tensors),
    }
}

/// Keys of a header. JSON readers keep the last of two equal keys in silence, so they are looked at apart.
struct HeaderKeys {
    duplicate: Option<String>,
}

impl<'de> Deserialize<'de> for HeaderKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = HeaderKeys;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a safetensors header")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderKeys, A::Error> {
                let (mut seen, mut duplicate) = (BTreeSet::new(), None);
                while let Some((key, IgnoredAny)) = map.next_entry::<String, _>()? {
                    if seen.contains(&key) {
                        duplicate.get_or_insert(key);
                    } else {
                        seen.insert(key);
                    }
                }
                Ok(HeaderKeys { duplicate })
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

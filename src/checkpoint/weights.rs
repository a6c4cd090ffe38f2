//! Tensors of a checkpoint under their canonical names, memory-mapped or owned.
//!
//! Canonical names are those of openpi's PyTorch conversion without a leading `model.`, for example
//! `paligemma_with_expert.gemma_expert.model.layers.0.mlp.down_proj.weight`; [`crate::model::Geometry::tensors`] lists them.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use memmap2::{Mmap, UncheckedAdvice};

use crate::progress;

/// Number format of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    F32,
    BF16,
    F16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::F16 => "F16",
        })
    }
}

/// Where the values live.
#[derive(Clone)]
enum Storage {
    /// A range of a memory-mapped safetensors file, aligned for its dtype.
    Mapped(Arc<Mmap>, Range<usize>),
    F32(Arc<Vec<f32>>),
    BF16(Arc<Vec<bf16>>),
    F16(Arc<Vec<f16>>),
}

/// Values of a tensor in their stored format.
#[derive(Clone, Copy, Debug)]
pub enum TensorData<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
}

impl TensorData<'_> {
    /// Writes the elements from `start` on into `out`, widened to float32.
    pub fn widen_into(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::F32(values) => out.copy_from_slice(&values[range]),
            // The upper half of a float32; written out because this loop vectorises and half's, which quiets NaN, does not.
            Self::BF16(values) => {
                for (out, value) in out.iter_mut().zip(&values[range]) {
                    *out = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
            Self::F16(values) => values[range].convert_to_f32_slice(out),
        }
    }
}

/// One stored tensor, row-major. A clone shares the values.
#[derive(Clone)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    storage: Storage,
}

impl Tensor {
    /// A tensor in `range` of a mapped file. Values that are not aligned for their dtype are copied out once.
    ///
    /// `None` when the range is outside of the map or its length is not that of the shape.
    pub fn new_mapped(dtype: Dtype, shape: Vec<usize>, map: Arc<Mmap>, range: Range<usize>) -> Option<Self> {
        let bytes = map.get(range.clone())?;
        let elements = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side))?;
        if elements.checked_mul(dtype.size())? != bytes.len() {
            return None;
        }
        let storage = if bytes.as_ptr().align_offset(dtype.size()) == 0 {
            Storage::Mapped(map, range)
        } else {
            match dtype {
                Dtype::F32 => Storage::F32(Arc::new(bytemuck::pod_collect_to_vec(bytes))),
                Dtype::BF16 => Storage::BF16(Arc::new(bytemuck::pod_collect_to_vec(bytes))),
                Dtype::F16 => Storage::F16(Arc::new(bytemuck::pod_collect_to_vec(bytes))),
            }
        };
        Some(Self { dtype, shape, storage })
    }

    /// An owned float32 tensor.
    ///
    /// # Panics
    /// When `values` does not have the shape's number of elements.
    pub fn from_f32(shape: Vec<usize>, values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { dtype: Dtype::F32, shape, storage: Storage::F32(Arc::new(values)) }
    }

    /// An owned bfloat16 tensor.
    ///
    /// # Panics
    /// When `values` does not have the shape's number of elements.
    pub fn from_bf16(shape: Vec<usize>, values: Vec<bf16>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { dtype: Dtype::BF16, shape, storage: Storage::BF16(Arc::new(values)) }
    }

    /// An owned float16 tensor.
    ///
    /// # Panics
    /// When `values` does not have the shape's number of elements.
    pub fn from_f16(shape: Vec<usize>, values: Vec<f16>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self { dtype: Dtype::F16, shape, storage: Storage::F16(Arc::new(values)) }
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the stored values.
    pub fn bytes(&self) -> u64 {
        (self.len() * self.dtype.size()) as u64
    }

    pub fn data(&self) -> TensorData<'_> {
        match &self.storage {
            // new_mapped checked the range, its length and its alignment, so the casts cannot fail.
            Storage::Mapped(map, range) => match self.dtype {
                Dtype::F32 => TensorData::F32(bytemuck::cast_slice(&map[range.clone()])),
                Dtype::BF16 => TensorData::BF16(bytemuck::cast_slice(&map[range.clone()])),
                Dtype::F16 => TensorData::F16(bytemuck::cast_slice(&map[range.clone()])),
            },
            Storage::F32(values) => TensorData::F32(values),
            Storage::BF16(values) => TensorData::BF16(values),
            Storage::F16(values) => TensorData::F16(values),
        }
    }

    /// Gives the memory of values that are mapped from a file back to the system. They can still be read, from the file again.
    pub fn let_go(&self) {
        #[cfg(unix)]
        if let Storage::Mapped(map, range) = &self.storage {
            // SAFETY: the map is shared with the file and read-only, so a page that was dropped is read from the file again. An advice
            // that the system does not take changes nothing.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }

    /// All values as float32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.data().widen_into(0, &mut values);
        values
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

/// Every tensor of a model by canonical name.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    fingerprint: OnceLock<blake3::Hash>,
}

impl Weights {
    /// Adds a tensor and returns the one that had the name before.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Option<Tensor> {
        self.fingerprint.take();
        self.tensors.insert(name.into(), tensor)
    }

    /// Hash of names, shapes, formats and every value. Computed once: it reads gigabytes.
    pub fn fingerprint(&self) -> blake3::Hash {
        *self.fingerprint.get_or_init(|| {
            let bar = progress::bar("Reading the checkpoint", self.bytes());
            let mut hasher = blake3::Hasher::new();
            for (name, tensor) in self.iter() {
                hasher.update(format!("{name} {} {:?}\n", tensor.dtype(), tensor.shape()).as_bytes());
                hasher.update_rayon(match tensor.data() {
                    TensorData::F32(values) => bytemuck::cast_slice(values),
                    TensorData::BF16(values) => bytemuck::cast_slice(values),
                    TensorData::F16(values) => bytemuck::cast_slice(values),
                });
                bar.inc(tensor.bytes());
            }
            bar.finish_and_clear();
            hasher.finalize()
        })
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.fingerprint.take();
        self.tensors.remove(name)
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Names with their tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.len() as u64).sum()
    }

    /// Bytes of the stored values.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(Tensor::bytes).sum()
    }
}

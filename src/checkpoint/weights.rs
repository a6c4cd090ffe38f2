//! Tensors of a checkpoint under their canonical names, memory-mapped or owned.
//!
//! Canonical names are those of openpi's PyTorch conversion without a leading `model.`, for example
//! `paligemma_with_expert.gemma_expert.model.layers.0.mlp.down_proj.weight`.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use half::{bf16, f16};
use memmap2::Mmap;

/// Number format of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Where the values live.
#[derive(Clone, Debug)]
enum Storage {
    /// A range of a memory-mapped safetensors file.
    Mapped(Arc<Mmap>, Range<usize>),
    F32(Arc<[f32]>),
    BF16(Arc<[bf16]>),
}

/// Values of a tensor in their stored format.
#[derive(Clone, Copy, Debug)]
pub enum TensorData<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
}

/// One stored tensor, row-major. A clone shares the values.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    storage: Storage,
}

/// Every tensor of a model by canonical name.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
}

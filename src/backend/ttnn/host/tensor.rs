//! Tensors of the host runtime.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use rayon::prelude::*;

use super::Call;
use crate::backend::ttnn::{
    format,
    pack::{pack, unpack},
    runtime::RuntimeError,
    terms::{DataType, TensorSpec},
};

/// What padding holds.
const POISON: f32 = f32::NAN;

/// A handle. Clones and views share the values.
#[derive(Clone)]
pub struct HostTensor {
    pub(super) spec: TensorSpec,
    pub(super) storage: Arc<Storage>,
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(f)
    }
}

/// Where values live: `None` before they are computed, and again when a trace needs them no more.
#[derive(Default)]
pub(super) struct Storage(RwLock<Option<Arc<Values>>>);

pub(super) enum Values {
    /// As on the device: weights stay in the bytes of their cache file.
    Packed(Bytes),
    /// Row-major with padding, widened to float32.
    Rows(Vec<f32>),
}

/// A tensor's values while an op reads them.
pub(super) struct Operand {
    pub spec: TensorSpec,
    pub values: Arc<Values>,
}

impl Storage {
    // A panic elsewhere leaves the values whole: they are replaced in one assignment.
    pub fn set(&self, values: Values) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(values));
    }

    pub fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn get(&self) -> Option<Arc<Values>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl HostTensor {
    /// A tensor without values.
    pub(super) fn new(spec: TensorSpec) -> Self {
        Self { spec, storage: Arc::default() }
    }

    pub(super) fn viewed_as(self, spec: TensorSpec) -> Self {
        Self { spec, ..self }
    }

    /// Takes the values of an op's result, padded, once they are rounded to its format; their padding is poisoned.
    ///
    /// A result with fewer rows than the tensor, which is one matrix then, becomes its first rows.
    pub(super) fn assign(&self, result: &TensorSpec, mut values: Vec<f32>) -> Result<(), RuntimeError> {
        let [_, _, rows, columns] = result.shape.0;
        let padded = result.shape.padded();
        values.par_chunks_exact_mut(padded.columns()).enumerate().for_each(|(number, row)| {
            let (inside, padding) = row.split_at_mut(if number % padded.rows() < rows { columns } else { 0 });
            format::round(result.dtype, inside);
            padding.fill(POISON);
        });
        if result.shape != self.spec.shape {
            let mut all = self.operand()?.rows().into_owned();
            all[..values.len()].copy_from_slice(&values);
            values = all;
        }
        self.storage.set(Values::Rows(values));
        Ok(())
    }

    pub(super) fn operand(&self) -> Result<Operand, RuntimeError> {
        let values = self.storage.get().ok_or(RuntimeError::NotComputed { spec: self.spec })?;
        Ok(Operand { spec: self.spec, values })
    }
}

impl Values {
    pub fn packed(spec: &TensorSpec, packed: Bytes) -> Result<Self, RuntimeError> {
        if packed.len() != spec.bytes() {
            return Err(RuntimeError::Size { spec: *spec, expected: spec.bytes(), found: packed.len() });
        }
        Ok(match spec.dtype {
            DataType::Bfloat8B => Self::Packed(packed),
            DataType::Bfloat16 | DataType::Float32 => Self::Rows(padded(spec, &unpack(spec, &packed))),
        })
    }
}

impl Operand {
    /// Row-major with padding.
    pub fn rows(&self) -> Cow<'_, [f32]> {
        match &*self.values {
            Values::Packed(packed) => Cow::Owned(padded(&self.spec, &unpack(&self.spec, packed))),
            Values::Rows(rows) => Cow::Borrowed(rows),
        }
    }

    pub fn pack(&self) -> Bytes {
        match &*self.values {
            Values::Packed(packed) => packed.clone(),
            Values::Rows(rows) => pack(&self.spec, &logical(&self.spec, rows)),
        }
    }
}

/// Notes at each call which intermediate results nothing reads after it.
///
/// An intermediate result is one that the calls made and that only they hold.
pub(super) fn mark_dead(calls: &mut [Call]) {
    let mut held: HashMap<*const Storage, usize> = HashMap::new();
    for tensor in calls.iter().flat_map(Call::tensors) {
        *held.entry(Arc::as_ptr(&tensor.storage)).or_default() += 1;
    }
    let outputs = calls.iter().flat_map(|call| &call.outputs).map(|tensor| &tensor.storage);
    let mut intermediate: HashSet<*const Storage> =
        outputs.filter(|storage| Arc::strong_count(storage) == held[&Arc::as_ptr(storage)]).map(Arc::as_ptr).collect();
    for call in calls.iter_mut().rev() {
        let last = call.tensors().filter(|tensor| intermediate.remove(&Arc::as_ptr(&tensor.storage)));
        call.dead = last.map(|tensor| tensor.storage.clone()).collect();
    }
}

/// Row-major with poisoned padding.
fn padded(spec: &TensorSpec, values: &[f32]) -> Vec<f32> {
    let [_, _, rows, columns] = spec.shape.0;
    let padded = spec.shape.padded();
    let mut out = vec![POISON; padded.volume()];
    let matrices = out.chunks_exact_mut(padded.rows() * padded.columns()).zip(values.chunks_exact(rows * columns));
    for (out, values) in matrices {
        for (out, row) in out.chunks_exact_mut(padded.columns()).zip(values.chunks_exact(columns)) {
            out[..columns].copy_from_slice(row);
        }
    }
    out
}

/// Row-major without padding.
fn logical(spec: &TensorSpec, values: &[f32]) -> Vec<f32> {
    let [_, _, rows, columns] = spec.shape.0;
    let padded = spec.shape.padded();
    let matrices = values.chunks_exact(padded.rows() * padded.columns());
    let rows = matrices.flat_map(|matrix| matrix.chunks_exact(padded.columns()).take(rows));
    rows.flat_map(|row| &row[..columns]).copied().collect()
}

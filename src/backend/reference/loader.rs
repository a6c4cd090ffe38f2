//! Takes the tensors of a checkpoint and packs them for the kernels.

use indicatif::ProgressBar;

use super::linear::{Finish, Linear};
use crate::{
    backend::{
        BackendError,
        kernels::gemm::{Arrangement, Instructions, Panels},
    },
    checkpoint::{Tensor, TensorData, Weights},
    progress,
};

/// Bytes of weights from which on packing them takes so long that the log tells of it.
const LONG: u64 = 1 << 30;

/// Takes tensors out of a checkpoint, so that no weight is in memory twice for long: a tensor's values are let go when they are packed.
pub struct Loader {
    weights: Weights,
    set: Instructions,
    bar: ProgressBar,
    bytes: u64,
    taken: u64,
}

impl Loader {
    pub fn new(weights: Weights) -> Self {
        let bytes = weights.bytes();
        let bar = progress::bar("Packing weights", bytes);
        Self { weights, set: Instructions::detect(), bar, bytes, taken: 0 }
    }

    pub fn tensor(&mut self, name: &str) -> Result<Tensor, BackendError> {
        let tensor = self.weights.remove(name).ok_or_else(|| BackendError::MissingTensor(name.to_owned()))?;
        self.bar.inc(tensor.bytes());
        let quarter = |taken: u64| taken * 4 / self.bytes.max(1);
        let before = quarter(self.taken);
        self.taken += tensor.bytes();
        if self.bytes >= LONG && quarter(self.taken) > before {
            tracing::info!("Packed {:.1} of {:.1} GB of weights", self.taken as f64 / 1e9, self.bytes as f64 / 1e9);
        }
        Ok(tensor)
    }

    pub fn vector(&mut self, name: &str) -> Result<Vec<f32>, BackendError> {
        Ok(self.tensor(name)?.to_f32())
    }

    /// `name.weight` with `name.bias` where the model has one.
    pub fn linear(&mut self, name: &str) -> Result<Linear, BackendError> {
        self.stacked(&[name.to_owned()])
    }

    /// The outputs of several layers with the same input, one behind the other.
    pub fn stacked(&mut self, names: &[String]) -> Result<Linear, BackendError> {
        let mut bias = Vec::new();
        for name in names {
            let name = format!("{name}.bias");
            if self.weights.get(&name).is_some() {
                bias.extend(self.vector(&name)?);
            }
        }
        let finish = if bias.is_empty() { Finish::Nothing } else { Finish::Bias(bias) };
        let (panels, outputs) = self.panels(names, Arrangement::Stacked)?;
        Ok(Linear::new(panels, outputs.iter().sum(), finish))
    }

    /// `gelu(x W^T + b)`.
    pub fn gelu(&mut self, name: &str) -> Result<Linear, BackendError> {
        let finish = Finish::BiasGelu(self.vector(&format!("{name}.bias"))?);
        let (panels, outputs) = self.panels(&[name.to_owned()], Arrangement::Stacked)?;
        Ok(Linear::new(panels, outputs.iter().sum(), finish))
    }

    /// `gelu(x gate^T) * (x up^T)`.
    pub fn gated(&mut self, gate: String, up: String) -> Result<Linear, BackendError> {
        let (panels, outputs) = self.panels(&[gate, up], Arrangement::Alternating)?;
        Ok(Linear::new(panels, outputs[0], Finish::Gated))
    }

    /// A layer of weights `[outputs, inputs]` that were made of the checkpoint's.
    pub fn made(&self, weight: &[f32], inputs: usize, finish: Finish) -> Result<Linear, BackendError> {
        let panels = self.packed(&[TensorData::F32(weight)], inputs, Arrangement::Stacked)?;
        Ok(Linear::new(panels, weight.len() / inputs, finish))
    }

    /// The panels of some layers' weights, with the outputs of each layer.
    fn panels(&mut self, names: &[String], arrangement: Arrangement) -> Result<(Panels, Vec<usize>), BackendError> {
        let tensors: Vec<Tensor> = names.iter().map(|name| self.tensor(&format!("{name}.weight"))).collect::<Result<_, _>>()?;
        // The first side of a weight is its outputs, all others together are its inputs.
        let outputs: Vec<usize> = tensors.iter().map(|tensor| tensor.shape()[0]).collect();
        let data: Vec<TensorData<'_>> = tensors.iter().map(Tensor::data).collect();
        let panels = self.packed(&data, tensors[0].len() / outputs[0], arrangement)?;
        tensors.iter().for_each(Tensor::let_go);
        Ok((panels, outputs))
    }

    fn packed(&self, weights: &[TensorData<'_>], inputs: usize, arrangement: Arrangement) -> Result<Panels, BackendError> {
        Panels::new(self.set, weights, inputs, arrangement).map_err(BackendError::Memory)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! Every op of the graph on the CPU with the card's number formats.
//!
//! Each output is rounded to its format; arithmetic between is float32. Tensors keep their padding, and padding is NaN wherever an op
//! or an upload writes it: an op that reads beyond the logical extents gives NaN.

mod activation;
mod attention;
mod compute;
mod product;
mod tensor;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

pub use self::tensor::HostTensor;
use self::tensor::{Operand, Storage, Values};
use super::{
    op::Op,
    runtime::{DeviceInfo, Runtime, RuntimeError},
    terms::{MathFidelity, TensorSpec},
};

/// How much of the card's arithmetic is imitated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// The formats of tensors. Inside of an op everything is float32.
    #[default]
    Formats,
    /// Also what kernels lose inside: mantissa bits that the math fidelity drops from the operands of a product, and what attention
    /// and activations of an operand keep in bfloat16.
    Kernels,
}

/// Explicit mantissa bits of both operands of a product that reach the multiplier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OperandBits {
    a: u32,
    b: u32,
}

impl Numerics {
    /// Operand A goes through source B of the matrix engine, which is the narrow one: LoFi and HiFi2 use 1 + 6 of its bits. Both
    /// sources hold at most 1 + 10 bits.
    fn operand_bits(self, fidelity: MathFidelity) -> OperandBits {
        match (self, fidelity) {
            (Self::Formats, _) => OperandBits { a: 23, b: 23 },
            (Self::Kernels, MathFidelity::LoFi) => OperandBits { a: 6, b: 4 },
            (Self::Kernels, MathFidelity::HiFi2) => OperandBits { a: 6, b: 10 },
            (Self::Kernels, MathFidelity::HiFi3) => OperandBits { a: 10, b: 10 },
        }
    }
}

/// The runtime.
pub struct Host {
    device: DeviceInfo,
    numerics: Numerics,
    /// Its own threads, else rayon's.
    pool: Option<rayon::ThreadPool>,
    capture: Option<Vec<Call>>,
}

/// An op with its operands and results.
struct Call {
    op: Op,
    inputs: Vec<HostTensor>,
    outputs: Vec<HostTensor>,
    /// What nothing reads after this call.
    dead: Vec<Arc<Storage>>,
}

impl Call {
    fn tensors(&self) -> impl Iterator<Item = &HostTensor> {
        self.inputs.iter().chain(&self.outputs)
    }
}

/// A captured sequence of ops.
pub struct Trace {
    calls: Vec<Call>,
}

impl Host {
    /// `device` is the card to stand for: the graph plans for it.
    pub fn new(device: DeviceInfo, numerics: Numerics) -> Self {
        Self { device, numerics, pool: None, capture: None }
    }

    /// On threads of its own.
    pub fn on(self, pool: rayon::ThreadPool) -> Self {
        Self { pool: Some(pool), ..self }
    }

    fn compute(&self, op: &Op, inputs: &[HostTensor], outputs: &[HostTensor]) -> Result<(), RuntimeError> {
        // Some ops write into operands instead of giving outputs.
        let (read, written) = match op {
            Op::Multiply { .. } => (inputs, &inputs[..1]),
            Op::NlpCreateQkvHeads { .. } if outputs.is_empty() => inputs.split_at(1),
            _ => (inputs, outputs),
        };
        let operands: Vec<Operand> = read.iter().map(HostTensor::operand).collect::<Result<_, _>>()?;
        let results = match op {
            Op::Multiply { .. } => vec![inputs[0].spec],
            _ => op.infer(&read.iter().map(|tensor| tensor.spec).collect::<Vec<_>>())?,
        };
        let numerics = self.numerics;
        let compute = || compute::compute(op, numerics, &operands, &results);
        let values = match &self.pool {
            Some(pool) => pool.install(compute),
            None => compute(),
        };
        for (tensor, (spec, values)) in written.iter().zip(results.iter().zip(values)) {
            tensor.assign(spec, values)?;
        }
        Ok(())
    }
}

impl Runtime for Host {
    type Tensor = HostTensor;
    type Trace = Trace;

    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn spec(&self, tensor: &HostTensor) -> TensorSpec {
        tensor.spec
    }

    fn upload(
        &mut self,
        spec: TensorSpec,
        packed: &mut dyn FnMut() -> Result<Bytes, RuntimeError>,
    ) -> Result<HostTensor, RuntimeError> {
        let tensor = HostTensor::new(spec);
        self.write(&tensor, packed()?)?;
        Ok(tensor)
    }

    fn write(&mut self, tensor: &HostTensor, packed: Bytes) -> Result<(), RuntimeError> {
        tensor.storage.set(Values::packed(&tensor.spec, packed)?);
        Ok(())
    }

    fn download(&mut self, tensor: &HostTensor) -> Result<Bytes, RuntimeError> {
        Ok(tensor.operand()?.pack())
    }

    /// While a trace is captured nothing is computed: outputs have no values before the trace is replayed.
    fn run(&mut self, op: &Op, inputs: &[&HostTensor]) -> Result<Vec<HostTensor>, RuntimeError> {
        let specs: Vec<TensorSpec> = inputs.iter().map(|input| input.spec).collect();
        // The shape rules are checked here, before anything is computed.
        let specs = op.infer(&specs)?;
        let inputs: Vec<HostTensor> = inputs.iter().map(|&input| input.clone()).collect();
        if let Op::Reshape { .. } = op {
            return Ok(specs.into_iter().zip(inputs).map(|(spec, input)| input.viewed_as(spec)).collect());
        }
        let outputs: Vec<HostTensor> = specs.into_iter().map(HostTensor::new).collect();
        match &mut self.capture {
            Some(calls) => calls.push(Call { op: op.clone(), inputs, outputs: outputs.clone(), dead: Vec::new() }),
            None => self.compute(op, &inputs, &outputs)?,
        }
        Ok(outputs)
    }

    fn begin_capture(&mut self) -> Result<(), RuntimeError> {
        self.capture = Some(Vec::new());
        Ok(())
    }

    /// Tensors that someone still holds keep their values after a replay; all others are intermediate.
    fn end_capture(&mut self) -> Result<Trace, RuntimeError> {
        let mut calls = self.capture.take().unwrap_or_default();
        tensor::mark_dead(&mut calls);
        Ok(Trace { calls })
    }

    fn replay(&mut self, trace: &Trace) -> Result<(), RuntimeError> {
        for Call { op, inputs, outputs, dead } in &trace.calls {
            self.compute(op, inputs, outputs)?;
            dead.iter().for_each(|storage| storage.clear());
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), RuntimeError> {
        Ok(())
    }
}

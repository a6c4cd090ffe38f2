//! What runs the graph: the card, the CPU in the card's number formats, or nothing but shapes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    op::{Op, OpError},
    plan::PlanError,
    terms::{CoreGrid, TensorSpec},
};

/// The device a runtime stands for: what plans are made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// In words, such as `Wormhole n150` or `CPU in the card's number formats`.
    pub name: String,
    /// Worker cores (`compute_with_storage_grid_size`).
    pub grid: CoreGrid,
    /// Bytes of L1 in one core that tensors and circular buffers share (1,393,312 on Wormhole with TTNN 0.81).
    pub l1_bytes: usize,
    /// Bytes of DRAM in all banks.
    pub dram_bytes: u64,
}

impl DeviceInfo {
    /// A Wormhole card with `grid` worker cores: 12 banks of DRAM, and the L1 that its firmware leaves. As TTNN 0.81 opens an n150,
    /// which is 2 KB of L1 and 1 MB of each bank less than with 0.66.
    pub fn wormhole(grid: CoreGrid) -> Self {
        Self { name: "Wormhole".to_owned(), grid, l1_bytes: 1_393_312, dram_bytes: 12 * 1_072_693_184 }
    }
}

/// Runs ops on tensors. Tensors are handles: cheap to clone, and their memory is free when the last one is dropped.
///
/// Values cross the border packed in the device's own layout: 32 x 32 tiles of four 16 x 16 faces, padding included (see
/// [`super::format`]).
pub trait Runtime: Send {
    type Tensor: Clone + Send;
    /// A captured sequence of ops.
    type Trace: Send;

    fn device(&self) -> &DeviceInfo;

    fn spec(&self, tensor: &Self::Tensor) -> TensorSpec;

    /// A new tensor with the values of `packed`, which is not called by a runtime that holds no values.
    fn upload(
        &mut self,
        spec: TensorSpec,
        packed: &mut dyn FnMut() -> Result<Bytes, RuntimeError>,
    ) -> Result<Self::Tensor, RuntimeError>;

    /// New values for a tensor that stays where it is: the input of a captured trace.
    fn write(&mut self, tensor: &Self::Tensor, packed: Bytes) -> Result<(), RuntimeError>;

    /// The values packed as on the device. Waits for the ops before it.
    fn download(&mut self, tensor: &Self::Tensor) -> Result<Bytes, RuntimeError>;

    fn run(&mut self, op: &Op, inputs: &[&Self::Tensor]) -> Result<Vec<Self::Tensor>, RuntimeError>;

    /// From here on ops are recorded for [`Runtime::replay`]. Whether they also compute is the runtime's choice.
    fn begin_capture(&mut self) -> Result<(), RuntimeError>;

    fn end_capture(&mut self) -> Result<Self::Trace, RuntimeError>;

    /// Runs the captured ops again on the tensors they were captured with.
    fn replay(&mut self, trace: &Self::Trace) -> Result<(), RuntimeError>;

    /// Returns when everything before it is done.
    fn synchronize(&mut self) -> Result<(), RuntimeError>;

    /// Names what follows until [`Runtime::leave`], for recordings: `prefix`, `layer.3`, `mlp`.
    fn enter(&mut self, _scope: &str) {}

    fn leave(&mut self) {}
}

/// Why a runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Op(#[from] OpError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{op} gave {found} tensors and the graph expects {expected}")]
    Outputs { op: &'static str, expected: usize, found: usize },
    #[error("{expected} bytes are a tensor of {spec:?}, and {found} were given")]
    Size { spec: TensorSpec, expected: usize, found: usize },
    #[error("A tensor of {spec:?} was read before the trace that computes it ran")]
    NotComputed { spec: TensorSpec },
    #[error("Weights are needed to make a tensor's values")]
    NoValues,
    #[error("The packed weights cannot be read: {0}")]
    Weights(String),
    #[error("The card refused {what}: {reason}")]
    Device { what: String, reason: String },
    #[error("No card can be opened: {0}")]
    Open(String),
    #[error("The card does not answer: {0}")]
    Lost(String),
    #[error("{0} does not run captured traces. Send op after op instead: --no-trace, or the parameter trace: false")]
    NoTrace(&'static str),
}

/// A runtime of shapes alone: the full-size graph in milliseconds, without weights.
pub struct Shapes {
    device: DeviceInfo,
}

impl Shapes {
    pub fn new(device: DeviceInfo) -> Self {
        Self { device }
    }
}

impl Runtime for Shapes {
    type Tensor = TensorSpec;
    type Trace = ();

    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn spec(&self, tensor: &TensorSpec) -> TensorSpec {
        *tensor
    }

    fn upload(
        &mut self,
        spec: TensorSpec,
        _: &mut dyn FnMut() -> Result<Bytes, RuntimeError>,
    ) -> Result<TensorSpec, RuntimeError> {
        Ok(spec)
    }

    fn write(&mut self, tensor: &TensorSpec, packed: Bytes) -> Result<(), RuntimeError> {
        if packed.len() != tensor.bytes() {
            return Err(RuntimeError::Size { spec: *tensor, expected: tensor.bytes(), found: packed.len() });
        }
        Ok(())
    }

    /// Zeros: a tensor without values has no others.
    fn download(&mut self, tensor: &TensorSpec) -> Result<Bytes, RuntimeError> {
        Ok(Bytes::from(vec![0; tensor.bytes()]))
    }

    fn run(&mut self, op: &Op, inputs: &[&TensorSpec]) -> Result<Vec<TensorSpec>, RuntimeError> {
        let inputs: Vec<TensorSpec> = inputs.iter().map(|&&spec| spec).collect();
        Ok(op.infer(&inputs)?)
    }

    fn begin_capture(&mut self) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn end_capture(&mut self) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn replay(&mut self, (): &()) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), RuntimeError> {
        Ok(())
    }
}

//! Ops with the plan's configurations filled in.

use super::{ATTENTION, ELEMENTWISE, EPSILON, PRODUCT};
use crate::backend::{
    Probe,
    ttnn::{
        op::Op,
        pack::unpack,
        plan::{self, Product},
        runtime::{DeviceInfo, Runtime, RuntimeError},
        terms::{Activation, DataType, MemoryConfig, Shape, TensorSpec},
    },
};

const L1: MemoryConfig = MemoryConfig::L1Interleaved;
const ACTIVATION: DataType = DataType::Bfloat16;

/// A weight with its bias.
pub struct Linear<T> {
    pub weight: T,
    pub bias: Option<T>,
}

/// Runs ops; shows intermediates to a probe when there is one.
pub struct Ops<'a, R: Runtime> {
    pub runtime: &'a mut R,
    device: DeviceInfo,
    probe: Option<&'a mut (dyn Probe + Send)>,
}

impl<'a, R: Runtime> Ops<'a, R> {
    pub fn new(runtime: &'a mut R, probe: Option<&'a mut (dyn Probe + Send)>) -> Self {
        let device = runtime.device().clone();
        Self { runtime, device, probe }
    }

    /// Runs `body` with the events inside named `scope`.
    pub fn scope<T>(
        &mut self,
        scope: impl AsRef<str>,
        body: impl FnOnce(&mut Self) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        self.runtime.enter(scope.as_ref());
        let result = body(self);
        self.runtime.leave();
        result
    }

    /// Shows chosen rows of a tensor, in their order, to the probe.
    pub fn show(
        &mut self,
        name: impl FnOnce() -> String,
        tensor: &R::Tensor,
        rows: impl IntoIterator<Item = usize>,
    ) -> Result<(), RuntimeError> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        let spec = self.runtime.spec(tensor);
        let values = unpack(&spec, &self.runtime.download(tensor)?);
        let width = spec.shape.columns();
        let chosen: Vec<f32> = rows.into_iter().flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect();
        probe.tensor(&name(), width, &chosen);
        Ok(())
    }

    /// `activation(x weight + bias)`, while the tensors `beside` also lie in L1.
    pub fn linear(
        &mut self,
        x: &R::Tensor,
        linear: &Linear<R::Tensor>,
        activation: Option<Activation>,
        beside: &[&R::Tensor],
    ) -> Result<R::Tensor, RuntimeError> {
        self.linear_as(x, linear, activation, beside, ACTIVATION, L1)
    }

    /// [`Ops::linear`] with a number format and a place for the output.
    pub fn linear_as(
        &mut self,
        x: &R::Tensor,
        linear: &Linear<R::Tensor>,
        activation: Option<Activation>,
        beside: &[&R::Tensor],
        dtype: DataType,
        memory: MemoryConfig,
    ) -> Result<R::Tensor, RuntimeError> {
        let [x_spec, weight] = [x, &linear.weight].map(|tensor| self.runtime.spec(tensor));
        let bias = linear.bias.as_ref().map(|bias| self.runtime.spec(bias).dtype);
        let output = TensorSpec::new(with_columns(x_spec.shape, weight.shape.columns()), dtype, memory);
        // Where an activation was freed, none of another size may fit: one of the smaller kind is lost.
        let gap = plan::l1_share(&self.device, &x_spec).min(plan::l1_share(&self.device, &output));
        let reserved = gap + self.l1(&x_spec) + self.l1(&output) + self.beside(beside);
        let product = Product { x: x_spec, weight, dtype, bias, compute: PRODUCT, activation };
        let program = plan::matmul(&self.device, &product, reserved)?;
        let operands = [Some(x), Some(&linear.weight), linear.bias.as_ref()];
        self.one(&Op::Linear { program, dtype, memory, compute: PRODUCT }, &operands.into_iter().flatten().collect::<Vec<_>>())
    }

    /// `x weight` in two halves.
    pub fn split(&mut self, x: &R::Tensor, weight: &R::Tensor, beside: &[&R::Tensor]) -> Result<[R::Tensor; 2], RuntimeError> {
        let [x_spec, weight_spec] = [x, weight].map(|tensor| self.runtime.spec(tensor));
        let output = TensorSpec::new(with_columns(x_spec.shape, weight_spec.shape.columns()), ACTIVATION, L1);
        let reserved = self.l1(&x_spec) + self.l1(&output) + self.beside(beside);
        let product =
            Product { x: x_spec, weight: weight_spec, dtype: ACTIVATION, bias: None, compute: PRODUCT, activation: None };
        let config = plan::minimal_matmul(&self.device, &product, reserved)?;
        self.some(&Op::MinimalMatmulSplit { chunks: 2, config, dtype: ACTIVATION, memory: L1, compute: PRODUCT }, &[x, weight])
    }

    pub fn layer_norm(&mut self, x: &R::Tensor) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::LayerNorm { epsilon: EPSILON, memory: L1, compute: ELEMENTWISE }, &[x])
    }

    pub fn rms_norm(&mut self, x: &R::Tensor) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::RmsNorm { epsilon: EPSILON, memory: L1, compute: ELEMENTWISE }, &[x])
    }

    /// Attention with scores times `scale` and its heads joined, while the tensors `beside` also lie in L1.
    ///
    /// Takes queries, keys and values: they leave L1 before the heads are joined.
    pub fn attention(
        &mut self,
        [q, k, v]: [R::Tensor; 3],
        mask: Option<&R::Tensor>,
        scale: f32,
        beside: &[&R::Tensor],
    ) -> Result<R::Tensor, RuntimeError> {
        let [q_spec, k_spec, v_spec] = [&q, &k, &v].map(|tensor| self.runtime.spec(tensor));
        let output = TensorSpec { memory: L1, ..q_spec };
        let reserved: usize =
            [q_spec, k_spec, v_spec, output].iter().map(|spec| self.l1(spec)).sum::<usize>() + self.beside(beside);
        let program = plan::sdpa(&self.device, q_spec.shape, k_spec.shape, mask.is_some(), reserved)?;
        let operands: Vec<_> = [&q, &k, &v].into_iter().chain(mask).collect();
        let attended = self.one(&Op::ScaledDotProductAttention { scale, program, memory: L1, compute: ATTENTION }, &operands)?;
        drop([q, k, v]);
        self.one(&Op::NlpConcatHeads { memory: L1 }, &[&attended])
    }

    /// Queries, keys and values of a fused projection.
    pub fn heads(&mut self, x: &R::Tensor, num_heads: usize, num_kv_heads: usize) -> Result<[R::Tensor; 3], RuntimeError> {
        self.some(&Op::NlpCreateQkvHeads { num_heads, num_kv_heads, memory: L1 }, &[x])
    }

    /// [`Ops::heads`] with one key head, into tensors that exist.
    pub fn heads_into(&mut self, x: &R::Tensor, num_heads: usize, [q, k, v]: [&R::Tensor; 3]) -> Result<(), RuntimeError> {
        self.some(&Op::NlpCreateQkvHeads { num_heads, num_kv_heads: 1, memory: L1 }, &[x, q, k, v]).map(|[]| ())
    }

    pub fn rotate(&mut self, x: &R::Tensor, [cos, sin]: [&R::Tensor; 2]) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::RotaryEmbedding { memory: L1, compute: ELEMENTWISE }, &[x, cos, sin])
    }

    pub fn concat(&mut self, parts: &[&R::Tensor], memory: MemoryConfig) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::Concat { memory }, parts)
    }

    pub fn add(&mut self, a: &R::Tensor, b: &R::Tensor) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::Add { dtype: ACTIVATION, memory: L1 }, &[a, b])
    }

    /// In DRAM: the actions outlive the chunk, and a tensor that stays behind in L1 splits the room of the next one's.
    pub fn add_f32(&mut self, a: &R::Tensor, b: &R::Tensor) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::Add { dtype: DataType::Float32, memory: MemoryConfig::DramInterleaved }, &[a, b])
    }

    /// `a + b c`, all of them float32. In DRAM as [`Ops::add_f32`].
    pub fn addcmul_f32(&mut self, a: &R::Tensor, b: &R::Tensor, c: &R::Tensor) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::Addcmul { memory: MemoryConfig::DramInterleaved }, &[a, b, c])
    }

    /// `a` becomes `activation(a) b`: the hidden activations of an MLP need no third place in L1.
    pub fn multiply(&mut self, a: &R::Tensor, b: &R::Tensor, lhs_activation: Option<Activation>) -> Result<(), RuntimeError> {
        self.some(&Op::Multiply { lhs_activation }, &[a, b]).map(|[]| ())
    }

    pub fn choose(&mut self, condition: &R::Tensor, a: &R::Tensor, b: &R::Tensor) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::Where { memory: L1 }, &[condition, a, b])
    }

    /// The same values under another shape.
    pub fn view(&mut self, x: &R::Tensor, shape: Shape) -> Result<R::Tensor, RuntimeError> {
        self.one(&Op::Reshape { shape }, &[x])
    }

    pub fn spec(&self, x: &R::Tensor) -> TensorSpec {
        self.runtime.spec(x)
    }

    /// Bytes of each core's L1 that remain beside tensors of `specs`.
    pub fn fits_l1(&self, specs: &[TensorSpec], buffers: usize) -> bool {
        specs.iter().map(|spec| self.l1(spec)).sum::<usize>() + buffers <= self.device.l1_bytes
    }

    fn one(&mut self, op: &Op, inputs: &[&R::Tensor]) -> Result<R::Tensor, RuntimeError> {
        self.some(op, inputs).map(|[output]| output)
    }

    fn some<const N: usize>(&mut self, op: &Op, inputs: &[&R::Tensor]) -> Result<[R::Tensor; N], RuntimeError> {
        let outputs = self.runtime.run(op, inputs)?;
        let found = outputs.len();
        outputs.try_into().map_err(|_| RuntimeError::Outputs { op: op.name(), expected: N, found })
    }

    /// Bytes of L1 on the fullest core, none for a tensor in DRAM.
    fn l1(&self, spec: &TensorSpec) -> usize {
        if spec.memory == L1 { plan::l1_share(&self.device, spec) } else { 0 }
    }

    fn beside(&self, tensors: &[&R::Tensor]) -> usize {
        tensors.iter().map(|tensor| self.l1(&self.runtime.spec(tensor))).sum()
    }
}

fn with_columns(shape: Shape, columns: usize) -> Shape {
    let [a, b, rows, _] = shape.0;
    Shape([a, b, rows, columns])
}

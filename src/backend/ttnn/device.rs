//! The card, through TTNN.

use std::{
    env,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use cxx::UniquePtr;

use super::{
    card::Target,
    op::Op,
    runtime::{DeviceInfo, Runtime, RuntimeError},
    shim::{self, Operand},
    terms::{
        Activation, ComputeKernelConfig, CoreGrid, DataType, MathFidelity, MatmulProgramConfig, MemoryConfig,
        MinimalMatmulConfig, Multicast, SdpaProgramConfig, Shape, TensorSpec,
    },
};

/// TTNN's version and the folder of its kernels, as found when this was built.
const TTNN_VERSION: &str = env!("PI0_TT_TTNN_VERSION");
const RUNTIME_ROOT: &str = env!("PI0_TT_TTNN_RUNTIME_ROOT");

/// No op of the graph keeps anything in `L1_SMALL`.
const L1_SMALL_BYTES: usize = 0;

/// What a card is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// TTNN's number of the card among the visible ones.
    pub id: u32,
    /// DRAM in each bank that captured traces share. A trace takes about 5 kB a launch over all banks.
    pub trace_region_bytes: usize,
}

/// Bytes of one kind of memory over all banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    pub total: u64,
    pub allocated: u64,
}

/// An open card. It is closed when this and everything made with it is dropped.
pub struct Device {
    card: Arc<Card>,
    info: DeviceInfo,
    target: Target,
    /// The trace that is being captured.
    capture: Option<DeviceTrace>,
}

/// The open card behind a [`Device`], its tensors and its traces.
struct Card {
    /// Every call into TTNN holds this lock, also those that free memory.
    device: Mutex<UniquePtr<shim::Device>>,
    /// The card stopped answering: nothing more is asked of it.
    lost: AtomicBool,
    _claim: Claim,
}

/// The right to have a card open in this process: TTNN aborts the process when a card is opened a second time.
struct Claim;

static CLAIMED: AtomicBool = AtomicBool::new(false);

impl Claim {
    fn new() -> Result<Self, RuntimeError> {
        if CLAIMED.swap(true, Ordering::AcqRel) {
            return Err(RuntimeError::Open("a card is already open in this process".to_string()));
        }
        Ok(Self)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.store(false, Ordering::Release);
    }
}

impl Device {
    /// Opens a card, or the mock or simulator that the environment names.
    ///
    /// After an error the process can go on, and try again.
    pub fn open(options: DeviceOptions) -> Result<Self, RuntimeError> {
        let claim = Claim::new()?;
        let target = Target::from_environment();
        target.check()?;
        let root = env::var("TT_METAL_RUNTIME_ROOT").unwrap_or_else(|_| RUNTIME_ROOT.to_string());
        if !Path::new(&root).join("tt_metal").is_dir() {
            return Err(RuntimeError::Open(format!(
                "{root} has no folder tt_metal. Set TT_METAL_RUNTIME_ROOT to where TTNN {TTNN_VERSION} keeps its kernels"
            )));
        }
        let open_error = |error: cxx::Exception| RuntimeError::Open(message(error.what()));
        // Of this user: another one's folder could not be written to.
        let user = std::fs::metadata("/proc/self").map_or(0, |process| process.uid());
        let logs = env::temp_dir().join(format!("pi0_tt-{user}"));
        let device = shim::open_device(&root, &logs.to_string_lossy(), options.id, L1_SMALL_BYTES, options.trace_region_bytes)
            .map_err(open_error)?;
        let card = Card { device: Mutex::new(device), lost: AtomicBool::new(false), _claim: claim };
        let info = card.info(target).map_err(open_error)?;
        Ok(Self { card: Arc::new(card), info, target, capture: None })
    }

    /// What of a memory is taken.
    pub fn memory_use(&self, memory: MemoryConfig) -> Result<MemoryUse, RuntimeError> {
        let used = self.call("memory use", |device| device.memory_use(memory.into()))?;
        Ok(MemoryUse { total: used.total, allocated: used.allocated })
    }

    /// A call into TTNN under the card's lock.
    fn call<T>(&self, what: &str, call: impl FnOnce(&shim::Device) -> Result<T, cxx::Exception>) -> Result<T, RuntimeError> {
        self.card.call(what, call)
    }

    fn tensor(&self, tensor: UniquePtr<shim::Tensor>, spec: TensorSpec) -> DeviceTensor {
        DeviceTensor { handle: Arc::new(Handle { tensor, card: self.card.clone() }), spec }
    }

    fn launch(&self, op: &Op, inputs: &[&DeviceTensor], outputs: &[TensorSpec]) -> Result<Vec<DeviceTensor>, RuntimeError> {
        let tensors = self.call(op.name(), |_| {
            let inputs: Vec<&shim::Tensor> = inputs.iter().map(|input| input.handle.native()).collect();
            let tensors = launch(op, &inputs)?;
            tensors.into_iter().map(|tensor| Ok((tensor.spec()?, tensor))).collect::<Result<Vec<_>, cxx::Exception>>()
        })?;
        // Wrapped before anything can return: their memory is to be freed under the lock.
        let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| TensorSpec::from(spec)).collect();
        let tensors: Vec<DeviceTensor> =
            tensors.into_iter().zip(&specs).map(|((_, tensor), &spec)| self.tensor(tensor, spec)).collect();
        if specs != outputs {
            let reason = format!("it gave {specs:?} where {outputs:?} was expected");
            return Err(RuntimeError::Device { what: op.name().to_string(), reason });
        }
        Ok(tensors)
    }

    /// Ends a capture that an error interrupted: nothing else may run on the card before.
    fn abandon_capture(&mut self) {
        if let Some(capture) = self.capture.take()
            && let Err(error) = self.call("an interrupted capture", |device| shim::end_trace(device, capture.id))
        {
            tracing::warn!("{error}");
        }
    }
}

impl Runtime for Device {
    type Tensor = DeviceTensor;
    type Trace = DeviceTrace;

    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn spec(&self, tensor: &DeviceTensor) -> TensorSpec {
        tensor.spec
    }

    fn upload(
        &mut self,
        spec: TensorSpec,
        packed: &mut dyn FnMut() -> Result<Bytes, RuntimeError>,
    ) -> Result<DeviceTensor, RuntimeError> {
        let packed = packed()?;
        check_size(spec, &packed)?;
        let tensor = self.call("an upload", |device| shim::upload(device, (&spec).into(), &packed))?;
        Ok(self.tensor(tensor, spec))
    }

    fn write(&mut self, tensor: &DeviceTensor, packed: Bytes) -> Result<(), RuntimeError> {
        check_size(tensor.spec, &packed)?;
        self.call("a write", |device| shim::write(device, tensor.handle.native(), &packed))
    }

    fn download(&mut self, tensor: &DeviceTensor) -> Result<Bytes, RuntimeError> {
        let mut packed = vec![0; tensor.spec.bytes()];
        self.call("a download", |device| shim::download(device, tensor.handle.native(), &mut packed))?;
        Ok(packed.into())
    }

    fn run(&mut self, op: &Op, inputs: &[&DeviceTensor]) -> Result<Vec<DeviceTensor>, RuntimeError> {
        let specs: Vec<TensorSpec> = inputs.iter().map(|input| input.spec).collect();
        let outputs = op.infer(&specs).map_err(RuntimeError::from);
        let result = outputs.and_then(|outputs| self.launch(op, inputs, &outputs));
        match (&result, &mut self.capture) {
            (Ok(outputs), Some(capture)) => capture.hold(outputs),
            (Ok(_), None) => {}
            (Err(_), _) => self.abandon_capture(),
        }
        result
    }

    fn begin_capture(&mut self) -> Result<(), RuntimeError> {
        self.abandon_capture();
        let id = self.call("a capture", shim::begin_trace)?;
        self.capture = Some(DeviceTrace { id, held: Vec::new(), card: self.card.clone() });
        Ok(())
    }

    fn end_capture(&mut self) -> Result<DeviceTrace, RuntimeError> {
        let Some(trace) = self.capture.take() else {
            let reason = "no capture is under way: it has failed before or never began".to_string();
            return Err(RuntimeError::Device { what: "the end of a capture".to_string(), reason });
        };
        self.call("a capture", |device| shim::end_trace(device, trace.id))?;
        Ok(trace)
    }

    fn replay(&mut self, trace: &DeviceTrace) -> Result<(), RuntimeError> {
        if self.target == Target::Mock {
            return Err(RuntimeError::NoTrace("The mock device"));
        }
        self.call("a trace", |device| shim::replay_trace(device, trace.id))
    }

    fn synchronize(&mut self) -> Result<(), RuntimeError> {
        self.call("synchronization", |device| device.synchronize())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.abandon_capture();
    }
}

impl Card {
    fn lock(&self) -> MutexGuard<'_, UniquePtr<shim::Device>> {
        // A panic under the lock leaves TTNN in no worse state than an error of TTNN.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, what: &str, call: impl FnOnce(&shim::Device) -> Result<T, cxx::Exception>) -> Result<T, RuntimeError> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(RuntimeError::Lost("it did not answer before. Reset it (tt-smi -r) and start again".to_string()));
        }
        call(&self.lock()).map_err(|error| {
            if is_lost(error.what()) {
                self.lost.store(true, Ordering::Relaxed);
                return RuntimeError::Lost(message(error.what()));
            }
            RuntimeError::Device { what: what.to_string(), reason: message(error.what()) }
        })
    }

    fn info(&self, target: Target) -> Result<DeviceInfo, cxx::Exception> {
        let device = self.lock();
        let grid = device.grid()?;
        let architecture = device.architecture()?;
        let suffix = match target {
            Target::Card => "",
            Target::Mock => ", mock",
            Target::Simulator => ", simulated",
        };
        Ok(DeviceInfo {
            name: format!("{architecture}, {} x {} cores, TTNN {TTNN_VERSION}{suffix}", grid.x, grid.y),
            grid: CoreGrid { x: grid.x, y: grid.y },
            l1_bytes: device.l1_bytes()?,
            dram_bytes: device.memory_use(shim::Memory::DramInterleaved)?.total,
        })
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if self.lost.load(Ordering::Relaxed) {
            // TTNN's destructors wait for the card, and end the process when it does not answer.
            std::mem::forget(std::mem::replace(&mut *self.lock(), UniquePtr::null()));
            tracing::error!("The card does not answer and is left open. Reset it (tt-smi -r) before the next start");
            return;
        }
        if let Err(error) = self.lock().pin_mut().close() {
            tracing::warn!("The card did not close: {}", message(error.what()));
        }
    }
}

/// A tensor on the card.
#[derive(Clone)]
pub struct DeviceTensor {
    handle: Arc<Handle>,
    spec: TensorSpec,
}

struct Handle {
    tensor: UniquePtr<shim::Tensor>,
    card: Arc<Card>,
}

// SAFETY: the tensor is reached through `native` alone, which is called under the card's lock, and dropped under it too.
unsafe impl Sync for Handle {}

impl Handle {
    fn native(&self) -> &shim::Tensor {
        &self.tensor
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _device = self.card.lock();
        self.tensor = UniquePtr::null();
    }
}

/// A captured trace on the card. Its memory is free when it is dropped.
pub struct DeviceTrace {
    id: u32,
    /// What the trace writes in DRAM. A replay writes to the same addresses, where nothing that is made in the meantime may lie, be
    /// it a tensor or the kernels of another program. (In L1 only tensors lie, and none of those outlives the next replay.)
    held: Vec<DeviceTensor>,
    card: Arc<Card>,
}

impl DeviceTrace {
    fn hold(&mut self, outputs: &[DeviceTensor]) {
        self.held.extend(outputs.iter().filter(|output| output.spec.memory == MemoryConfig::DramInterleaved).cloned());
    }
}

impl Drop for DeviceTrace {
    fn drop(&mut self) {
        if let Err(error) = self.card.call("the release of a trace", |device| shim::release_trace(device, self.id)) {
            tracing::warn!("{error}");
        }
    }
}

fn check_size(spec: TensorSpec, packed: &Bytes) -> Result<(), RuntimeError> {
    let expected = spec.bytes();
    if packed.len() == expected { Ok(()) } else { Err(RuntimeError::Size { spec, expected, found: packed.len() }) }
}

/// TTNN's own words in an exception, without the failed condition and the backtrace.
fn message(what: &str) -> String {
    let text = what.split("\nbacktrace:").next().unwrap_or(what);
    let text = text.split_once("info:").map_or(text, |(_, info)| info);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// TTNN's ways to say that the card is gone: waits that timed out, and reads of nothing but ones from the bus.
fn is_lost(what: &str) -> bool {
    ["device timeout", "waiting for physical cores to finish", "Read 0xffffffff from PCIE"].iter().any(|sign| what.contains(sign))
}

fn launch(op: &Op, inputs: &[&shim::Tensor]) -> Result<Vec<UniquePtr<shim::Tensor>>, cxx::Exception> {
    let all = |outputs: Vec<shim::Output>| outputs.into_iter().map(|output| output.tensor).collect();
    let optional = |index: usize| inputs.get(index).map(|tensor| Operand { tensor });
    // `Op::infer` has checked the number of operands of each op.
    let output = match *op {
        Op::Linear { ref program, dtype, memory, compute } => {
            let bias: Vec<Operand> = optional(2).into_iter().collect();
            shim::linear(inputs[0], inputs[1], &bias, &program.into(), dtype.into(), memory.into(), &compute.into())
        }
        Op::MinimalMatmulSplit { chunks, ref config, dtype, memory, compute } => {
            let (x, weight) = (inputs[0], inputs[1]);
            let chunks = chunks as i32;
            return shim::minimal_matmul_split(x, weight, chunks, &config.into(), dtype.into(), memory.into(), &compute.into())
                .map(all);
        }
        Op::LayerNorm { epsilon, memory, compute } => shim::layer_norm(inputs[0], epsilon, memory.into(), &compute.into()),
        Op::RmsNorm { epsilon, memory, compute } => shim::rms_norm(inputs[0], epsilon, memory.into(), &compute.into()),
        Op::ScaledDotProductAttention { scale, ref program, memory, compute } => {
            let mask: Vec<Operand> = optional(3).into_iter().collect();
            let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
            shim::scaled_dot_product_attention(q, k, v, &mask, scale, &program.into(), memory.into(), &compute.into())
        }
        Op::NlpCreateQkvHeads { num_heads, num_kv_heads, memory } => {
            let outputs: Vec<Operand> = inputs[1..].iter().map(|tensor| Operand { tensor }).collect();
            let (heads, kv_heads) = (num_heads as u32, num_kv_heads as u32);
            return shim::nlp_create_qkv_heads(inputs[0], heads, kv_heads, &outputs, memory.into()).map(all);
        }
        Op::NlpConcatHeads { memory } => shim::nlp_concat_heads(inputs[0], memory.into()),
        Op::RotaryEmbedding { memory, compute } => {
            shim::rotary_embedding(inputs[0], inputs[1], inputs[2], memory.into(), &compute.into())
        }
        Op::Concat { memory } => {
            let rows: Vec<Operand> = inputs.iter().map(|tensor| Operand { tensor }).collect();
            shim::concat_rows(&rows, memory.into())
        }
        Op::Add { dtype, memory } => shim::add(inputs[0], inputs[1], dtype.into(), memory.into()),
        Op::Addcmul { memory } => shim::addcmul(inputs[0], inputs[1], inputs[2], memory.into()),
        Op::Multiply { lhs_activation } => {
            return shim::multiply_in_place(inputs[0], inputs[1], activation(lhs_activation)).map(|()| Vec::new());
        }
        Op::Where { memory } => shim::select(inputs[0], inputs[1], inputs[2], memory.into()),
        Op::Reshape { shape } => shim::reshape(inputs[0], extents(shape), extents(shape.padded())),
    };
    Ok(vec![output?])
}

/// Extents as TTNN counts them. No tensor of the graph comes near 2^32.
fn extents(shape: Shape) -> [u32; 4] {
    shape.0.map(|extent| extent as u32)
}

fn activation(activation: Option<Activation>) -> shim::Activation {
    match activation {
        None => shim::Activation::None,
        Some(Activation::Gelu) => shim::Activation::Gelu,
        Some(Activation::Silu) => shim::Activation::Silu,
    }
}

impl From<DataType> for shim::DataType {
    fn from(dtype: DataType) -> Self {
        match dtype {
            DataType::Float32 => Self::Float32,
            DataType::Bfloat16 => Self::Bfloat16,
            DataType::Bfloat8B => Self::Bfloat8B,
        }
    }
}

impl From<MemoryConfig> for shim::Memory {
    fn from(memory: MemoryConfig) -> Self {
        match memory {
            MemoryConfig::DramInterleaved => Self::DramInterleaved,
            MemoryConfig::L1Interleaved => Self::L1Interleaved,
        }
    }
}

impl From<&TensorSpec> for shim::Spec {
    fn from(spec: &TensorSpec) -> Self {
        Self { shape: extents(spec.shape), dtype: spec.dtype.into(), memory: spec.memory.into() }
    }
}

impl From<&shim::Spec> for TensorSpec {
    fn from(spec: &shim::Spec) -> Self {
        let dtype = match spec.dtype {
            shim::DataType::Float32 => DataType::Float32,
            shim::DataType::Bfloat8B => DataType::Bfloat8B,
            _ => DataType::Bfloat16,
        };
        let memory = match spec.memory {
            shim::Memory::L1Interleaved => MemoryConfig::L1Interleaved,
            _ => MemoryConfig::DramInterleaved,
        };
        Self::new(Shape(spec.shape.map(|extent| extent as usize)), dtype, memory)
    }
}

impl From<CoreGrid> for shim::Grid {
    fn from(grid: CoreGrid) -> Self {
        Self { x: grid.x, y: grid.y }
    }
}

impl From<ComputeKernelConfig> for shim::Compute {
    fn from(compute: ComputeKernelConfig) -> Self {
        let math_fidelity = match compute.math_fidelity {
            MathFidelity::LoFi => shim::MathFidelity::LoFi,
            MathFidelity::HiFi2 => shim::MathFidelity::HiFi2,
            MathFidelity::HiFi3 => shim::MathFidelity::HiFi3,
        };
        Self {
            math_fidelity,
            math_approx_mode: compute.math_approx_mode,
            fp32_dest_acc_en: compute.fp32_dest_acc_en,
            packer_l1_acc: compute.packer_l1_acc,
        }
    }
}

impl From<&MatmulProgramConfig> for shim::MatmulProgram {
    fn from(program: &MatmulProgramConfig) -> Self {
        let multicast = match program.multicast {
            Multicast::OneD => shim::Multicast::OneD,
            Multicast::TwoD => shim::Multicast::TwoD,
            Multicast::TwoDTransposed => shim::Multicast::TwoDTransposed,
        };
        Self {
            multicast,
            grid: program.grid.into(),
            in0_block_w: program.in0_block_w,
            out_subblock_h: program.out_subblock_h,
            out_subblock_w: program.out_subblock_w,
            out_block_h: program.out_block_h,
            out_block_w: program.out_block_w,
            per_core_m: program.per_core_m,
            per_core_n: program.per_core_n,
            fused_activation: activation(program.fused_activation),
        }
    }
}

impl From<&MinimalMatmulConfig> for shim::MinimalMatmul {
    fn from(config: &MinimalMatmulConfig) -> Self {
        Self {
            m_block_size: config.m_block_size as u32,
            k_block_size: config.k_block_size as u32,
            n_block_size: config.n_block_size as u32,
            subblock_h: config.subblock_h as u32,
            subblock_w: config.subblock_w as u32,
            grid: config.grid.into(),
        }
    }
}

impl From<&SdpaProgramConfig> for shim::SdpaProgram {
    fn from(program: &SdpaProgramConfig) -> Self {
        Self {
            grid: program.grid.into(),
            q_chunk_size: program.q_chunk_size,
            k_chunk_size: program.k_chunk_size,
            exp_approx_mode: program.exp_approx_mode,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_card_that_stopped_answering_is_lost() {
        // As v0.66.0 and v0.67.0 write them.
        for lost in [
            "TT_THROW @ system_memory_manager.cpp:630: tt::exception\ninfo:\nTIMEOUT: device timeout, potential hang detected, the device \
             is unrecoverable",
            "TIMEOUT: device timeout in fetch queue wait, potential hang detected",
            "Device 0: Timeout (5000 ms) waiting for physical cores to finish: (x=1,y=1).",
            "Read 0xffffffff from PCIE: you should reset the board.",
        ] {
            assert!(is_lost(lost), "{lost}");
        }
        assert!(!is_lost("Out of Memory: Not enough space to allocate 1073741824 B DRAM buffer across 12 banks"));
    }

    #[test]
    fn what_ttnn_says_is_kept_without_its_condition_and_backtrace() {
        let what = "TT_FATAL @ /tree/matmul.cpp:123: a == b\ninfo:\nMismatch: width=1024\n  height=512\nbacktrace:\n --- main";
        assert_eq!(message(what), "Mismatch: width=1024 height=512");
        assert_eq!(
            message("Read 0xffffffff from PCIE: you should reset the board."),
            "Read 0xffffffff from PCIE: you should reset the board."
        );
    }
}

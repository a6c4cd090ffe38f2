//! The C++ side of `device`: one function for each call into TTNN (shim.h, shim.cc). Every C++ exception is an `Err` with TTNN's text.
//!
//! The structs repeat `terms` because a bridge can only share what it declares itself; `device` converts them.

pub(super) use ffi::*;

#[allow(clippy::too_many_arguments, reason = "functions take what TTNN's take")]
#[cxx::bridge(namespace = "pi0_tt")]
mod ffi {
    #[derive(Debug)]
    enum DataType {
        Float32,
        Bfloat16,
        Bfloat8B,
    }

    #[derive(Debug)]
    enum Memory {
        DramInterleaved,
        L1Interleaved,
    }

    enum MathFidelity {
        LoFi,
        HiFi2,
        HiFi3,
    }

    enum Activation {
        None,
        Gelu,
        Silu,
    }

    enum Multicast {
        OneD,
        TwoD,
        TwoDTransposed,
    }

    struct Grid {
        x: usize,
        y: usize,
    }

    /// A tensor in tiles of 32 x 32.
    #[derive(Debug)]
    struct Spec {
        shape: [u32; 4],
        dtype: DataType,
        memory: Memory,
    }

    struct Compute {
        math_fidelity: MathFidelity,
        math_approx_mode: bool,
        fp32_dest_acc_en: bool,
        packer_l1_acc: bool,
    }

    struct MatmulProgram {
        multicast: Multicast,
        grid: Grid,
        in0_block_w: usize,
        out_subblock_h: usize,
        out_subblock_w: usize,
        out_block_h: usize,
        out_block_w: usize,
        per_core_m: usize,
        per_core_n: usize,
        fused_activation: Activation,
    }

    struct MinimalMatmul {
        m_block_size: u32,
        k_block_size: u32,
        n_block_size: u32,
        subblock_h: u32,
        subblock_w: u32,
        grid: Grid,
    }

    struct SdpaProgram {
        grid: Grid,
        q_chunk_size: usize,
        k_chunk_size: usize,
        exp_approx_mode: bool,
    }

    /// Bytes of one kind of memory over all banks.
    #[derive(Clone, Copy, Debug)]
    struct MemoryUse {
        total: u64,
        allocated: u64,
    }

    /// An operand in a list. A list of none or one stands for an operand that may be left out.
    struct Operand<'a> {
        tensor: &'a Tensor,
    }

    /// One of several outputs.
    struct Output {
        tensor: UniquePtr<Tensor>,
    }

    unsafe extern "C++" {
        include!("pi0_tt/src/backend/ttnn/shim.h");

        /// An open card.
        type Device;
        /// A handle on device memory, which is free when the last handle is gone.
        type Tensor;

        /// `runtime_root` is where TTNN's kernels lie, `logs` where it writes its own logs. Only the first call of a process sets them.
        fn open_device(
            runtime_root: &str,
            logs: &str,
            id: u32,
            l1_small_bytes: usize,
            trace_bytes: usize,
        ) -> Result<UniquePtr<Device>>;
        fn grid(self: &Device) -> Result<Grid>;
        fn architecture(self: &Device) -> Result<String>;
        fn l1_bytes(self: &Device) -> Result<usize>;
        fn memory_use(self: &Device, memory: Memory) -> Result<MemoryUse>;
        fn synchronize(self: &Device) -> Result<()>;
        /// Tensors must be gone. Dropping an open device closes it too, but cannot tell of a failure.
        fn close(self: Pin<&mut Device>) -> Result<()>;

        /// Fails when the tensor is anything but rank 4 in interleaved tiles with no more padding than they need.
        fn spec(self: &Tensor) -> Result<Spec>;
        fn upload(device: &Device, spec: Spec, packed: &[u8]) -> Result<UniquePtr<Tensor>>;
        fn write(device: &Device, tensor: &Tensor, packed: &[u8]) -> Result<()>;
        fn download(device: &Device, tensor: &Tensor, packed: &mut [u8]) -> Result<()>;

        fn begin_trace(device: &Device) -> Result<u32>;
        fn end_trace(device: &Device, trace: u32) -> Result<()>;
        fn replay_trace(device: &Device, trace: u32) -> Result<()>;
        fn release_trace(device: &Device, trace: u32) -> Result<()>;

        fn linear(
            x: &Tensor,
            weight: &Tensor,
            bias: &[Operand],
            program: &MatmulProgram,
            dtype: DataType,
            memory: Memory,
            compute: &Compute,
        ) -> Result<UniquePtr<Tensor>>;
        fn minimal_matmul_split(
            x: &Tensor,
            weight: &Tensor,
            chunks: i32,
            config: &MinimalMatmul,
            dtype: DataType,
            memory: Memory,
            compute: &Compute,
        ) -> Result<Vec<Output>>;
        fn layer_norm(x: &Tensor, epsilon: f32, memory: Memory, compute: &Compute) -> Result<UniquePtr<Tensor>>;
        fn rms_norm(x: &Tensor, epsilon: f32, memory: Memory, compute: &Compute) -> Result<UniquePtr<Tensor>>;
        fn scaled_dot_product_attention(
            q: &Tensor,
            k: &Tensor,
            v: &Tensor,
            mask: &[Operand],
            scale: f32,
            program: &SdpaProgram,
            memory: Memory,
            compute: &Compute,
        ) -> Result<UniquePtr<Tensor>>;
        /// Into the tensors of `outputs` where there are three, and then without any of its own.
        fn nlp_create_qkv_heads(
            x: &Tensor,
            num_heads: u32,
            num_kv_heads: u32,
            outputs: &[Operand],
            memory: Memory,
        ) -> Result<Vec<Output>>;
        fn nlp_concat_heads(x: &Tensor, memory: Memory) -> Result<UniquePtr<Tensor>>;
        fn rotary_embedding(
            x: &Tensor,
            cos: &Tensor,
            sin: &Tensor,
            memory: Memory,
            compute: &Compute,
        ) -> Result<UniquePtr<Tensor>>;
        fn concat_rows(inputs: &[Operand], memory: Memory) -> Result<UniquePtr<Tensor>>;
        fn add(a: &Tensor, b: &Tensor, dtype: DataType, memory: Memory) -> Result<UniquePtr<Tensor>>;
        /// `a + b c`
        fn addcmul(a: &Tensor, b: &Tensor, c: &Tensor, memory: Memory) -> Result<UniquePtr<Tensor>>;
        /// `a` becomes `activation(a) b`.
        fn multiply_in_place(a: &Tensor, b: &Tensor, lhs_activation: Activation) -> Result<()>;
        fn select(condition: &Tensor, a: &Tensor, b: &Tensor, memory: Memory) -> Result<UniquePtr<Tensor>>;
        fn reshape(x: &Tensor, shape: [u32; 4], padded: [u32; 4]) -> Result<UniquePtr<Tensor>>;
    }
}

// SAFETY: neither type is bound to the thread that made it (TTNN's only thread-local state is the command queue number, which is always
// 0 here). Concurrent use is another matter: `device` makes every call, drops included, under the card's lock.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Send for Tensor {}

//! `backend::ttnn::device` on TTNN itself, with a mock card that checks and allocates everything and computes nothing.
//! Run by `make test-ttnn`, which sets TT_METAL_MOCK_CLUSTER_DESC_PATH.

use std::{
    env,
    ffi::c_void,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use pi0_tt::{
    backend::{
        Backend,
        ttnn::{
            Dispatch, Resident, TRACE_REGION_BYTES,
            device::{Device, DeviceOptions, DeviceTensor, DeviceTrace},
            op::Op,
            runtime::{DeviceInfo, Runtime, RuntimeError},
            terms::{
                Activation, ComputeKernelConfig, CoreGrid, DataType, MathFidelity, MatmulProgramConfig, MemoryConfig,
                MinimalMatmulConfig, Multicast, SdpaProgramConfig, Shape, TensorSpec,
            },
        },
    },
    model::{Camera, DenoiseRequest, Geometry, Guidance, ModelInputs, Prompt},
};

use DataType::{Bfloat8B, Bfloat16, Float32};
use MemoryConfig::{DramInterleaved as DRAM, L1Interleaved as L1};

const MOCK: &str = "TT_METAL_MOCK_CLUSTER_DESC_PATH";
const GRID: CoreGrid = CoreGrid { x: 8, y: 8 };
const COMPUTE: ComputeKernelConfig = ComputeKernelConfig {
    math_fidelity: MathFidelity::HiFi2,
    math_approx_mode: false,
    fp32_dest_acc_en: false,
    packer_l1_acc: true,
};
const OPTIONS: DeviceOptions = DeviceOptions { id: 0, trace_region_bytes: TRACE_REGION_BYTES };

/// The mock card, which one test at a time may have.
struct Mock {
    device: Device,
    _alone: MutexGuard<'static, ()>,
}

impl Mock {
    fn open() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(env::var_os(MOCK).is_some(), "{MOCK} is not set: run this through make test-ttnn");
        let device = Device::open(OPTIONS).unwrap();
        if !device.device().name.contains("TTNN 0.66") {
            prepare_kernels();
        }
        Self { device, _alone: alone }
    }

    fn zeros(&mut self, spec: TensorSpec) -> DeviceTensor {
        self.device.upload(spec, &mut || Ok(Bytes::from(vec![0; spec.bytes()]))).unwrap()
    }

    /// Runs an op on zeros. `Device` itself holds what the card gives against `Op::infer`.
    fn run(&mut self, op: &Op, inputs: &[TensorSpec]) -> Result<Vec<TensorSpec>, RuntimeError> {
        let inputs: Vec<DeviceTensor> = inputs.iter().map(|&spec| self.zeros(spec)).collect();
        let outputs = self.device.run(op, &inputs.iter().collect::<Vec<_>>())?;
        Ok(outputs.iter().map(|output| self.device.spec(output)).collect())
    }
}

/// TTNN 0.67 leaves out for mock cards what it does for cards when they open, and its first op crashes without it. It looks for a
/// compiler here, which it then has no use for.
fn prepare_kernels() {
    unsafe extern "C" {
        /// `tt::tt_metal::BuildEnvManager& BuildEnvManager::get_instance()`
        #[link_name = "_ZN2tt8tt_metal15BuildEnvManager12get_instanceEv"]
        fn build_env_manager() -> *mut c_void;
        /// `void BuildEnvManager::add_build_env(ChipId device_id, uint8_t num_hw_cqs)`
        #[link_name = "_ZN2tt8tt_metal15BuildEnvManager13add_build_envEih"]
        fn add_build_env(manager: *mut c_void, device_id: i32, num_hw_cqs: u8);
    }
    // SAFETY: both signatures are the same in every release that build_ttnn.rs accepts; a device is open.
    unsafe { add_build_env(build_env_manager(), 0, 1) }
}

fn matrix(rows: usize, columns: usize, dtype: DataType, memory: MemoryConfig) -> TensorSpec {
    TensorSpec::new(Shape::matrix(rows, columns), dtype, memory)
}

fn heads(count: usize, rows: usize, head_dim: usize) -> TensorSpec {
    TensorSpec::new(Shape([1, count, rows, head_dim]), Bfloat16, DRAM)
}

/// `in0_block_w` and what one core computes, in tiles.
fn program(
    multicast: Multicast,
    in0_block_w: usize,
    m: usize,
    n: usize,
    fused_activation: Option<Activation>,
) -> MatmulProgramConfig {
    MatmulProgramConfig {
        multicast,
        grid: GRID,
        in0_block_w,
        out_subblock_h: 1,
        out_subblock_w: 1,
        out_block_h: m,
        out_block_w: n,
        per_core_m: m,
        per_core_n: n,
        fused_activation,
    }
}

fn linear(program: MatmulProgramConfig, memory: MemoryConfig) -> Op {
    Op::Linear { program, dtype: Bfloat16, memory, compute: COMPUTE }
}

fn minimal(m_block_size: usize) -> MinimalMatmulConfig {
    MinimalMatmulConfig { m_block_size, k_block_size: 8, n_block_size: 8, subblock_h: 1, subblock_w: 4, grid: GRID }
}

#[test]
fn the_mock_card_has_the_grid_and_the_memory_of_an_n150() {
    let mock = Mock::open();
    let info = mock.device.device();
    assert_eq!(info.grid, GRID);
    assert!(info.name.starts_with("wormhole_b0, 8 x 8 cores, TTNN 0.") && info.name.ends_with("mock"), "{}", info.name);
    // 12 banks of 1 GiB and 1.5 MB of L1, less what TTNN keeps for itself.
    assert!((11 << 30..=12 << 30).contains(&info.dram_bytes), "{info:?}");
    assert!((1_300_000..1_499_136).contains(&info.l1_bytes), "{info:?}");
}

#[test]
fn the_card_opens_again_after_it_was_closed() {
    for _ in 0..3 {
        let mut mock = Mock::open();
        mock.zeros(matrix(32, 32, Bfloat16, DRAM));
        mock.device.synchronize().unwrap();
    }
}

#[test]
fn a_card_that_this_process_has_open_is_refused_and_stays_as_it_was() {
    let mut mock = Mock::open();
    let error = Device::open(OPTIONS).err().expect("the card is open").to_string();
    assert!(error.contains("already open in this process"), "{error}");
    mock.zeros(matrix(32, 32, Bfloat16, DRAM));
    mock.device.synchronize().unwrap();
}

#[test]
fn tensors_and_traces_may_outlive_the_device() {
    let Mock { mut device, _alone } = Mock::open();
    let spec = matrix(64, 64, Float32, DRAM);
    let tensor = device.upload(spec, &mut || Ok(Bytes::from(vec![0; spec.bytes()]))).unwrap();
    drop(device);
    drop(tensor.clone());
    std::thread::spawn(move || drop(tensor)).join().unwrap();
}

#[test]
fn ttnn_accepts_every_op_and_gives_what_was_inferred() {
    let rows = matrix(64, 1024, Bfloat16, L1);
    let weight = |inputs, outputs| matrix(inputs, outputs, Bfloat8B, DRAM);
    let split = Op::MinimalMatmulSplit { chunks: 2, config: minimal(2), dtype: Bfloat16, memory: L1, compute: COMPUTE };
    let attention = |k_chunk_size| {
        let program = SdpaProgramConfig { grid: GRID, q_chunk_size: 64, k_chunk_size, exp_approx_mode: false };
        Op::ScaledDotProductAttention { scale: 0.0625, program, memory: DRAM, compute: COMPUTE }
    };
    let multiply = |lhs_activation| Op::Multiply { lhs_activation };
    let create_heads = Op::NlpCreateQkvHeads { num_heads: 8, num_kv_heads: 1, memory: L1 };
    let qkv = matrix(64, 2560, Bfloat16, L1);
    let one_d = linear(program(Multicast::OneD, 8, 2, 2, None), L1);
    let gelu = linear(program(Multicast::TwoD, 6, 2, 17, Some(Activation::Gelu)), DRAM);
    let silu = linear(program(Multicast::TwoDTransposed, 8, 1, 4, Some(Activation::Silu)), DRAM);
    let cases: Vec<(Op, Vec<TensorSpec>)> = vec![
        (one_d, vec![rows, weight(1024, 2560)]),
        (gelu, vec![matrix(512, 1152, Bfloat16, DRAM), weight(1152, 4304), matrix(1, 4304, Bfloat16, DRAM)]),
        (silu, vec![rows, weight(1024, 1024), matrix(1, 1024, Bfloat16, DRAM)]),
        (split, vec![rows, weight(1024, 8192)]),
        (Op::LayerNorm { epsilon: 1e-6, memory: L1, compute: COMPUTE }, vec![matrix(512, 1152, Bfloat16, L1)]),
        (Op::RmsNorm { epsilon: 1e-6, memory: L1, compute: COMPUTE }, vec![rows]),
        // The keys end inside of a tile.
        (attention(32), vec![heads(8, 64, 256), heads(1, 300, 256), heads(1, 300, 256)]),
        (attention(64), vec![heads(8, 64, 256), heads(1, 320, 256), heads(1, 320, 256), matrix(64, 320, Bfloat16, DRAM)]),
        (create_heads.clone(), vec![qkv]),
        // Into buffers that are longer than what is written.
        (create_heads, vec![qkv, heads(8, 64, 256), heads(1, 640, 256), heads(1, 640, 256)]),
        (Op::NlpConcatHeads { memory: L1 }, vec![heads(8, 64, 256)]),
        (
            Op::RotaryEmbedding { memory: L1, compute: COMPUTE },
            vec![heads(8, 64, 256), matrix(640, 256, Bfloat16, DRAM), matrix(640, 256, Bfloat16, DRAM)],
        ),
        (Op::Concat { memory: DRAM }, vec![heads(1, 64, 256), heads(1, 320, 256)]),
        (Op::Add { dtype: Bfloat16, memory: L1 }, vec![rows, rows]),
        (Op::Add { dtype: Float32, memory: DRAM }, vec![matrix(64, 32, Float32, DRAM), matrix(64, 32, Float32, DRAM)]),
        (
            Op::Addcmul { memory: DRAM },
            vec![matrix(64, 32, Float32, DRAM), matrix(64, 32, Float32, DRAM), matrix(64, 32, Float32, L1)],
        ),
        (multiply(None), vec![rows, rows]),
        (multiply(Some(Activation::Gelu)), vec![rows, rows]),
        (multiply(Some(Activation::Silu)), vec![rows, rows]),
        (Op::Where { memory: L1 }, vec![rows, rows, rows]),
        (Op::Reshape { shape: Shape([1, 1, 500, 1152]) }, vec![matrix(512, 1152, Bfloat16, L1)]),
        (Op::Reshape { shape: Shape([2, 1, 256, 1152]) }, vec![matrix(512, 1152, Bfloat16, DRAM)]),
    ];
    let mut mock = Mock::open();
    for (op, inputs) in cases {
        let inferred = op.infer(&inputs).unwrap();
        let outputs = mock.run(&op, &inputs).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        assert_eq!(outputs, inferred, "{op:?}");
    }
}

#[test]
fn an_op_without_outputs_of_its_own_allocates_nothing() {
    let mut mock = Mock::open();
    let (a, b) = (mock.zeros(matrix(64, 1024, Bfloat16, L1)), mock.zeros(matrix(64, 1024, Bfloat16, L1)));
    let before = mock.device.memory_use(L1).unwrap();
    assert!(mock.device.run(&Op::Multiply { lhs_activation: Some(Activation::Gelu) }, &[&a, &b]).unwrap().is_empty());
    assert_eq!(mock.device.memory_use(L1).unwrap(), before);
}

#[test]
fn a_view_keeps_the_memory_of_the_tensor_it_was_made_of() {
    let mut mock = Mock::open();
    let before = mock.device.memory_use(DRAM).unwrap().allocated;
    let x = mock.zeros(matrix(320, 256, Bfloat16, DRAM));
    let held = mock.device.memory_use(DRAM).unwrap().allocated;
    let view = mock.device.run(&Op::Reshape { shape: Shape::matrix(300, 256) }, &[&x]).unwrap();
    assert_eq!(mock.device.memory_use(DRAM).unwrap().allocated, held);
    drop(x);
    assert_eq!(mock.device.memory_use(DRAM).unwrap().allocated, held);
    drop(view);
    assert_eq!(mock.device.memory_use(DRAM).unwrap().allocated, before);
}

#[test]
fn a_program_that_ttnn_refuses_is_an_error_with_ttnns_own_text_and_the_card_goes_on() {
    let mut mock = Mock::open();
    let inputs = [matrix(64, 1024, Bfloat16, DRAM), matrix(1024, 2560, Bfloat8B, DRAM)];
    // 32 tiles of K do not make blocks of 5.
    let error = mock.run(&linear(program(Multicast::OneD, 5, 2, 2, None), DRAM), &inputs).unwrap_err().to_string();
    assert!(error.starts_with("The card refused linear: ") && error.contains("in0_block_w"), "{error}");
    assert!(!error.contains("backtrace") && !error.contains('\n'), "{error}");
    mock.run(&linear(program(Multicast::OneD, 8, 2, 2, None), DRAM), &inputs).unwrap();
}

#[test]
fn circular_buffers_that_do_not_fit_into_l1_are_an_error() {
    let mut mock = Mock::open();
    let inputs = [matrix(2048, 4096, Bfloat16, DRAM), matrix(4096, 2048, Bfloat16, DRAM)];
    let error = mock.run(&linear(program(Multicast::OneD, 128, 64, 1, None), DRAM), &inputs).unwrap_err().to_string();
    assert!(error.contains("circular buffers") && error.contains("beyond max L1 size"), "{error}");
}

#[test]
fn shapes_that_do_not_fit_each_other_never_reach_the_card() {
    let mut mock = Mock::open();
    let op = Op::Add { dtype: Bfloat16, memory: DRAM };
    let error = mock.run(&op, &[matrix(32, 32, Bfloat16, DRAM), matrix(64, 32, Bfloat16, DRAM)]).unwrap_err();
    assert!(matches!(error, RuntimeError::Op(_)), "{error}");
}

#[test]
fn dram_that_runs_out_is_an_error_and_is_free_again_afterwards() {
    let mut mock = Mock::open();
    let before = mock.device.memory_use(DRAM).unwrap();
    let spec = matrix(1 << 14, 1 << 15, Bfloat16, DRAM);
    let gibibyte = Bytes::from(vec![0; spec.bytes()]);
    let mut held = Vec::new();
    let error = loop {
        match mock.device.upload(spec, &mut || Ok(gibibyte.clone())) {
            Ok(tensor) => held.push(tensor),
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(held.len(), 11);
    assert!(error.contains("Out of Memory: Not enough space to allocate 1073741824 B DRAM buffer"), "{error}");
    assert!(mock.device.memory_use(DRAM).unwrap().allocated >= 11 << 30);
    drop(held);
    assert_eq!(mock.device.memory_use(DRAM).unwrap(), before);
    mock.zeros(spec);
}

#[test]
fn a_tensor_is_written_in_place_and_read_back_in_whole_tiles() {
    let mut mock = Mock::open();
    for spec in [matrix(50, 40, Float32, DRAM), matrix(50, 40, Bfloat16, L1), matrix(50, 40, Bfloat8B, DRAM)] {
        let tensor = mock.zeros(spec);
        let allocated = mock.device.memory_use(spec.memory).unwrap().allocated;
        mock.device.write(&tensor, Bytes::from(vec![1; spec.bytes()])).unwrap();
        assert_eq!(mock.device.memory_use(spec.memory).unwrap().allocated, allocated, "a write may not allocate");
        assert_eq!(mock.device.download(&tensor).unwrap().len(), spec.bytes());
        let error = mock.device.write(&tensor, Bytes::from_static(&[0; 3])).unwrap_err();
        assert!(matches!(error, RuntimeError::Size { found: 3, .. }), "{error}");
    }
}

#[test]
fn ops_are_captured_into_a_trace_that_the_mock_card_will_not_replay() {
    let mut mock = Mock::open();
    let op = Op::RmsNorm { epsilon: 1e-6, memory: L1, compute: COMPUTE };
    let x = mock.zeros(matrix(64, 1024, Bfloat16, DRAM));
    mock.device.run(&op, &[&x]).unwrap();
    mock.device.begin_capture().unwrap();
    let _output = mock.device.run(&op, &[&x]).unwrap();
    let trace = mock.device.end_capture().unwrap();
    assert!(matches!(mock.device.replay(&trace), Err(RuntimeError::NoTrace(_))));
}

#[test]
fn dram_that_a_trace_writes_to_is_nobody_elses_until_the_trace_is_gone() {
    let mut mock = Mock::open();
    let op = Op::RmsNorm { epsilon: 1e-6, memory: DRAM, compute: COMPUTE };
    let x = mock.zeros(matrix(64, 1024, Bfloat16, DRAM));
    drop(mock.device.run(&op, &[&x]).unwrap());
    let before = mock.device.memory_use(DRAM).unwrap().allocated;
    mock.device.begin_capture().unwrap();
    drop(mock.device.run(&op, &[&x]).unwrap());
    let trace = mock.device.end_capture().unwrap();
    assert!(mock.device.memory_use(DRAM).unwrap().allocated >= before + 64 * 1024 * 2);
    drop(trace);
    assert_eq!(mock.device.memory_use(DRAM).unwrap().allocated, before);
}

#[test]
fn a_capture_that_an_error_interrupts_is_closed_and_the_next_one_works() {
    let mut mock = Mock::open();
    let op = Op::RmsNorm { epsilon: 1e-6, memory: L1, compute: COMPUTE };
    let (x, y) = (mock.zeros(matrix(64, 1024, Bfloat16, DRAM)), mock.zeros(matrix(32, 1024, Bfloat16, DRAM)));
    mock.device.run(&op, &[&x]).unwrap();
    mock.device.begin_capture().unwrap();
    mock.device.run(&Op::Add { dtype: Bfloat16, memory: DRAM }, &[&x, &y]).err().expect("the shapes differ");
    let error = mock.device.end_capture().err().expect("the capture is gone").to_string();
    assert!(error.contains("no capture is under way"), "{error}");
    mock.device.write(&x, Bytes::from(vec![0; mock.device.spec(&x).bytes()])).unwrap();
    mock.device.begin_capture().unwrap();
    mock.device.run(&op, &[&x]).unwrap();
    mock.device.end_capture().unwrap();
}

/// The card with zeros where the graph has weights: the mock card has no use for values.
struct WithoutValues(Device);

impl Runtime for WithoutValues {
    type Tensor = DeviceTensor;
    type Trace = DeviceTrace;

    fn device(&self) -> &DeviceInfo {
        self.0.device()
    }

    fn spec(&self, tensor: &DeviceTensor) -> TensorSpec {
        self.0.spec(tensor)
    }

    fn upload(
        &mut self,
        spec: TensorSpec,
        _: &mut dyn FnMut() -> Result<Bytes, RuntimeError>,
    ) -> Result<DeviceTensor, RuntimeError> {
        self.0.upload(spec, &mut || Ok(Bytes::from(vec![0; spec.bytes()])))
    }

    fn write(&mut self, tensor: &DeviceTensor, packed: Bytes) -> Result<(), RuntimeError> {
        self.0.write(tensor, packed)
    }

    fn download(&mut self, tensor: &DeviceTensor) -> Result<Bytes, RuntimeError> {
        self.0.download(tensor)
    }

    fn run(&mut self, op: &Op, inputs: &[&DeviceTensor]) -> Result<Vec<DeviceTensor>, RuntimeError> {
        self.0.run(op, inputs)
    }

    fn begin_capture(&mut self) -> Result<(), RuntimeError> {
        self.0.begin_capture()
    }

    fn end_capture(&mut self) -> Result<DeviceTrace, RuntimeError> {
        self.0.end_capture()
    }

    fn replay(&mut self, _: &DeviceTrace) -> Result<(), RuntimeError> {
        // The mock card refuses to; everything around it is as on a card.
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), RuntimeError> {
        self.0.synchronize()
    }
}

/// One chunk of the published model, for 1 to 3 cameras.
fn full_size_graph(dispatch: Dispatch) {
    let geometry = Geometry::preset("base").unwrap();
    for cameras in 1..=3 {
        let Mock { device, _alone } = Mock::open();
        let start = Instant::now();
        let mut resident = Resident::without_values(WithoutValues(device), &geometry, dispatch).unwrap();
        let loaded = start.elapsed();
        let inputs = ModelInputs {
            cameras: vec![Camera::Present(vec![0.0; 3 * geometry.vision.image_size.pow(2)]); cameras],
            prompt: Prompt { ids: vec![0; 32] },
            state: vec![0.0; geometry.state_dim],
        };
        let chunk = vec![0.0; geometry.horizon * geometry.action_dim];
        let guidance = Guidance { previous: chunk.clone(), weights: vec![0.5; geometry.horizon], max_weight: 10.0 };
        for (round, guidance) in [None, None, Some(guidance.clone()), Some(guidance)].into_iter().enumerate() {
            let request = DenoiseRequest { noise: chunk.clone(), steps: 10, guidance };
            let start = Instant::now();
            let chunk = resident.infer(&inputs, &request).unwrap_or_else(|error| panic!("{cameras} cameras: {error}"));
            assert_eq!(chunk.actions.len(), geometry.horizon * geometry.action_dim);
            println!("{cameras} cameras, {dispatch:?}, round {round}: {:?} after {loaded:?} of uploads", start.elapsed());
        }
        let held = resident.runtime().0.memory_use(DRAM).unwrap();
        println!("{} MB of {} MB of DRAM", held.allocated >> 20, held.total >> 20);
        assert!((2 << 30..4 << 30).contains(&held.allocated), "{held:?}");
    }
}

#[test]
fn ttnn_accepts_the_full_size_graph_op_by_op() {
    full_size_graph(Dispatch::EachOp);
}

#[test]
fn ttnn_captures_the_full_size_graph() {
    full_size_graph(Dispatch::Trace);
}

/// Runs one test of this file in a process of its own with another environment.
fn run_apart(test: &str, change: impl FnOnce(&mut Command)) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "--ignored", test]);
    change(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_a_card_opening_is_an_error_and_the_process_goes_on() {
    // No machine has a card of this number.
    run_apart("apart_without_a_card", |command| {
        command.env_remove(MOCK).env("TT_METAL_VISIBLE_DEVICES", "4321");
    });
}

#[test]
#[ignore = "run by without_a_card_opening_is_an_error_and_the_process_goes_on"]
fn apart_without_a_card() {
    for _ in 0..2 {
        let error = Device::open(OPTIONS).err().expect("there is no card");
        assert!(matches!(&error, RuntimeError::Open(reason) if reason.contains("/dev/tenstorrent")), "{error}");
    }
}

#[test]
fn an_open_that_fails_inside_of_ttnn_is_an_error_and_the_process_goes_on() {
    run_apart("apart_with_a_failing_open", |command| {
        command.env(MOCK, "/nonexistent/cluster.yaml");
    });
}

#[test]
#[ignore = "run by an_open_that_fails_inside_of_ttnn_is_an_error_and_the_process_goes_on"]
fn apart_with_a_failing_open() {
    for _ in 0..2 {
        let error = Device::open(OPTIONS).err().expect("there is no cluster description");
        assert!(matches!(&error, RuntimeError::Open(reason) if reason.contains("cluster.yaml")), "{error}");
    }
}

#[test]
fn kernels_that_are_not_where_they_are_said_to_be_are_an_error() {
    run_apart("apart_without_kernels", |command| {
        command.env("TT_METAL_RUNTIME_ROOT", "/nonexistent/root");
    });
}

#[test]
#[ignore = "run by kernels_that_are_not_where_they_are_said_to_be_are_an_error"]
fn apart_without_kernels() {
    let error = Device::open(OPTIONS).err().expect("there are no kernels").to_string();
    assert!(error.contains("/nonexistent/root") && error.contains("TT_METAL_RUNTIME_ROOT"), "{error}");
}

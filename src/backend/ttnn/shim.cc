// Calls into TTNN, v0.66.0 and v0.67.0 from the same source. Ops are called by name: some are objects in one version and functions in
// another. Nothing is left to a default of TTNN that changes numbers or speed.
#include "pi0_tt/src/backend/ttnn/shim.h"

#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <tt-metalium/allocator.hpp>
#include <tt-metalium/bfloat16.hpp>
#include <tt-metalium/constants.hpp>
#include <tt-metalium/host_api.hpp>
#include <tt-metalium/math.hpp>
#include <tt-metalium/mesh_device.hpp>
#include <ttnn/operations/data_movement/concat/concat.hpp>
#include <ttnn/operations/eltwise/binary/binary.hpp>
#include <ttnn/operations/eltwise/ternary/ternary.hpp>
#include <ttnn/operations/experimental/minimal_matmul/minimal_matmul_split.hpp>
#include <ttnn/operations/experimental/reshape/view.hpp>
#include <ttnn/operations/experimental/transformer/nlp_concat_heads/nlp_concat_heads.hpp>
#include <ttnn/operations/experimental/transformer/nlp_create_qkv_heads/nlp_create_qkv_heads.hpp>
#include <ttnn/operations/experimental/transformer/rotary_embedding/rotary_embedding.hpp>
#include <ttnn/operations/matmul/matmul.hpp>
#include <ttnn/operations/normalization/layernorm/layernorm.hpp>
#include <ttnn/operations/normalization/rmsnorm/rmsnorm.hpp>
#include <ttnn/operations/trace.hpp>
#include <ttnn/operations/transformer/sdpa/sdpa.hpp>
#include <ttnn/tensor/host_buffer/functions.hpp>
#include <ttnn/tensor/tensor.hpp>
#include <ttnn/tensor/tensor_ops.hpp>

#include "pi0_tt/src/backend/ttnn/shim.rs.h"

namespace pi0_tt {

namespace metal = tt::tt_metal;
using ttnn::operations::unary::EltwiseUnaryWithParam;
using ttnn::operations::unary::UnaryOpType;
using ttnn::operations::unary::UnaryWithParam;

struct DeviceHandle {
    std::shared_ptr<metal::distributed::MeshDevice> mesh;
};

struct TensorHandle {
    ttnn::Tensor tensor;
};

namespace {

// The graph runs on one command queue.
constexpr metal::QueueId QUEUE{0};
constexpr std::size_t QUEUES = 1;

std::unique_ptr<Tensor> wrap(ttnn::Tensor tensor) {
    return std::make_unique<Tensor>(std::make_unique<TensorHandle>(TensorHandle{std::move(tensor)}));
}

const ttnn::Tensor& get(const Tensor& tensor) { return tensor.handle->tensor; }

std::optional<const ttnn::Tensor> first(rust::Slice<const Operand> operands) {
    if (operands.empty()) {
        return std::nullopt;
    }
    return get(operands[0].tensor);
}

metal::DataType native(DataType dtype) {
    switch (dtype) {
        case DataType::Float32: return metal::DataType::FLOAT32;
        case DataType::Bfloat16: return metal::DataType::BFLOAT16;
        case DataType::Bfloat8B: return metal::DataType::BFLOAT8_B;
    }
    throw std::invalid_argument("Unknown data type");
}

metal::MemoryConfig native(Memory memory) {
    const auto buffer = memory == Memory::L1Interleaved ? metal::BufferType::L1 : metal::BufferType::DRAM;
    return metal::MemoryConfig{metal::TensorMemoryLayout::INTERLEAVED, buffer};
}

metal::CoreCoord native(Grid grid) { return {grid.x, grid.y}; }

metal::Shape native(const std::array<std::uint32_t, 4>& shape) { return metal::Shape(shape); }

ttnn::DeviceComputeKernelConfig native(const Compute& compute) {
    auto fidelity = ::MathFidelity::LoFi;
    switch (compute.math_fidelity) {
        case MathFidelity::LoFi: break;
        case MathFidelity::HiFi2: fidelity = ::MathFidelity::HiFi2; break;
        case MathFidelity::HiFi3: fidelity = ::MathFidelity::HiFi3; break;
    }
    return ttnn::WormholeComputeKernelConfig{
        .math_fidelity = fidelity,
        .math_approx_mode = compute.math_approx_mode,
        .fp32_dest_acc_en = compute.fp32_dest_acc_en,
        .packer_l1_acc = compute.packer_l1_acc,
        .dst_full_sync_en = false,
    };
}

// GELU's parameter is `fast_and_approximate_mode`.
template <typename Unary>
std::optional<Unary> native(Activation activation) {
    switch (activation) {
        case Activation::None: return std::nullopt;
        case Activation::Gelu: return Unary(UnaryOpType::GELU, 0.0f);
        case Activation::Silu: return Unary(UnaryOpType::SILU);
    }
    throw std::invalid_argument("Unknown activation");
}

ttnn::operations::matmul::MatmulProgramConfig native(const MatmulProgram& program) {
    if (program.multicast == Multicast::OneD) {
        return ttnn::operations::matmul::MatmulMultiCoreReuseMultiCast1DProgramConfig{
            .compute_with_storage_grid_size = native(program.grid),
            .in0_block_w = program.in0_block_w,
            .out_subblock_h = program.out_subblock_h,
            .out_subblock_w = program.out_subblock_w,
            .out_block_h = program.out_block_h,
            .out_block_w = program.out_block_w,
            .per_core_M = program.per_core_m,
            .per_core_N = program.per_core_n,
            .fuse_batch = true,
            .fused_activation = native<UnaryWithParam>(program.fused_activation),
            .mcast_in0 = true,
            .gather_in0 = false,
            .hop_cores = {},
            .num_global_cb_receivers = 0,
            .untilize_out = false,
        };
    }
    return ttnn::operations::matmul::MatmulMultiCoreReuseMultiCastProgramConfig{
        .compute_with_storage_grid_size = native(program.grid),
        .in0_block_w = program.in0_block_w,
        .out_subblock_h = program.out_subblock_h,
        .out_subblock_w = program.out_subblock_w,
        .out_block_h = program.out_block_h,
        .out_block_w = program.out_block_w,
        .per_core_M = program.per_core_m,
        .per_core_N = program.per_core_n,
        .transpose_mcast = program.multicast == Multicast::TwoDTransposed,
        .fused_activation = native<UnaryWithParam>(program.fused_activation),
        .fuse_batch = true,
    };
}

ttnn::experimental::prim::MinimalMatmulConfig native(const MinimalMatmul& config) {
    return {
        .M_block_size = config.m_block_size,
        .K_block_size = config.k_block_size,
        .N_block_size = config.n_block_size,
        .subblock_h = config.subblock_h,
        .subblock_w = config.subblock_w,
        .compute_with_storage_grid_size = native(config.grid),
    };
}

metal::TensorSpec native(const Spec& spec) {
    return metal::TensorSpec(
        native(spec.shape),
        metal::TensorLayout(native(spec.dtype), metal::PageConfig(metal::Layout::TILE), native(spec.memory)));
}

std::array<std::uint32_t, 4> extents(const metal::Shape& shape) {
    if (shape.rank() != 4) {
        throw std::runtime_error("Tensor of rank " + std::to_string(shape.rank()) + " where every tensor has rank 4");
    }
    return {shape[0], shape[1], shape[2], shape[3]};
}

// A host tensor over bytes that are packed as TTNN would. It borrows them: TTNN copies them into the queue before a write returns.
template <typename Element>
ttnn::Tensor borrow(const metal::TensorSpec& spec, rust::Slice<const std::uint8_t> packed) {
    auto* elements = reinterpret_cast<Element*>(const_cast<std::uint8_t*>(packed.data()));
    const tt::stl::Span<Element> span(elements, packed.size() / sizeof(Element));
    return ttnn::Tensor(metal::HostBuffer(span, metal::MemoryPin()), spec);
}

ttnn::Tensor host_tensor(const metal::TensorSpec& spec, rust::Slice<const std::uint8_t> packed) {
    switch (spec.data_type()) {
        case metal::DataType::FLOAT32: return borrow<float>(spec, packed);
        case metal::DataType::BFLOAT16: return borrow<bfloat16>(spec, packed);
        case metal::DataType::BFLOAT8_B: return borrow<std::uint32_t>(spec, packed);
        default: throw std::invalid_argument("Unknown data type");
    }
}

rust::Vec<Output> wrap_all(std::vector<ttnn::Tensor> tensors) {
    rust::Vec<Output> result;
    for (auto& tensor : tensors) {
        result.push_back(Output{wrap(std::move(tensor))});
    }
    return result;
}

metal::BufferType buffer_type(Memory memory) {
    return memory == Memory::L1Interleaved ? metal::BufferType::L1 : metal::BufferType::DRAM;
}

}  // namespace

Device::Device(std::unique_ptr<DeviceHandle> handle) : handle(std::move(handle)) {}

Device::~Device() {
    try {
        close();
    } catch (const std::exception&) {
        // `close` is called first by whoever wants to know.
    }
}

Grid Device::grid() const {
    const auto grid = handle->mesh->compute_with_storage_grid_size();
    return {grid.x, grid.y};
}

rust::String Device::architecture() const { return rust::String(tt::arch_to_str(handle->mesh->arch())); }

std::size_t Device::l1_bytes() const { return handle->mesh->allocator()->get_bank_size(metal::BufferType::L1); }

MemoryUse Device::memory_use(Memory memory) const {
    const auto& allocator = handle->mesh->allocator();
    const auto type = buffer_type(memory);
    const std::uint64_t banks = allocator->get_num_banks(type);
    const auto bank = allocator->get_statistics(type);
    return {
        banks * bank.total_allocatable_size_bytes,
        banks * bank.total_allocated_bytes,
    };
}

void Device::synchronize() const { handle->mesh->mesh_command_queue(*QUEUE).finish(); }

void Device::close() {
    if (handle->mesh) {
        const auto mesh = std::exchange(handle->mesh, nullptr);
        mesh->close();
    }
}

Tensor::Tensor(std::unique_ptr<TensorHandle> handle) : handle(std::move(handle)) {}

Tensor::~Tensor() = default;

Spec Tensor::spec() const {
    const auto& tensor = handle->tensor;
    if (tensor.layout() != metal::Layout::TILE || tensor.memory_config().is_sharded()) {
        throw std::runtime_error("Tensor is not in interleaved tiles");
    }
    Spec spec{};
    spec.shape = extents(tensor.logical_shape());
    auto padded = spec.shape;
    for (const std::size_t axis : {2, 3}) {
        padded[axis] = tt::round_up(padded[axis], tt::constants::TILE_WIDTH);
    }
    if (extents(tensor.padded_shape()) != padded) {
        throw std::runtime_error("Tensor is padded by more than its last tiles");
    }
    switch (tensor.dtype()) {
        case metal::DataType::FLOAT32: spec.dtype = DataType::Float32; break;
        case metal::DataType::BFLOAT16: spec.dtype = DataType::Bfloat16; break;
        case metal::DataType::BFLOAT8_B: spec.dtype = DataType::Bfloat8B; break;
        default: throw std::runtime_error("Tensor of a data type that the graph does not use");
    }
    spec.memory = tensor.memory_config().is_l1() ? Memory::L1Interleaved : Memory::DramInterleaved;
    return spec;
}

std::unique_ptr<Device> open_device(
    rust::Str runtime_root,
    rust::Str logs,
    std::uint32_t id,
    std::size_t l1_small_bytes,
    std::size_t trace_bytes) {
    metal::SetRootDir(std::string(runtime_root));
    // What TTNN takes from the environment alone; what is set there already stays.
    // Else TTNN waits for a card without end: five seconds without progress are a lost card.
    setenv("TT_METAL_OPERATION_TIMEOUT_SECONDS", "5", /*overwrite=*/0);
    // Else it writes into the current folder, and fails to open a card where it may not.
    setenv("TT_METAL_LOGS_PATH", std::string(logs).c_str(), /*overwrite=*/0);
    auto mesh = metal::distributed::MeshDevice::create_unit_mesh(
        static_cast<int>(id), l1_small_bytes, trace_bytes, QUEUES, metal::DispatchCoreConfig{});
    mesh->enable_program_cache();
    return std::make_unique<Device>(std::make_unique<DeviceHandle>(DeviceHandle{std::move(mesh)}));
}

std::unique_ptr<Tensor> upload(const Device& device, Spec spec, rust::Slice<const std::uint8_t> packed) {
    const auto memory = native(spec.memory);
    return wrap(metal::to_device(host_tensor(native(spec), packed), device.handle->mesh.get(), memory, QUEUE));
}

void write(const Device&, const Tensor& tensor, rust::Slice<const std::uint8_t> packed) {
    // The copy shares the device buffer: `copy_to_device` replaces the handle, never the buffer.
    auto target = get(tensor);
    metal::copy_to_device(host_tensor(target.tensor_spec(), packed), target, QUEUE);
}

void download(const Device&, const Tensor& tensor, rust::Slice<std::uint8_t> packed) {
    const auto host = get(tensor).cpu(/*blocking=*/true, QUEUE);
    const auto buffer = metal::host_buffer::get_host_buffer(host);
    const auto bytes = buffer.view_bytes();
    if (bytes.size() != packed.size()) {
        throw std::runtime_error(
            "Read " + std::to_string(bytes.size()) + " bytes where " + std::to_string(packed.size()) + " were expected");
    }
    std::memcpy(packed.data(), bytes.data(), bytes.size());
}

std::uint32_t begin_trace(const Device& device) {
    return *ttnn::operations::trace::begin_trace_capture(device.handle->mesh.get(), QUEUE);
}

void end_trace(const Device& device, std::uint32_t trace) {
    ttnn::operations::trace::end_trace_capture(device.handle->mesh.get(), ttnn::MeshTraceId{trace}, QUEUE);
}

void replay_trace(const Device& device, std::uint32_t trace) {
    ttnn::operations::trace::execute_trace(device.handle->mesh.get(), ttnn::MeshTraceId{trace}, QUEUE, /*blocking=*/false);
}

void release_trace(const Device& device, std::uint32_t trace) {
    ttnn::operations::trace::release_trace(device.handle->mesh.get(), ttnn::MeshTraceId{trace});
}

std::unique_ptr<Tensor> linear(
    const Tensor& x,
    const Tensor& weight,
    rust::Slice<const Operand> bias,
    const MatmulProgram& program,
    DataType dtype,
    Memory memory,
    const Compute& compute) {
    return wrap(ttnn::linear(
        get(x),
        get(weight),
        first(bias),
        /*transpose_a=*/false,
        /*transpose_b=*/false,
        native(memory),
        native(dtype),
        native(program),
        /*activation=*/std::nullopt,
        native(compute)));
}

rust::Vec<Output> minimal_matmul_split(
    const Tensor& x,
    const Tensor& weight,
    std::int32_t chunks,
    const MinimalMatmul& config,
    DataType dtype,
    Memory memory,
    const Compute& compute) {
    return wrap_all(ttnn::experimental::minimal_matmul_split(
        get(x),
        get(weight),
        chunks,
        /*dim=*/-1,
        /*bias_tensor=*/std::nullopt,
        /*fused_activation=*/std::nullopt,
        native(config),
        native(memory),
        native(dtype),
        native(compute)));
}

std::unique_ptr<Tensor> layer_norm(const Tensor& x, float epsilon, Memory memory, const Compute& compute) {
    return wrap(ttnn::layer_norm(
        get(x),
        epsilon,
        /*weight=*/std::nullopt,
        /*bias=*/std::nullopt,
        /*residual_input_tensor=*/std::nullopt,
        native(memory),
        /*program_config=*/std::nullopt,
        native(compute)));
}

std::unique_ptr<Tensor> rms_norm(const Tensor& x, float epsilon, Memory memory, const Compute& compute) {
    return wrap(ttnn::rms_norm(
        get(x),
        epsilon,
        /*weight=*/std::nullopt,
        /*bias=*/std::nullopt,
        /*residual_input_tensor=*/std::nullopt,
        native(memory),
        /*program_config=*/std::nullopt,
        native(compute)));
}

std::unique_ptr<Tensor> scaled_dot_product_attention(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    rust::Slice<const Operand> mask,
    float scale,
    const SdpaProgram& program,
    Memory memory,
    const Compute& compute) {
    const ttnn::operations::transformer::SDPAProgramConfig config{
        .compute_with_storage_grid_size = native(program.grid),
        .sub_core_grids = std::nullopt,
        .q_chunk_size = program.q_chunk_size,
        .k_chunk_size = program.k_chunk_size,
        .exp_approx_mode = program.exp_approx_mode,
    };
    const auto attn_mask = first(mask);
    return wrap(ttnn::transformer::scaled_dot_product_attention(
        get(q),
        get(k),
        get(v),
        attn_mask ? std::optional<ttnn::Tensor>(*attn_mask) : std::nullopt,
        /*is_causal=*/false,
        scale,
        /*sliding_window_size=*/std::nullopt,
        native(memory),
        config,
        native(compute)));
}

rust::Vec<Output> nlp_create_qkv_heads(
    const Tensor& x,
    std::uint32_t num_heads,
    std::uint32_t num_kv_heads,
    rust::Slice<const Operand> outputs,
    Memory memory) {
    std::optional<std::vector<std::optional<ttnn::Tensor>>> into;
    for (const auto& output : outputs) {
        if (!into) {
            into.emplace();
        }
        into->push_back(get(output.tensor));
    }
    auto [q, k, v] = ttnn::experimental::nlp_create_qkv_heads(
        get(x), /*input_tensor_kv=*/std::nullopt, num_heads, num_kv_heads, /*transpose_k_heads=*/false, native(memory), into);
    return into ? rust::Vec<Output>() : wrap_all({std::move(q), std::move(k), std::move(v)});
}

std::unique_ptr<Tensor> nlp_concat_heads(const Tensor& x, Memory memory) {
    return wrap(ttnn::experimental::nlp_concat_heads(get(x), native(memory)));
}

std::unique_ptr<Tensor> rotary_embedding(
    const Tensor& x, const Tensor& cos, const Tensor& sin, Memory memory, const Compute& compute) {
    return wrap(ttnn::experimental::rotary_embedding(
        get(x), get(cos), get(sin), /*token_index=*/std::nullopt, native(memory), native(compute)));
}

std::unique_ptr<Tensor> concat_rows(rust::Slice<const Operand> inputs, Memory memory) {
    std::vector<ttnn::Tensor> tensors;
    for (const auto& input : inputs) {
        tensors.push_back(get(input.tensor));
    }
    return wrap(ttnn::concat(tensors, /*dim=*/2, native(memory)));
}

std::unique_ptr<Tensor> add(const Tensor& a, const Tensor& b, DataType dtype, Memory memory) {
    return wrap(ttnn::add(get(a), get(b), native(dtype), native(memory)));
}

std::unique_ptr<Tensor> addcmul(const Tensor& a, const Tensor& b, const Tensor& c, Memory memory) {
    return wrap(ttnn::addcmul(get(a), get(b), get(c), 1.0F, native(memory)));
}

namespace {

// From v0.67.0 `multiply` takes `fast_and_approximate_mode`: true is the matrix engine's product, the only one of v0.66.0.
template <typename Multiply>
void multiply_on_fpu(
    const Multiply& multiply,
    const ttnn::Tensor& a,
    const ttnn::Tensor& b,
    tt::stl::Span<const EltwiseUnaryWithParam> lhs_activations) {
    const auto& memory = a.memory_config();
    const tt::stl::Span<const EltwiseUnaryWithParam> none;
    const std::optional<bool> legacy, fast = true;
    if constexpr (requires { multiply(a, b, a.dtype(), memory, a, none, none, none, legacy, fast); }) {
        multiply(a, b, a.dtype(), memory, a, none, lhs_activations, none, legacy, fast);
    } else {
        multiply(a, b, a.dtype(), memory, a, none, lhs_activations, none, legacy);
    }
}

}  // namespace

void multiply_in_place(const Tensor& a, const Tensor& b, Activation lhs_activation) {
    std::vector<EltwiseUnaryWithParam> lhs;
    if (const auto activation = native<EltwiseUnaryWithParam>(lhs_activation)) {
        lhs.push_back(*activation);
    }
    multiply_on_fpu(ttnn::multiply, get(a), get(b), lhs);
}

std::unique_ptr<Tensor> select(const Tensor& condition, const Tensor& a, const Tensor& b, Memory memory) {
    return wrap(ttnn::where(get(condition), get(a), get(b), native(memory)));
}

std::unique_ptr<Tensor> reshape(
    const Tensor& x, std::array<std::uint32_t, 4> shape, std::array<std::uint32_t, 4> padded) {
    return wrap(ttnn::experimental::view(get(x), native(shape), native(padded)));
}

}  // namespace pi0_tt

// The calls into TTNN, as cxx sees them: no type of TTNN is named here, so the bridge compiles without its headers.
// Each function throws std::exception with TTNN's text on failure. What the functions do is said in shim.rs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "rust/cxx.h"

namespace pi0_tt {

// Declared by the bridge (shim.rs).
enum class DataType : std::uint8_t;
enum class Memory : std::uint8_t;
enum class Activation : std::uint8_t;
struct Grid;
struct Spec;
struct Compute;
struct MatmulProgram;
struct MinimalMatmul;
struct SdpaProgram;
struct MemoryUse;
struct Operand;
struct Output;

struct DeviceHandle;
struct TensorHandle;

class Device {
   public:
    explicit Device(std::unique_ptr<DeviceHandle> handle);
    ~Device();

    Grid grid() const;
    rust::String architecture() const;
    std::size_t l1_bytes() const;
    MemoryUse memory_use(Memory memory) const;
    void synchronize() const;
    void close();

    const std::unique_ptr<DeviceHandle> handle;
};

class Tensor {
   public:
    explicit Tensor(std::unique_ptr<TensorHandle> handle);
    ~Tensor();

    Spec spec() const;

    const std::unique_ptr<TensorHandle> handle;
};

std::unique_ptr<Device> open_device(
    rust::Str runtime_root,
    rust::Str logs,
    std::uint32_t id,
    std::size_t l1_small_bytes,
    std::size_t trace_bytes);

std::unique_ptr<Tensor> upload(const Device& device, Spec spec, rust::Slice<const std::uint8_t> packed);
void write(const Device& device, const Tensor& tensor, rust::Slice<const std::uint8_t> packed);
void download(const Device& device, const Tensor& tensor, rust::Slice<std::uint8_t> packed);

std::uint32_t begin_trace(const Device& device);
void end_trace(const Device& device, std::uint32_t trace);
void replay_trace(const Device& device, std::uint32_t trace);
void release_trace(const Device& device, std::uint32_t trace);

std::unique_ptr<Tensor> linear(
    const Tensor& x,
    const Tensor& weight,
    rust::Slice<const Operand> bias,
    const MatmulProgram& program,
    DataType dtype,
    Memory memory,
    const Compute& compute);
rust::Vec<Output> minimal_matmul_split(
    const Tensor& x,
    const Tensor& weight,
    std::int32_t chunks,
    const MinimalMatmul& config,
    DataType dtype,
    Memory memory,
    const Compute& compute);
std::unique_ptr<Tensor> layer_norm(const Tensor& x, float epsilon, Memory memory, const Compute& compute);
std::unique_ptr<Tensor> rms_norm(const Tensor& x, float epsilon, Memory memory, const Compute& compute);
std::unique_ptr<Tensor> scaled_dot_product_attention(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    rust::Slice<const Operand> mask,
    float scale,
    const SdpaProgram& program,
    Memory memory,
    const Compute& compute);
rust::Vec<Output> nlp_create_qkv_heads(
    const Tensor& x,
    std::uint32_t num_heads,
    std::uint32_t num_kv_heads,
    rust::Slice<const Operand> outputs,
    Memory memory);
std::unique_ptr<Tensor> nlp_concat_heads(const Tensor& x, Memory memory);
std::unique_ptr<Tensor> rotary_embedding(
    const Tensor& x, const Tensor& cos, const Tensor& sin, Memory memory, const Compute& compute);
std::unique_ptr<Tensor> concat_rows(rust::Slice<const Operand> inputs, Memory memory);
std::unique_ptr<Tensor> add(const Tensor& a, const Tensor& b, DataType dtype, Memory memory);
std::unique_ptr<Tensor> addcmul(const Tensor& a, const Tensor& b, const Tensor& c, Memory memory);
void multiply_in_place(const Tensor& a, const Tensor& b, Activation lhs_activation);
std::unique_ptr<Tensor> select(const Tensor& condition, const Tensor& a, const Tensor& b, Memory memory);
std::unique_ptr<Tensor> reshape(
    const Tensor& x, std::array<std::uint32_t, 4> shape, std::array<std::uint32_t, 4> padded);

}  // namespace pi0_tt

//! TTNN's own terms as plain data: number formats, shapes, memory, and the configurations that every op carries.
//!
//! C++ defaults are never relied on: matmul without a compute kernel configuration falls to LoFi, attention is causal, norms take an
//! epsilon of 1e-12. So nothing here has a default.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Side of a tile: the unit of the matrix engine and of `Layout::Tile`.
pub const TILE: usize = 32;

/// Number format of a tensor on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    Float32,
    Bfloat16,
    /// Sign and seven bits for each value, one exponent for sixteen.
    #[serde(rename = "bfloat8_b")]
    Bfloat8B,
}

impl DataType {
    /// Bytes of one tile of 32 x 32 values.
    pub fn tile_bytes(self) -> usize {
        match self {
            Self::Float32 => 4096,
            Self::Bfloat16 => 2048,
            Self::Bfloat8B => 1088,
        }
    }
}

/// Where an interleaved tensor lies. Sharded memory is not used by the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryConfig {
    /// `ttnn.DRAM_MEMORY_CONFIG`
    DramInterleaved,
    /// `ttnn.L1_MEMORY_CONFIG`
    L1Interleaved,
}

/// Logical extents, outermost first. Every tensor of the graph has rank 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub [usize; 4]);

impl Shape {
    /// `[1, 1, rows, columns]`
    pub fn matrix(rows: usize, columns: usize) -> Self {
        Self([1, 1, rows, columns])
    }

    pub fn rows(self) -> usize {
        self.0[2]
    }

    pub fn columns(self) -> usize {
        self.0[3]
    }

    /// Product of the two outer extents.
    pub fn batch(self) -> usize {
        self.0[0] * self.0[1]
    }

    /// Logical number of values.
    pub fn volume(self) -> usize {
        self.0.iter().product()
    }

    /// Rows and columns rounded up to tiles.
    pub fn padded(self) -> Self {
        let [a, b, rows, columns] = self.0;
        Self([a, b, rows.next_multiple_of(TILE), columns.next_multiple_of(TILE)])
    }

    /// Number of tiles that hold the shape.
    pub fn tiles(self) -> usize {
        self.padded().volume() / (TILE * TILE)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a tensor is. The layout of every tensor of the graph is `TILE`: rows and columns are padded to 32 in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorSpec {
    pub shape: Shape,
    pub dtype: DataType,
    pub memory: MemoryConfig,
}

impl TensorSpec {
    pub fn new(shape: Shape, dtype: DataType, memory: MemoryConfig) -> Self {
        Self { shape, dtype, memory }
    }

    /// Bytes on the device, padding included.
    pub fn bytes(&self) -> usize {
        self.shape.tiles() * self.dtype.tile_bytes()
    }
}

/// Passes of the matrix engine over the mantissa bits of both operands: 16, 32 and 48 cycles for a tile product.
///
/// HiFi4 is left out: with float32 accumulation it returns wrong elements on Wormhole (tt-metal #38306), and HiFi3 carries all bits
/// of a bfloat16 times bfloat8_b product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MathFidelity {
    #[serde(rename = "lofi")]
    LoFi,
    #[serde(rename = "hifi2")]
    HiFi2,
    #[serde(rename = "hifi3")]
    HiFi3,
}

impl MathFidelity {
    /// Cycles of one 32 x 32 x 32 product.
    pub fn cycles(self) -> usize {
        match self {
            Self::LoFi => 16,
            Self::HiFi2 => 32,
            Self::HiFi3 => 48,
        }
    }
}

/// `ttnn.WormholeComputeKernelConfig`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ComputeKernelConfig {
    pub math_fidelity: MathFidelity,
    pub math_approx_mode: bool,
    pub fp32_dest_acc_en: bool,
    pub packer_l1_acc: bool,
}

/// Columns and rows of a grid of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CoreGrid {
    pub x: usize,
    pub y: usize,
}

impl CoreGrid {
    pub fn cores(self) -> usize {
        self.x * self.y
    }
}

/// An elementwise function that an op applies to an operand or to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// TTNN's accurate GELU (`fast_and_approximate_mode = false`), a fit of `x Phi(x)`.
    Gelu,
    Silu,
}

/// `MatmulMultiCoreReuseMultiCast1DProgramConfig` and `MatmulMultiCoreReuseMultiCastProgramConfig`. Extents in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatmulProgramConfig {
    pub multicast: Multicast,
    /// `compute_with_storage_grid_size`
    pub grid: CoreGrid,
    pub in0_block_w: usize,
    pub out_subblock_h: usize,
    pub out_subblock_w: usize,
    pub out_block_h: usize,
    pub out_block_w: usize,
    pub per_core_m: usize,
    pub per_core_n: usize,
    pub fused_activation: Option<Activation>,
}

/// How operands reach the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Multicast {
    /// 1D: every core holds all rows and its own columns; operand A is multicast (`mcast_in0 = true`).
    #[serde(rename = "1d")]
    OneD,
    /// 2D: rows over the grid's rows, columns over its columns.
    #[serde(rename = "2d")]
    TwoD,
    /// 2D with `transpose_mcast = true`: rows over the grid's columns.
    #[serde(rename = "2d_transposed")]
    TwoDTransposed,
}

/// `MinimalMatmulConfig`. Extents in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MinimalMatmulConfig {
    pub m_block_size: usize,
    pub k_block_size: usize,
    pub n_block_size: usize,
    pub subblock_h: usize,
    pub subblock_w: usize,
    pub grid: CoreGrid,
}

/// `SDPAProgramConfig`. Chunks in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SdpaProgramConfig {
    pub grid: CoreGrid,
    pub q_chunk_size: usize,
    pub k_chunk_size: usize,
    pub exp_approx_mode: bool,
}

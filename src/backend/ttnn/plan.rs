//! Program configurations, chosen for the device's own grid.
//!
//! TTNN's automatic choice leaves cores idle (24 of 64 for one product of the language model) and cuts the inner dimension into blocks
//! of two tiles. Here every configuration that the kernels accept and that fits into L1 is ranked by what it costs.
//!
//! Sizes of circular buffers are those of TTNN 0.66 and 0.67 (`get_estimated_size_of_cbs` and the program factories of
//! `minimal_matmul` and SDPA), compared with TTNN's own allocations by the replay test.

use super::{
    runtime::DeviceInfo,
    terms::{
        Activation, ComputeKernelConfig, CoreGrid, DataType, MatmulProgramConfig, MinimalMatmulConfig, Multicast,
        SdpaProgramConfig, Shape, TILE, TensorSpec,
    },
};

/// DRAM of a Wormhole card in bytes per nanosecond.
pub const DRAM_BYTES_PER_NS: f64 = 288.0;
/// Nanoseconds that a block of a product costs beside its arithmetic: a handshake and a multicast. Ranks configurations only.
const BLOCK_NS: f64 = 500.0;
/// Cycles that the unpacker takes to bring a tile to the matrix engine. Ranks configurations only.
const UNPACK_CYCLES: f64 = 24.0;
/// L1 that plans leave free: 6 KB hold the suffix's constants, and TTNN takes the first gap that fits, so that tensors lie lower than
/// the sum of their sizes says. Another activation's size is left for that in [`Ops`](super::graph::Ops).
const MARGIN: usize = 80 * 1024;

/// A product `[rows, inputs] x [inputs, outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub x: TensorSpec,
    pub weight: TensorSpec,
    pub dtype: DataType,
    pub bias: Option<DataType>,
    pub compute: ComputeKernelConfig,
    pub activation: Option<Activation>,
}

/// What one product costs at full efficiency, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductCost {
    /// Of the busiest core, at 1 GHz.
    pub compute: f64,
    /// Reading the weight from DRAM.
    pub weight: f64,
}

impl ProductCost {
    /// Arithmetic and reading overlap.
    pub fn total(self) -> f64 {
        self.compute.max(self.weight)
    }
}

/// No configuration fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("No program configuration of {what} fits into {l1} bytes of L1 on a grid of {}x{}", grid.x, grid.y)]
pub struct PlanError {
    pub what: String,
    pub l1: usize,
    pub grid: CoreGrid,
}

impl Product {
    /// Extents in tiles: rows (batches joined), inputs, outputs.
    pub fn tiles(&self) -> (usize, usize, usize) {
        let (x, weight) = (self.x.shape.padded(), self.weight.shape.padded());
        (x.batch() * x.rows() / TILE, x.columns() / TILE, weight.columns() / TILE)
    }

    fn cost(&self, per_core_m: usize, per_core_n: usize) -> ProductCost {
        let (_, k, _) = self.tiles();
        ProductCost {
            compute: (per_core_m * per_core_n * k * self.compute.math_fidelity.cycles()) as f64,
            weight: self.weight.bytes() as f64 / DRAM_BYTES_PER_NS,
        }
    }

    /// Cost of a product with `config`.
    pub fn matmul_cost(&self, config: &MatmulProgramConfig) -> ProductCost {
        self.cost(config.per_core_m, config.per_core_n)
    }

    /// Cost of a `minimal_matmul` on a grid, which deals rows to its rows and columns to its columns, the other way round when there
    /// are more rows than columns.
    pub fn minimal_cost(&self, grid: CoreGrid) -> ProductCost {
        let (m, _, n) = self.tiles();
        let (m_cores, n_cores) = minimal_grid(m, n, grid);
        self.cost(m.div_ceil(m_cores), n.div_ceil(n_cores))
    }
}

fn minimal_grid(m: usize, n: usize, grid: CoreGrid) -> (usize, usize) {
    if m > n { (grid.x, grid.y) } else { (grid.y, grid.x) }
}

/// Bytes of L1 that a tensor in L1 takes on the fullest core: interleaved tiles are dealt to all cores.
pub fn l1_share(device: &DeviceInfo, spec: &TensorSpec) -> usize {
    spec.shape.tiles().div_ceil(device.grid.cores()) * spec.dtype.tile_bytes()
}

/// The configuration of `ttnn.linear`, with `reserved` bytes of each core's L1 in use by tensors.
pub fn matmul(device: &DeviceInfo, product: &Product, reserved: usize) -> Result<MatmulProgramConfig, PlanError> {
    let (m, k, n) = product.tiles();
    let CoreGrid { x, y } = device.grid;
    let spread = |tiles: usize, cores: usize| tiles.div_ceil(cores);
    let shapes = [
        (Multicast::OneD, m, spread(n, x * y)),
        (Multicast::TwoD, spread(m, y), spread(n, x)),
        (Multicast::TwoDTransposed, spread(m, x), spread(n, y)),
    ];
    let l1 = device.l1_bytes.saturating_sub(reserved + MARGIN);
    let mut best: Option<(f64, MatmulProgramConfig)> = None;
    for (multicast, per_core_m, per_core_n) in shapes {
        // With the whole inner dimension in one block there would be nothing to read while it is computed.
        for in0_block_w in divisors(k).filter(|&block| block < k || k == 1) {
            for out_block_h in divisors(per_core_m).filter(|&block| whole_blocks(m, per_core_m, block)) {
                for out_block_w in divisors(per_core_n) {
                    let blocks = (k / in0_block_w) * (per_core_m / out_block_h) * (per_core_n / out_block_w);
                    let (out_subblock_h, out_subblock_w) = subblock(out_block_h, out_block_w, product.compute.fp32_dest_acc_en);
                    let cost = pipelined(product, (per_core_m, per_core_n), (out_subblock_h, out_subblock_w), blocks);
                    if best.is_some_and(|(least, _)| least <= cost) {
                        continue;
                    }
                    let config = MatmulProgramConfig {
                        multicast,
                        grid: device.grid,
                        in0_block_w,
                        out_subblock_h,
                        out_subblock_w,
                        out_block_h,
                        out_block_w,
                        per_core_m,
                        per_core_n,
                        fused_activation: product.activation,
                    };
                    if matmul_buffers(product, &config) <= l1 {
                        best = Some((cost, config));
                    }
                }
            }
        }
    }
    let what = || format!("a product of {m}x{k} by {k}x{n} tiles");
    best.map(|(_, config)| config).ok_or_else(|| PlanError { what: what(), l1, grid: device.grid })
}

/// Whether the core with the last rows has as many blocks of rows as the others. Where it has fewer, TTNN's reader fetches rows behind
/// the tensor for the missing ones.
fn whole_blocks(m: usize, per_core_m: usize, block: usize) -> bool {
    let last = match m % per_core_m {
        0 => per_core_m,
        rest => rest,
    };
    last.div_ceil(block) == per_core_m / block
}

/// Nanoseconds of a product in `blocks` blocks, of which one is read while the one before is computed.
fn pipelined(product: &Product, (m, n): (usize, usize), (subblock_h, subblock_w): (usize, usize), blocks: usize) -> f64 {
    let ProductCost { compute, weight } = product.cost(m, n);
    // A subblock of h x w products brings h tiles of one operand and w of the other.
    let loads = (subblock_h + subblock_w) as f64 / (subblock_h * subblock_w) as f64;
    let cycles = product.compute.math_fidelity.cycles() as f64;
    let compute = compute * (loads * UNPACK_CYCLES / cycles).max(1.0);
    compute.max(weight) + compute.min(weight) / blocks as f64 + BLOCK_NS * blocks as f64
}

/// Bytes of the circular buffers of one core.
fn matmul_buffers(product: &Product, config: &MatmulProgramConfig) -> usize {
    let (_, k, _) = product.tiles();
    let &MatmulProgramConfig { in0_block_w, out_block_h, out_block_w, .. } = config;
    let double = if k > in0_block_w { 2 } else { 1 };
    let out_tiles = out_block_h * out_block_w;
    double * in0_block_w * (out_block_h * product.x.dtype.tile_bytes() + out_block_w * product.weight.dtype.tile_bytes())
        + out_tiles * (product.dtype.tile_bytes() + partials(product))
        + product.bias.map_or(0, |bias| out_block_w * bias.tile_bytes())
}

/// Bytes of a tile of partial sums, where they do not share the output's buffer.
fn partials(product: &Product) -> usize {
    let format = if product.compute.fp32_dest_acc_en { DataType::Float32 } else { DataType::Bfloat16 };
    if format == product.dtype { 0 } else { format.tile_bytes() }
}

/// The largest block of tiles that the destination registers hold: eight, or four in float32. Wide blocks reuse operand A.
fn subblock(rows: usize, columns: usize, fp32: bool) -> (usize, usize) {
    let room = if fp32 { 4 } else { 8 };
    let mut best = (1, 1);
    for width in divisors(columns) {
        for height in divisors(rows) {
            // A subblock of several rows needs the whole width: the kernels write rows of blocks.
            let shaped = height == 1 || width == columns;
            if shaped && height * width <= room && height * width > best.0 * best.1 {
                best = (height, width);
            }
        }
    }
    best
}

/// The configuration of `ttnn.experimental.minimal_matmul_split`.
pub fn minimal_matmul(device: &DeviceInfo, product: &Product, reserved: usize) -> Result<MinimalMatmulConfig, PlanError> {
    let (m, k, n) = product.tiles();
    let (m_cores, n_cores) = minimal_grid(m, n, device.grid);
    let (per_core_m, per_core_n) = (m.div_ceil(m_cores), n.div_ceil(n_cores));
    let l1 = device.l1_bytes.saturating_sub(reserved + MARGIN);
    let mut best: Option<(usize, MinimalMatmulConfig)> = None;
    for k_block_size in [16, 8, 4, 2, 1].into_iter().filter(|&block| block <= k) {
        for m_block_size in divisors(per_core_m) {
            for n_block_size in divisors(per_core_n) {
                let blocks = k.div_ceil(k_block_size) * (per_core_m / m_block_size) * (per_core_n / n_block_size);
                if best.is_some_and(|(least, _)| least <= blocks) {
                    continue;
                }
                let bytes = 2
                    * k_block_size
                    * (m_block_size * product.x.dtype.tile_bytes() + n_block_size * product.weight.dtype.tile_bytes())
                    + m_block_size * n_block_size * (2 * product.dtype.tile_bytes() + 4096);
                if bytes <= l1 {
                    let (subblock_h, subblock_w) = subblock(m_block_size, n_block_size, product.compute.fp32_dest_acc_en);
                    let config = MinimalMatmulConfig {
                        m_block_size,
                        k_block_size,
                        n_block_size,
                        subblock_h,
                        subblock_w,
                        grid: device.grid,
                    };
                    best = Some((blocks, config));
                }
            }
        }
    }
    let what = || format!("a minimal_matmul of {m}x{k} by {k}x{n} tiles");
    best.map(|(_, config)| config).ok_or_else(|| PlanError { what: what(), l1, grid: device.grid })
}

/// Rows of keys that a masked attention needs: the mask is cut into chunks of whole keys.
pub const MASKED_KEYS_MULTIPLE: usize = 128;

/// The configuration of `ttnn.transformer.scaled_dot_product_attention` for queries `[batch, heads, rows, head_dim]`.
///
/// Chunks are powers of two of tiles: TTNN 0.66 refuses most others, and drops tiles of some.
pub fn sdpa(device: &DeviceInfo, q: Shape, k: Shape, masked: bool, reserved: usize) -> Result<SdpaProgramConfig, PlanError> {
    let [batch, heads, ..] = q.0;
    let (queries, keys, depth) = (q.padded().rows() / TILE, k.padded().rows() / TILE, q.columns() / TILE);
    let cores = device.grid.cores();
    let batch_cores = batch.min(cores);
    let head_cores = (cores / batch_cores).min(heads);
    let l1 = device.l1_bytes.saturating_sub(reserved + MARGIN);
    let mut best: Option<(usize, SdpaProgramConfig)> = None;
    for q_chunk in [1, 2, 4, 8] {
        for k_chunk in [1, 2, 4, 8, 16] {
            // A chunk as long as the queries: the first one then holds a key for every row, whatever the mask hides.
            if masked && (keys % k_chunk != 0 || queries % q_chunk != 0 || k_chunk < queries) {
                continue;
            }
            let (q_chunks, k_chunks) = (queries.div_ceil(q_chunk), keys.div_ceil(k_chunk));
            let chunk_cores = (cores / (batch_cores * head_cores)).min(q_chunks);
            let rounds = batch.div_ceil(batch_cores) * heads.div_ceil(head_cores) * q_chunks.div_ceil(chunk_cores);
            let padded = k_chunks * k_chunk * TILE != k.rows();
            let mask_tiles = if masked || padded { 2 * q_chunk * k_chunk } else { 0 };
            let tiles = 2 * q_chunk * depth
                + 4 * k_chunk * depth
                + mask_tiles
                + 2
                + q_chunk * k_chunk
                + 3 * q_chunk * depth
                + 5 * q_chunk;
            // Tile products of the busiest core, and the cost of starting each pair of chunks in the same unit.
            let cost = rounds * k_chunks * (2 * q_chunk * k_chunk * depth + 16);
            if tiles * DataType::Bfloat16.tile_bytes() <= l1 && best.is_none_or(|(least, _)| cost < least) {
                let program = SdpaProgramConfig {
                    grid: device.grid,
                    q_chunk_size: q_chunk * TILE,
                    k_chunk_size: k_chunk * TILE,
                    exp_approx_mode: false,
                };
                best = Some((cost, program));
            }
        }
    }
    let what = || format!("attention of {q:?} over {k:?}");
    best.map(|(_, program)| program).ok_or_else(|| PlanError { what: what(), l1, grid: device.grid })
}

/// Divisors in descending order, so that equal costs keep the larger block.
fn divisors(n: usize) -> impl Iterator<Item = usize> {
    (1..=n).rev().filter(move |divisor| n.is_multiple_of(*divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ttnn::terms::{MathFidelity, MemoryConfig};

    fn n150() -> DeviceInfo {
        DeviceInfo::wormhole(CoreGrid { x: 8, y: 8 })
    }

    fn product(m: usize, k: usize, n: usize) -> Product {
        let spec = |rows, columns, dtype| {
            TensorSpec::new(Shape::matrix(rows * TILE, columns * TILE), dtype, MemoryConfig::DramInterleaved)
        };
        Product {
            x: spec(m, k, DataType::Bfloat16),
            weight: spec(k, n, DataType::Bfloat8B),
            dtype: DataType::Bfloat16,
            bias: None,
            compute: ComputeKernelConfig {
                math_fidelity: MathFidelity::HiFi2,
                math_approx_mode: false,
                fp32_dest_acc_en: true,
                packer_l1_acc: true,
            },
            activation: None,
        }
    }

    #[test]
    fn every_product_of_the_language_model_uses_at_least_two_thirds_of_the_grid() {
        for (k, n) in [(64, 80), (64, 64), (64, 512), (512, 64)] {
            let product = product(17, k, n);
            let config = matmul(&n150(), &product, 400_000).unwrap();
            let ideal = (17 * k * n * 32) as f64 / 64.0;
            assert!(product.matmul_cost(&config).compute <= ideal * 1.5, "{k} {n} {config:?}");
        }
    }

    #[test]
    fn buffers_are_those_that_ttnn_allocates() {
        // A 17x8 block with an inner block of 4, measured on TTNN 0.66: 278528 + 69632 + 278528 without float32 partial sums.
        let mut product = product(17, 64, 512);
        let config = MatmulProgramConfig {
            multicast: Multicast::OneD,
            grid: CoreGrid { x: 8, y: 8 },
            in0_block_w: 4,
            out_subblock_h: 1,
            out_subblock_w: 4,
            out_block_h: 17,
            out_block_w: 8,
            per_core_m: 17,
            per_core_n: 8,
            fused_activation: None,
        };
        assert_eq!(matmul_buffers(&product, &config), 626_688 + 557_056);
        product.compute.fp32_dest_acc_en = false;
        assert_eq!(matmul_buffers(&product, &config), 626_688);
    }

    #[test]
    fn a_product_that_fits_nowhere_is_an_error_and_names_itself() {
        let error = matmul(&n150(), &product(17, 64, 512), 1_390_000).unwrap_err();
        assert!(error.to_string().contains("17x64 by 64x512 tiles"), "{error}");
    }

    #[test]
    fn no_core_is_planned_to_read_behind_its_operand() {
        for grid in [CoreGrid { x: 8, y: 8 }, CoreGrid { x: 8, y: 7 }, CoreGrid { x: 7, y: 7 }] {
            for (m, k, n) in (1..=33).flat_map(|m| [(m, 64, 80), (m, 64, 512), (m, 512, 64)]) {
                let config = matmul(&DeviceInfo::wormhole(grid), &product(m, k, n), 300_000).unwrap();
                let last = (m - 1) % config.per_core_m + 1;
                assert_eq!(last.div_ceil(config.out_block_h), config.per_core_m / config.out_block_h, "{m} {k} {n} {config:?}");
            }
        }
    }

    #[test]
    fn attention_over_a_mask_cuts_its_keys_exactly() {
        let program = sdpa(&n150(), Shape([1, 8, 64, 256]), Shape([1, 1, 640, 256]), true, 0).unwrap();
        assert_eq!(640 % program.k_chunk_size, 0);
        assert_eq!(program.q_chunk_size, 32);
    }
}

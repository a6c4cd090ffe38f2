//! The innermost loops: some rows of `x` times one panel of a weight, in registers.
//!
//! One text serves every instruction set: [`tile`] is written for a [`Vector`] and compiled for AVX-512, AVX2 with FMA, and what every
//! machine has. All of them add the products of an output in the order of its inputs with one rounding each (a fused multiply-add), so
//! that they give the same bits.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::f16;

/// The instructions that a product is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// 14 rows by 32 outputs in 28 of 32 registers.
    Avx512,
    /// 6 rows by 16 outputs in 12 of 16 registers; with FMA and F16C.
    Avx2,
    /// Whatever the compiler makes of it. Without a fused multiply-add in the machine it is very slow.
    Portable,
}

impl Instructions {
    /// The best that this machine has.
    pub fn detect() -> Self {
        Self::all().next().unwrap_or(Self::Portable)
    }

    /// All that this machine has, best first.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Avx512, Self::Avx2, Self::Portable].into_iter().filter(|set| set.available())
    }

    #[cfg(target_arch = "x86_64")]
    fn available(self) -> bool {
        match self {
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
            Self::Portable => true,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn available(self) -> bool {
        self == Self::Portable
    }

    /// Most rows of a tile.
    pub fn rows(self) -> usize {
        match self {
            Self::Avx512 => 14,
            Self::Avx2 => 6,
            Self::Portable => 4,
        }
    }

    /// Values of one vector; a panel has two of them side by side.
    pub fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 | Self::Portable => 8,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Portable => "portable",
        }
    }
}

/// How the numbers of a panel are stored. One input of a panel has two vectors of outputs, `first` and `second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `first`, then `second`.
    F32,
    /// 32-bit words with an output of `first` in the lower half and one of `second` in the upper half: a shift and a mask widen them.
    BF16,
    /// `first`, then `second`.
    F16,
}

impl Format {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }
}

/// One tile of a product: `c[rows, 2 lanes] (+)= a[rows, depth] b[depth, 2 lanes]`.
#[derive(Clone, Copy)]
pub struct Tile {
    pub rows: usize,
    pub depth: usize,
    /// `[depth, rows]`
    pub a: *const f32,
    /// `[depth, 2 lanes]` in the panel's format
    pub b: *const u8,
    /// Rows of `stride` values
    pub c: *mut f32,
    pub stride: usize,
    /// Add to what is in `c`.
    pub add: bool,
}

impl Tile {
    /// Computes the tile.
    ///
    /// # Safety
    /// `a`, `b` and `c` are valid for what their documentation says, `rows` is in `1..=set.rows()`, and this machine has `set`.
    pub unsafe fn compute(self, set: Instructions, format: Format) {
        // SAFETY: the caller's promise is passed on.
        unsafe {
            match (set, format) {
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx512, Format::F32) => avx512::<F32>(self),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx512, Format::BF16) => avx512::<BF16>(self),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx512, Format::F16) => avx512::<F16>(self),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx2, Format::F32) => avx2::<F32>(self),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx2, Format::BF16) => avx2::<BF16>(self),
                #[cfg(target_arch = "x86_64")]
                (Instructions::Avx2, Format::F16) => avx2::<F16>(self),
                (_, Format::F32) => portable::<F32>(self),
                (_, Format::BF16) => portable::<BF16>(self),
                (_, Format::F16) => portable::<F16>(self),
            }
        }
    }
}

/// `tile` for the number of rows that is known at run time.
macro_rules! of_rows {
    ($vector:ty, $stored:ty, $tile:expr, $($rows:literal)*) => {
        match $tile.rows {
            $($rows => tile::<$vector, $stored, $rows>($tile),)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<S: Stored>(t: Tile) {
    // SAFETY: see Tile::compute.
    unsafe { of_rows!(__m512, S, t, 1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<S: Stored>(t: Tile) {
    // SAFETY: see Tile::compute.
    unsafe { of_rows!(__m256, S, t, 1 2 3 4 5 6) }
}

unsafe fn portable<S: Stored>(t: Tile) {
    // SAFETY: see Tile::compute.
    unsafe { of_rows!([f32; 8], S, t, 1 2 3 4) }
}

/// Bytes that are fetched ahead of the loop, of a panel and of `x`: about what it reads within the latency of the memory.
const AHEAD: usize = 2048;
/// Bytes that one fetch brings.
const LINE: usize = 64;

#[inline(always)]
unsafe fn tile<V: Vector, S: Stored, const ROWS: usize>(t: Tile) {
    let Tile { depth, a, b, c, stride, add, .. } = t;
    let input = 2 * V::LANES * S::FORMAT.size();
    // SAFETY: a, b and c are valid by the caller's promise; fetching ahead may point anywhere.
    unsafe {
        let mut sums = [[V::zero(); 2]; ROWS];
        for k in 0..depth {
            let weights = b.add(k * input);
            for line in (0..input).step_by(LINE) {
                V::fetch(weights.wrapping_add(AHEAD + line));
            }
            V::fetch(a.wrapping_add(k * ROWS).cast::<u8>().wrapping_add(AHEAD));
            let weights = S::load::<V>(weights);
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(a.add(k * ROWS + row));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = x.multiply_add(weight, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                let out = c.add(row * stride + half * V::LANES);
                if add { V::load(out).add(sum).store(out) } else { sum.store(out) }
            }
        }
    }
}

/// How [`tile`] reads a panel.
trait Stored {
    const FORMAT: Format;

    /// The two vectors of outputs of one input.
    unsafe fn load<V: Vector>(weights: *const u8) -> [V; 2];
}

struct F32;
struct BF16;
struct F16;

impl Stored for F32 {
    const FORMAT: Format = Format::F32;

    #[inline(always)]
    unsafe fn load<V: Vector>(weights: *const u8) -> [V; 2] {
        let weights = weights.cast::<f32>();
        // SAFETY: see Tile::compute.
        unsafe { [V::load(weights), V::load(weights.add(V::LANES))] }
    }
}

impl Stored for BF16 {
    const FORMAT: Format = Format::BF16;

    #[inline(always)]
    unsafe fn load<V: Vector>(weights: *const u8) -> [V; 2] {
        // SAFETY: see Tile::compute.
        unsafe { V::load_bf16(weights) }
    }
}

impl Stored for F16 {
    const FORMAT: Format = Format::F16;

    #[inline(always)]
    unsafe fn load<V: Vector>(weights: *const u8) -> [V; 2] {
        // SAFETY: see Tile::compute.
        unsafe { [V::load_f16(weights), V::load_f16(weights.add(2 * V::LANES))] }
    }
}

/// A register of float32. Its functions may be called where the machine has its instructions, with pointers that are valid for it.
pub(super) trait Vector: Copy {
    const LANES: usize;

    unsafe fn zero() -> Self;
    unsafe fn splat(value: *const f32) -> Self;
    unsafe fn load(values: *const f32) -> Self;
    unsafe fn load_bf16(words: *const u8) -> [Self; 2];
    unsafe fn load_f16(values: *const u8) -> Self;
    unsafe fn store(self, out: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + sum` with one rounding.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;
    /// Asks for the cache line at `address`, which may be anywhere.
    unsafe fn fetch(address: *const u8);
}

#[cfg(target_arch = "x86_64")]
// SAFETY of every call: the trait's promise.
impl Vector for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: *const f32) -> Self {
        unsafe { _mm512_set1_ps(*value) }
    }

    #[inline(always)]
    unsafe fn load(values: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(values) }
    }

    #[inline(always)]
    unsafe fn load_bf16(words: *const u8) -> [Self; 2] {
        unsafe {
            let words = _mm512_loadu_si512(words.cast());
            let upper = _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed()));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(upper)]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(values: *const u8) -> Self {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, out: *mut f32) {
        unsafe { _mm512_storeu_ps(out, self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn fetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY of every call: the trait's promise.
impl Vector for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: *const f32) -> Self {
        unsafe { _mm256_set1_ps(*value) }
    }

    #[inline(always)]
    unsafe fn load(values: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(values) }
    }

    #[inline(always)]
    unsafe fn load_bf16(words: *const u8) -> [Self; 2] {
        unsafe {
            let words = _mm256_loadu_si256(words.cast());
            let upper = _mm256_and_si256(words, _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(upper)]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(values: *const u8) -> Self {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, out: *mut f32) {
        unsafe { _mm256_storeu_ps(out, self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, factor, sum) }
    }

    #[inline(always)]
    unsafe fn fetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

// SAFETY of every read and write: the trait's promise.
impl Vector for [f32; 8] {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn splat(value: *const f32) -> Self {
        [unsafe { *value }; 8]
    }

    #[inline(always)]
    unsafe fn load(values: *const f32) -> Self {
        unsafe { values.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_bf16(words: *const u8) -> [Self; 2] {
        let words = unsafe { words.cast::<[u32; 8]>().read_unaligned() };
        [words.map(|word| f32::from_bits(word << 16)), words.map(|word| f32::from_bits(word & 0xFFFF_0000))]
    }

    #[inline(always)]
    unsafe fn load_f16(values: *const u8) -> Self {
        unsafe { values.cast::<[u16; 8]>().read_unaligned() }.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn store(self, out: *mut f32) {
        unsafe { out.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        std::array::from_fn(|lane| self[lane].mul_add(factor[lane], sum[lane]))
    }

    #[inline(always)]
    unsafe fn fetch(_: *const u8) {}
}

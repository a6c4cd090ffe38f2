//! The language model over cameras and prompt: once per observation, for its keys and values.

use super::{
    Model, Ops,
    model::{constant, suffix_rows},
};
use crate::{
    backend::ttnn::{
        plan::MASKED_KEYS_MULTIPLE,
        runtime::{Runtime, RuntimeError},
        terms::{Activation, DataType, MemoryConfig, Shape, TILE, TensorSpec},
        weights::{HeadLayout, mlp_columns},
    },
    model::{Geometry, Rope},
};

const DRAM: MemoryConfig = MemoryConfig::DramInterleaved;
const L1: MemoryConfig = MemoryConfig::L1Interleaved;
/// L1 for the circular buffers of a product beside the hidden activations.
const PRODUCT_BUFFERS: usize = 420 * 1024;

/// The prefix of one combination of cameras and prompt length: its extents and constant tables.
pub struct Prefix<T> {
    pub cameras: usize,
    pub tokens: usize,
    /// One row for each patch of each camera.
    pub position: T,
    /// RoPE tables of the prefix rows.
    pub cos: T,
    pub sin: T,
    /// Rows of zeros before the keys of the prefix, where the suffix's own go, and behind them up to whole chunks of attention.
    pub zeros_before: T,
    pub zeros_behind: Option<T>,
}

/// Keys (without RoPE) and values of one layer, in DRAM: rows of the suffix, then of the prefix, then zeros.
pub struct KeyValues<T> {
    pub keys: T,
    pub values: T,
}

impl<T: Clone> Prefix<T> {
    pub fn new<R: Runtime<Tensor = T>>(
        runtime: &mut R,
        model: &Model<T>,
        cameras: usize,
        tokens: usize,
    ) -> Result<Self, RuntimeError> {
        let geometry = &model.geometry;
        runtime.enter("prefix_tables");
        let layout = HeadLayout::gemma(&geometry.vlm);
        let rows = padded_rows(geometry, cameras, tokens);
        let positions: Vec<i64> = (0..rows as i64).collect();
        let [cos, sin] = rope_tables(runtime, &positions, geometry.vlm.head_dim, layout)?;
        let position = if cameras == 1 {
            model.position.clone()
        } else {
            Ops::new(runtime, None).concat(&vec![&model.position; cameras], DRAM)?
        };
        let mut zeros = |rows| {
            let shape = Shape::matrix(rows, layout.padded());
            constant(runtime, shape, DataType::Bfloat16, DRAM, &vec![0.0; shape.volume()])
        };
        let before = suffix_rows(geometry);
        let behind = key_rows(geometry, cameras, tokens) - before - rows;
        let zeros_before = zeros(before)?;
        let zeros_behind = if behind > 0 { Some(zeros(behind)?) } else { None };
        runtime.leave();
        Ok(Self { cameras, tokens, position, cos, sin, zeros_before, zeros_behind })
    }

    /// Rows that are real: cameras and prompt.
    pub fn valid_rows(&self, geometry: &Geometry) -> usize {
        self.cameras * geometry.vision.tokens() + self.tokens
    }
}

/// Prefix rows up to a whole tile.
pub fn padded_rows(geometry: &Geometry, cameras: usize, tokens: usize) -> usize {
    cameras * geometry.vision.tokens() + tokens.next_multiple_of(TILE)
}

/// Rows of the buffers of keys and values.
pub fn key_rows(geometry: &Geometry, cameras: usize, tokens: usize) -> usize {
    (suffix_rows(geometry) + padded_rows(geometry, cameras, tokens)).next_multiple_of(MASKED_KEYS_MULTIPLE)
}

/// Cosines and sines of rows at `positions`, laid out as padded heads.
pub fn rope_tables<R: Runtime>(
    runtime: &mut R,
    positions: &[i64],
    head_dim: usize,
    layout: HeadLayout,
) -> Result<[R::Tensor; 2], RuntimeError> {
    let rope = Rope::new(positions, head_dim);
    let shape = Shape::matrix(positions.len(), layout.padded());
    // Both halves of a head turn by the same angles.
    let mut table = |half: &[f32]| {
        let mut values = vec![0.0; shape.volume()];
        for (row, half) in values.chunks_exact_mut(layout.padded()).zip(half.chunks_exact(rope.half)) {
            for (feature, &value) in half.iter().chain(half).enumerate() {
                row[layout.column(feature)] = value;
            }
        }
        constant(runtime, shape, DataType::Bfloat16, DRAM, &values)
    };
    Ok([table(&rope.cos)?, table(&rope.sin)?])
}

/// `images` are the cameras' rows and `prompt` the embedded tokens, padded to a tile; gives the keys and values of every layer.
pub fn prefill<R: Runtime>(
    ops: &mut Ops<'_, R>,
    model: &Model<R::Tensor>,
    prefix: &Prefix<R::Tensor>,
    images: &R::Tensor,
    prompt: &R::Tensor,
) -> Result<Vec<KeyValues<R::Tensor>>, RuntimeError> {
    let geometry = model.geometry.vlm;
    let scale = (geometry.head_dim as f32).powf(-0.5);
    let valid = prefix.valid_rows(&model.geometry);
    let mut x = ops.scope("embeddings", |ops| ops.concat(&[images, prompt], L1))?;
    let shape = ops.spec(&x).shape;
    let hidden = TensorSpec::new(Shape::matrix(shape.rows(), mlp_columns(geometry.mlp_width)), DataType::Bfloat16, L1);
    // Gate and up lie in L1 beside the residual and its norm, as long as they fit: first `up` goes to DRAM, then `gate`.
    let residual = TensorSpec::new(shape, DataType::Bfloat16, L1);
    let place = |fits: bool| if fits { L1 } else { DRAM };
    let gate_memory = place(ops.fits_l1(&[hidden, residual, residual, residual], PRODUCT_BUFFERS));
    let up_memory = place(ops.fits_l1(&[hidden, hidden, residual, residual], PRODUCT_BUFFERS));
    let mut cache = Vec::with_capacity(geometry.depth);
    for (index, layer) in model.vlm.iter().enumerate() {
        x = ops.scope(format!("layer.{index}"), |ops| {
            let attended = ops.scope("self_attn", |ops| {
                let normed = ops.rms_norm(&x)?;
                let qkv = ops.linear(&normed, &layer.qkv, None, &[&x])?;
                drop(normed);
                let [q, k, v] = ops.heads(&qkv, geometry.heads, 1)?;
                drop(qkv);
                let kept = keep(ops, prefix, &k, &v)?;
                let tables = [&prefix.cos, &prefix.sin];
                let (q, k) = (ops.rotate(&q, tables)?, ops.rotate(&k, tables)?);
                cache.push(kept);
                // The prompt's padding is no key.
                let real = Shape::matrix(valid, ops.spec(&k).shape.columns());
                let (k, v) = (ops.view(&k, real)?, ops.view(&v, real)?);
                let joined = ops.attention([q, k, v], None, scale, &[&x])?;
                ops.linear(&joined, &layer.o, None, &[&x])
            })?;
            let x = ops.add(&x, &attended)?;
            drop(attended);
            let down = ops.scope("mlp", |ops| {
                let normed = ops.rms_norm(&x)?;
                let gelu = Some(Activation::Gelu);
                let gate = ops.linear_as(&normed, &layer.gate, gelu, &[&x], DataType::Bfloat16, gate_memory)?;
                let up = ops.linear_as(&normed, &layer.up, None, &[&x, &gate], DataType::Bfloat16, up_memory)?;
                drop(normed);
                ops.multiply(&gate, &up, None)?;
                drop(up);
                ops.linear(&gate, &layer.down, None, &[&x])
            })?;
            let x = ops.add(&x, &down)?;
            ops.show(|| format!("prefix.layer.{index}"), &x, 0..valid)?;
            Ok(x)
        })?;
    }
    let last = model.vlm.len();
    ops.scope(format!("layer.{last}"), |ops| {
        ops.scope("self_attn", |ops| {
            let normed = ops.rms_norm(&x)?;
            let [k, v] = ops.split(&normed, &model.vlm_kv, &[&x])?;
            cache.push(keep(ops, prefix, &k, &v)?);
            Ok(())
        })
    })?;
    Ok(cache)
}

/// Copies keys and values to where the denoise steps read them.
fn keep<R: Runtime>(
    ops: &mut Ops<'_, R>,
    prefix: &Prefix<R::Tensor>,
    k: &R::Tensor,
    v: &R::Tensor,
) -> Result<KeyValues<R::Tensor>, RuntimeError> {
    ops.scope("kv_cache", |ops| {
        let mut buffer = |rows| {
            let parts: Vec<_> = [&prefix.zeros_before, rows].into_iter().chain(&prefix.zeros_behind).collect();
            ops.concat(&parts, DRAM)
        };
        Ok(KeyValues { keys: buffer(k)?, values: buffer(v)? })
    })
}

//! The ops of the graph with everything TTNN needs to run them, and the shapes they give.

use serde::{Deserialize, Serialize};

use super::terms::{
    Activation, ComputeKernelConfig, DataType, MatmulProgramConfig, MemoryConfig, MinimalMatmulConfig, SdpaProgramConfig, Shape,
    TILE, TensorSpec,
};

/// One launch on the device (`Reshape` is none: a view). Operands are positional and named in each variant's documentation.
///
/// Matrices are `[1, 1, rows, columns]`; a weight is `[1, 1, inputs, outputs]`, the transpose of the checkpoint's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// `ttnn.linear(x, weight[, bias])`: `activation(x weight + bias)`; a bias is `[1, 1, 1, outputs]`.
    Linear { program: MatmulProgramConfig, dtype: DataType, memory: MemoryConfig, compute: ComputeKernelConfig },
    /// `ttnn.experimental.minimal_matmul_split(x, weight, chunks, dim = -1)`: `x weight` cut into `chunks` outputs of equal width.
    MinimalMatmulSplit {
        chunks: usize,
        config: MinimalMatmulConfig,
        dtype: DataType,
        memory: MemoryConfig,
        compute: ComputeKernelConfig,
    },
    /// `ttnn.layer_norm(x)` without weight and bias: they are folded into the product that follows.
    LayerNorm { epsilon: f32, memory: MemoryConfig, compute: ComputeKernelConfig },
    /// `ttnn.rms_norm(x)` without weight.
    RmsNorm { epsilon: f32, memory: MemoryConfig, compute: ComputeKernelConfig },
    /// `ttnn.transformer.scaled_dot_product_attention(q, k, v[, attn_mask], is_causal = False)`.
    ///
    /// `q` is `[batch, heads, queries, head_dim]`; `k` and `v` are `[batch, kv_heads, keys, head_dim]`; a mask is
    /// `[1, 1, queries, keys]`, added to the scores before they are scaled. Keys beyond the logical rows of `k` are not attended
    /// to.
    ScaledDotProductAttention { scale: f32, program: SdpaProgramConfig, memory: MemoryConfig, compute: ComputeKernelConfig },
    /// `ttnn.experimental.nlp_create_qkv_heads(x[, output_tensors = [q, k, v]])`: `[batch, 1, rows, (heads + 2 kv_heads) head_dim]` to
    /// queries, keys and values.
    ///
    /// With output tensors the op writes into those, and gives none of its own. Keys and values may be longer than `x` when they
    /// have one head and one batch: TTNN then writes their first rows and leaves the others, which is how the suffix's own keys
    /// join the prefix's without a launch of their own.
    NlpCreateQkvHeads { num_heads: usize, num_kv_heads: usize, memory: MemoryConfig },
    /// `ttnn.experimental.nlp_concat_heads(x)`: `[batch, heads, rows, head_dim]` to `[batch, 1, rows, heads head_dim]`.
    NlpConcatHeads { memory: MemoryConfig },
    /// `ttnn.experimental.rotary_embedding(x, cos, sin)`, half-split; the tables are `[1, 1, rows, head_dim]` with
    /// at least the rows of `x`.
    RotaryEmbedding { memory: MemoryConfig, compute: ComputeKernelConfig },
    /// `ttnn.concat([...], dim = 2)`: rows one below the other. All but the last operand end at a tile.
    Concat { memory: MemoryConfig },
    /// `ttnn.add(a, b)`
    Add { dtype: DataType, memory: MemoryConfig },
    /// `ttnn.addcmul(a, b, c)`: `a + b c`. All of one shape and one number format.
    Addcmul { memory: MemoryConfig },
    /// `ttnn.multiply(a, b, input_tensor_a_activations = [...], output_tensor = a)`: `a` becomes `activation(a) b`. No output.
    Multiply { lhs_activation: Option<Activation> },
    /// `ttnn.where(condition, a, b)`: `a` where the condition is not zero, else `b`. All of one shape.
    Where { memory: MemoryConfig },
    /// `ttnn.reshape(x, shape)`: a view. The values stay where they are: only extents that need no data movement are allowed.
    Reshape { shape: Shape },
}

impl Op {
    /// TTNN's name of the op.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::MinimalMatmulSplit { .. } => "minimal_matmul_split",
            Self::LayerNorm { .. } => "layer_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::ScaledDotProductAttention { .. } => "scaled_dot_product_attention",
            Self::NlpCreateQkvHeads { .. } => "nlp_create_qkv_heads",
            Self::NlpConcatHeads { .. } => "nlp_concat_heads",
            Self::RotaryEmbedding { .. } => "rotary_embedding",
            Self::Concat { .. } => "concat",
            Self::Add { .. } => "add",
            Self::Addcmul { .. } => "addcmul",
            Self::Multiply { .. } => "multiply",
            Self::Where { .. } => "where",
            Self::Reshape { .. } => "reshape",
        }
    }

    /// Whether the op runs on the device at all.
    pub fn launches(&self) -> bool {
        !matches!(self, Self::Reshape { .. })
    }

    /// What the op gives for these operands. The one place of the shape rules: every runtime asks it before it computes.
    pub fn infer(&self, inputs: &[TensorSpec]) -> Result<Vec<TensorSpec>, OpError> {
        let rules = Rules { op: self, inputs };
        let shapes: Vec<Shape> = inputs.iter().map(|spec| spec.shape).collect();
        match *self {
            Self::Linear { dtype, memory, .. } => {
                rules.count(2..=3)?;
                rules.product()?;
                if let Some(&bias) = shapes.get(2) {
                    rules.require(
                        bias == Shape::matrix(1, shapes[1].columns()),
                        "the bias needs one row of the weight's outputs",
                    )?;
                }
                Ok(vec![TensorSpec::new(rules.wide(shapes[1].columns()), dtype, memory)])
            }
            Self::MinimalMatmulSplit { chunks, dtype, memory, .. } => {
                rules.count(2..=2)?;
                rules.product()?;
                let outputs = shapes[1].columns();
                rules.require(chunks > 0 && outputs.is_multiple_of(chunks * TILE), "every chunk needs whole tiles of columns")?;
                Ok(vec![TensorSpec::new(rules.wide(outputs / chunks), dtype, memory); chunks])
            }
            Self::LayerNorm { memory, .. } | Self::RmsNorm { memory, .. } => {
                rules.count(1..=1)?;
                Ok(vec![TensorSpec { memory, ..inputs[0] }])
            }
            Self::ScaledDotProductAttention { memory, .. } => {
                rules.count(3..=4)?;
                let ([batch, heads, queries, head_dim], [kv_batch, kv_heads, keys, kv_dim]) = (shapes[0].0, shapes[1].0);
                rules.require(shapes[1] == shapes[2], "keys and values need one shape")?;
                rules.require(batch == kv_batch && head_dim == kv_dim, "queries and keys need one batch and one head size")?;
                rules.require(kv_heads > 0 && heads % kv_heads == 0, "query heads need to be a multiple of key heads")?;
                rules.require(head_dim % TILE == 0, "the head size needs whole tiles")?;
                if let Some(&mask) = shapes.get(3) {
                    rules.require(mask == Shape([1, 1, queries, keys]), "the mask needs one row a query and one column a key")?;
                }
                Ok(vec![TensorSpec { memory, ..inputs[0] }])
            }
            Self::NlpCreateQkvHeads { num_heads, num_kv_heads, memory } => {
                let [batch, one, rows, columns] = inputs.first().map_or([0; 4], |x| x.shape.0);
                let heads = num_heads + 2 * num_kv_heads;
                rules.require(
                    one == 1 && heads > 0 && columns.is_multiple_of(heads * TILE),
                    "every head needs whole tiles of columns",
                )?;
                rules.require(rows.is_multiple_of(TILE), "rows need whole tiles")?;
                let split = |count| TensorSpec { shape: Shape([batch, count, rows, columns / heads]), memory, ..inputs[0] };
                let outputs = vec![split(num_heads), split(num_kv_heads), split(num_kv_heads)];
                let [_, into @ ..] = inputs else { return Ok(outputs) };
                if into.is_empty() {
                    return Ok(outputs);
                }
                rules.count(4..=4)?;
                for (given, output) in into.iter().zip(&outputs) {
                    let [batch, heads, rows, columns] = output.shape.0;
                    let longer =
                        given.shape.0 == [1, 1, given.shape.rows(), columns] && batch * heads == 1 && given.shape.rows() > rows;
                    rules.require(given.shape == output.shape || longer, "an output tensor has another shape")?;
                    rules.require(given.dtype == output.dtype, "output tensors need the number format of x")?;
                }
                Ok(Vec::new())
            }
            Self::NlpConcatHeads { memory } => {
                rules.count(1..=1)?;
                let [batch, heads, rows, head_dim] = shapes[0].0;
                rules.require(head_dim % TILE == 0, "every head needs whole tiles of columns")?;
                Ok(vec![TensorSpec { shape: Shape([batch, 1, rows, heads * head_dim]), memory, ..inputs[0] }])
            }
            Self::RotaryEmbedding { memory, .. } => {
                rules.count(3..=3)?;
                rules.require(shapes[0].columns().is_multiple_of(2 * TILE), "each half of a head needs whole tiles")?;
                rules.require(shapes[0].rows().is_multiple_of(TILE), "rows need whole tiles")?;
                let table = Shape::matrix(shapes[1].rows(), shapes[0].columns());
                let enough = table.rows() >= shapes[0].rows() && shapes[1] == table && shapes[2] == table;
                rules.require(enough, "the tables need a row for each row of a head")?;
                Ok(vec![TensorSpec { memory, ..inputs[0] }])
            }
            Self::Concat { memory } => {
                rules.count(1..=8)?;
                let [batch, heads, _, columns] = shapes[0].0;
                let mut rows = 0;
                for (index, shape) in shapes.iter().enumerate() {
                    rules.require(shape.0 == [batch, heads, shape.rows(), columns], "operands may differ in their rows only")?;
                    rules.require(inputs[index].dtype == inputs[0].dtype, "operands need one number format")?;
                    rules.require(rows % TILE == 0, "all but the last operand need whole tiles of rows")?;
                    rows += shape.rows();
                }
                Ok(vec![TensorSpec { shape: Shape([batch, heads, rows, columns]), memory, ..inputs[0] }])
            }
            Self::Add { dtype, memory } => {
                rules.count(2..=2)?;
                rules.require(shapes[0] == shapes[1], "operands need one shape")?;
                Ok(vec![TensorSpec::new(shapes[0], dtype, memory)])
            }
            Self::Addcmul { memory } => {
                rules.count(3..=3)?;
                rules.require(shapes.iter().all(|&shape| shape == shapes[0]), "operands need one shape")?;
                rules.require(inputs.iter().all(|spec| spec.dtype == inputs[0].dtype), "operands need one number format")?;
                Ok(vec![TensorSpec { memory, ..inputs[0] }])
            }
            Self::Multiply { .. } => {
                rules.count(2..=2)?;
                rules.require(shapes[0] == shapes[1], "operands need one shape")?;
                Ok(Vec::new())
            }
            Self::Where { memory } => {
                rules.count(3..=3)?;
                rules.require(shapes.iter().all(|&shape| shape == shapes[0]), "operands need one shape")?;
                rules.require(inputs[1].dtype == inputs[2].dtype, "both choices need one number format")?;
                Ok(vec![TensorSpec { memory, ..inputs[1] }])
            }
            Self::Reshape { shape } => {
                rules.count(1..=1)?;
                // Rows and heads may be regrouped when each group is whole tiles; else only trailing rows may be given up, inside the
                // last tile, where they stay in memory as padding.
                let from = shapes[0];
                let regrouped = from.columns() == shape.columns()
                    && from.volume() == shape.volume()
                    && from.rows().is_multiple_of(TILE)
                    && shape.rows() % TILE == 0;
                let shortened =
                    from.padded() == shape.padded() && shape.columns() == from.columns() && shape.rows() <= from.rows();
                rules.require(regrouped || shortened, "such a view would move values")?;
                Ok(vec![TensorSpec { shape, ..inputs[0] }])
            }
        }
    }
}

/// Checks that speak of one op and its operands.
struct Rules<'a> {
    op: &'a Op,
    inputs: &'a [TensorSpec],
}

impl Rules<'_> {
    fn require(&self, holds: bool, rule: &'static str) -> Result<(), OpError> {
        if holds {
            return Ok(());
        }
        let shapes = self.inputs.iter().map(|spec| spec.shape).collect();
        Err(OpError { op: self.op.name(), shapes, rule })
    }

    fn count(&self, operands: std::ops::RangeInclusive<usize>) -> Result<(), OpError> {
        self.require(operands.contains(&self.inputs.len()), "it has another number of operands")
    }

    /// Operand 0 times operand 1.
    fn product(&self) -> Result<(), OpError> {
        let (x, weight) = (self.inputs[0].shape, self.inputs[1].shape);
        self.require(weight.batch() == 1, "the weight is one matrix")?;
        self.require(x.columns() == weight.rows(), "the weight needs one row for each column of x")
    }

    /// The shape of operand 0 with other columns.
    fn wide(&self, columns: usize) -> Shape {
        let [a, b, rows, _] = self.inputs[0].shape.0;
        Shape([a, b, rows, columns])
    }
}

/// An op was given operands that it does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} does not take operands of {shapes:?}: {rule}")]
pub struct OpError {
    pub op: &'static str,
    pub shapes: Vec<Shape>,
    pub rule: &'static str,
}

//! The matrices of the graph, made from the checkpoint's tensors: transposed, fused, padded to tiles, with the norms' gains and biases
//! folded in. Every fold is exact in real arithmetic and done in float32 or wider, before a value is rounded to the card's format.

use rayon::prelude::*;

use super::terms::{DataType, MemoryConfig, Shape, TILE, TensorSpec};
use crate::{
    backend::BackendError,
    checkpoint::{Tensor, Weights},
    model::{GemmaGeometry, Geometry, VisionGeometry, layout},
};

/// Version of how matrices are made: raise it with every change of their values, so that no packed file of before is used.
pub const RECIPES: u32 = 1;
/// The dtype of most matrices: half the bytes of bfloat16 to stream.
pub const WEIGHT: DataType = DataType::Bfloat8B;
/// The dtype of the attention projections that are streamed once an observation, not once a step. Their rounding is most of what a
/// card's keys and values differ by from float32 (3.3e-2 at layer 17 of the published size with `bfloat8_b`, 2.4e-2 so), and at the prefix's row
/// counts their products still wait for arithmetic, not for DRAM.
pub const PREFIX_ATTENTION: DataType = DataType::Bfloat16;
/// The MLP width is padded to a multiple of this: whole tiles for four cores.
const MLP_MULTIPLE: usize = 4 * TILE;

/// A matrix of the graph: what it is and how to make it.
pub struct Recipe {
    /// Unique within the model.
    pub label: String,
    pub spec: TensorSpec,
    make: Make,
}

type Make = Box<dyn Fn(&Weights) -> Result<Vec<f32>, BackendError> + Send + Sync>;

impl Recipe {
    /// The logical values, row-major.
    pub fn values(&self, weights: &Weights) -> Result<Vec<f32>, BackendError> {
        (self.make)(weights)
    }
}

/// Where the features of attention heads lie in a padded head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    dim: usize,
    /// Features that are kept together and padded: the whole head, or each half when RoPE pairs halves.
    part: usize,
}

impl HeadLayout {
    /// SigLIP's heads: no RoPE.
    pub fn vision(geometry: &VisionGeometry) -> Self {
        Self { dim: geometry.head_dim(), part: geometry.head_dim() }
    }

    pub fn gemma(geometry: &GemmaGeometry) -> Self {
        Self { dim: geometry.head_dim, part: geometry.head_dim / 2 }
    }

    /// Columns of one padded head.
    pub fn padded(self) -> usize {
        self.dim / self.part * self.padded_part()
    }

    fn padded_part(self) -> usize {
        self.part.next_multiple_of(TILE)
    }

    /// Column of feature `feature` of a row of heads.
    pub fn column(self, feature: usize) -> usize {
        let (head, within) = (feature / self.dim, feature % self.dim);
        head * self.padded() + within / self.part * self.padded_part() + within % self.part
    }
}

/// Padded width of an MLP.
pub fn mlp_columns(width: usize) -> usize {
    width.next_multiple_of(MLP_MULTIPLE)
}

/// Columns of a flattened patch, padded to tiles.
pub fn patch_columns(vision: &VisionGeometry) -> usize {
    (3 * vision.patch * vision.patch).next_multiple_of(TILE)
}

/// Every weight of the graph.
pub fn recipes(geometry: &Geometry) -> Vec<Recipe> {
    let mut recipes = Recipes(Vec::new());
    recipes.vision(geometry);
    recipes.gemma("vlm", layout::VLM, &geometry.vlm, Tower::Prefix);
    recipes.gemma("expert", layout::EXPERT, &geometry.expert, Tower::Suffix);
    recipes.suffix(geometry);
    recipes.0
}

/// The two Gemma towers differ in which products are fused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tower {
    /// The last layer stops at its keys and values.
    Prefix,
    /// Gate and up are one matrix.
    Suffix,
}

struct Recipes(Vec<Recipe>);

impl Recipes {
    fn add(&mut self, label: String, rows: usize, columns: usize, dtype: DataType, make: Make) {
        let spec = TensorSpec::new(Shape::matrix(rows, columns), dtype, MemoryConfig::DramInterleaved);
        self.0.push(Recipe { label, spec, make });
    }

    /// A matrix of `blocks` side by side over `rows` inputs.
    fn matrix(&mut self, label: String, rows: usize, columns: usize, dtype: DataType, blocks: Vec<Block>) {
        let make: Make = Box::new(move |weights| {
            let mut out = vec![0.0; rows * columns];
            for block in &blocks {
                block.place(weights, &mut out, columns)?;
            }
            Ok(out)
        });
        self.add(label, rows, columns, dtype, make);
    }

    /// One row of `blocks`' biases.
    fn bias(&mut self, label: String, columns: usize, blocks: Vec<Block>) {
        let make: Make = Box::new(move |weights| {
            let mut out = vec![0.0; columns];
            for block in &blocks {
                block.place_bias(weights, &mut out)?;
            }
            Ok(out)
        });
        self.add(label, 1, columns, DataType::Bfloat16, make);
    }

    fn linear(&mut self, label: String, rows: usize, columns: usize, dtype: DataType, blocks: Vec<Block>) {
        self.matrix(label.clone(), rows, columns, dtype, blocks.clone());
        self.bias(format!("{label}.bias"), columns, blocks);
    }

    fn vision(&mut self, geometry: &Geometry) {
        let vision = geometry.vision;
        let width = vision.width;
        let embeddings = format!("{}.embeddings", layout::VISION);
        let patch = Block::new(format!("{embeddings}.patch_embedding"));
        // 0.7 million weights: bfloat16 costs nothing here.
        self.matrix("vision.patch".into(), patch_columns(&vision), width, DataType::Bfloat16, vec![patch]);
        // The position of each patch with the bias of the patch embedding.
        let position = format!("{embeddings}.position_embedding.weight");
        let bias = format!("{embeddings}.patch_embedding.bias");
        let make: Make = Box::new(move |weights| {
            let bias = tensor(weights, &bias)?.to_f32();
            let mut rows = tensor(weights, &position)?.to_f32();
            for row in rows.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias);
            }
            Ok(rows)
        });
        self.add("vision.position".into(), vision.tokens(), width, DataType::Bfloat16, make);

        let heads = HeadLayout::vision(&vision);
        let (mlp, attention) = (mlp_columns(vision.mlp_width), vision.heads * heads.padded());
        for index in 0..vision.depth {
            let name = |part: &str| format!("{}.encoder.layers.{index}.{part}", layout::VISION);
            let label = |part: &str| format!("vision.{index}.{part}");
            let projection = |part: &str, nth: usize| {
                let columns = Columns::Heads { layout: heads, first: nth * attention };
                // The scale of the scores goes into the queries: TTNN's attention rounds it to bfloat16, which 1/sqrt(72) is not.
                let scale = if nth == 0 { (vision.head_dim() as f32).powf(-0.5) } else { 1.0 };
                Block::new(name(part)).columns(columns).layer_norm(name("layer_norm1")).scaled(scale)
            };
            let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
            let qkv = qkv.iter().enumerate().map(|(nth, part)| projection(part, nth)).collect();
            self.linear(label("qkv"), width, 3 * attention, PREFIX_ATTENTION, qkv);
            self.linear(
                label("out"),
                attention,
                width,
                PREFIX_ATTENTION,
                vec![Block::new(name("self_attn.out_proj")).rows(heads)],
            );
            self.linear(label("fc1"), width, mlp, WEIGHT, vec![Block::new(name("mlp.fc1")).layer_norm(name("layer_norm2"))]);
            self.linear(label("fc2"), mlp, width, WEIGHT, vec![Block::new(name("mlp.fc2"))]);
        }
        let norm = format!("{}.post_layernorm", layout::VISION);
        self.linear(
            "projector".into(),
            width,
            geometry.vlm.width,
            WEIGHT,
            vec![Block::new(layout::PROJECTOR.into()).layer_norm(norm)],
        );
    }

    fn gemma(&mut self, tower: &str, prefix: &str, gemma: &GemmaGeometry, kind: Tower) {
        let heads = HeadLayout::gemma(gemma);
        let (width, mlp) = (gemma.width, mlp_columns(gemma.mlp_width));
        let attention = match kind {
            Tower::Prefix => PREFIX_ATTENTION,
            Tower::Suffix => WEIGHT,
        };
        let (queries, keys) = (gemma.heads * heads.padded(), gemma.kv_heads * heads.padded());
        for index in 0..gemma.depth {
            let name = |part: &str| format!("{prefix}.layers.{index}.{part}");
            let label = |part: &str| format!("{tower}.{index}.{part}");
            let projection = |part: &str, first: usize| {
                let columns = Columns::Heads { layout: heads, first };
                Block::new(name(part)).columns(columns).rms_norm(name("input_layernorm"))
            };
            if kind == Tower::Prefix && index + 1 == gemma.depth {
                let kv = vec![projection("self_attn.k_proj", 0), projection("self_attn.v_proj", keys)];
                self.matrix(label("kv"), width, 2 * keys, attention, kv);
                break;
            }
            let qkv = vec![
                projection("self_attn.q_proj", 0),
                projection("self_attn.k_proj", queries),
                projection("self_attn.v_proj", queries + keys),
            ];
            self.matrix(label("qkv"), width, queries + 2 * keys, attention, qkv);
            self.matrix(label("o"), queries, width, attention, vec![Block::new(name("self_attn.o_proj")).rows(heads)]);
            let hidden = |part: &str, first: usize| {
                Block::new(name(part)).columns(Columns::From(first)).rms_norm(name("post_attention_layernorm"))
            };
            match kind {
                Tower::Prefix => {
                    self.matrix(label("gate"), width, mlp, WEIGHT, vec![hidden("mlp.gate_proj", 0)]);
                    self.matrix(label("up"), width, mlp, WEIGHT, vec![hidden("mlp.up_proj", 0)]);
                }
                Tower::Suffix => {
                    let both = vec![hidden("mlp.gate_proj", 0), hidden("mlp.up_proj", mlp)];
                    self.matrix(label("gate_up"), width, 2 * mlp, WEIGHT, both);
                }
            }
            self.matrix(label("down"), mlp, width, WEIGHT, vec![Block::new(name("mlp.down_proj"))]);
        }
    }

    /// Small matrices in bfloat16. What depends on the schedule is in [`StepWeights`].
    fn suffix(&mut self, geometry: &Geometry) {
        let width = geometry.expert.width;
        let small = |recipes: &mut Self, label: &str, name: &str, inputs: usize| {
            let block = Block::new(name.into());
            recipes.matrix(label.into(), inputs, width, DataType::Bfloat16, vec![block.clone()]);
            recipes.bias(format!("{label}.bias"), width, vec![block]);
        };
        small(self, "state", "state_proj", geometry.state_dim);
        small(self, "mlp_out", "action_time_mlp_out", width);
        // action_in_proj and the action half of action_time_mlp_in are one map: no nonlinearity lies between them.
        let (action_dim, expert) = (geometry.action_dim, width);
        let make: Make = Box::new(move |weights| {
            let (action, mlp) = (tensor(weights, "action_in_proj.weight")?.to_f32(), ActionHalf::of(weights)?);
            let mut out = vec![0.0; action_dim * expert];
            for (row, values) in out.chunks_exact_mut(expert).enumerate() {
                for (column, value) in values.iter_mut().enumerate() {
                    let inner = mlp.row(column).iter().enumerate();
                    *value = inner.map(|(k, &w)| f64::from(w) * f64::from(action[k * action_dim + row])).sum::<f64>() as f32;
                }
            }
            Ok(out)
        });
        self.add("action_in".into(), action_dim, width, DataType::Bfloat16, make);
    }
}

/// `action_time_mlp_in.weight` is `[width, 2 width]`: columns of the embedded action, then of the time embedding.
struct ActionHalf {
    weight: Vec<f32>,
    width: usize,
}

impl ActionHalf {
    fn of(weights: &Weights) -> Result<Self, BackendError> {
        let tensor = tensor(weights, "action_time_mlp_in.weight")?;
        Ok(Self { weight: tensor.to_f32(), width: tensor.shape()[0] })
    }

    fn row(&self, output: usize) -> &[f32] {
        &self.weight[2 * output * self.width..][..self.width]
    }

    fn time_row(&self, output: usize) -> &[f32] {
        &self.weight[(2 * output + 1) * self.width..][..self.width]
    }
}

/// What the suffix needs for one Euler schedule, row-major float32.
pub struct StepWeights {
    /// The bias of `action_in` for each step, `[1, width]`: everything that depends on the time alone.
    pub biases: Vec<Vec<f32>>,
    /// `action_out_proj` times `dt`, with the final norm's gain: `[width, action_dim]` and its bias `[1, action_dim]`.
    pub action_out: Vec<f32>,
    pub action_out_bias: Vec<f32>,
}

impl StepWeights {
    /// `embeddings` are the time embeddings of the steps, in float64.
    pub fn new(weights: &Weights, geometry: &Geometry, embeddings: &[Vec<f64>], dt: f64) -> Result<Self, BackendError> {
        let (mlp, width) = (ActionHalf::of(weights)?, geometry.expert.width);
        let action_bias = tensor(weights, "action_in_proj.bias")?.to_f32();
        let mlp_bias = tensor(weights, "action_time_mlp_in.bias")?.to_f32();
        let dot = |row: &[f32], x: &mut dyn Iterator<Item = f64>| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
        let biases = embeddings
            .iter()
            .map(|embedding| {
                let bias = |output: usize| {
                    let action = dot(mlp.row(output), &mut action_bias.iter().map(|&b| f64::from(b)));
                    let time = dot(mlp.time_row(output), &mut embedding.iter().copied());
                    (f64::from(mlp_bias[output]) + action + time) as f32
                };
                (0..width).map(bias).collect()
            })
            .collect();
        let norm = format!("{}.norm.weight", layout::EXPERT);
        let block = Block::new("action_out_proj".into()).rms_norm(norm);
        let (mut action_out, mut action_out_bias) = (vec![0.0; width * geometry.action_dim], vec![0.0; geometry.action_dim]);
        block.place(weights, &mut action_out, geometry.action_dim)?;
        block.place_bias(weights, &mut action_out_bias)?;
        for value in action_out.iter_mut().chain(&mut action_out_bias) {
            *value = (f64::from(*value) * dt) as f32;
        }
        Ok(Self { biases, action_out, action_out_bias })
    }
}

/// A checkpoint tensor `[outputs, inputs...]` transposed into a matrix.
#[derive(Clone)]
struct Block {
    name: String,
    columns: Columns,
    /// Inputs are heads of this layout.
    rows: Option<HeadLayout>,
    norm: Option<Norm>,
    /// Factor of weight and bias.
    scale: f32,
}

#[derive(Clone, Copy)]
enum Columns {
    /// Outputs one after the other from this column on.
    From(usize),
    /// Outputs are heads, from this column on.
    Heads { layout: HeadLayout, first: usize },
}

/// The norm whose gain (and bias) the block takes over.
#[derive(Clone)]
enum Norm {
    /// `name.weight` and `name.bias`
    Layer(String),
    /// The tensor holds the gain less one.
    Rms(String),
}

impl Block {
    fn new(name: String) -> Self {
        Self { name, columns: Columns::From(0), rows: None, norm: None, scale: 1.0 }
    }

    fn columns(self, columns: Columns) -> Self {
        Self { columns, ..self }
    }

    fn scaled(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    fn rows(self, rows: HeadLayout) -> Self {
        Self { rows: Some(rows), ..self }
    }

    fn layer_norm(self, name: String) -> Self {
        Self { norm: Some(Norm::Layer(name)), ..self }
    }

    fn rms_norm(self, name: String) -> Self {
        // The caller names the module, or for a tower's final norm the tensor.
        let name = if name.ends_with(".weight") { name } else { format!("{name}.weight") };
        Self { norm: Some(Norm::Rms(name)), ..self }
    }

    fn column(&self, output: usize) -> usize {
        match self.columns {
            Columns::From(first) => first + output,
            Columns::Heads { layout, first } => first + layout.column(output),
        }
    }

    /// Writes the transpose into `out`, whose rows have `width` columns.
    fn place(&self, weights: &Weights, out: &mut [f32], width: usize) -> Result<(), BackendError> {
        let tensor = tensor(weights, &format!("{}.weight", self.name))?;
        let outputs = tensor.shape()[0];
        let inputs = tensor.len() / outputs;
        let gain = match &self.norm {
            None => None,
            Some(Norm::Layer(name)) => Some(self::tensor(weights, &format!("{name}.weight"))?.to_f32()),
            Some(Norm::Rms(name)) => Some(self::tensor(weights, name)?.to_f32().iter().map(|weight| 1.0 + weight).collect()),
        };
        let row = |input: usize| self.rows.map_or(input, |heads| heads.column(input));
        // Sixteen inputs at a time are a cache line of the checkpoint's rows; heads never split a run of sixteen, and parts of
        // heads that are shorter come out of `row` one by one.
        const RUN: usize = 16;
        let runs: Vec<usize> = (0..inputs).step_by(RUN).collect();
        let transposed: Vec<Vec<f32>> = runs
            .par_iter()
            .map(|&start| {
                let run = RUN.min(inputs - start);
                let mut columns = vec![0.0; run * outputs];
                let mut values = [0.0; RUN];
                for output in 0..outputs {
                    tensor.data().widen_into(output * inputs + start, &mut values[..run]);
                    for (k, &value) in values[..run].iter().enumerate() {
                        let gain = gain.as_ref().map_or(1.0, |gain| gain[start + k]);
                        columns[k * outputs + output] = self.scale * gain * value;
                    }
                }
                columns
            })
            .collect();
        for (&start, columns) in runs.iter().zip(&transposed) {
            for (k, values) in columns.chunks_exact(outputs).enumerate() {
                let line = &mut out[row(start + k) * width..][..width];
                match self.columns {
                    Columns::From(first) => line[first..first + outputs].copy_from_slice(values),
                    Columns::Heads { .. } => {
                        for (output, &value) in values.iter().enumerate() {
                            line[self.column(output)] = value;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds `bias + weight norm_bias` into `out`.
    fn place_bias(&self, weights: &Weights, out: &mut [f32]) -> Result<(), BackendError> {
        let bias = tensor(weights, &format!("{}.bias", self.name))?.to_f32();
        let of_norm = match &self.norm {
            Some(Norm::Layer(name)) => Some(tensor(weights, &format!("{name}.bias"))?.to_f32()),
            Some(Norm::Rms(_)) | None => None,
        };
        let weight = tensor(weights, &format!("{}.weight", self.name))?;
        for (output, &bias) in bias.iter().enumerate() {
            let mut value = f64::from(bias);
            if let Some(of_norm) = &of_norm {
                let mut row = vec![0.0; of_norm.len()];
                weight.data().widen_into(output * of_norm.len(), &mut row);
                value += row.iter().zip(of_norm).map(|(&w, &b)| f64::from(w) * f64::from(b)).sum::<f64>();
            }
            out[self.column(output)] = (f64::from(self.scale) * value) as f32;
        }
        Ok(())
    }
}

fn tensor<'a>(weights: &'a Weights, name: &str) -> Result<&'a Tensor, BackendError> {
    weights.get(name).ok_or_else(|| BackendError::MissingTensor(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_heads_need_no_padding_and_siglips_are_96_wide() {
        let geometry = Geometry::base();
        let gemma = HeadLayout::gemma(&geometry.vlm);
        assert_eq!(gemma.padded(), 256);
        assert!((0..2048).all(|feature| gemma.column(feature) == feature));
        let vision = HeadLayout::vision(&geometry.vision);
        assert_eq!((vision.padded(), vision.column(72), vision.column(71)), (96, 96, 71));
    }

    #[test]
    fn each_half_of_a_short_head_starts_at_a_tile() {
        let tiny = HeadLayout::gemma(&Geometry::tiny().vlm);
        assert_eq!(tiny.padded(), 64);
        assert_eq!([0, 7, 8, 15, 16].map(|feature| tiny.column(feature)), [0, 7, 32, 39, 64]);
    }

    #[test]
    fn the_published_model_is_3_gigabytes_on_the_card() {
        let bytes: usize = recipes(&Geometry::base()).iter().map(|recipe| recipe.spec.bytes()).sum();
        // SigLIP 0.49, language model without the last layer's MLP 2.0, expert 0.33 GB, were all of it in bfloat8_b; 0.33 more for
        // the attention projections of the prefix.
        assert!((3.1e9..3.2e9).contains(&(bytes as f64)), "{bytes}");
    }
}

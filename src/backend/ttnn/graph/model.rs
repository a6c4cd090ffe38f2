//! The weights that stay on the device.

use std::collections::HashMap;

use bytes::Bytes;

use super::ops::Linear;
use crate::{
    backend::ttnn::{
        pack::pack,
        runtime::{Runtime, RuntimeError},
        terms::{DataType, MemoryConfig, Shape, TILE, TensorSpec},
        weights::{HeadLayout, Recipe},
    },
    model::Geometry,
};

pub struct VisionLayer<T> {
    pub qkv: Linear<T>,
    pub out: Linear<T>,
    pub fc1: Linear<T>,
    pub fc2: Linear<T>,
}

/// A layer of the language model.
pub struct VlmLayer<T> {
    pub qkv: Linear<T>,
    pub o: Linear<T>,
    pub gate: Linear<T>,
    pub up: Linear<T>,
    pub down: Linear<T>,
}

/// A layer of the action expert.
pub struct ExpertLayer<T> {
    pub qkv: Linear<T>,
    pub o: Linear<T>,
    /// Gate, then up.
    pub gate_up: T,
    pub down: Linear<T>,
}

/// All weights and the constants that depend on nothing but the geometry.
pub struct Model<T> {
    pub geometry: Geometry,
    pub patch: Linear<T>,
    /// Position embedding of one camera's patches, with the patch bias.
    pub position: T,
    pub vision: Vec<VisionLayer<T>>,
    pub projector: Linear<T>,
    /// All layers but the last.
    pub vlm: Vec<VlmLayer<T>>,
    /// Keys, then values of the last layer.
    pub vlm_kv: T,
    pub expert: Vec<ExpertLayer<T>>,
    pub state: Linear<T>,
    pub action_in: T,
    pub mlp_out: Linear<T>,
    /// One on rows of actions.
    pub action_rows: T,
    /// Where the suffix's queries go, `[1, heads, suffix rows, head_dim]`.
    pub queries: T,
}

/// Rows of the suffix: actions, state token and padding.
pub fn suffix_rows(geometry: &Geometry) -> usize {
    (geometry.horizon + 1).next_multiple_of(TILE)
}

impl<T: Clone> Model<T> {
    /// Uploads what `recipes` make; `packed` gives the bytes of one, in the recipes' order.
    pub fn load<R: Runtime<Tensor = T>>(
        runtime: &mut R,
        geometry: &Geometry,
        recipes: &[Recipe],
        packed: &mut dyn FnMut(&Recipe) -> Result<Bytes, RuntimeError>,
    ) -> Result<Self, RuntimeError> {
        let mut tensors = HashMap::new();
        runtime.enter("weights");
        for recipe in recipes {
            tensors.insert(recipe.label.as_str(), runtime.upload(recipe.spec, &mut || packed(recipe))?);
        }
        runtime.leave();
        let take = |label: &str| tensors.get(label).cloned().ok_or_else(|| RuntimeError::Weights(format!("{label} is missing")));
        let linear = |label: &str| -> Result<Linear<T>, RuntimeError> {
            Ok(Linear { weight: take(label)?, bias: tensors.get(format!("{label}.bias").as_str()).cloned() })
        };

        let vision_layer = |index| {
            let part = |part: &str| linear(&format!("vision.{index}.{part}"));
            Ok(VisionLayer { qkv: part("qkv")?, out: part("out")?, fc1: part("fc1")?, fc2: part("fc2")? })
        };
        let vlm_layer = |index| {
            let part = |part: &str| linear(&format!("vlm.{index}.{part}"));
            Ok(VlmLayer { qkv: part("qkv")?, o: part("o")?, gate: part("gate")?, up: part("up")?, down: part("down")? })
        };
        let expert_layer = |index| {
            let part = |part: &str| linear(&format!("expert.{index}.{part}"));
            Ok(ExpertLayer { qkv: part("qkv")?, o: part("o")?, gate_up: part("gate_up")?.weight, down: part("down")? })
        };
        let last = geometry.vlm.depth - 1;
        let (rows, width) = (suffix_rows(geometry), geometry.expert.width);
        let action_rows: Vec<f32> = (0..rows).flat_map(|row| vec![f32::from(u8::from(row < geometry.horizon)); width]).collect();
        let queries = Shape([1, geometry.expert.heads, rows, HeadLayout::gemma(&geometry.expert).padded()]);
        Ok(Self {
            geometry: *geometry,
            patch: linear("vision.patch")?,
            position: take("vision.position")?,
            vision: (0..geometry.vision.depth).map(vision_layer).collect::<Result<_, RuntimeError>>()?,
            projector: linear("projector")?,
            vlm: (0..last).map(vlm_layer).collect::<Result<_, RuntimeError>>()?,
            vlm_kv: take(&format!("vlm.{last}.kv"))?,
            expert: (0..geometry.expert.depth).map(expert_layer).collect::<Result<_, RuntimeError>>()?,
            state: linear("state")?,
            action_in: take("action_in")?,
            mlp_out: linear("mlp_out")?,
            action_rows: constant(
                runtime,
                Shape::matrix(rows, width),
                DataType::Bfloat16,
                MemoryConfig::L1Interleaved,
                &action_rows,
            )?,
            queries: constant(runtime, queries, DataType::Bfloat16, MemoryConfig::L1Interleaved, &vec![0.0; queries.volume()])?,
        })
    }
}

/// Uploads values that never change.
pub fn constant<R: Runtime>(
    runtime: &mut R,
    shape: Shape,
    dtype: DataType,
    memory: MemoryConfig,
    values: &[f32],
) -> Result<R::Tensor, RuntimeError> {
    let spec = TensorSpec::new(shape, dtype, memory);
    runtime.upload(spec, &mut || Ok(pack(&spec, values)))
}

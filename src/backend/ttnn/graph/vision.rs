//! SigLIP and the projector: patches of all cameras at once to prefix rows.

use super::{Model, Ops};
use crate::{
    backend::ttnn::{
        runtime::{Runtime, RuntimeError},
        terms::{Activation, DataType, MemoryConfig, Shape},
        weights::HeadLayout,
    },
    model::VisionGeometry,
};

/// `patches` are `[1, 1, cameras * tokens, patch columns]`, `position` has a row for each; gives one prefix row for each.
pub fn vision<R: Runtime>(
    ops: &mut Ops<'_, R>,
    model: &Model<R::Tensor>,
    patches: &R::Tensor,
    position: &R::Tensor,
) -> Result<R::Tensor, RuntimeError> {
    let VisionGeometry { width, heads, .. } = model.geometry.vision;
    let tokens = model.geometry.vision.tokens();
    let rows = ops.spec(patches).shape.rows();
    let cameras = rows / tokens;
    let head_layout = HeadLayout::vision(&model.geometry.vision);
    let attention_width = heads * head_layout.padded();

    let embedded = ops.scope("patch_embedding", |ops| {
        let embedded = ops.linear(patches, &model.patch, None, &[])?;
        ops.add(&embedded, position)
    });
    let mut x = embedded?;
    for (index, layer) in model.vision.iter().enumerate() {
        x = ops.scope(format!("layer.{index}"), |ops| {
            let attended = ops.scope("self_attn", |ops| {
                let normed = ops.layer_norm(&x)?;
                let qkv = ops.linear(&normed, &layer.qkv, None, &[&x])?;
                drop(normed);
                let qkv = ops.view(&qkv, Shape([cameras, 1, tokens, 3 * attention_width]))?;
                let [q, k, v] = ops.heads(&qkv, heads, heads)?;
                drop(qkv);
                // The queries are scaled by their weights.
                let joined = ops.attention([q, k, v], None, 1.0, &[&x])?;
                let joined = ops.view(&joined, Shape::matrix(rows, attention_width))?;
                ops.linear(&joined, &layer.out, None, &[&x])
            })?;
            let x = ops.add(&x, &attended)?;
            drop(attended);
            let hidden = ops.scope("mlp", |ops| {
                let normed = ops.layer_norm(&x)?;
                let hidden = ops.linear(&normed, &layer.fc1, Some(Activation::Gelu), &[&x])?;
                drop(normed);
                ops.linear(&hidden, &layer.fc2, None, &[&x])
            })?;
            ops.add(&x, &hidden)
        })?;
    }
    debug_assert_eq!(ops.spec(&x).shape, Shape::matrix(rows, width));
    ops.scope("projector", |ops| {
        let normed = ops.layer_norm(&x)?;
        drop(x);
        ops.linear_as(&normed, &model.projector, None, &[], DataType::Bfloat16, MemoryConfig::DramInterleaved)
    })
}

//! Model inputs as the values of the graph's input tensors.

use crate::{
    checkpoint::Tensor,
    model::{Camera, Geometry, ModelInputs},
};

use super::weights::patch_columns;

/// Patches of the present cameras, `[cameras * tokens, patch columns]`: each row is a patch, channel by channel, as the patch
/// embedding's weight is laid out; the columns behind it are zero.
pub fn patches(geometry: &Geometry, inputs: &ModelInputs) -> Vec<f32> {
    let (size, patch, columns) = (geometry.vision.image_size, geometry.vision.patch, patch_columns(&geometry.vision));
    let side = size / patch;
    let mut rows = Vec::new();
    for camera in &inputs.cameras {
        let Camera::Present(pixels) = camera else { continue };
        for index in 0..side * side {
            let first = rows.len();
            let (top, left) = (index / side * patch, index % side * patch);
            for channel in 0..3 {
                for y in top..top + patch {
                    let at = (channel * size + y) * size + left;
                    rows.extend_from_slice(&pixels[at..at + patch]);
                }
            }
            rows.resize(first + columns, 0.0);
        }
    }
    rows
}

/// Number of present cameras.
pub fn cameras(inputs: &ModelInputs) -> usize {
    inputs.cameras.iter().filter(|camera| matches!(camera, Camera::Present(_))).count()
}

/// Embedded prompt tokens times `sqrt(width)`, `[rows, width]`: zero behind the last token.
pub fn prompt(embed_tokens: &Tensor, ids: &[u32], rows: usize) -> Vec<f32> {
    let width = embed_tokens.shape()[1];
    let scale = (width as f64).sqrt() as f32;
    let mut values = vec![0.0; rows * width];
    for (row, &id) in values.chunks_exact_mut(width).zip(ids) {
        embed_tokens.data().widen_into(id as usize * width, row);
        row.iter_mut().for_each(|value| *value *= scale);
    }
    values
}

/// `values` as rows from row `first` on of `rows` rows of `width`, the others zero.
pub fn placed(values: &[f32], width: usize, first: usize, rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * width];
    out[first * width..][..values.len()].copy_from_slice(values);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Prompt;

    #[test]
    fn a_patch_is_channel_by_channel_and_absent_cameras_have_none() {
        let geometry = Geometry::tiny();
        let size = geometry.vision.image_size;
        let pixels: Vec<f32> = (0..3 * size * size).map(|i| i as f32).collect();
        let cameras = vec![Camera::Masked, Camera::Present(pixels), Camera::Masked];
        let inputs = ModelInputs { cameras, prompt: Prompt { ids: vec![1] }, state: Vec::new() };
        let rows = patches(&geometry, &inputs);
        let columns = patch_columns(&geometry.vision);
        assert_eq!(rows.len(), 16 * columns);
        // Patch 5 begins at row 14, column 14; its second channel's second row follows 196 + 14 values later.
        let patch = &rows[5 * columns..6 * columns];
        assert_eq!(patch[0], (14 * 56 + 14) as f32);
        assert_eq!(patch[196 + 14], (56 * 56 + 15 * 56 + 14) as f32);
        assert!(patch[588..].iter().all(|&value| value == 0.0));
    }
}

//! Model inputs as the values of the graph's input tensors.

use crate::{
    checkpoint::Tensor,
    model::{Camera, EulerSchedule, Geometry, Guidance, ModelInputs, guidance_weight},
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

/// Factors of step `step` that is guided, `[horizon, columns]` each: of `x`, of `dt v`, and what is added, so that their sum is
/// `x + dt v` with the guided `v`.
///
/// `v - g w (previous - x + t v)` times `dt`, sorted by what the card has.
pub fn guidance(guidance: &Guidance, schedule: EulerSchedule, step: usize, columns: usize) -> [Vec<f32>; 3] {
    let time = schedule.exact_time(step);
    let g = f64::from(guidance_weight(time, guidance.max_weight));
    let weights = || guidance.weights.iter().flat_map(|&weight| std::iter::repeat_n(g * f64::from(weight), columns));
    [
        weights().map(|weight| (1.0 + schedule.dt() * weight) as f32).collect(),
        weights().map(|weight| (1.0 - time * weight) as f32).collect(),
        weights().zip(&guidance.previous).map(|(weight, &row)| (-schedule.dt() * weight * f64::from(row)) as f32).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::synthetic::uniform,
        model::{PrefixSchedule, Prompt},
    };

    #[test]
    fn factors_of_a_guided_step_are_the_guided_velocity_times_dt() {
        let (horizon, columns) = (50, 32);
        let schedule = EulerSchedule::new(10).unwrap();
        let values = |salt: &str| uniform(salt, horizon * columns);
        let weights = PrefixSchedule::Exp.prefix_weights(7, 25, horizon);
        let guide = Guidance { previous: values("previous"), weights, max_weight: 10.0 };
        for step in 0..schedule.steps() {
            let (x, v) = (values("x"), values("v"));
            let mut guided = v.clone();
            guide.guide(schedule.exact_time(step), &x, &mut guided);
            let [x_factor, velocity_factor, pull] = guidance(&guide, schedule, step, columns);
            for i in 0..x.len() {
                let found = x_factor[i] * x[i] + velocity_factor[i] * (schedule.dt() as f32 * v[i]) + pull[i];
                let wanted = x[i] + schedule.dt() as f32 * guided[i];
                assert!((found - wanted).abs() <= 1e-6, "step {step}, value {i}: {found} and {wanted}");
            }
        }
    }

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

//! Comparison of a backend with the reference backend on the same weights and inputs: the check to run first on a new card.

use super::{
    Metric, Precision, Report, Score, VerifyError,
    compare::{score, widen},
};
use crate::{
    backend::{
        self, Backend, BackendOptions, NoProbe, Shown,
        reference::{Reference, ReferenceOptions, Rows},
    },
    checkpoint::{Weights, synthetic},
    model::{Camera, DenoiseRequest, Geometry, Guidance, ModelInputs, PrefixSchedule, Prompt, noise},
};

/// Compares a chunk of `options`' backend with the reference's, tensor by tensor, within the bounds of bfloat16: once with every camera
/// and once with one of them absent, with prompts of different lengths, and each again guided by the reference's chunk.
pub fn verify_against_reference(
    geometry: &Geometry,
    weights: Weights,
    steps: usize,
    options: &BackendOptions,
) -> Result<Report, VerifyError> {
    let mut backend = backend::open(*geometry, weights.clone(), options)?;
    let mut reference = Reference::new(*geometry, weights, ReferenceOptions { threads: options.threads, ..Default::default() })?;
    let title = format!("{}: {} parameters, against the reference backend", backend.describe().device, geometry.parameters());
    let mut report = Report::titled(title);
    for (run, (present, tokens)) in [(&[true, true, true][..], 20), (&[true, false, true], 9)].into_iter().enumerate() {
        let inputs = inputs(geometry, present, tokens.min(geometry.prompt_slots), run);
        let request =
            DenoiseRequest { noise: noise(0, run as u64, geometry.horizon * geometry.action_dim), steps, guidance: None };
        let (mut found, mut wanted) = (Shown::default(), Shown::default());
        let chunk = backend.infer_probed(&inputs, &request, &mut found)?;
        let prefix = reference.prefix_probed(&inputs, &mut wanted)?;
        let golden = reference.denoise_probed(&prefix, &inputs, &request, &mut wanted)?;
        let mut scores = compare(&found, &wanted);
        scores.push(score("actions", Precision::BF16.actions(), &widen(&chunk.actions), &widen(&golden.actions)));
        let weights = PrefixSchedule::Linear.prefix_weights(geometry.horizon / 8, geometry.horizon / 2, geometry.horizon);
        let guidance = Guidance { previous: golden.actions, weights, max_weight: 10.0 };
        let noise = noise(1, run as u64, geometry.horizon * geometry.action_dim);
        let request = DenoiseRequest { noise, steps, guidance: Some(guidance) };
        let chunk = backend.infer_probed(&inputs, &request, &mut NoProbe)?;
        let golden = reference.denoise(&prefix, &inputs, &request)?;
        scores.push(score("guided_actions", Precision::BF16.actions(), &widen(&chunk.actions), &widen(&golden.actions)));
        report.add(scores, Rows::Needed);
    }
    Ok(report)
}

/// Scores of all tensors that both sides show; of the expert's layers also the state token's row, whose mask the actions do not show.
fn compare(found: &Shown, wanted: &Shown) -> Vec<Score> {
    let bound: Metric = Precision::BF16.intermediate();
    let mut scores = Vec::new();
    for (name, (width, values)) in &found.0 {
        let Some((_, golden)) = wanted.0.get(name) else { continue };
        scores.push(score(name, bound, &widen(values), &widen(golden)));
        if name.starts_with("step.0.layer.") {
            let row = |values: &[f32]| widen(values.get(..*width).unwrap_or_default());
            scores.push(score(&format!("{name}.state_row"), bound, &row(values), &row(golden)));
        }
    }
    scores
}

fn inputs(geometry: &Geometry, present: &[bool], tokens: usize, run: usize) -> ModelInputs {
    let pixels = 3 * geometry.vision.image_size.pow(2);
    let camera = |(slot, &present): (usize, &bool)| match present {
        true => Camera::Present(synthetic::uniform(&format!("verify.{run}.{slot}"), pixels)),
        false => Camera::Masked,
    };
    ModelInputs {
        cameras: present.iter().enumerate().map(camera).collect(),
        prompt: Prompt { ids: (0..tokens).map(|slot| ((2 + 37 * slot) % geometry.vocab_size) as u32).collect() },
        state: synthetic::uniform(&format!("verify.{run}.state"), geometry.state_dim),
    }
}

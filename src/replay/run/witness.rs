//! What really arrives at the backend, and what it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::trace::{CameraTrace, Digest, Intermediate, ModelTrace};
use crate::{
    backend::{Backend, BackendError, BackendInfo, PrefixCache, Probe},
    model::{Camera, Chunk, DenoiseRequest, ModelInputs},
};

/// Fields along each side of an image.
const FIELDS: usize = 8;
/// Values that are kept of an intermediate tensor.
const VALUES: usize = 64;

/// A backend that is looked at. Of the first chunk it notes the intermediate tensors too.
pub struct Witness {
    backend: Box<dyn Backend>,
    noted: Witnessed,
    probed: bool,
}

/// What a [`Witness`] noted of the newest chunk.
#[derive(Clone, Default)]
pub struct Witnessed(Arc<Mutex<Option<ModelTrace>>>);

impl Witnessed {
    /// What was noted since this was asked last.
    pub fn take(&self) -> Option<ModelTrace> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<ModelTrace>> {
        // It holds whole values only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    pub fn new(backend: Box<dyn Backend>, noted: Witnessed) -> Self {
        Self { backend, noted, probed: false }
    }

    fn note(&self, inputs: &ModelInputs, request: &DenoiseRequest, chunk: &Chunk, intermediates: Vec<Intermediate>) {
        let guidance = request.guidance.as_ref().map(|guidance| {
            let max_weight = guidance.max_weight.to_le_bytes();
            Digest::of([bytemuck::cast_slice(&guidance.previous), bytemuck::cast_slice(&guidance.weights), &max_weight])
        });
        let trace = ModelTrace {
            cameras: inputs.cameras.iter().map(camera).collect(),
            tokens: inputs.prompt.ids.clone(),
            state: inputs.state.clone(),
            noise: digest(&request.noise),
            guidance,
            answer: digest(&chunk.actions),
            intermediates,
        };
        *self.noted.lock() = Some(trace);
    }
}

impl Backend for Witness {
    fn describe(&self) -> BackendInfo {
        self.backend.describe()
    }

    fn prefix(&mut self, inputs: &ModelInputs) -> Result<PrefixCache, BackendError> {
        self.backend.prefix(inputs)
    }

    fn denoise(&mut self, prefix: &PrefixCache, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        let chunk = self.backend.denoise(prefix, inputs, request)?;
        self.note(inputs, request, &chunk, Vec::new());
        Ok(chunk)
    }

    fn infer(&mut self, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        let mut probe = Sampler::default();
        let chunk = if self.probed {
            self.backend.infer(inputs, request)?
        } else {
            self.backend.infer_probed(inputs, request, &mut probe)?
        };
        self.probed = true;
        self.note(inputs, request, &chunk, probe.0);
        Ok(chunk)
    }

    fn peak_gflops(&self) -> Option<f64> {
        self.backend.peak_gflops()
    }

    fn infer_probed(
        &mut self,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        probe: &mut (dyn Probe + Send),
    ) -> Result<Chunk, BackendError> {
        let chunk = self.backend.infer_probed(inputs, request, probe)?;
        self.note(inputs, request, &chunk, Vec::new());
        Ok(chunk)
    }
}

/// Keeps a little of every tensor.
#[derive(Default)]
struct Sampler(Vec<Intermediate>);

impl Probe for Sampler {
    fn tensor(&mut self, name: &str, _: usize, values: &[f32]) {
        let squares: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
        let step = values.len().div_ceil(VALUES).max(1);
        self.0.push(Intermediate {
            name: name.to_owned(),
            digest: digest(values),
            rms: (squares / values.len().max(1) as f64).sqrt(),
            values: values.iter().copied().step_by(step).collect(),
        });
    }
}

fn digest(values: &[f32]) -> Digest {
    Digest::of([bytemuck::cast_slice(values)])
}

fn camera(camera: &Camera) -> CameraTrace {
    let Camera::Present(pixels) = camera else { return CameraTrace::Masked };
    let (mean, deviation) = moments(pixels.iter().copied());
    CameraTrace::Present { digest: digest(pixels), mean: mean as f32, deviation: deviation as f32, fields: fields(pixels) }
}

/// Means over the fields of a square image `[3, side, side]`.
fn fields(pixels: &[f32]) -> Vec<f32> {
    // Exact: the image is square.
    let side = (pixels.len() / 3).isqrt();
    let span = |field: usize| {
        let start = field * side / FIELDS;
        start..((field + 1) * side / FIELDS).clamp((start + 1).min(side), side)
    };
    let mut means = Vec::with_capacity(3 * FIELDS * FIELDS);
    for channel in pixels.chunks_exact((side * side).max(1)).take(3) {
        for (y, x) in (0..FIELDS * FIELDS).map(|field| (field / FIELDS, field % FIELDS)) {
            let values = span(y).flat_map(|row| channel[row * side..][span(x)].iter().copied());
            means.push(moments(values).0 as f32);
        }
    }
    means
}

/// Mean and standard deviation.
fn moments(values: impl Iterator<Item = f32>) -> (f64, f64) {
    let (count, sum, squares) = values
        .map(f64::from)
        .fold((0.0, 0.0, 0.0), |(count, sum, squares), value| (count + 1.0, sum + value, squares + value * value));
    let mean = sum / f64::max(count, 1.0);
    (mean, (squares / f64::max(count, 1.0) - mean * mean).max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_image_are_the_means_of_their_pixels() {
        let side = 20;
        let pixel = |index: usize| ((index % 7) as f32 - 3.0) / 3.0;
        let pixels: Vec<f32> = (0..3 * side * side).map(pixel).collect();
        let fields = fields(&pixels);
        assert_eq!(fields.len(), 3 * FIELDS * FIELDS);
        // Field (1, 2) of green covers rows 2..5 and columns 5..7.
        let expected: f32 = (2..5).flat_map(|y| (5..7).map(move |x| pixel(side * side + y * side + x))).sum::<f32>() / 6.0;
        assert!((fields[64 + FIELDS + 2] - expected).abs() < 1e-6, "{} {expected}", fields[64 + 10]);
    }

    #[test]
    fn a_tensor_of_any_size_gives_up_to_64_values_and_its_root_mean_square() {
        for size in [0, 1, 63, 64, 65, 1000] {
            let mut sampler = Sampler::default();
            sampler.tensor("name", 1, &vec![2.0; size]);
            let kept = &sampler.0[0];
            assert_eq!(
                (kept.values.len(), kept.rms),
                (size.div_ceil(size.div_ceil(64).max(1)), if size == 0 { 0.0 } else { 2.0 })
            );
            assert!(kept.values.len() <= 64);
        }
    }
}

//! What every backend checks before it computes: a bad input is refused whole.

use super::BackendError;
use crate::{
    checkpoint::Weights,
    model::{Camera, DenoiseRequest, Geometry, ModelInputs},
};

/// Every tensor of a model of `geometry` with its shape.
pub fn weights(geometry: &Geometry, weights: &Weights) -> Result<(), BackendError> {
    for spec in geometry.tensors() {
        let tensor = weights.get(&spec.name).ok_or_else(|| BackendError::MissingTensor(spec.name.clone()))?;
        if tensor.shape() != spec.shape {
            let found = tensor.shape().to_vec();
            return Err(BackendError::TensorShape { name: spec.name, found, expected: spec.shape });
        }
    }
    Ok(())
}

/// Sizes and values of the cameras and the prompt.
pub fn inputs(geometry: &Geometry, inputs: &ModelInputs) -> Result<(), BackendError> {
    let pixels = 3 * geometry.vision.image_size.pow(2);
    let mut present = false;
    for (slot, camera) in inputs.cameras.iter().enumerate() {
        if let Camera::Present(pixel_values) = camera {
            values(|| format!("Camera {slot}"), pixel_values, pixels)?;
            present = true;
        }
    }
    if !present {
        return Err(BackendError::NoCamera);
    }
    let ids = &inputs.prompt.ids;
    if ids.is_empty() {
        return Err(BackendError::EmptyPrompt);
    }
    if ids.len() > geometry.prompt_slots {
        return Err(BackendError::PromptLength { tokens: ids.len(), slots: geometry.prompt_slots });
    }
    match ids.iter().find(|&&id| id as usize >= geometry.vocab_size) {
        Some(&id) => Err(BackendError::Token { id, vocab_size: geometry.vocab_size }),
        None => Ok(()),
    }
}

/// Sizes and values of the state, the noise and the guidance, and a number of steps.
pub fn request(geometry: &Geometry, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<(), BackendError> {
    values(|| "The state".into(), &inputs.state, geometry.state_dim)?;
    let chunk = geometry.horizon * geometry.action_dim;
    values(|| "The noise".into(), &request.noise, chunk)?;
    if let Some(guidance) = &request.guidance {
        values(|| "The chunk before".into(), &guidance.previous, chunk)?;
        values(|| "The guidance's weight of rows".into(), &guidance.weights, geometry.horizon)?;
        if !(guidance.max_weight.is_finite() && guidance.max_weight > 0.0) {
            return Err(BackendError::GuidanceWeight(guidance.max_weight));
        }
    }
    if request.steps == 0 { Err(BackendError::NoSteps) } else { Ok(()) }
}

fn values(what: impl Fn() -> String, values: &[f32], expected: usize) -> Result<(), BackendError> {
    if values.len() != expected {
        return Err(BackendError::Shape { what: what(), found: values.len(), expected });
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(BackendError::NotFinite { what: what(), index, value: values[index] }),
        None => Ok(()),
    }
}

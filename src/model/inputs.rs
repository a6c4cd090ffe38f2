//! What goes into a backend and what comes out, in model space: already resized, normalised, tokenised and padded.

use std::time::Duration;

use super::Guidance;

/// One camera slot of the model, in the checkpoint's order.
#[derive(Clone, Debug, PartialEq)]
pub enum Camera {
    /// Pixels in -1..=1, channel-major `[3, image_size, image_size]`, row-major, RGB.
    Present(Vec<f32>),
    /// The slot is declared absent: the model must not attend to it.
    Masked,
}

/// Token ids of the instruction, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Valid ids, beginning with BOS; at most `Geometry::prompt_slots`.
    pub ids: Vec<u32>,
}

/// One observation in model space.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInputs {
    /// Every camera slot in the checkpoint's order.
    pub cameras: Vec<Camera>,
    pub prompt: Prompt,
    /// Normalised state, padded with zeros to `Geometry::state_dim`.
    pub state: Vec<f32>,
}

/// What the denoise loop is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct DenoiseRequest {
    /// Standard normal `[horizon, action_dim]`: x at t = 1.
    pub noise: Vec<f32>,
    /// Euler steps from t = 1 to t = 0 (10 in the published model).
    pub steps: usize,
    /// Real-time chunking: what the chunk is guided by; `None` computes it freely.
    pub guidance: Option<Guidance>,
}

/// Wall time of each stage of one inference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageTimes {
    pub vision: Duration,
    pub prefix: Duration,
    /// One entry per Euler step.
    pub steps: Vec<Duration>,
}

/// Actions in model space (normalised, padded).
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// `[horizon, action_dim]`, row-major.
    pub actions: Vec<f32>,
    pub times: StageTimes,
}

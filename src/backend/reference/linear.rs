//! Linear layers with weights in the checkpoint's format, packed once.

use crate::backend::kernels::gemm::{Epilogue, Panels, RowTiles, product};

/// One or more weights of the same `x`, with what follows their product.
pub struct Linear {
    panels: Panels,
    outputs: usize,
    finish: Finish,
}

/// What follows the product of a layer.
pub enum Finish {
    Nothing,
    Bias(Vec<f32>),
    BiasGelu(Vec<f32>),
    /// `gelu(gate) * up`: the panels of gate and up alternate.
    Gated,
}

impl Linear {
    /// `outputs` are those of a row of [`Linear::forward`].
    pub fn new(panels: Panels, outputs: usize, finish: Finish) -> Self {
        Self { panels, outputs, finish }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `out[rows, outputs]` of `x[rows, inputs]`.
    pub fn forward(&self, x: &RowTiles, out: &mut [f32]) {
        self.forward_first(x, self.outputs, out);
    }

    /// The first `outputs` of [`Linear::forward`].
    pub fn forward_first(&self, x: &RowTiles, outputs: usize, out: &mut [f32]) {
        let epilogue = match &self.finish {
            Finish::Nothing => Epilogue::Store,
            Finish::Bias(bias) => Epilogue::Bias(bias),
            Finish::BiasGelu(bias) => Epilogue::BiasGelu(bias),
            Finish::Gated => Epilogue::Gated,
        };
        product(x, &self.panels, epilogue, out, outputs);
    }
}

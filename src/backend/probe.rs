//! A look at every intermediate tensor, for verification.

/// Receives intermediates under the names of LeRobot's modules and of the golden sets (`prefix.kv.3.key`, `step.0.layer.5`, ...).
pub trait Probe {
    /// `values` is row-major with rows of `width` entries. Prefix tensors have one row for each computed prefix row.
    fn tensor(&mut self, name: &str, width: usize, values: &[f32]);
}

/// Looks at nothing, at no cost.
pub struct NoProbe;

impl Probe for NoProbe {
    fn tensor(&mut self, _: &str, _: usize, _: &[f32]) {}
}

//! A look at every intermediate tensor, for verification.

use std::collections::BTreeMap;

/// Receives intermediates under the names of LeRobot's modules and of the golden sets (`prefix.kv.3.key`, `step.0.layer.5`, ...).
pub trait Probe {
    /// `values` is row-major with rows of `width` entries. Prefix tensors have one row for each computed prefix row.
    fn tensor(&mut self, name: &str, width: usize, values: &[f32]);

    /// Whether tensors that only it sees are worth making.
    fn watches(&self) -> bool {
        true
    }
}

/// Looks at nothing, at no cost.
pub struct NoProbe;

impl Probe for NoProbe {
    fn tensor(&mut self, _: &str, _: usize, _: &[f32]) {}

    fn watches(&self) -> bool {
        false
    }
}

/// Keeps every tensor with its width, by name.
#[derive(Default)]
pub struct Shown(pub BTreeMap<String, (usize, Vec<f32>)>);

impl Probe for Shown {
    fn tensor(&mut self, name: &str, width: usize, values: &[f32]) {
        self.0.insert(name.to_owned(), (width, values.to_vec()));
    }
}

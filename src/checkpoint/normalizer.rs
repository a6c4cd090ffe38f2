//! Normalisation of one feature (state or actions) with the checkpoint's statistics.

/// Statistics of one feature with the rule that the checkpoint's family applies.
#[derive(Clone, Debug)]
pub struct Normalizer {}

impl Normalizer {
    /// Entries that have statistics.
    pub fn width(&self) -> usize {
        todo!("skeleton")
    }

    /// Robot units to model space, in place; `values` has `width` entries.
    pub fn normalize(&self, _values: &mut [f32]) {
        todo!("skeleton")
    }

    /// Model space to robot units, in place; `values` has `width` entries.
    pub fn unnormalize(&self, _values: &mut [f32]) {
        todo!("skeleton")
    }
}

//! What the SVG pictures of commands have in common.

use std::ops::Range;

use plotters::{coord::Shift, prelude::*};

/// Colours that read on a white and on a black page; the background stays transparent.
pub const INK: RGBColor = RGBColor(128, 128, 128);
/// Neighbouring chunks alternate.
pub const COMMANDED: [RGBColor; 2] = [RGBColor(37, 137, 245), RGBColor(232, 121, 40)];

pub type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

pub fn describe(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Range of the values with a margin, never empty.
pub fn value_range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return -1.0..1.0;
    }
    let margin = ((high - low) * 0.08).max(0.01);
    low - margin..high + margin
}

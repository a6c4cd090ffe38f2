//! What the SVG pictures of commands have in common.

use std::ops::Range;

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
};

/// Colours that read on a white and on a black page; the background stays transparent.
pub const INK: RGBColor = RGBColor(128, 128, 128);
/// Neighbouring chunks alternate.
pub const COMMANDED: [RGBColor; 2] = [RGBColor(37, 137, 245), RGBColor(232, 121, 40)];

pub type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
pub type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

pub fn describe(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A panel with its title and axes: seconds to the right, `labels` of them and of the values at most. The chart begins `top` pixels below
/// the panel's upper edge.
pub fn chart<'a>(
    panel: &Panel<'a>,
    title: &str,
    (time, range): (&Range<f64>, &Range<f64>),
    top: u32,
    labels: (usize, usize),
) -> Result<Chart<'a>, DrawError<'a>> {
    let mut chart = ChartBuilder::on(panel)
        .margin_left(4)
        .margin_right(14)
        .margin_top(top)
        .x_label_area_size(18)
        .y_label_area_size(52)
        .build_cartesian_2d(time.clone(), range.clone())?;
    panel.draw(&Text::new(title.to_owned(), (58, 4), ("sans-serif", 13).into_font().color(&INK)))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(labels.0)
        .y_labels(labels.1)
        .y_label_formatter(&|value| format!("{value:.2}"))
        .x_label_formatter(&|value| format!("{value:.1}"))
        .label_style(("sans-serif", 11).into_font().color(&INK))
        .axis_style(INK.mix(0.6))
        .bold_line_style(INK.mix(0.22))
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(chart)
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

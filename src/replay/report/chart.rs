//! A chart with its axes: the drawing is SVG that is stretched to its place, the numbers are text of the page's size at any width.

use std::fmt::Write;

use super::{
    curve::{HEIGHT, WIDTH, decimal},
    scale::Scale,
};
use crate::html::escape;

/// One drawing over an axis of time (or of another quantity), with ticks at its left.
pub struct Chart<'a> {
    /// What kind of chart, for the style and the script.
    pub class: &'a str,
    pub across: Scale,
    pub up: Scale,
    /// Ticks at the left, at most.
    pub ticks: usize,
    /// What the drawing shows, for those who do not see it: plain text.
    pub label: &'a str,
    /// SVG
    pub drawing: &'a str,
}

impl Chart<'_> {
    pub fn render(&self) -> String {
        let Self { class, across, up, ticks, label, drawing } = self;
        let (mut numbers, mut grid) = (String::new(), String::new());
        for (tick, text) in up.ticks(*ticks) {
            let place = decimal((1.0 - up.at(tick)) * HEIGHT, 2);
            // Writing to a string does not fail.
            let _ = write!(numbers, "<span style=\"top:{place}%\">{text}</span>");
            let _ = write!(grid, "M0 {place}H{WIDTH}");
        }
        format!(
            "<div class=\"chart {class}\"><div class=\"up\" aria-hidden=\"true\">{numbers}</div>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\" \
             data-across=\"{} {}\" data-up=\"{} {}\"><path class=\"grid\" d=\"{grid}\"/>{drawing}</svg></div>\n",
            escape(label),
            across.low,
            across.high,
            up.low,
            up.high
        )
    }
}

/// The numbers of the axis under one chart or several, with its name.
pub fn axis(across: Scale, most: usize, name: &str) -> String {
    let mut html = String::from("<div class=\"across\" aria-hidden=\"true\">");
    for (tick, text) in across.ticks(most) {
        let place = decimal(across.at(tick) * 100.0, 2);
        let _ = write!(html, "<span style=\"left:{place}%\">{text}</span>");
    }
    let _ = writeln!(html, "<em>{name}</em></div>");
    html
}

/// A vertical line.
pub fn upright(at: f64, across: Scale, class: &str) -> String {
    format!("<path class=\"{class}\" d=\"M{} 0V{HEIGHT}\"/>", decimal(across.at(at) * WIDTH, 1))
}

/// A stretch of values over the whole width.
pub fn band(low: f64, high: f64, up: Scale, class: &str) -> String {
    let (top, bottom) = ((1.0 - up.at(high)) * HEIGHT, (1.0 - up.at(low)) * HEIGHT);
    format!("<path class=\"{class}\" d=\"M0 {}H{WIDTH}V{}H0Z\"/>", decimal(top, 2), decimal(bottom, 2))
}

/// A round mark.
pub fn dot(at: f64, value: f64, across: Scale, up: Scale, class: &str) -> String {
    let (x, y) = (across.at(at) * WIDTH, (1.0 - up.at(value)) * HEIGHT);
    format!("<path class=\"{class}\" d=\"M{} {}h0\"/>", decimal(x, 1), decimal(y, 2))
}

//! The picture of commanded joints over time.

use std::{collections::BTreeMap, ops::Range, path::Path};

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{error::ReplayError, messages::ActionChunk};
use crate::picture::{COMMANDED, DrawError, INK, Panel, chart, describe, value_range};

const MEASURED: RGBColor = INK;

const PANEL: (u32, u32) = (520, 116);
const HEAD: u32 = 56;
const FOOT: u32 = 34;
/// Joints in one column before a second is made.
const COLUMN: usize = 8;

/// Draws one panel per joint: what each chunk commanded until the next chunk took over (strong), its rest (faint), where chunks
/// take over (vertical lines), and the measured joint of the same name (grey).
pub(super) fn draw(chunks: &[&ActionChunk], measured: &BTreeMap<String, Vec<(f64, f64)>>, svg: &Path) -> Result<(), ReplayError> {
    render(chunks, measured, svg).map_err(|reason| ReplayError::Picture { path: svg.into(), reason })
}

fn render(chunks: &[&ActionChunk], measured: &BTreeMap<String, Vec<(f64, f64)>>, svg: &Path) -> Result<(), String> {
    let first = chunks.first().ok_or("The bag has no chunk")?;
    let joints = &first.joint_names;
    if chunks.iter().any(|chunk| chunk.joint_names != *joints) {
        return Err("The chunks command different joints".into());
    }
    let origin = first.header.stamp.seconds();
    // Rows before the delay were never commanded.
    let taken_over = |chunk: &&ActionChunk| chunk.header.stamp.seconds() - origin + f64::from(chunk.delay_rows) * chunk.period;
    let starts: Vec<_> = chunks.iter().map(taken_over).collect();
    let end = chunks.last().map_or(0.0, |chunk| chunk.header.stamp.seconds() - origin + f64::from(chunk.horizon) * chunk.period);
    let time = 0.0..end.max(f64::EPSILON);

    let columns = if joints.len() > COLUMN { 2 } else { 1 };
    let rows = joints.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * columns as u32, HEAD + PANEL.1 * rows as u32 + FOOT);
    let root = SVGBackend::new(svg, size).into_drawing_area();
    let (head, body) = root.split_vertically(HEAD);
    let (body, foot) = body.split_vertically(PANEL.1 * rows as u32);
    draw_head(&head, chunks).map_err(describe)?;
    let panels = body.split_evenly((rows, columns));
    for (joint, name) in joints.iter().enumerate() {
        // Column by column, so that the arms of a two-armed robot stand side by side.
        let panel = &panels[joint % rows * columns + joint / rows];
        let curve = |index: usize| {
            let chunk = chunks[index];
            let (start, period, late) = (starts[index], chunk.period, chunk.delay_rows as usize);
            let rows = chunk.actions.chunks(joints.len()).skip(late).map(move |row| row[joint]);
            let points = rows.enumerate().map(move |(row, value)| (start + row as f64 * period, value));
            points.filter(|(_, value)| value.is_finite()).collect::<Vec<_>>()
        };
        let commanded: Vec<_> = (0..chunks.len()).map(curve).collect();
        let shifted = |curve: &Vec<(f64, f64)>| curve.iter().map(|&(at, value)| (at - origin, value)).collect::<Vec<_>>();
        let mut seen = measured.get(name).map(shifted).unwrap_or_default();
        seen.retain(|(at, value)| time.contains(at) && value.is_finite());
        draw_panel(panel, name, &time, &starts, &commanded, &seen).map_err(describe)?;
    }
    draw_foot(&foot, columns).map_err(describe)?;
    root.present().map_err(describe)
}

fn draw_head<'a>(head: &Panel<'a>, chunks: &[&ActionChunk]) -> Result<(), DrawError<'a>> {
    let title = format!("{} chunks for \"{}\"", chunks.len(), chunks.first().map_or("", |chunk| &chunk.instruction));
    head.draw(&Text::new(title, (14, 10), ("sans-serif", 18).into_font().color(&INK)))?;
    let mut left = 14;
    let entries: [(&str, &[RGBColor]); 2] = [("commanded, a colour per chunk", &COMMANDED), ("measured", &[MEASURED])];
    for (label, colours) in entries {
        for colour in colours {
            head.draw(&PathElement::new([(left, 43), (left + 18, 43)], colour.stroke_width(3)))?;
            left += 22;
        }
        head.draw(&Text::new(label, (left, 37), ("sans-serif", 13).into_font().color(&INK)))?;
        left += 16 + 6 * label.len() as i32;
    }
    head.draw(&Text::new("faint: replaced by the next chunk", (left, 37), ("sans-serif", 13).into_font().color(&INK)))
}

fn draw_foot<'a>(foot: &Panel<'a>, columns: usize) -> Result<(), DrawError<'a>> {
    let style = ("sans-serif", 13).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
    for column in 0..columns as i32 {
        let middle = PANEL.0 as i32 * column + PANEL.0 as i32 / 2;
        foot.draw(&Text::new("seconds after the first chunk's start", (middle, 8), style.clone()))?;
    }
    Ok(())
}

fn draw_panel<'a>(
    panel: &Panel<'a>,
    name: &str,
    time: &Range<f64>,
    starts: &[f64],
    commanded: &[Vec<(f64, f64)>],
    measured: &[(f64, f64)],
) -> Result<(), DrawError<'a>> {
    let range = value_range(commanded.iter().flatten().chain(measured).map(|&(_, value)| value));
    let mut chart = chart(panel, name, (time, &range), 20, (6, 3))?;
    for &start in starts {
        chart.draw_series([PathElement::new([(start, range.start), (start, range.end)], INK.mix(0.35))])?;
    }
    for (index, curve) in commanded.iter().enumerate() {
        let colour = COMMANDED[index % COMMANDED.len()];
        let until = starts.get(index + 1).copied().unwrap_or(f64::INFINITY);
        let split = curve.partition_point(|&(at, _)| at <= until);
        // Both parts share the point at the border.
        let rest = &curve[split.saturating_sub(1)..];
        chart.draw_series(LineSeries::new(rest.iter().copied(), colour.mix(0.28)))?;
        chart.draw_series(LineSeries::new(curve[..split].iter().copied(), colour.stroke_width(2)))?;
    }
    chart.draw_series(LineSeries::new(measured.iter().copied(), MEASURED.stroke_width(1)))?;
    Ok(())
}

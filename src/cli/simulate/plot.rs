//! The picture of commands across the borders of chunks.

use std::{ops::Range, path::Path};

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    control::JointControl,
    picture::{COMMANDED, DrawError, INK, Panel, chart, describe, value_range},
    sim::Outcome,
};

const PANEL: (u32, u32) = (860, 170);
const HEAD: u32 = 56;
const FOOT: u32 = 34;
/// Seconds that are shown.
const SHOWN: f64 = 3.0;

/// What is drawn of a mode.
struct Curves {
    title: String,
    /// What is commanded from one border to the next.
    commanded: Vec<Vec<(f64, f64)>>,
    /// What the chunk before each border would have gone on with.
    replaced: Vec<Vec<(f64, f64)>>,
}

/// Draws one panel for each mode around the largest jump of the first: what is commanded to the joint that jumps there, in a colour per
/// chunk (strong), what the replaced chunks would have gone on with (thin), and where chunks take over (vertical lines).
pub fn draw(outcomes: &[(&str, Outcome)], joints: &[JointControl], period: f64, svg: &Path) -> Result<(), String> {
    let (_, first) = outcomes.first().ok_or("Nothing was simulated")?;
    let largest = first.largest_jump(joints).ok_or("No chunk took over from another. Simulate for longer")?;
    let (middle, end) = (largest.step as f64 * period, first.commands.len() as f64 * period);
    let start = (middle - SHOWN / 2.0).min(end - SHOWN).max(0.0);
    let time = start..(start + SHOWN).min(end);
    let curves: Vec<_> =
        outcomes.iter().map(|(mode, outcome)| Curves::new(mode, outcome, joints, largest.joint, (period, &time))).collect();
    let shown = curves.iter().flat_map(|curves| curves.commanded.iter().chain(&curves.replaced).flatten());
    let range = value_range(shown.filter(|(at, _)| time.contains(at)).map(|&(_, value)| value));

    let size = (PANEL.0, HEAD + PANEL.1 * curves.len() as u32 + FOOT);
    let root = SVGBackend::new(svg, size).into_drawing_area();
    let (head, body) = root.split_vertically(HEAD);
    let (body, foot) = body.split_vertically(PANEL.1 * curves.len() as u32);
    let joint = joints.get(largest.joint).map_or("", |joint| &joint.name);
    draw_head(&head, joint).map_err(describe)?;
    for (panel, curves) in body.split_evenly((curves.len(), 1)).iter().zip(&curves) {
        draw_panel(panel, curves, &time, &range).map_err(describe)?;
    }
    draw_foot(&foot).map_err(describe)?;
    root.present().map_err(describe)
}

impl Curves {
    fn new(mode: &str, outcome: &Outcome, joints: &[JointControl], joint: usize, (period, time): (f64, &Range<f64>)) -> Self {
        let at = |step: usize| step as f64 * period;
        let borders = outcome.borders.iter().map(|border| border.step);
        let edges: Vec<_> = [0].into_iter().chain(borders).chain([outcome.commands.len()]).collect();
        let commanded = edges.windows(2).map(|edges| {
            let steps = edges[0]..edges[1];
            steps.filter_map(|step| Some((at(step), *outcome.commands.get(step)?.as_ref()?.get(joint)?))).collect()
        });
        // From the last command that was still of the old chunk.
        let replaced = outcome.borders.iter().map(|border| {
            let last =
                border.step.checked_sub(1).and_then(|step| Some((at(step), *outcome.commands[step].as_ref()?.get(joint)?)));
            let rows = border.without.iter().enumerate();
            last.into_iter().chain(rows.filter_map(|(row, values)| Some((at(border.step + row), *values.get(joint)?)))).collect()
        });
        let jump = outcome.largest_jump(joints).map_or(0.0, |jump| jump.distance);
        let mut curves = Self {
            title: format!("{mode}: largest jump {jump:.3}"),
            commanded: commanded.collect(),
            replaced: replaced.collect(),
        };
        for curve in curves.commanded.iter_mut().chain(&mut curves.replaced) {
            curve.retain(|(at, _)| time.contains(at));
        }
        curves
    }
}

fn draw_head<'a>(head: &Panel<'a>, joint: &str) -> Result<(), DrawError<'a>> {
    let title = format!("Commands to the joint {joint} across the borders of chunks");
    head.draw(&Text::new(title, (14, 10), ("sans-serif", 18).into_font().color(&INK)))?;
    let mut left = 14;
    for colour in COMMANDED {
        head.draw(&PathElement::new([(left, 43), (left + 18, 43)], colour.stroke_width(3)))?;
        left += 22;
    }
    let legend = "commanded, a colour per chunk; thin: what the chunk before would have gone on with; lines: a chunk takes over";
    head.draw(&Text::new(legend, (left, 37), ("sans-serif", 13).into_font().color(&INK)))
}

fn draw_foot<'a>(foot: &Panel<'a>) -> Result<(), DrawError<'a>> {
    let style = ("sans-serif", 13).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
    foot.draw(&Text::new("seconds", (PANEL.0 as i32 / 2, 8), style))
}

fn draw_panel<'a>(panel: &Panel<'a>, curves: &Curves, time: &Range<f64>, range: &Range<f64>) -> Result<(), DrawError<'a>> {
    let mut chart = chart(panel, &curves.title, (time, range), 22, (8, 4))?;
    for (index, curve) in curves.replaced.iter().enumerate() {
        let colour = COMMANDED[index % COMMANDED.len()];
        chart.draw_series(LineSeries::new(curve.iter().copied(), colour.mix(0.6)))?;
    }
    let mut last = None;
    for (index, curve) in curves.commanded.iter().enumerate() {
        let Some(&(begin, _)) = curve.first() else { continue };
        if index > 0 {
            chart.draw_series([PathElement::new([(begin, range.start), (begin, range.end)], INK.mix(0.35))])?;
        }
        // The way from the chunk before belongs to the new one.
        let points = last.into_iter().chain(curve.iter().copied());
        chart.draw_series(LineSeries::new(points, COMMANDED[index % COMMANDED.len()].stroke_width(2)))?;
        last = curve.last().copied();
    }
    Ok(())
}

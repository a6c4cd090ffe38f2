//! How old the inputs were and how late the chunks, over bag time; and how long computing took.

use std::{collections::BTreeSet, fmt::Write};

use super::{
    Report, Scale, bag_axis,
    chart::{Chart, axis, upright},
    curve::{HEIGHT, WIDTH, decimal, path, spans},
    figures,
};
use crate::{
    html::{Row, Table, escape},
    replay::{
        summary::quantile,
        trace::{ChunkTrace, Outcome, Times, Trace},
    },
};

/// With more chunks than this the points would be a line of their own.
const DOTS: usize = 150;
/// Bars of a histogram: more for more chunks.
const BINS: (usize, usize) = (8, 32);

/// One value of each chunk.
struct Lane<'a> {
    name: String,
    unit: &'static str,
    value: Box<dyn Fn(&ChunkTrace) -> f64 + 'a>,
}

/// A chart for each input's age, for the skew and for the rows of each chunk.
pub fn strips(report: &Report) -> String {
    let trace = report.trace;
    if trace.chunks.is_empty() {
        return String::new();
    }
    let time = bag_axis(trace);
    let refused: Vec<_> = trace
        .chunks
        .iter()
        .filter(|chunk| matches!(chunk.outcome, Outcome::Refused { .. }))
        .map(|chunk| (figures::bag_time(chunk.observed, trace.span.0), figures::bag_time(chunk.ready, trace.span.0)))
        .collect();
    let mut html = String::from("<p class=\"note\">One value per chunk, at the time of its observation.");
    if !refused.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(html, " Marked: {} refused.", figures::counted(refused.len(), "chunk"));
    }
    html.push_str("</p>\n<div class=\"strips\">\n");
    for lane in lanes(trace) {
        let points = |trace: &Trace| -> Vec<(f64, f64)> {
            trace
                .chunks
                .iter()
                .map(|chunk| (figures::bag_time(chunk.observed, report.trace.span.0), (lane.value)(chunk)))
                .collect()
        };
        let current = points(trace);
        let before = report.compared.map(|compared| points(compared.baseline));
        let finite: Vec<_> = current.iter().map(|point| point.1).filter(|value| value.is_finite()).collect();
        if finite.is_empty() {
            continue;
        }
        let largest = before.iter().flatten().map(|point| point.1).chain(finite.iter().copied());
        let largest = largest.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let up = Scale::new(0.0, if largest > 0.0 { largest * 1.15 } else { 1.0 });
        let mut drawing = format!("<use href=\"#bag\"/>{}", spans(&refused, time, "outside"));
        if let Some(before) = &before {
            let _ = write!(drawing, "<path class=\"baseline\" d=\"{}\"/>", path(before, time, up, f64::INFINITY));
        }
        let _ = write!(drawing, "<path class=\"now\" d=\"{}\"/>", path(&current, time, up, f64::INFINITY));
        if current.len() <= DOTS {
            let dots = current.iter().filter(|point| point.1.is_finite()).map(|&(at, value)| {
                format!("M{} {}h0", decimal(time.at(at) * WIDTH, 1), decimal((1.0 - up.at(value)) * HEIGHT, 2))
            });
            let _ = write!(drawing, "<path class=\"dots\" d=\"{}\"/>", dots.collect::<String>());
        }
        let (median, most) = (quantile(&finite, 0.5), quantile(&finite, 1.0));
        let shown = |value: f64| if lane.unit == "ms" { format!("{value:.1}") } else { format!("{value:.0}") };
        let (median, most, unit, name) = (shown(median), shown(most), lane.unit, escape(&lane.name));
        let label = format!("{} of each chunk over bag time: median {median} {unit}, at most {most} {unit}", lane.name);
        let chart = Chart { class: "strip", across: time, up, ticks: 2, label: &label, drawing: &drawing }.render();
        let _ = writeln!(
            html,
            "<figure data-unit=\"{unit}\"><figcaption><h3>{name} <span class=\"unit\">{unit}</span></h3>\
             <span class=\"state\">median {median}, max {most}</span><output class=\"read\" aria-hidden=\"true\"></output></figcaption>\n\
             {chart}</figure>"
        );
    }
    let _ = writeln!(html, "{}</div>", axis(time, 8, "bag time / s"));
    html
}

fn lanes(trace: &Trace) -> Vec<Lane<'_>> {
    let mut lanes: Vec<Lane> = Vec::new();
    let sampled: BTreeSet<&String> = trace.chunks.iter().flat_map(|chunk| chunk.samples.keys()).collect();
    for input in sampled {
        let age = move |chunk: &ChunkTrace| chunk.samples.get(input).map_or(f64::NAN, |sample| sample.age * 1e3);
        lanes.push(Lane { name: format!("Age of {input}"), unit: "ms", value: Box::new(age) });
    }
    if trace.chunks.iter().any(|chunk| chunk.skew != 0.0) {
        lanes.push(Lane { name: "Skew of the cameras".into(), unit: "ms", value: Box::new(|chunk| chunk.skew * 1e3) });
    }
    fn rows(of: fn(usize, usize, usize) -> usize) -> impl Fn(&ChunkTrace) -> f64 {
        move |chunk| match chunk.outcome {
            Outcome::Installed { delay_rows, guided_rows, executed, .. } => of(delay_rows, guided_rows, executed) as f64,
            Outcome::Refused { .. } => f64::NAN,
        }
    }
    lanes.push(Lane { name: "Delay".into(), unit: "rows", value: Box::new(rows(|delay, _, _| delay)) });
    lanes.push(Lane { name: "Guided".into(), unit: "rows", value: Box::new(rows(|_, guided, _| guided)) });
    lanes.push(Lane { name: "Executed".into(), unit: "rows", value: Box::new(rows(|_, _, executed| executed)) });
    lanes
}

/// A part of the computing time with its name.
type Stage = (&'static str, fn(&Times) -> f64);

/// What takes time, in the order in which it is done.
const STAGES: [Stage; 5] = [
    ("Total", |times| times.total),
    ("Observation", |times| times.observation),
    ("Vision", |times| times.vision),
    ("Prefix", |times| times.prefix),
    ("Denoise", |times| times.denoise),
];

/// How often each computing time occurred, in total and by stage.
pub fn histograms(report: &Report) -> String {
    let trace = report.trace;
    let times = |trace: &Trace, of: fn(&Times) -> f64| -> Vec<f64> {
        trace.chunks.iter().map(|chunk| of(&chunk.times) * 1e3).filter(|time| time.is_finite()).collect()
    };
    if times(trace, STAGES[0].1).is_empty() {
        return String::new();
    }
    let mut charts = String::new();
    let mut rows = Vec::new();
    for (name, of) in STAGES {
        let ours = times(trace, of);
        let (p50, p95, most) = (quantile(&ours, 0.5), quantile(&ours, 0.95), quantile(&ours, 1.0));
        charts += &histogram(name, &ours, (p50, p95));
        let theirs = report.compared.map(|compared| times(compared.baseline, of));
        let shown = |value: f64| figures::milliseconds(value / 1e3);
        let mut cells = vec![name.to_owned(), shown(p50), shown(p95), shown(most)];
        if let Some(theirs) = theirs {
            cells.extend([0.5, 0.95].map(|at| if theirs.is_empty() { "–".into() } else { shown(quantile(&theirs, at)) }));
        }
        rows.push(Row::of_text(cells));
    }
    let mut columns: Vec<String> = ["stage", "p50 / ms", "p95 / ms", "max / ms"].map(String::from).into();
    if report.compared.is_some() {
        columns.extend(["baseline p50 / ms", "baseline p95 / ms"].map(String::from));
    }
    let table = Table { label: "Computing times by stage".into(), caption: None, columns, rows }.render();
    format!(
        "<p class=\"note\">Wall times of {}; how many took how long. The lines are the median and the 95th percentile. They are never \
         compared: machines differ.</p>\n<div class=\"histograms\">\n{charts}</div>\n{table}",
        figures::counted(trace.chunks.len(), "chunk")
    )
}

fn histogram(name: &str, times: &[f64], (p50, p95): (f64, f64)) -> String {
    let (low, high) = times.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), time| (low.min(*time), high.max(*time)));
    // A few equal times are one bar, not an axis of nanoseconds.
    let half = ((high - low) * 0.55).max(high * 0.02).max(1e-3);
    let middle = (low + high) / 2.0;
    let across = Scale::new((middle - half).max(0.0), middle + half);
    let count = (2 * times.len().isqrt()).clamp(BINS.0, BINS.1);
    let mut bins = vec![0_usize; count];
    for time in times {
        bins[((across.at(*time) * count as f64) as usize).min(count - 1)] += 1;
    }
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    let up = Scale::new(0.0, most as f64 * 1.1);
    let mut bars = String::new();
    let width = WIDTH / count as f64;
    for (bin, found) in bins.iter().enumerate().filter(|(_, found)| **found > 0) {
        let left = bin as f64 * width;
        let top = (1.0 - up.at(*found as f64)) * HEIGHT;
        let _ =
            write!(bars, "M{} {HEIGHT}V{}H{}V{HEIGHT}Z", decimal(left + 2.0, 1), decimal(top, 2), decimal(left + width - 2.0, 1));
    }
    let drawing = format!("<path class=\"bars\" d=\"{bars}\"/>{}{}", upright(p50, across, "median"), upright(p95, across, "p95"));
    let [p50, p95] = [p50, p95].map(|time| figures::milliseconds(time / 1e3));
    let label = format!("{name}: median {p50} ms, 95th percentile {p95} ms, between {low:.2} and {high:.2} ms");
    let chart = Chart { class: "histogram", across, up, ticks: 2, label: &label, drawing: &drawing }.render();
    format!(
        "<figure><figcaption><h3>{name} <span class=\"unit\">ms</span></h3><span class=\"state\">p50 {p50}, p95 {p95}</span></figcaption>\n\
         {chart}{}</figure>\n",
        axis(across, 4, "ms")
    )
}

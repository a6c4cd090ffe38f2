//! Where the runs part, seen from close: the rows of that chunk, and what the cameras showed.

use std::{fmt::Write, io::Cursor};

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ExtendedColorType, codecs::jpeg::JpegEncoder, imageops::FilterType};

use super::{
    Report, ReportError, Scale,
    chart::{Chart, axis, dot, upright},
    curve::{HEIGHT, WIDTH, decimal, path, spans},
    figures, pairs, verdict,
};
use crate::{
    html::escape,
    picture::value_range,
    replay::{
        compare::Divergence,
        report::{Compared, Frame},
        trace::{Outcome, Trace},
    },
};

/// Seconds before and after a command that are drawn.
const AROUND: (f64, f64) = (0.5, 1.5);
/// Images are made no wider than this.
const IMAGE_WIDTH: u32 = 480;
const JPEG_QUALITY: u8 = 82;

pub fn content(report: &Report) -> Result<String, ReportError> {
    let mut html = String::new();
    if let Some((compared, first)) = report.compared.and_then(|compared| Some((compared, compared.comparison.first.as_ref()?))) {
        html += &facts(report, first);
        html += &close_up(report, &compared, first).unwrap_or_default();
    }
    html += &frames(report)?;
    Ok(html)
}

/// The first divergence, item by item.
fn facts(report: &Report, first: &Divergence) -> String {
    let unit = verdict::unit_of(&report.trace.setup, &first.joint);
    let (current, baseline) = figures::pair(first.current, first.baseline);
    let row = match (first.chunk, first.row) {
        (Some(chunk), Some(row)) => format!("chunk {chunk}, row {row}"),
        (Some(chunk), None) => format!("chunk {chunk}"),
        _ => "a command".into(),
    };
    let bound = if first.tolerance == 0.0 { "bit for bit".into() } else { format!("{}{unit}", figures::value(first.tolerance)) };
    let mut html = String::from("<dl class=\"facts\">\n");
    for (name, value) in [
        ("Bag time", format!("{:.3} s", figures::bag_time(first.stamp, report.trace.span.0))),
        ("Stamp", figures::stamp(first.stamp)),
        ("Joint", first.joint.clone()),
        ("In", row),
        ("Baseline", format!("{baseline}{unit}")),
        ("This run", format!("{current}{unit}")),
        ("Apart", format!("{}{unit}", figures::value((first.current - first.baseline).abs()))),
        ("Allowed", bound),
    ] {
        // Writing to a string does not fail.
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    html.push_str("</dl>\n");
    html
}

/// The joint's values around the first divergence: every row of its chunk, or the commands around it.
fn close_up(report: &Report, compared: &Compared, first: &Divergence) -> Option<String> {
    let trace = report.trace;
    let (baseline, current, executed, what) = match first.chunk {
        Some(index) => {
            let chunk = compared.comparison.chunks.iter().find(|chunk| chunk.index == index)?;
            let theirs = rows(compared.baseline, chunk.baseline, &first.joint, trace.span.0)?;
            let ours = rows(trace, chunk.current, &first.joint, trace.span.0)?;
            let executed = match trace.chunks.get(chunk.current)?.outcome {
                Outcome::Installed { delay_rows, executed, .. } if executed > 0 => {
                    let at = |row| {
                        figures::bag_time(pairs::row_stamp(&trace.chunks[chunk.current], row, trace.setup.period), trace.span.0)
                    };
                    Some((at(delay_rows), at(delay_rows + executed - 1)))
                }
                _ => None,
            };
            (theirs, ours, executed, format!("{}: all rows of chunk {index}", first.joint))
        }
        None => {
            let around = |trace: &Trace| commands(trace, first, report.trace.span.0);
            (around(compared.baseline)?, around(trace)?, None, format!("{}: commands around the first divergence", first.joint))
        }
    };
    let (from, to) =
        current.iter().chain(&baseline).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.0), b.max(p.0)));
    if from > to {
        return None;
    }
    let time = Scale::new(from, to);
    let bound = first.tolerance;
    let finite = |curve: &[(f64, f64)]| curve.iter().map(|point| point.1).filter(|value| value.is_finite()).collect::<Vec<_>>();
    let range =
        value_range(finite(&baseline).into_iter().flat_map(|value| [value - bound, value + bound]).chain(finite(&current)));
    let up = Scale::new(range.start, range.end);
    let longest = trace.setup.period * 2.5;
    let mut drawing = executed.map_or(String::new(), |stretch| spans(&[stretch], time, "executed"));
    drawing += &ribbon(&baseline, bound, longest, time, up);
    let at = figures::bag_time(first.stamp, trace.span.0);
    drawing += &upright(at, time, "here");
    for (curve, class) in [(&baseline, "baseline"), (&current, "now")] {
        let _ = write!(drawing, "<path class=\"{class}\" d=\"{}\"/>", path(curve, time, up, longest));
    }
    if first.current.is_finite() {
        drawing += &dot(at, first.current, time, up, "point");
    }
    let unit = verdict::unit_of(&trace.setup, &first.joint);
    let executed = if executed.is_some() { " The shaded rows were executed." } else { "" };
    let chart =
        Chart { class: "close", across: time, up, ticks: 6, label: &format!("{what}, baseline and this run"), drawing: &drawing };
    Some(format!(
        "<figure class=\"close-up\" data-unit=\"{}\"><figcaption><h3>{}{}</h3><p class=\"note\">The wide line is the baseline in its tolerance, \
         the thin one this run; the dot is the first value outside.{executed}</p>\
         <output class=\"read\" aria-hidden=\"true\"></output></figcaption>\n{}{}</figure>\n",
        unit.trim(),
        escape(&what),
        if unit.is_empty() { unit.clone() } else { format!(" <span class=\"unit\">{unit}</span>") },
        chart.render(),
        axis(time, 8, "bag time / s")
    ))
}

/// The actions of a chunk over bag time.
fn rows(trace: &Trace, chunk: usize, joint: &str, origin: i64) -> Option<Vec<(f64, f64)>> {
    let (column, chunk) = (pairs::column(&trace.setup, joint)?, trace.chunks.get(chunk)?);
    let rows = chunk.actions.chunks(trace.setup.joints.len().max(1)).enumerate();
    let at = |row| figures::bag_time(pairs::row_stamp(chunk, row, trace.setup.period), origin);
    Some(rows.map(|(row, values)| (at(row), values.get(column).copied().unwrap_or(f64::NAN))).collect())
}

fn commands(trace: &Trace, first: &Divergence, origin: i64) -> Option<Vec<(f64, f64)>> {
    let column = pairs::column(&trace.setup, &first.joint)?;
    let near = |stamp: i64| (-AROUND.0..=AROUND.1).contains(&figures::bag_time(stamp, first.stamp));
    let point = |command: &crate::replay::trace::Command| {
        (figures::bag_time(command.stamp, origin), command.row.get(column).copied().unwrap_or(f64::NAN))
    };
    Some(trace.commands.iter().filter(|command| near(command.stamp)).map(point).collect())
}

/// The tolerance around a curve.
fn ribbon(curve: &[(f64, f64)], bound: f64, longest: f64, time: Scale, up: Scale) -> String {
    let mut html = String::new();
    let together = |a: &(f64, f64), b: &(f64, f64)| b.0 - a.0 <= longest && a.1.is_finite() == b.1.is_finite();
    for part in curve.chunk_by(together).filter(|part| bound > 0.0 && part[0].1.is_finite()) {
        let place =
            |at: f64, value: f64| format!("{} {}", decimal(time.at(at) * WIDTH, 1), decimal((1.0 - up.at(value)) * HEIGHT, 2));
        let above = part.iter().map(|&(at, value)| place(at, value + bound));
        let below = part.iter().rev().map(|&(at, value)| place(at, value - bound));
        let outline: Vec<_> = above.chain(below).collect();
        let _ = write!(html, "<path class=\"band\" d=\"M{}Z\"/>", outline.join(" "));
    }
    html
}

fn frames(report: &Report) -> Result<String, ReportError> {
    let Some(first) = report.frames.first() else { return Ok(String::new()) };
    let mut html = format!("<h3>What the cameras showed for chunk {}</h3>\n<div class=\"frames\">\n", first.chunk);
    for frame in report.frames {
        let (camera, taken) = (escape(&frame.camera), figures::bag_time(frame.stamp, report.trace.span.0));
        let observed = report.trace.chunks.iter().find(|chunk| chunk.index == frame.chunk).map(|chunk| chunk.observed);
        let age = observed.map_or(String::new(), |observed| {
            format!(", {} ms before its observation", figures::milliseconds(figures::bag_time(observed, frame.stamp)))
        });
        let _ = writeln!(
            html,
            "<figure><img src=\"{}\" width=\"{}\" height=\"{}\" alt=\"Image of camera {camera} at bag time {taken:.3} s\">\
             <figcaption><b>{camera}</b> at {taken:.3} s{age}</figcaption></figure>",
            data_uri(frame)?,
            frame.image.width(),
            frame.image.height()
        );
    }
    html.push_str("</div>\n");
    Ok(html)
}

/// A small JPEG.
fn data_uri(frame: &Frame) -> Result<String, ReportError> {
    let (width, height) = (frame.image.width(), frame.image.height());
    let failed = |source| ReportError::Image { camera: frame.camera.clone(), width, height, source };
    let too_large = || {
        use image::error::{ImageError, ParameterError, ParameterErrorKind};
        failed(ImageError::Parameter(ParameterError::from_kind(ParameterErrorKind::DimensionMismatch)))
    };
    let (Ok(wide), Ok(high)) = (u32::try_from(width), u32::try_from(height)) else { return Err(too_large()) };
    let picture = image::RgbImage::from_raw(wide, high, frame.image.pixels().to_vec()).ok_or_else(too_large)?;
    let picture = match wide > IMAGE_WIDTH {
        true => {
            let scaled = (u64::from(high) * u64::from(IMAGE_WIDTH) / u64::from(wide)).max(1);
            image::imageops::resize(&picture, IMAGE_WIDTH, u32::try_from(scaled).unwrap_or(u32::MAX), FilterType::Triangle)
        }
        false => picture,
    };
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode(&picture, picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(failed)?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes.into_inner())))
}

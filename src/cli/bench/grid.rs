//! How the time of a chunk grows with cameras, prompt, steps and threads, beside the operations that it takes.

use std::{fmt::Write, path::Path, process::ExitCode};

use plotters::prelude::*;

use super::{Args, Times};
use crate::{
    backend,
    cli::{CliError, print, weights},
    model::Geometry,
    picture::{COMMANDED, DrawError, INK, chart, describe},
    progress,
};

const THREADS: [usize; 2] = [2, 1];
const CAMERAS: [usize; 3] = [1, 2, 3];
const TOKENS: [usize; 2] = [8, 48];
/// Totals are shown for these numbers of steps; as many as the last one are measured.
const STEPS: [usize; 3] = [1, 10, 20];
const SIZE: (u32, u32) = (860, 420);

/// One measured inference.
struct Row {
    cameras: usize,
    tokens: usize,
    times: Times,
}

impl Row {
    /// Computed operations of a chunk of `steps` steps, and its measured seconds.
    fn cost(&self, geometry: &Geometry, steps: usize) -> (f64, f64) {
        let measured = self.times.vision + self.times.prefix + self.times.steps[..steps].iter().sum::<f64>();
        (geometry.flops(self.cameras, self.tokens).total(steps), measured)
    }
}

/// What was measured with one number of threads.
struct Measured {
    threads: usize,
    /// GFLOP/s
    peak: Option<f64>,
    rows: Vec<Row>,
}

pub fn run(args: &Args, svg: &Path) -> Result<ExitCode, CliError> {
    let steps = STEPS[STEPS.len() - 1];
    let bar = progress::bar("Inferences", (THREADS.len() * (CAMERAS.len() * TOKENS.len() + 1)) as u64);
    let (mut measured, mut sizes) = (Vec::new(), None);
    for threads in THREADS {
        let (geometry, weights) = weights(&args.geometry, args.dtype())?;
        let mut options = args.backend.options();
        options.threads = Some(threads);
        let mut model = backend::open(geometry, weights, &options)?;
        let tokens = TOKENS.map(|tokens| tokens.min(geometry.prompt_slots));
        // A warm-up that is not counted.
        Times::take(&mut *model, &geometry, (CAMERAS[0], tokens[0], 1), 0)?;
        bar.inc(1);
        let mut rows = Vec::new();
        for (cameras, tokens) in CAMERAS.into_iter().flat_map(|cameras| tokens.map(|tokens| (cameras, tokens))) {
            let times = Times::take(&mut *model, &geometry, (cameras, tokens, steps), rows.len() as u64 + 1)?;
            rows.push(Row { cameras, tokens, times });
            bar.inc(1);
        }
        measured.push(Measured { threads, peak: model.peak_gflops(), rows });
        sizes = Some(geometry);
    }
    bar.finish_and_clear();
    let Some(geometry) = sizes else { return Ok(ExitCode::FAILURE) };
    print(table(&geometry, &measured))?;
    draw(&geometry, &measured, svg).map_err(|reason| CliError::Picture { path: svg.to_owned(), reason })?;
    Ok(ExitCode::SUCCESS)
}

/// A Markdown table.
fn table(geometry: &Geometry, measured: &[Measured]) -> String {
    // Writing to a String cannot fail.
    let mut text = "| threads | cameras | prompt | SigLIP | prefix | one step |".to_owned();
    for steps in STEPS {
        let _ = write!(text, " {steps} step{} |", if steps == 1 { "" } else { "s" });
    }
    text += " TFLOP of 10 steps | GFLOP/s | of peak |\n";
    text += &format!("|{}\n", " --- |".repeat(9 + STEPS.len()));
    for Measured { threads, peak, rows } in measured {
        for row in rows {
            let Row { cameras, tokens, times } = row;
            let step = times.steps.iter().sum::<f64>() / times.steps.len() as f64;
            let _ = write!(
                text,
                "| {threads} | {cameras} | {tokens} | {:.2} s | {:.2} s | {step:.3} s |",
                times.vision, times.prefix
            );
            for steps in STEPS {
                let _ = write!(text, " {:.2} s |", row.cost(geometry, steps).1);
            }
            let (flops, seconds) = row.cost(geometry, 10);
            let rate = flops / seconds / 1e9;
            let share = peak.map_or_else(|| "-".to_owned(), |peak| format!("{:.0} %", 100.0 * rate / peak));
            let _ = writeln!(text, " {:.2} | {rate:.0} | {share} |", flops / 1e12);
        }
    }
    text
}

/// Seconds of every measured chunk over its computed operations, with the line of the machine's peak for each number of threads.
fn draw(geometry: &Geometry, measured: &[Measured], svg: &Path) -> Result<(), String> {
    let costs = |measured: &Measured| -> Vec<(f64, f64)> {
        let of = |row: &Row| STEPS.map(|steps| row.cost(geometry, steps));
        measured.rows.iter().flat_map(of).map(|(flops, seconds)| (flops / 1e12, seconds)).collect()
    };
    let all: Vec<(f64, f64)> = measured.iter().flat_map(costs).collect();
    let largest = all.iter().fold((0.0, 0.0), |(x, y): (f64, f64), &(flops, seconds)| (x.max(flops), y.max(seconds)));
    let (operations, seconds) = (0.0..largest.0 * 1.05, 0.0..largest.1 * 1.05);
    let root = SVGBackend::new(svg, SIZE).into_drawing_area();
    let drawn = || -> Result<(), DrawError<'_>> {
        let title = "Seconds of a chunk over its computed TFLOP; lines: the peak of the machine";
        let mut chart = chart(&root, title, (&operations, &seconds), 44, (8, 6))?;
        for (number, measured) in measured.iter().enumerate() {
            let colour = COMMANDED[number % COMMANDED.len()];
            chart.draw_series(costs(measured).into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
            if let Some(peak) = measured.peak {
                let end = operations.end.min(seconds.end * peak / 1e3);
                chart.draw_series(LineSeries::new([(0.0, 0.0), (end, end * 1e3 / peak)], colour.mix(0.6)))?;
            }
            let left = 58 + 120 * number as i32;
            root.draw(&Circle::new((left + 4, 31), 3, colour.filled()))?;
            let label = format!("{} thread{}", measured.threads, if measured.threads == 1 { "" } else { "s" });
            root.draw(&Text::new(label, (left + 14, 24), ("sans-serif", 13).into_font().color(&INK)))?;
        }
        Ok(())
    };
    drawn().map_err(describe)?;
    root.present().map_err(describe)
}

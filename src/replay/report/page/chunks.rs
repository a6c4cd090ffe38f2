//! Every chunk in a row, and the bar that steps through them.

use super::{Report, bag_axis, figures, taken_over, verdict};
use crate::{
    html::{Row, Table, escape},
    replay::{
        compare::{ChunkComparison, Stage},
        trace::{ChunkTrace, Outcome},
    },
};

pub fn content(report: &Report) -> String {
    let trace = report.trace;
    if trace.chunks.is_empty() {
        return String::new();
    }
    let mut columns: Vec<&str> = vec!["chunk", "bag time / s", "outcome"];
    if report.compared.is_some() {
        columns.extend(["furthest joint", "of tolerance", "relative RMS", "PCC", "differs in"]);
    }
    columns.extend(["delay / rows", "guided / rows", "executed / rows", "oldest input / ms", "skew / ms", "total / ms"]);
    let differences = report.differences();
    let time = bag_axis(trace);
    let rows = trace.chunks.iter().enumerate().map(|(place, chunk)| {
        // A chunk's place on the plots is until the next one takes over.
        let from = taken_over(chunk, trace).unwrap_or_else(|| figures::bag_time(chunk.observed, trace.span.0));
        let next = trace.chunks[place + 1..].iter().find_map(|next| taken_over(next, trace));
        let to = next
            .unwrap_or_else(|| figures::bag_time(chunk.ready, trace.span.0) + trace.setup.horizon as f64 * trace.setup.period);
        let mut cells = outcome(chunk, report);
        let differs = differences[place].is_some_and(|difference| !difference.is_same());
        if report.compared.is_some() {
            cells.extend(of_difference(differences[place], report));
        }
        cells.extend(of_trace(chunk));
        let class = if differs { " class=\"changed\"" } else { "" };
        Row { attributes: format!("{class} data-from=\"{:.5}\" data-to=\"{:.5}\"", time.at(from), time.at(to)), cells }
    });
    let table = Table {
        label: "Every chunk".into(),
        caption: None,
        columns: columns.into_iter().map(String::from).collect(),
        rows: rows.collect(),
    };
    let class = if report.compared.is_some() { "chunks both" } else { "chunks" };
    format!("<div class=\"{class}\">{}</div>", table.render())
}

fn outcome(chunk: &ChunkTrace, report: &Report) -> Vec<String> {
    let outcome = match &chunk.outcome {
        Outcome::Installed { join, .. } => escape(join),
        Outcome::Refused { reason } => format!("<b class=\"bad\">refused</b>: {}", escape(reason)),
    };
    vec![chunk.index.to_string(), format!("{:.3}", figures::bag_time(chunk.observed, report.trace.span.0)), outcome]
}

fn of_trace(chunk: &ChunkTrace) -> Vec<String> {
    let mut cells: Vec<String> = match &chunk.outcome {
        Outcome::Installed { delay_rows, guided_rows, executed, .. } => {
            [delay_rows, guided_rows, executed].map(ToString::to_string).into()
        }
        Outcome::Refused { .. } => ["–", "–", "–"].map(String::from).into(),
    };
    let oldest = chunk.samples.iter().max_by(|a, b| a.1.age.total_cmp(&b.1.age));
    cells.push(oldest.map_or("–".into(), |(input, sample)| format!("{} {}", escape(input), figures::milliseconds(sample.age))));
    cells.extend([chunk.skew, chunk.times.total].map(figures::milliseconds));
    cells
}

fn of_difference(difference: Option<&ChunkComparison>, report: &Report) -> Vec<String> {
    let Some(difference) = difference else {
        return ["–", "–", "–", "–", "not in the baseline"].map(String::from).into();
    };
    let bounds = report.compared.map_or(&[][..], |compared| &compared.comparison.joints);
    let parts = difference.joints.iter().zip(bounds).map(|(joint, bounds)| (verdict::part(joint, bounds.actions), &bounds.joint));
    let (part, joint) = match parts.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((part, joint)) if part > 0.0 => (percent(part), escape(joint)),
        _ => ("0".into(), "–".into()),
    };
    let stages: Vec<_> = difference.stages.iter().map(|stage| stage_name(*stage)).collect();
    vec![
        joint,
        part,
        figures::value(difference.relative_rms),
        difference.pcc.map_or("–".into(), |pcc| format!("{pcc:.6}")),
        if stages.is_empty() { "nothing".into() } else { stages.join(", ") },
    ]
}

/// In hundredths of a tolerance; without any, every difference is too much.
fn percent(part: f64) -> String {
    if part.is_finite() { format!("{:.0} %", part * 100.0) } else { "∞".into() }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Samples => "samples",
        Stage::Instruction => "instruction",
        Stage::Tokens => "tokens",
        Stage::Positions => "positions",
        Stage::Cameras => "images",
        Stage::State => "state",
        Stage::Noise => "noise",
        Stage::Guidance => "guidance",
        Stage::ModelActions => "model actions",
        Stage::Actions => "actions",
        Stage::Outcome => "outcome",
    }
}

/// Shown and filled by the script.
pub fn navigator(report: &Report) -> String {
    if report.trace.chunks.is_empty() {
        return String::new();
    }
    let next = match report.compared {
        Some(_) => "<button type=\"button\" data-step=\"different\">Next that differs</button>",
        None => "",
    };
    format!(
        "<div class=\"navigator\" role=\"group\" aria-label=\"Chunks\" hidden>\n\
         <button type=\"button\" data-step=\"-1\" aria-label=\"Chunk before\" aria-keyshortcuts=\"ArrowLeft\">←</button>\
         <button type=\"button\" data-step=\"1\" aria-label=\"Chunk after\" aria-keyshortcuts=\"ArrowRight\">→</button>{next}\
         <output aria-live=\"polite\">{}: step through them with the arrow keys</output></div>\n",
        figures::counted(report.trace.chunks.len(), "chunk")
    )
}

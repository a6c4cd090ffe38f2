//! The page: verdict on top, then what it rests on. Complete without its script, which adds read-out, filter and keys.

mod chunks;
mod divergence;
mod joints;
mod setup;
mod timing;

use std::fmt::Write;

use super::{Report, ReportError, chart, curve, figures, pairs, scale::Scale, unit, verdict};
use crate::{
    html::{Page, escape, section},
    replay::{
        compare::Verdict,
        trace::{ChunkTrace, Outcome, Trace},
    },
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub fn page(report: &Report) -> Result<String, ReportError> {
    let mut sections: Vec<(&str, &str, String)> = Vec::new();
    let mut add = |id, title, content: String| {
        if !content.is_empty() {
            sections.push((id, title, content));
        }
    };
    add(
        "divergence",
        if report.compared.is_some() { "Where they part" } else { "What the cameras showed" },
        divergence::content(report)?,
    );
    add("findings", "What changed", findings(report));
    add("compared", if report.compared.is_some() { "What was compared" } else { "What was run" }, setup::content(report));
    add("joints", "Commands by joint", joints::content(report));
    add("timing", "Inputs and delays", timing::strips(report));
    add("latency", "Computing times", timing::histograms(report));
    add("chunks", "Chunks", chunks::content(report));
    add("about", "How to read this page", about(report));

    let mut main = header(report);
    main.push_str("<nav aria-label=\"Sections\"><ul>\n");
    for (id, title, _) in &sections {
        // Writing to a string does not fail.
        let _ = writeln!(main, "<li><a href=\"#{id}\">{title}</a></li>");
    }
    main.push_str("</ul></nav>\n");
    main.push_str(&joints::shared_shapes(report));
    for (id, title, content) in &sections {
        section(&mut main, id, title, content);
    }
    main.push_str(&chunks::navigator(report));
    let title = format!("{}: {} – pi0_tt replay", verdict::word(report.verdict()), report.trace.setup.bag);
    Ok(Page { title: &title, style: STYLE, skip: ("verdict", "Skip to the verdict"), main: &main, script: SCRIPT }.render())
}

fn header(report: &Report) -> String {
    let (trace, setup) = (report.trace, &report.trace.setup);
    let (class, sign) = match report.verdict() {
        Some(Verdict::Same) => ("same", "="),
        Some(Verdict::Different) => ("different", "≠"),
        Some(Verdict::NotTested) => ("untested", "?"),
        None => ("recorded", "●"),
    };
    let mut html = format!(
        "<header id=\"verdict\" class=\"{class}\" tabindex=\"-1\">\n<p class=\"run\">Replay of <b>{}</b></p>\n\
         <h1><span class=\"sign\" aria-hidden=\"true\">{sign}</span>{}</h1>\n<p class=\"sentence\">{}</p>\n",
        escape(&setup.bag),
        verdict::word(report.verdict()),
        escape(&verdict::sentence(report))
    );
    if let Some(diagnosis) = verdict::diagnosis(report) {
        let _ = writeln!(html, "<p class=\"sentence\"><b>Why:</b> {}</p>", escape(&diagnosis));
    }
    for (name, problem) in [("The bag is damaged:", &trace.damage), ("The controller stopped for good:", &trace.latch)] {
        if let Some(problem) = problem {
            let _ = writeln!(html, "<p class=\"problem\"><b>{name}</b> {}</p>", escape(problem));
        }
    }
    if !trace.failed.is_empty() {
        let reasons: Vec<_> = trace.failed.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
        let _ = writeln!(html, "<p class=\"problem\"><b>Inferences without a chunk:</b> {}</p>", escape(&reasons.join("; ")));
    }
    html.push_str("<dl class=\"key\">\n");
    for (name, value, note) in key_figures(report) {
        let note = if note.is_empty() { note } else { format!("<small>{}</small>", escape(&note)) };
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}{note}</dd></div>", escape(&value));
    }
    html.push_str("</dl>\n</header>\n");
    html
}

/// The numbers that say how large a run it was: name, value, note.
fn key_figures(report: &Report) -> Vec<(&'static str, String, String)> {
    let trace = report.trace;
    let comparison = report.compared.map(|compared| compared.comparison);
    let length = figures::bag_time(trace.span.1, trace.span.0);
    let refused = trace.chunks.iter().filter(|chunk| matches!(chunk.outcome, Outcome::Refused { .. })).count();
    let chunks = match (comparison, refused) {
        (Some(comparison), _) => format!("{} differ", figures::count(comparison.counts.different)),
        (None, 0) => String::new(),
        (None, refused) => format!("{} refused", figures::count(refused)),
    };
    let gaps: f64 = trace.gaps.iter().map(|gap| figures::bag_time(gap.to, gap.from)).sum();
    let gaps = if trace.gaps.is_empty() { String::new() } else { format!("{gaps:.2} s without an observation") };
    let mut found = vec![
        ("Bag", format!("{length:.2} s"), gaps),
        ("Chunks", figures::count(trace.chunks.len()), chunks),
        ("Commands", figures::count(trace.commands.len()), format!("of {}", figures::counted(trace.setup.joints.len(), "joint"))),
    ];
    if let Some(comparison) = comparison {
        found.push(("Tier", comparison.tier.to_string().replace('_', " "), comparison.tier_reason.clone()));
    }
    found.push(("Exit code", report.exit_code().to_string(), String::new()));
    found
}

/// The most findings that the page lists.
const FINDINGS: usize = 100;

fn findings(report: &Report) -> String {
    let Some(compared) = report.compared else { return String::new() };
    let findings = &compared.comparison.findings;
    if findings.is_empty() {
        return String::new();
    }
    let mut html = String::from("<ol class=\"findings\">\n");
    for finding in findings.iter().take(FINDINGS) {
        let _ = writeln!(html, "<li>{}</li>", escape(&finding.to_string()));
    }
    html.push_str("</ol>\n");
    if findings.len() > FINDINGS {
        let _ = writeln!(
            html,
            "<p class=\"note\">{} more are in the last line of chunks.jsonl.</p>",
            figures::count(findings.len() - FINDINGS)
        );
    }
    html
}

fn about(report: &Report) -> String {
    let mut html = String::from("<p>Times are bag times: seconds after the first message of the bag.");
    if report.compared.is_some() {
        html += " The wide pale line is the baseline and the thin dark one this run; where they agree, the thin line runs inside of the wide \
                 one. A difference is this run minus the baseline.";
    }
    if report.trace.commands.len() > curve::POINTS {
        // Writing to a string does not fail.
        let _ = write!(
            html,
            " This bag has {} commands: a curve is drawn by its least and its largest value in each of {} columns, so every peak is there; \
             tables and chunks.jsonl have all numbers.",
            figures::count(report.trace.commands.len()),
            figures::count(curve::WIDTH as usize)
        );
    }
    html += "</p>\n<p>Joints of an arm are in rad (rad/s when commanded by velocity; m and m/s for a joint that slides), grippers in the unit \
             of their driver. Computing times are wall times: shown, and never compared.</p>\n";
    if !report.trace.chunks.is_empty() {
        html += "<p class=\"keys\"><kbd>←</kbd> <kbd>→</kbd> the chunk before or after, wherever the focus is but in a field or a table that \
                 scrolls; <kbd>Esc</kbd> none. A click on a plot chooses the chunk there.</p>\n";
    }
    let _ = writeln!(
        html,
        "<p>Beside this page: <code>chunks.jsonl</code> with a line per chunk, the last line decides; <code>junit.xml</code> for a build \
         server. pi0_tt {}.</p>",
        escape(&report.trace.setup.version)
    );
    html
}

/// The whole bag as an axis.
fn bag_axis(trace: &Trace) -> Scale {
    Scale::new(0.0, figures::bag_time(trace.span.1, trace.span.0))
}

/// Bag time at which a chunk took over; `None` for one that was refused.
fn taken_over(chunk: &ChunkTrace, trace: &Trace) -> Option<f64> {
    match chunk.outcome {
        Outcome::Installed { delay_rows, .. } => {
            Some(figures::bag_time(pairs::row_stamp(chunk, delay_rows, trace.setup.period), trace.span.0))
        }
        Outcome::Refused { .. } => None,
    }
}

/// The times without an observation, in bag time.
fn gaps(trace: &Trace) -> Vec<(f64, f64)> {
    let seconds = |stamp| figures::bag_time(stamp, trace.span.0);
    trace.gaps.iter().map(|gap| (seconds(gap.from), seconds(gap.to))).collect()
}

//! What was compared: the setups of both runs side by side, the inputs of the bag, and its gaps.

use std::{collections::BTreeSet, fmt::Write};

use super::{Report, figures};
use crate::{
    html::{Row, Table, escape},
    replay::trace::{Setup, Trace},
};

/// The most gaps that the page lists.
const GAPS: usize = 50;

pub fn content(report: &Report) -> String {
    let ours = items(&report.trace.setup);
    let mut html = match report.compared {
        Some(compared) => side_by_side(&items(&compared.baseline.setup), &ours),
        None => {
            let rows = ours.iter().map(|(name, value)| Row::of_text([name, value])).collect();
            Table { label: "Setup".into(), caption: None, columns: vec!["setup".into(), "value".into()], rows }.render()
        }
    };
    html.push_str(&inputs(report.trace));
    html.push_str(&gaps(report.trace));
    html
}

/// Everything that decides or names a run, in the order in which it is read.
fn items(setup: &Setup) -> Vec<(String, String)> {
    let names = |names: &[String]| format!("{}: {}", names.len(), names.join(", "));
    let joints: Vec<_> = setup.joints.iter().map(|joint| joint.name.clone()).collect();
    let mut items: Vec<(String, String)> = [
        ("bag", setup.bag.clone()),
        ("backend", setup.backend.clone()),
        ("number formats", setup.dtypes.clone()),
        ("pi0_tt", setup.version.clone()),
        ("program", setup.build.to_string()),
        ("machine", setup.machine.clone()),
        ("seed", setup.seed.to_string()),
        ("denoise steps", setup.steps.to_string()),
        ("latency in bag time", format!("{} ms", figures::milliseconds(setup.latency))),
        ("rows of a chunk", setup.horizon.to_string()),
        ("time between rows", format!("{} ms", figures::milliseconds(setup.period))),
        ("width of the model's output", setup.action_dim.to_string()),
        ("commanded joints", names(&joints)),
        ("joints of the state", names(&setup.state_joints)),
        ("camera slots", names(&setup.cameras)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    items.extend(setup.files.iter().map(|(name, digest)| (format!("file: {name}"), digest.to_string())));
    items.extend(setup.parameters.iter().map(|(name, value)| (format!("parameter: {name}"), value.clone())));
    items
}

/// What differs is always seen; the rest is folded away.
fn side_by_side(baseline: &[(String, String)], current: &[(String, String)]) -> String {
    let find =
        |items: &[(String, String)], name: &str| items.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    let known: BTreeSet<_> = current.iter().map(|(name, _)| name).collect();
    let names =
        current.iter().map(|(name, _)| name).chain(baseline.iter().map(|(name, _)| name).filter(|name| !known.contains(name)));
    let (mut changed, mut equal) = (Vec::new(), Vec::new());
    for name in names {
        let values = [find(baseline, name), find(current, name)];
        let differs = values[0] != values[1];
        let mut cells = vec![escape(name)];
        cells.extend(values.map(|value| value.map_or("–".into(), |value| escape(&value))));
        if differs {
            cells[0].insert_str(0, "<span class=\"mark\" role=\"img\" aria-label=\"differs\">≠</span> ");
            changed.push(Row { attributes: " class=\"changed\"".into(), cells });
        } else {
            equal.push(Row { attributes: String::new(), cells });
        }
    }
    let table = |label: &str, rows| {
        Table { label: label.into(), caption: None, columns: ["setup", "baseline", "this run"].map(String::from).into(), rows }
            .render()
    };
    let (different, same) = (changed.len(), equal.len());
    let mut html = match different {
        0 => "<p>Both runs were set up alike.</p>\n".to_owned(),
        _ => format!("<div class=\"wide\">{}</div>", table("Setup that differs", changed)),
    };
    let _ = write!(
        html,
        "<details><summary>{} equal</summary>\n<div class=\"wide\">{}</div></details>\n",
        figures::counted(same, "setting"),
        table("Setup that is equal", equal)
    );
    html
}

fn inputs(trace: &Trace) -> String {
    let row = |input: &crate::replay::trace::BagInput| {
        let refused: Vec<_> = input.refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
        Row::of_text([&input.name, &input.topic, &input.type_name, &input.messages.to_string(), &refused])
    };
    let rows: Vec<_> = trace.inputs.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let columns = ["input", "topic", "type", "messages", "refused"].map(String::from).into();
    let table = Table { label: "Inputs in the bag".into(), caption: None, columns, rows }.render();
    format!("<h3>Inputs in the bag</h3>\n<div class=\"texts\">{table}</div>")
}

fn gaps(trace: &Trace) -> String {
    if trace.gaps.is_empty() {
        return String::new();
    }
    let rows = trace.gaps.iter().take(GAPS).map(|gap| {
        let (from, to) = (figures::bag_time(gap.from, trace.span.0), figures::bag_time(gap.to, trace.span.0));
        let why: Vec<_> = gap.inputs.iter().map(|(input, reason)| format!("{input}: {reason}")).collect();
        Row::of_text([format!("{from:.3}"), format!("{:.0}", (to - from) * 1e3), why.join("; ")])
    });
    let more = match trace.gaps.len().saturating_sub(GAPS) {
        0 => String::new(),
        more => format!("<p class=\"note\">{} more are in the last line of chunks.jsonl.</p>\n", figures::count(more)),
    };
    let columns = ["from / s", "length / ms", "what was in the way"].map(String::from).into();
    let label = "Times without an observation";
    let table = Table { label: label.into(), caption: None, columns, rows: rows.collect() }.render();
    format!("<h3>{label}</h3>\n<div class=\"gaps\">{table}</div>{more}")
}

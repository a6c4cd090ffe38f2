//! Every joint's commands over bag time, with the difference of the runs beneath, and the table of all joints.

use std::fmt::Write;

use super::{
    Report, Scale, bag_axis,
    chart::{Chart, axis, band},
    curve::{HEIGHT, POINTS, WIDTH, decimal, path, spans, stretches},
    figures, gaps,
    pairs::{self, Pair},
    taken_over, unit, verdict,
};
use crate::{
    html::{Row, Table, escape},
    picture::value_range,
    replay::{
        compare::{Bound, Difference, JointBounds},
        trace::{Joint, Trace},
    },
};

/// A commanded joint with what is known of its difference.
struct View<'a> {
    joint: &'a Joint,
    curve: Vec<(f64, f64)>,
    compared: Option<ComparedJoint<'a>>,
}

struct ComparedJoint<'a> {
    bounds: &'a JointBounds,
    baseline: Vec<(f64, f64)>,
    pairs: Vec<Pair>,
    commands: Difference,
    /// The largest of any chunk.
    actions: Difference,
    /// When the commands were furthest apart: nanoseconds.
    worst: Option<i64>,
}

impl ComparedJoint<'_> {
    fn outside(&self) -> bool {
        let beyond =
            |found: Difference, bound: crate::replay::compare::Bound| !(found.max <= bound.max && found.mean <= bound.mean);
        beyond(self.commands, self.bounds.commands) || beyond(self.actions, self.bounds.actions)
    }

    fn differs(&self) -> bool {
        self.pairs.iter().any(|pair| pair.difference() != 0.0)
    }
}

fn views<'a>(report: &'a Report) -> Vec<View<'a>> {
    let trace = report.trace;
    let view = |(column, joint): (usize, &'a Joint)| View {
        joint,
        curve: curve(trace, column, trace.span.0),
        compared: report.compared.and_then(|compared| {
            let theirs = pairs::column(&compared.baseline.setup, &joint.name)?;
            let comparison = compared.comparison;
            let bounds = comparison.joints.iter().position(|bounds| bounds.joint == joint.name)?;
            let pairs = pairs::commands(compared.baseline, trace, &joint.name);
            let actions = comparison.chunks.iter().filter_map(|chunk| chunk.joints.get(bounds));
            let worst = |worst: Difference, chunk: &Difference| Difference {
                max: larger(worst.max, chunk.max),
                mean: larger(worst.mean, chunk.mean),
            };
            Some(ComparedJoint {
                bounds: &comparison.joints[bounds],
                baseline: curve(compared.baseline, theirs, trace.span.0),
                commands: comparison.commands.joints.get(bounds).copied().unwrap_or_default(),
                actions: actions.fold(Difference::default(), worst),
                worst: pairs
                    .iter()
                    .filter(|pair| pair.difference() != 0.0)
                    .max_by(|a, b| a.difference().abs().total_cmp(&b.difference().abs()))
                    .map(|pair| pair.stamp),
                pairs,
            })
        }),
    };
    trace.setup.joints.iter().enumerate().map(view).collect()
}

/// Not finite is the largest.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

fn curve(trace: &Trace, column: usize, origin: i64) -> Vec<(f64, f64)> {
    let value = |row: &[f64]| row.get(column).copied().unwrap_or(f64::NAN);
    trace.commands.iter().map(|command| (figures::bag_time(command.stamp, origin), value(&command.row))).collect()
}

/// Commands are this far apart at most while a robot is commanded; beyond, a curve is broken.
fn longest_step(trace: &Trace) -> f64 {
    trace.setup.period * 2.5
}

/// The lines of more chunks would be one grey area.
fn shows_borders(trace: &Trace) -> bool {
    trace.chunks.len() <= 120
}

/// What every chart over the bag shows: where chunks took over and where nothing was observed.
pub fn shared_shapes(report: &Report) -> String {
    let trace = report.trace;
    let time = bag_axis(trace);
    let mut borders = String::new();
    if shows_borders(trace) {
        for at in trace.chunks.iter().filter_map(|chunk| taken_over(chunk, trace)) {
            let _ = write!(borders, "M{} 0V{HEIGHT}", decimal(time.at(at) * WIDTH, 1));
        }
    }
    format!(
        "<svg class=\"shapes\" width=\"0\" height=\"0\" aria-hidden=\"true\" focusable=\"false\"><defs><g id=\"bag\">{}\
         <path class=\"border\" d=\"{borders}\"/></g></defs></svg>\n",
        spans(&gaps(trace), time, "gap")
    )
}

pub fn content(report: &Report) -> String {
    let views = views(report);
    if views.is_empty() || report.trace.commands.is_empty() {
        return String::new();
    }
    let outside = views.iter().filter(|view| view.compared.as_ref().is_some_and(ComparedJoint::outside)).count();
    let mut html = legend(report.compared.is_some(), shows_borders(report.trace));
    html.push_str(&filter(views.len(), report.compared.map(|_| outside)));
    html.push_str("<div class=\"joints\">\n");
    for view in &views {
        html.push_str(&figure(view, report));
    }
    html.push_str("</div>\n");
    if report.compared.is_some() {
        html.push_str(&table(&views, report));
    }
    html
}

fn legend(compared: bool, borders: bool) -> String {
    let entry = |drawing: &str, text: &str| {
        format!("<li><svg viewBox=\"0 0 28 14\" width=\"28\" height=\"14\" aria-hidden=\"true\">{drawing}</svg>{text}</li>")
    };
    let mut entries = String::new();
    if compared {
        entries += &entry("<path class=\"baseline\" d=\"M3 7H25\"/>", "baseline");
    }
    entries += &entry("<path class=\"now\" d=\"M1 7H27\"/>", "this run");
    if compared {
        entries += &entry("<path class=\"band\" d=\"M0 1H28V13H0Z\"/>", "tolerance");
        entries += &entry("<path class=\"outside\" d=\"M0 0H28V14H0Z\"/>", "outside of the tolerance");
    }
    if borders {
        entries += &entry("<path class=\"border\" d=\"M9 0V14M19 0V14\"/>", "a chunk takes over");
    }
    entries += &entry("<path class=\"gap\" d=\"M0 0H28V14H0Z\"/>", "no observation");
    format!("<ul class=\"legend\" aria-label=\"Legend\">{entries}</ul>\n")
}

/// Shown by the script.
fn filter(joints: usize, outside: Option<usize>) -> String {
    let mut buttons = format!("<button type=\"button\" data-show=\"all\" aria-pressed=\"true\">All {joints}</button>");
    if let Some(outside) = outside {
        let disabled = if outside == 0 { " disabled" } else { "" };
        let _ = write!(
            buttons,
            "<button type=\"button\" data-show=\"outside\" aria-pressed=\"false\"{disabled}>Outside of tolerance {outside}</button>"
        );
    }
    format!(
        "<div class=\"filter\" hidden><label>Joint <input type=\"search\" autocomplete=\"off\" spellcheck=\"false\" \
         placeholder=\"part of its name\"></label><span role=\"group\" aria-label=\"Which joints\">{buttons}</span>\
         <output aria-live=\"polite\"></output></div>\n"
    )
}

fn figure(view: &View, report: &Report) -> String {
    let trace = report.trace;
    let (name, unit) = (escape(&view.joint.name), unit(view.joint));
    let time = bag_axis(trace);
    let finite = |curve: &[(f64, f64)]| curve.iter().map(|point| point.1).filter(|value| value.is_finite()).collect::<Vec<_>>();
    let mut values = finite(&view.curve);
    let longest = longest_step(trace);
    let mut drawing = String::from("<use href=\"#bag\"/>");
    let mut label = format!("{} over bag time", view.joint.name);
    describe(&mut label, "this run", &values, unit);
    let mut state = String::new();
    let mut beneath = String::new();
    let mut outside = false;
    if let Some(compared) = &view.compared {
        let before = finite(&compared.baseline);
        describe(&mut label, "baseline", &before, unit);
        values.extend(before);
        let beyond = beyond(compared, trace);
        outside = compared.outside();
        state = status(compared, unit);
        drawing += &spans(&beyond, time, "outside");
        let _ = write!(label, ". {}", if outside { "Outside of the tolerance" } else { "Within the tolerance" });
        beneath = difference(view, compared, &beyond, report);
    }
    let range = value_range(values.into_iter());
    let up = Scale::new(range.start, range.end);
    if let Some(compared) = &view.compared {
        let _ = write!(drawing, "<path class=\"baseline\" d=\"{}\"/>", path(&compared.baseline, time, up, longest));
    }
    let _ = write!(drawing, "<path class=\"now\" d=\"{}\"/>", path(&view.curve, time, up, longest));
    let class = if view.curve.len() > POINTS { "commands dense" } else { "commands" };
    let chart = Chart { class, across: time, up, ticks: 5, label: &label, drawing: &drawing }.render();
    let class = if outside { " class=\"joint is-outside\"" } else { " class=\"joint\"" };
    let shown = if unit.is_empty() { String::new() } else { format!(" <span class=\"unit\">{unit}</span>") };
    format!(
        "<figure{class} data-joint=\"{name}\" data-unit=\"{unit}\"><figcaption><h3>{name}{shown}</h3>{state}\
         <output class=\"read\" aria-hidden=\"true\"></output></figcaption>\n{chart}{beneath}{}</figure>\n",
        axis(time, 6, "bag time / s")
    )
}

/// Adds the range of a curve to the text that stands for it.
fn describe(label: &mut String, whose: &str, values: &[f64], unit: &str) {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    if low <= high {
        let _ = write!(label, "; {whose} between {} and {} {unit}", figures::value(low), figures::value(high));
    }
}

/// The stretches of bag time in which the commands are further apart than they may be.
fn beyond(compared: &ComparedJoint, trace: &Trace) -> Vec<(f64, f64)> {
    let points = compared
        .pairs
        .iter()
        .map(|pair| (figures::bag_time(pair.stamp, trace.span.0), pair.beyond(compared.bounds.commands.max)));
    stretches(points, trace.setup.period)
}

/// How far apart, in figures: of the commands, unless only the actions are outside.
fn status(compared: &ComparedJoint, unit: &str) -> String {
    let bounds = compared.bounds;
    let (what, found, bound) =
        match (beyond_bound(compared.commands, bounds.commands), beyond_bound(compared.actions, bounds.actions)) {
            (false, true) => ("actions ", compared.actions, bounds.actions),
            _ => ("", compared.commands, bounds.commands),
        };
    let far = format!("{what}{} {unit} apart, {} allowed", figures::value(found.max), figures::value(bound.max));
    match (compared.outside(), compared.differs() || compared.actions.max != 0.0) {
        (_, false) => "<span class=\"state\">= identical</span>".into(),
        (true, _) => format!("<span class=\"state bad\">≠ {far}</span>"),
        (false, _) => format!("<span class=\"state\">≈ {far}</span>"),
    }
}

fn beyond_bound(found: Difference, bound: Bound) -> bool {
    !(found.max <= bound.max && found.mean <= bound.mean)
}

/// The chart of the difference; a joint without one needs no chart.
fn difference(view: &View, compared: &ComparedJoint, beyond: &[(f64, f64)], report: &Report) -> String {
    if !compared.differs() {
        return String::new();
    }
    let (trace, bound) = (report.trace, compared.bounds.commands.max);
    let time = bag_axis(trace);
    let curve: Vec<_> =
        compared.pairs.iter().map(|pair| (figures::bag_time(pair.stamp, trace.span.0), pair.difference())).collect();
    let largest = curve.iter().map(|point| point.1.abs()).filter(|value| value.is_finite()).fold(bound, f64::max) * 1.15;
    let up = Scale::new(-largest, largest);
    let drawing = format!(
        "{}<use href=\"#bag\"/>{}<path class=\"delta\" d=\"{}\"/>",
        band(-bound, bound, up, "band"),
        spans(beyond, time, "outside"),
        path(&curve, time, up, longest_step(trace))
    );
    let unit = unit(view.joint);
    let total: f64 = beyond.iter().map(|(from, to)| to - from).sum();
    let mut label = format!(
        "Difference of {} to the baseline over bag time: at most {} {unit}, {} {unit} allowed",
        view.joint.name,
        figures::value(compared.commands.max),
        figures::value(bound)
    );
    if let Some((from, _)) = beyond.first() {
        let _ = write!(label, "; outside of the tolerance for {total:.2} s, first at {from:.3} s");
    }
    Chart { class: "difference", across: time, up, ticks: 4, label: &label, drawing: &drawing }.render()
}

fn table(views: &[View], report: &Report) -> String {
    let origin = report.trace.span.0;
    let rows = views.iter().filter_map(|view| {
        let compared = view.compared.as_ref()?;
        let (commands, actions, bounds) = (compared.commands, compared.actions, compared.bounds);
        let part = verdict::part(&commands, bounds.commands);
        let meter = format!(
            "<span class=\"meter\" aria-hidden=\"true\"><i style=\"width:{}%\"></i></span>",
            decimal((part * 50.0).clamp(0.0, 100.0), 1)
        );
        let mark = if compared.outside() { "<b class=\"bad\">≠ outside</b>" } else { "within" };
        let cells = vec![
            escape(&view.joint.name),
            unit(view.joint).to_owned(),
            figures::value(commands.max),
            compared.worst.map_or("–".into(), |stamp| format!("{:.3}", figures::bag_time(stamp, origin))),
            meter,
            figures::value(bounds.commands.max),
            figures::value(commands.mean),
            figures::value(bounds.commands.mean),
            figures::value(actions.max),
            figures::value(bounds.actions.max),
            mark.to_owned(),
        ];
        let attributes = if compared.outside() { " class=\"changed\"".into() } else { String::new() };
        Some(Row { attributes, cells })
    });
    let columns = [
        "joint",
        "unit",
        "commands: max",
        "at / s",
        "of tolerance",
        "allowed",
        "mean",
        "allowed",
        "actions: max",
        "allowed",
        "tolerance",
    ];
    let table = Table {
        label: "Differences of all joints".into(),
        caption: Some("Absolute differences to the baseline; the bar is full at twice the tolerance.".into()),
        columns: columns.map(String::from).into(),
        rows: rows.collect(),
    };
    format!("<h3>All joints</h3>\n{}", table.render())
}

//! What a run says in one sentence.

use super::{Compared, Report, figures, unit};
use crate::replay::{
    compare::{Bound, Difference, Divergence, Finding, Tier, Verdict},
    trace::Setup,
};

/// The verdict in a word.
pub fn word(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Same) => "Same",
        Some(Verdict::Different) => "Different",
        Some(Verdict::NotTested) => "Not tested",
        None => "Recorded",
    }
}

/// What the verdict rests on. Plain text.
pub fn sentence(report: &Report) -> String {
    let trace = report.trace;
    let (chunks, commands) = (figures::counted(trace.chunks.len(), "chunk"), figures::counted(trace.commands.len(), "command"));
    match (report.verdict(), report.compared) {
        (Some(Verdict::Different), Some(compared)) => match &compared.comparison.first {
            Some(first) => format!("First at {}.", divergence(first, report)),
            None => match compared.comparison.counts {
                counts if counts.compared == 0 => "No value of one run belongs to a value of the other.".into(),
                counts if counts.different == 0 => format!("All of the {chunks} are the same, but not what was done with them."),
                counts => format!("{} of {chunks} differ in what they were made of.", figures::count(counts.different)),
            },
        },
        (Some(Verdict::Same), Some(compared)) => same(report, &compared),
        (None, _) => format!("{chunks} and {commands} were computed. There was no baseline to compare them with."),
        _ => {
            let other = report.compared.map(|compared| figures::counted(compared.baseline.chunks.len(), "chunk"));
            let other = other.map_or(String::new(), |other| format!(" The baseline has {other}."));
            let gap = trace.gaps.first().and_then(|gap| gap.inputs.iter().next());
            let why = gap.map_or(String::new(), |(input, reason)| format!(" In the way was first {input}: {reason}."));
            format!("No chunk could be compared: this run has {chunks}.{other}{why}")
        }
    }
}

/// Why the runs differ, where that is known: the first finding, and when that is a change of the setup, what it did to the values. Plain text.
pub fn diagnosis(report: &Report) -> Option<String> {
    let comparison = report.compared?.comparison;
    let is_setup = |finding: &Finding| matches!(finding, Finding::Setup { .. });
    let first = comparison.findings.first().filter(|_| comparison.verdict == Verdict::Different)?;
    let effect = comparison.findings.iter().find(|finding| !is_setup(finding)).filter(|_| is_setup(first));
    Some(effect.map_or(format!("{first}."), |effect| format!("{first}. {effect}.")))
}

fn same(report: &Report, compared: &Compared) -> String {
    let comparison = compared.comparison;
    let agree = format!(
        "{} and {} agree",
        figures::counted(comparison.counts.compared, "chunk"),
        figures::counted(comparison.commands.compared, "command")
    );
    if comparison.tier == Tier::Exact {
        return format!("{agree} bit for bit.");
    }
    let differences = comparison.commands.joints.iter().zip(&comparison.joints);
    let nearest = differences.max_by(|(a, x), (b, y)| part(a, x.commands).total_cmp(&part(b, y.commands)));
    let nearest = nearest.map_or(String::new(), |(difference, bounds)| {
        let unit = unit_of(&report.trace.setup, &bounds.joint);
        let (max, bound) = (figures::value(difference.max), figures::value(bounds.commands.max));
        format!(" The closest to its tolerance is {}: {max}{unit} of {bound}{unit}.", bounds.joint)
    });
    format!("{agree} within the tolerances of the tier {}.{nearest}", comparison.tier)
}

/// The largest difference in tolerances.
pub fn part(difference: &Difference, bound: Bound) -> f64 {
    if difference.max == 0.0 { 0.0 } else { difference.max / bound.max }
}

/// The unit with a space before it, empty for a joint without.
pub fn unit_of(setup: &Setup, joint: &str) -> String {
    let unit = setup.joints.iter().find(|candidate| candidate.name == joint).map_or("", unit);
    if unit.is_empty() { String::new() } else { format!(" {unit}") }
}

/// Where two values part, with both and how far apart they may be. Plain text.
pub fn divergence(first: &Divergence, report: &Report) -> String {
    let at = figures::bag_time(first.stamp, report.trace.span.0);
    let unit = unit_of(&report.trace.setup, &first.joint);
    let (current, baseline) = figures::pair(first.current, first.baseline);
    let place = match (first.chunk, first.row) {
        (Some(chunk), Some(row)) => format!(" in row {row} of chunk {chunk}"),
        (Some(chunk), None) => format!(" in chunk {chunk}"),
        _ => " as commanded".into(),
    };
    let apart = figures::value((first.current - first.baseline).abs());
    let bound = match first.tolerance {
        0.0 => "where both have to be the same bit for bit".into(),
        tolerance => format!("where {}{unit} is allowed", figures::value(tolerance)),
    };
    format!(
        "bag time {at:.3} s (stamp {}): {}{place} is {current}{unit} and was {baseline}{unit}, {apart}{unit} apart {bound}",
        figures::stamp(first.stamp),
        first.joint
    )
}

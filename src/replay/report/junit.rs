//! `junit.xml`: what a build server shows of a replay. One suite, with a test case for each input, each stage of the data flow and each joint.

use std::fmt::Write;

use super::{Compared, Report, figures, pairs, verdict};
use crate::{
    html::escape,
    replay::{
        compare::{Difference, Divergence, JointBounds, Stage, Verdict},
        trace::Trace,
    },
};

/// A test case: its group, its name, and why it failed.
struct Case {
    group: &'static str,
    name: String,
    failure: Option<Failure>,
}

struct Failure {
    message: String,
    /// More lines, may be empty.
    details: String,
}

impl Failure {
    fn of(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: String::new() }
    }
}

/// One suite in the form that Jenkins' schema (junit-10.xsd) and every other reader takes.
pub fn xml(report: &Report) -> String {
    let trace = report.trace;
    let mut cases = bag(report);
    if let Some(compared) = &report.compared {
        cases.extend(stages(compared));
        cases.extend(joints(report, compared));
        cases.push(times(compared));
    }
    cases.push(overall(report));
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let counts = format!("tests=\"{}\" failures=\"{failures}\" errors=\"0\"", cases.len());
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"pi0_tt replay\" {counts}>\n<testsuite name=\"replay of {}\" {counts}>\n",
        escape(&trace.setup.bag)
    );
    for Case { group, name, failure } in &cases {
        // Writing to a string does not fail.
        let _ = write!(xml, "<testcase classname=\"replay.{group}\" name=\"{}\"", escape(name));
        let _ = match failure {
            None => writeln!(xml, "/>"),
            Some(Failure { message, details }) => writeln!(
                xml,
                ">\n<failure type=\"difference\" message=\"{}\">{}</failure>\n</testcase>",
                escape(message),
                escape(details)
            ),
        };
    }
    let _ = writeln!(xml, "<system-out>{}</system-out>\n</testsuite>\n</testsuites>", escape(&notes(trace).join("\n")));
    xml
}

/// What happened and is no failure by itself.
fn notes(trace: &Trace) -> Vec<String> {
    let mut notes = vec![format!(
        "{} and {} with seed {} on {}",
        figures::counted(trace.chunks.len(), "chunk"),
        figures::counted(trace.commands.len(), "command"),
        trace.setup.seed,
        trace.setup.backend
    )];
    notes.extend(trace.failed.iter().map(|(reason, count)| format!("{count} inferences gave no chunk: {reason}")));
    notes.extend(trace.latch.iter().map(|reason| format!("The controller stopped for good: {reason}")));
    notes
}

/// What was read and computed, with or without a baseline.
fn bag(report: &Report) -> Vec<Case> {
    let trace = report.trace;
    let case = |name: String, failure: Option<String>| Case { group: "bag", name, failure: failure.map(Failure::of) };
    let mut cases = vec![case("the bag was read to its end".into(), trace.damage.clone())];
    for input in &trace.inputs {
        let refused: u64 = input.refused.values().sum();
        let reasons: Vec<_> = input.refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let none = match input.messages {
            0 => Some(format!("{} ({}) has no message", input.topic, input.type_name)),
            messages if refused >= messages => {
                Some(format!("all of the {messages} messages of {} were refused: {}", input.topic, reasons.join(", ")))
            }
            _ => None,
        };
        cases.push(case(format!("input {} has usable messages", input.name), none));
    }
    let none = trace.chunks.is_empty().then(|| "no chunk was computed, so nothing was tested".to_owned());
    cases.push(case("chunks were computed".into(), none));
    let gap = trace.gaps.first().filter(|_| report.has_bad_gaps()).map(|gap| {
        let why: Vec<_> = gap.inputs.iter().map(|(input, reason)| format!("{input}: {reason}")).collect();
        let gaps = figures::counted(trace.gaps.len(), "time");
        format!("{gaps} without an observation, the first at {}: {}", figures::stamp(gap.from), why.join("; "))
    });
    cases.push(case("no input kept observations from being made".into(), gap));
    cases
}

/// Of the data flow, in its order.
const STAGES: [(Stage, &str); 11] = [
    (Stage::Samples, "samples of the inputs"),
    (Stage::Instruction, "instruction"),
    (Stage::Tokens, "tokens of the prompt"),
    (Stage::Positions, "joint positions of the observation"),
    (Stage::Cameras, "images at the model"),
    (Stage::State, "normalized state"),
    (Stage::Noise, "noise"),
    (Stage::Guidance, "guidance"),
    (Stage::ModelActions, "model actions"),
    (Stage::Actions, "actions in the robot's units"),
    (Stage::Outcome, "outcome of the chunk"),
];

fn stages(compared: &Compared) -> Vec<Case> {
    let chunks = &compared.comparison.chunks;
    let one = |(stage, name): (Stage, &str)| {
        let different: Vec<_> = chunks.iter().filter(|chunk| chunk.stages.contains(&stage)).collect();
        let failure = different.first().map(|first| Failure {
            message: format!(
                "{} of {} differ, the first is chunk {} observed at {}",
                different.len(),
                figures::counted(chunks.len(), "chunk"),
                first.index,
                figures::stamp(first.observed)
            ),
            details: different.iter().flat_map(|chunk| &chunk.exceeded).cloned().collect::<Vec<_>>().join("\n"),
        });
        Case { group: "stages", name: format!("{name}: as in the baseline"), failure }
    };
    STAGES.map(one).into()
}

/// Actions and commands of each joint.
fn joints(report: &Report, compared: &Compared) -> Vec<Case> {
    let comparison = compared.comparison;
    let mut cases = Vec::new();
    for (column, bounds) in comparison.joints.iter().enumerate() {
        let max = |a: &Difference, b: &Difference| a.max.total_cmp(&b.max);
        let mean = |a: &Difference, b: &Difference| a.mean.total_cmp(&b.mean);
        let of_chunks = || comparison.chunks.iter().filter_map(|chunk| chunk.joints.get(column));
        let actions = Difference {
            max: of_chunks().max_by(|a, b| max(a, b)).map_or(0.0, |worst| worst.max),
            mean: of_chunks().max_by(|a, b| mean(a, b)).map_or(0.0, |worst| worst.mean),
        };
        let commands = comparison.commands.joints.get(column).copied().unwrap_or_default();
        for (what, difference, bound, first) in [
            ("actions", actions, bounds.actions, first_action(report, compared, bounds)),
            ("commands", commands, bounds.commands, first_command(report, compared, bounds)),
        ] {
            let unit = verdict::unit_of(&report.trace.setup, &bounds.joint);
            let found = format!(
                "largest difference {}{unit} of {}{unit}, mean {}{unit} of {}{unit}",
                figures::value(difference.max),
                figures::value(bound.max),
                figures::value(difference.mean),
                figures::value(bound.mean)
            );
            let beyond = !(difference.max <= bound.max && difference.mean <= bound.mean);
            let failure = (beyond || first.is_some()).then(|| Failure {
                message: first.map_or(found.clone(), |first| verdict::divergence(&first, report)),
                details: found,
            });
            cases.push(Case { group: "joints", name: format!("{}: {what} within {}", bounds.joint, comparison.tier), failure });
        }
    }
    cases
}

/// The first compared action of a joint beyond its bound.
fn first_action(report: &Report, compared: &Compared, bounds: &JointBounds) -> Option<Divergence> {
    compared.comparison.chunks.iter().find_map(|chunk| {
        let pairs = pairs::actions(chunk, compared.baseline, report.trace, &bounds.joint);
        let beyond = pairs.iter().find(|pair| pair.beyond(bounds.actions.max))?;
        Some(beyond.divergence(&bounds.joint, Some(chunk.index), bounds.actions.max))
    })
}

fn first_command(report: &Report, compared: &Compared, bounds: &JointBounds) -> Option<Divergence> {
    let pairs = pairs::commands(compared.baseline, report.trace, &bounds.joint);
    let beyond = pairs.iter().find(|pair| pair.beyond(bounds.commands.max))?;
    Some(beyond.divergence(&bounds.joint, None, bounds.commands.max))
}

/// Whether both runs commanded at the same times, in the same chunks.
fn times(compared: &Compared) -> Case {
    let (counts, commands) = (compared.comparison.counts, &compared.comparison.commands);
    let alone = |stamps: &[i64], whose: &str| {
        let first = stamps.first()?;
        Some(format!(
            "{} of the {whose} alone, the first at {}",
            figures::counted(stamps.len(), "command"),
            figures::stamp(*first)
        ))
    };
    let mut found = Vec::new();
    if counts.compared < counts.baseline.max(counts.current) {
        let (baseline, current, both) = (counts.baseline, counts.current, counts.compared);
        found.push(format!("{} of the baseline and {current} of this run, {both} in both", figures::counted(baseline, "chunk")));
    }
    found.extend(alone(&commands.only_baseline, "baseline"));
    found.extend(alone(&commands.only_current, "current run"));
    let failure = (!found.is_empty()).then(|| Failure::of(found.join("; ")));
    Case { group: "times", name: "chunks and commands at the times of the baseline".into(), failure }
}

/// Fails whenever the run does: nothing that counts is left to the cases above alone.
fn overall(report: &Report) -> Case {
    let failure = matches!(report.verdict(), Some(Verdict::Different | Verdict::NotTested)).then(|| {
        let findings = report.compared.iter().flat_map(|compared| &compared.comparison.findings);
        let details = findings.map(ToString::to_string).collect::<Vec<_>>().join("\n");
        Failure {
            message: [Some(verdict::sentence(report)), verdict::diagnosis(report)].map(Option::unwrap_or_default).join(" "),
            details,
        }
    });
    Case { group: "verdict", name: "the run as a whole".into(), failure }
}

//! `chunks.jsonl`: a header, one line per chunk, and a last line that decides. A file without its last line says "not tested".

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Report, ReportError, unit, verdict};
use crate::replay::{
    compare::{
        Bound, ChunkComparison, CommandComparison, Counts, Difference, Divergence, Finding, JointBounds, Stage, Tier, Verdict,
    },
    trace::{BagInput, CameraTrace, ChunkTrace, Gap, Outcome, Sample, Setup, Times},
};

/// Of the lines. It changes when a field goes or means something else.
const FORMAT: u32 = 1;

#[derive(Serialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line<'a> {
    Header(Header<'a>),
    Chunk(Chunk<'a>),
    Verdict(Last<'a>),
}

#[derive(Serialize)]
struct Header<'a> {
    format: u32,
    /// Until the last line says otherwise.
    verdict: Verdict,
    setup: &'a Setup,
    baseline: Option<&'a Setup>,
    tolerances: Option<Bounds<'a>>,
    inputs: &'a [BagInput],
    /// Nanoseconds
    span: (i64, i64),
}

#[derive(Serialize)]
struct Bounds<'a> {
    tier: Tier,
    reason: &'a str,
    relative_rms: f64,
    pcc: f64,
    joints: &'a [JointBounds],
}

#[derive(Serialize)]
struct Chunk<'a> {
    index: u64,
    /// Nanoseconds: when the observation was taken, and when its chunk was there.
    stamp: i64,
    ready: i64,
    seed: u64,
    instruction: &'a str,
    /// Age in seconds and hash of each input's sample.
    samples: &'a BTreeMap<String, Sample>,
    /// Seconds
    skew: f64,
    /// By camera slot; `None` is masked.
    images: BTreeMap<&'a str, Option<String>>,
    outcome: &'a Outcome,
    /// Seconds
    times: &'a Times,
    /// `None` when the baseline has no such chunk.
    difference: Option<ChunkDifference<'a>>,
}

#[derive(Serialize)]
struct ChunkDifference<'a> {
    same: bool,
    first_row: usize,
    rows: usize,
    relative_rms: f64,
    pcc: Option<f64>,
    joints: Vec<JointDifference<'a>>,
    first: Option<&'a Divergence>,
    stages: &'a [Stage],
    exceeded: &'a [String],
}

#[derive(Serialize)]
struct JointDifference<'a> {
    joint: &'a str,
    unit: &'static str,
    max: f64,
    mean: f64,
    allowed: Bound,
}

#[derive(Serialize)]
struct Last<'a> {
    /// `None`: there was no baseline.
    verdict: Option<Verdict>,
    exit_code: u8,
    sentence: String,
    diagnosis: Option<String>,
    first: Option<&'a Divergence>,
    chunks: usize,
    commands: usize,
    counts: Option<Counts>,
    command_differences: Option<&'a CommandComparison>,
    findings: Vec<Named<'a>>,
    gaps: &'a [Gap],
    /// Inferences that gave no chunk, by reason.
    failed: &'a BTreeMap<String, u64>,
    damage: Option<&'a str>,
    latch: Option<&'a str>,
}

#[derive(Serialize)]
struct Named<'a> {
    sentence: String,
    finding: &'a Finding,
}

/// The lines of a report. Numbers that are not finite become `null`.
pub fn lines(report: &Report) -> Result<String, ReportError> {
    let (trace, setup) = (report.trace, &report.trace.setup);
    let comparison = report.compared.map(|compared| compared.comparison);
    let mut text = String::new();
    let mut line = |line: Line| -> Result<(), ReportError> {
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
        Ok(())
    };
    line(Line::Header(Header {
        format: FORMAT,
        verdict: Verdict::NotTested,
        setup,
        baseline: report.compared.map(|compared| &compared.baseline.setup),
        tolerances: comparison.map(|comparison| Bounds {
            tier: comparison.tier,
            reason: &comparison.tier_reason,
            relative_rms: comparison.relative_rms,
            pcc: comparison.pcc,
            joints: &comparison.joints,
        }),
        inputs: &trace.inputs,
        span: trace.span,
    }))?;
    for (chunk, difference) in trace.chunks.iter().zip(report.differences()) {
        let bounds = comparison.map_or(&[][..], |comparison| &comparison.joints);
        let difference = difference.map(|difference| of_chunk(difference, bounds, setup));
        line(Line::Chunk(of_trace(chunk, setup, difference)))?;
    }
    line(Line::Verdict(Last {
        verdict: report.verdict(),
        exit_code: report.exit_code(),
        sentence: verdict::sentence(report),
        diagnosis: verdict::diagnosis(report),
        first: comparison.and_then(|comparison| comparison.first.as_ref()),
        chunks: trace.chunks.len(),
        commands: trace.commands.len(),
        counts: comparison.map(|comparison| comparison.counts),
        command_differences: comparison.map(|comparison| &comparison.commands),
        findings: comparison
            .iter()
            .flat_map(|comparison| &comparison.findings)
            .map(|finding| Named { sentence: finding.to_string(), finding })
            .collect(),
        gaps: &trace.gaps,
        failed: &trace.failed,
        damage: trace.damage.as_deref(),
        latch: trace.latch.as_deref(),
    }))?;
    Ok(text)
}

fn of_trace<'a>(chunk: &'a ChunkTrace, setup: &'a Setup, difference: Option<ChunkDifference<'a>>) -> Chunk<'a> {
    let digest = |camera: &CameraTrace| match camera {
        CameraTrace::Masked => None,
        CameraTrace::Present { digest, .. } => Some(digest.to_string()),
    };
    Chunk {
        index: chunk.index,
        stamp: chunk.observed,
        ready: chunk.ready,
        seed: setup.seed,
        instruction: &chunk.instruction,
        samples: &chunk.samples,
        skew: chunk.skew,
        images: setup.cameras.iter().map(String::as_str).zip(chunk.model.cameras.iter().map(digest)).collect(),
        outcome: &chunk.outcome,
        times: &chunk.times,
        difference,
    }
}

fn of_chunk<'a>(chunk: &'a ChunkComparison, bounds: &'a [JointBounds], setup: &Setup) -> ChunkDifference<'a> {
    let joint = |(difference, bounds): (&Difference, &'a JointBounds)| JointDifference {
        joint: &bounds.joint,
        unit: setup.joints.iter().find(|joint| joint.name == bounds.joint).map_or("", unit),
        max: difference.max,
        mean: difference.mean,
        allowed: bounds.actions,
    };
    ChunkDifference {
        same: chunk.is_same(),
        first_row: chunk.first_row,
        rows: chunk.rows,
        relative_rms: chunk.relative_rms,
        pcc: chunk.pcc,
        joints: chunk.joints.iter().zip(bounds).map(joint).collect(),
        first: chunk.first.as_ref(),
        stages: &chunk.stages,
        exceeded: &chunk.exceeded,
    }
}

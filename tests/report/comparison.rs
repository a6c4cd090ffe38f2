//! A comparison as it would be found for two sample runs.

use pi0_tt::replay::{
    compare::{
        Bound, ChunkComparison, CommandComparison, Comparison, Counts, Difference, Divergence, Finding, JointBounds, Stage, Tier,
        Verdict,
    },
    trace::Trace,
};

const BOUND: Bound = Bound { max: 0.02, mean: 0.005 };

fn differences<'a>(rows: impl Iterator<Item = (&'a [f64], &'a [f64])> + Clone, width: usize) -> Vec<Difference> {
    let of = |joint: usize| {
        let apart: Vec<f64> = rows.clone().map(|(a, b)| (a[joint] - b[joint]).abs()).collect();
        Difference { max: apart.iter().copied().fold(0.0, f64::max), mean: apart.iter().sum::<f64>() / apart.len().max(1) as f64 }
    };
    (0..width).map(of).collect()
}

pub fn comparison(baseline: &Trace, current: &Trace) -> Comparison {
    let width = baseline.setup.joints.len();
    let name = |joint: usize| baseline.setup.joints[joint].name.clone();
    let mut chunks = Vec::new();
    for (index, (before, now)) in baseline.chunks.iter().zip(&current.chunks).enumerate() {
        let rows = (0..25).map(|row| row * width..(row + 1) * width).map(|at| (&before.actions[at.clone()], &now.actions[at]));
        let joints = differences(rows.clone(), width);
        let mut first = None;
        for (row, (a, b)) in rows.enumerate() {
            let joint = (0..width).find(|&joint| (a[joint] - b[joint]).abs() > BOUND.max);
            first = first.or(joint.map(|joint| Divergence {
                stamp: now.observed + row as i64 * 20_000_000,
                chunk: Some(now.index),
                row: Some(row),
                joint: name(joint),
                baseline: a[joint],
                current: b[joint],
                tolerance: BOUND.max,
            }));
        }
        let worst = joints.iter().map(|joint| joint.max).fold(0.0, f64::max);
        let beyond = joints.iter().any(|joint| joint.max > BOUND.max || joint.mean > BOUND.mean);
        chunks.push(ChunkComparison {
            index: now.index,
            observed: now.observed,
            baseline: index,
            current: index,
            first_row: 0,
            rows: 25,
            relative_rms: worst / 0.7,
            pcc: Some(1.0 - worst * worst),
            joints,
            first,
            stages: if beyond { vec![Stage::ModelActions, Stage::Actions] } else { Vec::new() },
            exceeded: if beyond {
                vec![format!("chunk {}: the largest difference is {worst:.4}", now.index)]
            } else {
                Vec::new()
            },
        });
    }
    let pairs = baseline.commands.iter().zip(&current.commands).map(|(a, b)| (a.row.as_slice(), b.row.as_slice()));
    let commands = CommandComparison {
        compared: baseline.commands.len().min(current.commands.len()),
        joints: differences(pairs, width),
        ..CommandComparison::default()
    };
    let different = chunks.iter().filter(|chunk| !chunk.is_same()).count();
    let first_chunk = chunks.iter().position(|chunk| !chunk.is_same());
    let worst = |chunk: &ChunkComparison| chunk.joints.iter().map(|joint| joint.max).fold(0.0, f64::max);
    Comparison {
        verdict: match (chunks.len(), different) {
            (0, _) => Verdict::NotTested,
            (_, 0) => Verdict::Same,
            _ => Verdict::Different,
        },
        tier: Tier::AcrossBackends,
        tier_reason: "backend ttnn_host against reference".into(),
        relative_rms: 0.02,
        pcc: 0.9995,
        joints: (0..width).map(|joint| JointBounds { joint: name(joint), actions: BOUND, commands: BOUND }).collect(),
        counts: Counts { baseline: baseline.chunks.len(), current: current.chunks.len(), compared: chunks.len(), different },
        first: chunks.iter().find_map(|chunk| chunk.first.clone()),
        first_chunk,
        worst_chunk: (0..chunks.len()).max_by(|&a, &b| worst(&chunks[a]).total_cmp(&worst(&chunks[b]))),
        findings: match first_chunk {
            Some(at) => vec![
                Finding::CameraImage { camera: "base_0_rgb".into(), distance: 0.31 },
                Finding::Delay { chunk: at as u64 + 2, baseline: 6, current: 7 },
            ],
            None => Vec::new(),
        },
        chunks,
        commands,
    }
}

//! Comparison of a backend with golden tensors that LeRobot's own π0 made.
//!
//! A golden set is a folder with `inputs.safetensors` and `intermediates.safetensors` (or `full_inputs` and `full_golden` for the
//! published size, whose files hold chosen rows of the large tensors). Weights come from `model.safetensors` beside them, else from
//! the portable synthetic rule ([`crate::checkpoint::synthetic`]).

mod against;
mod compare;
mod golden;
mod report;

use std::path::{Path, PathBuf};

use half::bf16;

pub use against::verify_against_reference;
pub use compare::{Metric, Score, correlation, relative_rms, widen};
pub use golden::{Golden, Precision, Run};
pub use report::{Report, Row};

use crate::{
    backend::{
        self, Backend, BackendError, BackendOptions,
        reference::{Reference, ReferenceOptions, Rows},
    },
    checkpoint::CheckpointError,
    model::{Camera, DenoiseRequest, EulerSchedule, Rope, Sequence, time_embedding},
    observation::ObservationError,
};
use compare::Comparison;

/// Why a comparison could not be made. A comparison that was made and failed is a [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(
        "{0} holds no golden set: neither inputs.safetensors and intermediates.safetensors nor full_inputs.safetensors and full_golden.safetensors are there"
    )]
    NoGolden(PathBuf),
    #[error("Cannot read {path}: {reason}")]
    Read { path: PathBuf, reason: String },
    #[error("{file} has no tensor {name}")]
    Missing { file: PathBuf, name: String },
    #[error("The input {name} has the shape {shape:?}. An image is [1, 3, height, width]")]
    Image { name: String, shape: Vec<usize> },
    #[error("{0} holds the actions of no run, so there is nothing to compare")]
    NoRuns(PathBuf),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Observation(#[from] ObservationError),
}

/// Compares every tensor of the golden set in `dir`, computing all rows and again only the needed ones.
pub fn verify(dir: &Path, threads: Option<usize>) -> Result<Report, VerifyError> {
    let mut golden = Golden::open(dir)?;
    if golden.runs()?.is_empty() {
        return Err(VerifyError::NoRuns(golden.dir));
    }
    let mut report = Report::new(&golden);
    // Not a copy: the published size in float32 fits into memory once.
    let weights = std::mem::take(&mut golden.weights);
    let mut model = Reference::new(golden.geometry, weights, ReferenceOptions { rows: Rows::All, threads })?;
    for rows in [Rows::All, Rows::Needed] {
        model.compute(rows);
        for run in golden.runs()? {
            let mut comparison = Comparison::new(&golden, &run, rows, golden.precision);
            if run.has_intermediates {
                for (slot, camera) in run.inputs.cameras.iter().enumerate() {
                    comparison.image(slot, camera);
                }
            }
            let (prefix, chunk);
            let request = DenoiseRequest { noise: golden.noise()?, steps: golden.steps, guidance: None };
            if run.has_intermediates {
                prefix = model.prefix_probed(&run.inputs, &mut comparison)?;
                chunk = model.denoise_probed(&prefix, &run.inputs, &request, &mut comparison)?;
            } else {
                prefix = model.prefix(&run.inputs)?;
                chunk = model.denoise(&prefix, &run.inputs, &request)?;
            }
            comparison.actions(&chunk.actions);
            if run.has_intermediates {
                comparison.padded_actions(&chunk.actions);
            }
            report.add(comparison.finish(), rows);
        }
    }
    report.add(exact(&golden)?, Rows::All);
    Ok(report)
}

/// Compares what a card's graph shows with the golden set in `dir`: keys and values as the expert reads them, the expert's layers with
/// the state token's row, and the actions, within the bounds of bfloat16.
pub fn verify_card(dir: &Path, options: &BackendOptions) -> Result<Report, VerifyError> {
    let mut golden = Golden::open(dir)?;
    if golden.runs()?.is_empty() {
        return Err(VerifyError::NoRuns(golden.dir));
    }
    let shown = ["prefix.kv.", "step.0.layer."];
    let mut report = Report::of(&golden, |name| shown.iter().any(|start| name.starts_with(start)) || name.ends_with("actions"));
    let mut model = backend::open(golden.geometry, std::mem::take(&mut golden.weights), options)?;
    for run in golden.runs()? {
        let mut comparison = Comparison::new(&golden, &run, Rows::Needed, Precision::BF16);
        let request = DenoiseRequest { noise: golden.noise()?, steps: golden.steps, guidance: None };
        let chunk = if run.has_intermediates {
            model.infer_probed(&run.inputs, &request, &mut comparison)?
        } else {
            model.infer(&run.inputs, &request)?
        };
        comparison.actions(&chunk.actions);
        report.add(comparison.finish(), Rows::Needed);
    }
    Ok(report)
}

/// Masks, positions, RoPE tables and times: functions of the sequence alone.
fn exact(golden: &Golden) -> Result<Vec<Score>, VerifyError> {
    let geometry = &golden.geometry;
    let runs = golden.runs()?;
    let run = runs.iter().find(|run| run.has_intermediates).or(runs.first());
    let run = run.ok_or_else(|| VerifyError::NoRuns(golden.dir.clone()))?;
    let valid = run.valid(geometry);
    let sequence = Sequence::new(&valid, geometry.horizon);
    let mut scores = Vec::new();
    let mut check = |name: &str, metric: Metric, values: Vec<f64>| scores.extend(golden.score(name, metric, &values));

    let flags = |flags: &mut dyn Iterator<Item = bool>| flags.map(|flag| f64::from(u8::from(flag))).collect::<Vec<f64>>();
    let (prefix_rows, suffix_rows) = (valid.len(), geometry.horizon + 1);
    let pairs = |queries: usize, keys: usize| (0..queries).flat_map(move |q| (0..keys).map(move |k| (q, k)));
    for (slot, camera) in run.inputs.cameras.iter().enumerate() {
        let present = matches!(camera, Camera::Present(_));
        check(&format!("prefix.image_mask.{slot}"), Metric::Exact, flags(&mut std::iter::once(present)));
    }
    check("prefix.pad_masks", Metric::Exact, flags(&mut valid.iter().copied()));
    check("suffix.pad_masks", Metric::Exact, vec![1.0; suffix_rows]);
    let prefix_mask = &sequence.prefix.mask;
    check(
        "prefix.att_2d_masks",
        Metric::Exact,
        flags(&mut pairs(prefix_rows, prefix_rows).map(|(q, k)| prefix_mask.allows(q, k))),
    );
    let suffix_mask = &sequence.suffix.mask;
    // A row begins a block when the row before it does not see it. The prefix, which sees no suffix, is one block that begins nowhere.
    let begins = |row: usize| row == 0 || !suffix_mask.allows(row - 1, prefix_rows + row);
    check("suffix.att_masks", Metric::Exact, flags(&mut (0..suffix_rows).map(begins)));
    let first = valid.iter().position(|&valid| valid).unwrap_or(0);
    let begins = |row: usize| valid[row] && !prefix_mask.allows(first, row);
    check("prefix.att_masks", Metric::Exact, flags(&mut (0..prefix_rows).map(begins)));
    check(
        "step.0.att_2d_masks",
        Metric::Exact,
        flags(&mut pairs(suffix_rows, prefix_rows + suffix_rows).map(|(q, k)| suffix_mask.allows(q, k))),
    );
    for (tower, rows, head_dim) in
        [("prefix", &sequence.prefix, geometry.vlm.head_dim), ("step.0", &sequence.suffix, geometry.expert.head_dim)]
    {
        check(&format!("{tower}.position_ids"), Metric::Exact, rows.positions.iter().map(|&p| p as f64).collect());
        // Hugging Face stores both halves of a head, which are equal.
        let both = |table: Vec<f32>, half: usize| -> Vec<f64> {
            table.chunks(half).flat_map(|row| row.iter().chain(row)).map(|&v| f64::from(v)).collect()
        };
        let (cos, sin, metric) = match golden.precision {
            Precision::F32 => {
                let Rope { cos, sin, .. } = Rope::new(&rows.positions, head_dim);
                (cos, sin, golden.precision.intermediate())
            }
            Precision::BF16 => {
                let (cos, sin) = bfloat16_rope(&rows.positions, head_dim);
                (cos, sin, Metric::Exact)
            }
        };
        check(&format!("{tower}.rope_cos"), metric, both(cos, head_dim / 2));
        check(&format!("{tower}.rope_sin"), metric, both(sin, head_dim / 2));
    }
    let schedule = EulerSchedule::new(golden.steps).ok_or(BackendError::NoSteps)?;
    for step in 0..golden.steps {
        let time = schedule.time(step);
        check(&format!("step.{step}.time"), Metric::Exact, vec![f64::from(time)]);
        let embedding = time_embedding(time, geometry.expert.width, geometry.min_period, geometry.max_period);
        check(&format!("step.{step}.time_emb_f64"), Metric::MaxRelative { bound: 1e-12 }, embedding);
    }
    Ok(scores)
}

/// RoPE tables of LeRobot's bfloat16 mode, which casts the frequencies along with the weights.
fn bfloat16_rope(positions: &[i64], head_dim: usize) -> (Vec<f32>, Vec<f32>) {
    let frequencies: Vec<f32> =
        (0..head_dim / 2).map(|i| bf16::from_f32(1.0 / 10_000f32.powf(2.0 * i as f32 / head_dim as f32)).to_f32()).collect();
    let table = |f: fn(f64) -> f64| {
        let angles = positions.iter().flat_map(|&position| frequencies.iter().map(move |frequency| position as f32 * frequency));
        angles.map(|angle| bf16::from_f32(f(f64::from(angle)) as f32).to_f32()).collect()
    };
    (table(f64::cos), table(f64::sin))
}

//! Errors between computed and golden tensors.

use super::{Golden, Precision, Run, golden::GoldenTensor};
use crate::{
    backend::{Probe, reference::Rows},
    model::{Camera, Rope},
};

/// How two tensors are compared, with the bound that decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Every value is equal.
    Exact,
    /// Largest absolute difference over the largest absolute golden value.
    MaxRelative { bound: f64 },
    /// Root mean square of the difference over that of the golden values.
    RelativeRms { bound: f64 },
    /// [`Metric::RelativeRms`] and Pearson's correlation.
    RmsAndCorrelation { rms: f64, pcc: f64 },
}

/// The outcome for one tensor.
#[derive(Clone, Debug)]
pub struct Score {
    pub tensor: String,
    pub metric: Metric,
    /// The metric's error; for [`Metric::Exact`] the number of values that differ.
    pub error: f64,
    /// Pearson's correlation where the metric asks for it.
    pub pcc: Option<f64>,
    pub passed: bool,
}

/// Compares `values` with `golden`. A different number of values never passes.
pub fn score(tensor: &str, metric: Metric, values: &[f64], golden: &[f64]) -> Score {
    let mut score = Score { tensor: tensor.to_owned(), metric, error: f64::INFINITY, pcc: None, passed: false };
    if values.len() != golden.len() {
        return score;
    }
    let pairs = || values.iter().zip(golden);
    let rms = || relative_rms(values, golden);
    (score.error, score.passed) = match metric {
        Metric::Exact => {
            let different = pairs().filter(|(v, g)| v != g).count();
            (different as f64, different == 0)
        }
        Metric::MaxRelative { bound } => {
            // `max` would lose a NaN.
            let worst = pairs().map(|(v, g)| (v - g).abs()).fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a });
            let size = golden.iter().fold(0.0f64, |a, g| a.max(g.abs()));
            let error = worst / size.max(f64::MIN_POSITIVE);
            (error, error <= bound)
        }
        Metric::RelativeRms { bound } => (rms(), rms() <= bound),
        Metric::RmsAndCorrelation { rms: bound, pcc } => {
            let correlation = correlation(values, golden);
            score.pcc = Some(correlation);
            (rms(), rms() <= bound && correlation >= pcc)
        }
    };
    score
}

/// Root mean square of the difference over that of `golden`, which has as many values.
pub fn relative_rms(values: &[f64], golden: &[f64]) -> f64 {
    let difference: f64 = values.iter().zip(golden).map(|(v, g)| (v - g).powi(2)).sum();
    let size: f64 = golden.iter().map(|g| g * g).sum();
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

/// Pearson's correlation coefficient; not a number when a side is constant.
pub fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let moment = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum::<f64>();
    moment(&|a, b| a * b) / (moment(&|a, _| a * a) * moment(&|_, b| b * b)).sqrt()
}

/// Collects scores while a backend runs.
pub struct Comparison<'a> {
    golden: &'a Golden,
    run: &'a Run,
    /// Golden row of each computed prefix row that is real, with the computed row.
    prefix_rows: Vec<(usize, usize)>,
    /// The arithmetic that decides the bounds: the coarser one of both sides.
    precision: Precision,
    scores: Vec<Score>,
}

impl<'a> Comparison<'a> {
    pub fn new(golden: &'a Golden, run: &'a Run, rows: Rows, precision: Precision) -> Self {
        let valid = run.valid(&golden.geometry);
        let real = valid.iter().enumerate().filter_map(|(row, &valid)| valid.then_some(row));
        let prefix_rows = match rows {
            Rows::All => real.map(|row| (row, row)).collect(),
            Rows::Needed => real.enumerate().map(|(computed, row)| (row, computed)).collect(),
        };
        Self { golden, run, prefix_rows, precision, scores: Vec::new() }
    }

    /// The resized image of a camera slot.
    pub fn image(&mut self, slot: usize, camera: &Camera) {
        let pixels = match camera {
            Camera::Present(pixels) => widen(pixels),
            // What LeRobot feeds for a missing camera.
            Camera::Masked => vec![-1.0; 3 * self.golden.geometry.vision.image_size.pow(2)],
        };
        self.compare(&format!("prefix.image.{slot}"), &pixels);
        self.compare(&format!("vision.{slot}.pixel_values"), &pixels);
    }

    /// The final actions, of which the golden set stores the robot's columns.
    pub fn actions(&mut self, actions: &[f32]) {
        let name = self.run.actions;
        if let Some(tensor) = self.golden.expected(name) {
            let columns = tensor.shape.last().copied().unwrap_or(0);
            let cut = actions.chunks(self.golden.geometry.action_dim).flat_map(|row| row.iter().take(columns));
            let values: Vec<f64> = cut.map(|&value| f64::from(value)).collect();
            self.scores.extend(self.golden.score(name, self.precision.actions(), &values));
        }
    }

    /// The model's own output, all columns.
    pub fn padded_actions(&mut self, actions: &[f32]) {
        self.scores.extend(self.golden.score("runA.x0_padded", self.precision.actions(), &widen(actions)));
    }

    pub fn finish(self) -> Vec<Score> {
        self.scores
    }

    fn compare(&mut self, name: &str, values: &[f64]) {
        self.scores.extend(self.golden.score(name, self.precision.intermediate(), values));
    }

    /// Compares chosen rows: `rows` are pairs of golden row and computed row.
    fn compare_rows(&mut self, name: &str, label: &str, width: usize, values: &[f32], rows: &[(usize, usize)]) {
        let Some(tensor) = self.golden.expected(name) else { return };
        let cut = |row: usize| row * width..(row + 1) * width;
        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        for &(golden_row, computed_row) in rows {
            // A row that one side lacks makes the lengths differ, which never passes.
            found.extend(values.get(cut(computed_row)).map(widen).unwrap_or_default());
            wanted.extend_from_slice(tensor.values.get(cut(golden_row)).unwrap_or_default());
        }
        if !rows.is_empty() {
            self.scores.push(score(label, self.precision.intermediate(), &found, &wanted));
        }
    }
}

impl Comparison<'_> {
    /// Compares keys with RoPE taken off again, each with the tables that it was rotated by.
    ///
    /// LeRobot's bfloat16 mode also rounds the RoPE frequencies to bfloat16, which turns the keys at position 550 by up to 0.7 rad;
    /// [`super::exact`] checks that its tables are just that. The reference keeps exact frequencies.
    fn compare_unrotated(&mut self, name: &str, width: usize, values: &[f32]) {
        let (Some(keys), Some(cos), Some(sin)) =
            (self.golden.expected(name), self.golden.expected("prefix.rope_cos"), self.golden.expected("prefix.rope_sin"))
        else {
            return;
        };
        let half = self.golden.geometry.vlm.head_dim / 2;
        let label = format!("{name}.without_rope");
        let stored_rows = self.run.valid(&self.golden.geometry).len();
        if keys.values.len() != stored_rows * width || [cos, sin].iter().any(|t| t.values.len() != stored_rows * 2 * half) {
            self.scores.push(score(&label, Metric::Exact, &[], &keys.values));
            return;
        }
        // Both halves of a stored row are equal. The inverse rotation has the sine's sign turned.
        let table = |tensor: &GoldenTensor, sign: f64| -> Vec<f32> {
            tensor.values.chunks(2 * half).flat_map(|row| row[..half].iter().map(move |v| (sign * v) as f32)).collect()
        };
        let theirs = Rope { cos: table(cos, 1.0), sin: table(sin, -1.0), half };
        let positions: Vec<i64> = (0..self.prefix_rows.len() as i64).collect();
        let mut ours = Rope::new(&positions, 2 * half);
        ours.sin.iter_mut().for_each(|sin| *sin = -*sin);

        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        for (position, &(golden_row, computed_row)) in self.prefix_rows.iter().enumerate() {
            let mut row = values[computed_row * width..(computed_row + 1) * width].to_vec();
            ours.rotate(position, &mut row);
            found.extend(widen(&row));
            let golden = &keys.values[golden_row * width..(golden_row + 1) * width];
            let mut row: Vec<f32> = golden.iter().map(|&v| v as f32).collect();
            theirs.rotate(golden_row, &mut row);
            wanted.extend(widen(&row));
        }
        self.scores.push(score(&label, self.precision.intermediate(), &found, &wanted));
    }
}

impl Probe for Comparison<'_> {
    fn tensor(&mut self, name: &str, width: usize, values: &[f32]) {
        if name.starts_with("prefix.lang_embs") {
            // Computed rows are the valid ones first, so padding is simply cut off.
            let rows: Vec<_> = (0..self.run.inputs.prompt.ids.len()).map(|row| (row, row)).collect();
            self.compare_rows(name, name, width, values, &rows);
        } else if self.golden.precision == Precision::BF16 && name.starts_with("prefix.kv.") && name.ends_with(".key") {
            self.compare_unrotated(name, width, values);
        } else if name.starts_with("prefix.") {
            let rows = self.prefix_rows.clone();
            self.compare_rows(name, name, width, values, &rows);
            if let Some(stored) = self.golden.expected("rows") {
                // Row `k` of the stored tensor is prefix row `stored[k]`.
                let chosen: Vec<_> = stored
                    .values
                    .iter()
                    .enumerate()
                    .filter_map(|(k, &row)| {
                        rows.iter().find(|(golden, _)| *golden as f64 == row).map(|&(_, computed)| (k, computed))
                    })
                    .collect();
                self.compare_rows(&format!("{name}.rows"), name, width, values, &chosen);
            }
        } else if name.starts_with("vision.") {
            self.compare(name, &widen(values));
            // gen_golden's choice of rows at the published size.
            let chosen = [(0, 0), (1, 1), (2, 128), (3, 255)];
            self.compare_rows(&format!("{name}.rows"), name, width, values, &chosen);
        } else {
            self.compare(name, &widen(values));
            if name.starts_with("step.0.layer.") {
                // The state token's mask is invisible in the actions: its row is a check of its own.
                self.compare_rows(name, &format!("{name}.state_row"), width, values, &[(0, 0)]);
            }
        }
    }
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_never_passes() {
        for metric in [
            Metric::Exact,
            Metric::MaxRelative { bound: 1e9 },
            Metric::RelativeRms { bound: 1e9 },
            Metric::RmsAndCorrelation { rms: 1e9, pcc: -1.0 },
        ] {
            assert!(!score("x", metric, &[1.0, f64::NAN, 2.0], &[1.0, 1.0, 2.0]).passed, "{metric:?}");
        }
    }

    #[test]
    fn a_missing_value_never_passes() {
        assert!(!score("x", Metric::MaxRelative { bound: 1e9 }, &[1.0], &[1.0, 1.0]).passed);
    }
}

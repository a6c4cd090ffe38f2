//! The table of worst errors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Golden, Metric, Score};
use crate::backend::reference::Rows;

/// Tensors of one kind: the same name but for layer, step or camera numbers.
#[derive(Clone, Debug)]
pub struct Row {
    pub kind: String,
    pub compared: usize,
    pub failed: usize,
    /// The tensor with the largest error.
    pub worst: Score,
}

/// Outcome of a verification.
#[derive(Clone, Debug)]
pub struct Report {
    title: String,
    rows: BTreeMap<(u8, String), Row>,
    /// Stored tensors that nothing was compared with so far.
    missed: BTreeSet<String>,
}

impl Report {
    pub fn new(golden: &Golden) -> Self {
        // `rows` only numbers the stored rows of other tensors.
        Self::of(golden, |name| name != "rows")
    }

    /// A report that is complete when every stored tensor that is `wanted` was compared.
    pub fn of(golden: &Golden, wanted: impl Fn(&str) -> bool) -> Self {
        let title = format!(
            "{}: {} parameters, golden tensors in {:?}, {} denoise steps",
            golden.dir.display(),
            golden.weights.parameters(),
            golden.precision,
            golden.steps
        );
        let missed = golden.names().filter(|name| wanted(name)).map(String::from).collect();
        Self { title, rows: BTreeMap::new(), missed }
    }

    /// A report that is complete whatever is compared.
    pub fn titled(title: String) -> Self {
        Self { title, rows: BTreeMap::new(), missed: BTreeSet::new() }
    }

    pub fn add(&mut self, scores: Vec<Score>, rows: Rows) {
        for score in scores {
            // Chosen rows of a tensor and keys without RoPE are scored under names of their own.
            let stored = score.tensor.trim_end_matches(".without_rope");
            self.missed.remove(stored);
            self.missed.remove(&format!("{stored}.rows"));
            let mut kind = kind(&score.tensor);
            if rows == Rows::Needed {
                kind.push_str(" (needed rows only)");
            }
            let key = (u8::from(rows == Rows::Needed), kind.clone());
            let row = self.rows.entry(key).or_insert_with(|| Row { kind, compared: 0, failed: 0, worst: score.clone() });
            row.compared += 1;
            row.failed += usize::from(!score.passed);
            // A NaN is worse than any number.
            if score.error.is_nan() || score.error > row.worst.error {
                row.worst = score;
            }
        }
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// Whether every stored tensor was compared and passed.
    pub fn passed(&self) -> bool {
        self.missed.is_empty() && !self.rows.is_empty() && self.rows.values().all(|row| row.failed == 0)
    }
}

/// The name without its numbers: `prefix.kv.3.key` becomes `prefix.kv.key`.
fn kind(tensor: &str) -> String {
    tensor.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        writeln!(f, "{:<44} {:>5}  {:<34} {:<26} verdict", "tensor", "count", "worst error", "bound")?;
        for row in self.rows() {
            let Score { tensor, metric, error, pcc, .. } = &row.worst;
            let (error, bound) = match metric {
                Metric::Exact => (format!("{error} values differ"), "exact".to_owned()),
                Metric::MaxRelative { bound } => (format!("{error:.2e} of the largest"), format!("{bound:.0e}")),
                Metric::RelativeRms { bound } => (format!("{error:.2e} relative RMS"), format!("{bound:.0e}")),
                Metric::RmsAndCorrelation { rms, pcc: bound } => {
                    (format!("{error:.2e} RMS, PCC {:.6}", pcc.unwrap_or(f64::NAN)), format!("{rms:.0e}, PCC {bound}"))
                }
            };
            let verdict = match row.failed {
                0 => "ok".to_owned(),
                failed => format!("FAILED: {failed}, worst {tensor}"),
            };
            writeln!(f, "{:<44} {:>5}  {error:<34} {bound:<26} {verdict}", row.kind, row.compared)?;
        }
        for name in &self.missed {
            writeln!(f, "{name} is in the golden set and was not compared: FAILED")?;
        }
        write!(
            f,
            "{}",
            if self.passed() { "All tensors are within their bounds" } else { "FAILED: tensors are outside of their bounds" }
        )
    }
}

//! How an array of columns changed: order, sign, scale, shift.
//!
//! A pattern names a change when it explains it: what is left between the pattern and the current values is at most a hundredth (in root
//! mean square) of what is between the two runs. That holds for changes of any size, and rounding alone has no pattern.

use super::{AffineColumn, ArrayChange, finding::Limit};

/// Share of the square sum of a change that may be left.
const UNEXPLAINED: f64 = 1e-4;
/// Least rows that a scale and an offset are fitted to: two would always fit.
const FEWEST_ROWS: usize = 3;
/// Most rows that a shift is looked for in.
const MOST_SHIFT: usize = 8;

/// The same columns of both runs, each as a series of rows.
pub(super) struct Columns {
    names: Vec<String>,
    baseline: Vec<Vec<f64>>,
    current: Vec<Vec<f64>>,
    /// Of each column the value that stands for 0 in the robot's units: what a changed sign turns around.
    zero: Vec<f64>,
    /// Rows follow each other in time.
    in_time: bool,
    /// Rows of `[column][other column]`: what a column would be if it got the values of the other one.
    instead: Option<Vec<Vec<Vec<f64>>>>,
}

impl Columns {
    /// Of rows of equal width. Columns without a name get their number.
    pub fn new(mut names: Vec<String>, baseline: &[Vec<f64>], current: &[Vec<f64>]) -> Self {
        let width = baseline.iter().chain(current).map(Vec::len).min().unwrap_or(0);
        names.extend((names.len()..width).map(|column| format!("column {column}")));
        let series = |rows: &[Vec<f64>]| (0..width).map(|column| rows.iter().map(|row| row[column]).collect()).collect();
        let zero = vec![0.0; width];
        Self { names, baseline: series(baseline), current: series(current), zero, in_time: false, instead: None }
    }

    /// Rows follow each other in time, so that they may be shifted.
    pub fn in_time(mut self) -> Self {
        self.in_time = true;
        self
    }

    /// The columns are made of these values, column for column by a scale and an offset where the rows show one.
    pub fn made_of(mut self, sources: &[Vec<f64>]) -> Self {
        let columns = self.baseline.len();
        let source = |column: usize| sources.iter().filter_map(|row| row.get(column).copied()).collect::<Vec<f64>>();
        let sources: Vec<Vec<f64>> = (0..columns).map(source).collect();
        let maps: Vec<Option<Line>> =
            (0..columns).map(|column| Line::fitting(&sources[column], &self.baseline[column])).collect();
        for (zero, line) in self.zero.iter_mut().zip(&maps) {
            *zero = line.map_or(0.0, |line| line.offset);
        }
        let instead = |line: &Option<Line>| {
            let of = |other: &Vec<f64>| line.map_or(Vec::new(), |line| other.iter().map(|value| line.at(*value)).collect());
            sources.iter().map(of).collect()
        };
        self.instead = Some(maps.iter().map(instead).collect());
        self
    }

    /// What happened to the columns that `differs` says so of, given a column and both values; `None` when it says so of none.
    pub fn change(&self, differs: impl Fn(usize, f64, f64) -> bool) -> Option<ArrayChange> {
        let pairs = |column: usize| self.baseline[column].iter().zip(&self.current[column]);
        let different = |column: &usize| pairs(*column).any(|(b, c)| differs(*column, *b, *c));
        let changed: Vec<usize> = (0..self.baseline.len()).filter(different).collect();
        let (row, column) = (0..self.rows()).find_map(|row| {
            let at = |column: &&usize| differs(**column, self.baseline[**column][row], self.current[**column][row]);
            changed.iter().find(at).map(|column| (row, *column))
        })?;
        let known = self.zero(&changed).or_else(|| self.shifted(&changed)).or_else(|| self.permuted(&changed));
        let known = known.or_else(|| self.turned(&changed)).or_else(|| self.affine(&changed)).or_else(|| self.limited(&changed));
        Some(known.unwrap_or_else(|| ArrayChange::Values {
            columns: self.named(&changed),
            row,
            column: self.names[column].clone(),
            baseline: self.baseline[column][row],
            current: self.current[column][row],
        }))
    }

    fn rows(&self) -> usize {
        self.baseline.first().map_or(0, Vec::len)
    }

    fn named(&self, columns: &[usize]) -> Vec<String> {
        columns.iter().map(|&column| self.names[column].clone()).collect()
    }

    fn zero(&self, changed: &[usize]) -> Option<ArrayChange> {
        let all = changed.iter().all(|&column| self.current[column].iter().all(|value| *value == 0.0));
        all.then(|| ArrayChange::Zero(self.named(changed)))
    }

    fn shifted(&self, changed: &[usize]) -> Option<ArrayChange> {
        let rows = self.rows();
        let most = MOST_SHIFT.min(rows / 2);
        if !self.in_time || most == 0 {
            return None;
        }
        let shifts = (1..=most as i64).flat_map(|rows| [rows, -rows]);
        // The overlap of a series with itself, `shift` rows later.
        let overlap = |series: &[f64], from: usize, other: usize| series[from..rows - other].to_vec();
        let explains = |shift: &i64| {
            let (late, early) = if *shift > 0 { (*shift as usize, 0) } else { (0, shift.unsigned_abs() as usize) };
            changed.iter().all(|&column| {
                let (b, c) = (&self.baseline[column], &self.current[column]);
                explained(&overlap(b, early, late), &overlap(c, late, early), &overlap(b, late, early))
            })
        };
        shifts.into_iter().find(explains).map(|rows| ArrayChange::Shifted { rows })
    }

    fn permuted(&self, changed: &[usize]) -> Option<ArrayChange> {
        let holds = |&column: &usize| {
            let (b, c) = (&self.baseline[column], &self.current[column]);
            let others = (0..self.baseline.len()).filter(|other| *other != column);
            let has = |other: &usize| {
                let through =
                    self.instead.as_ref().map(|instead| &instead[column][*other]).filter(|series| series.len() == c.len());
                explained(&self.baseline[*other], c, b) || through.is_some_and(|series| explained(series, c, b))
            };
            // Two joints may have the same values: those that changed are meant.
            let candidates: Vec<usize> = others.filter(has).collect();
            let other = candidates.iter().find(|other| changed.contains(other)).or(candidates.first())?;
            Some((self.names[column].clone(), self.names[*other].clone()))
        };
        changed.iter().map(holds).collect::<Option<Vec<_>>>().filter(|pairs| pairs.len() > 1).map(ArrayChange::Permuted)
    }

    /// Signs and directions.
    fn turned(&self, changed: &[usize]) -> Option<ArrayChange> {
        let around = |column: usize, sum: f64| {
            let turned: Vec<f64> = self.baseline[column].iter().map(|value| sum - value).collect();
            explained(&turned, &self.current[column], &self.baseline[column])
        };
        if changed.iter().all(|&column| around(column, 2.0 * self.zero[column])) {
            return Some(ArrayChange::Negated(self.named(changed)));
        }
        let &[column] = changed else { return None };
        let sums: Vec<f64> = self.baseline[column].iter().zip(&self.current[column]).map(|(b, c)| b + c).collect();
        let sum = sums.iter().sum::<f64>() / sums.len().max(1) as f64;
        let varies = varies(&self.baseline[column]);
        // One value alone is turned around by any sum; a gripper goes from 0 to 1.
        (around(column, sum) && (varies || (sum - 1.0).abs() < 1e-6))
            .then(|| ArrayChange::Reversed { column: self.names[column].clone(), sum })
    }

    fn affine(&self, changed: &[usize]) -> Option<ArrayChange> {
        let mut lines = Vec::new();
        for &column in changed {
            let (b, c) = (&self.baseline[column], &self.current[column]);
            let line = Line::fitting(b, c).filter(|line| {
                let mapped: Vec<f64> = b.iter().map(|value| line.at(*value)).collect();
                // A column that keeps its value tells nothing of the map.
                explained(&mapped, c, b) && line.scale.abs() > 1e-6
            });
            match line {
                Some(Line { scale, offset }) => lines.push(AffineColumn { column: self.names[column].clone(), scale, offset }),
                None if varies(b) || varies(c) => return None,
                None => {}
            }
        }
        (!lines.is_empty()).then_some(ArrayChange::Affine(lines))
    }

    /// A limit shows as a largest value, step or change of step that one run reaches again and again and the other exceeds there.
    fn limited(&self, changed: &[usize]) -> Option<ArrayChange> {
        if !self.in_time {
            return None;
        }
        // A limited velocity limits the acceleration too, and not the other way round.
        [Limit::Position, Limit::Velocity, Limit::Acceleration].into_iter().find_map(|limit| {
            let columns: Vec<usize> = changed
                .iter()
                .copied()
                .filter(|&column| {
                    let [b, c] = [&self.baseline[column], &self.current[column]].map(|series| limit.differences(series));
                    saturates(&b, &c) || saturates(&c, &b)
                })
                .collect();
            (!columns.is_empty()).then(|| ArrayChange::Limited { limit, columns: self.named(&columns) })
        })
    }
}

impl Limit {
    /// What the limit bounds.
    fn differences(self, series: &[f64]) -> Vec<f64> {
        let step = |series: &[f64]| series.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<f64>>();
        match self {
            Self::Position => series.to_vec(),
            Self::Velocity => step(series),
            Self::Acceleration => step(&step(series)),
        }
    }
}

/// Whether `limited` stays at its largest or least value in at least three places where `free` goes beyond it.
fn saturates(limited: &[f64], free: &[f64]) -> bool {
    [1.0, -1.0].into_iter().any(|sign| {
        let most = limited.iter().map(|value| sign * value).fold(f64::NEG_INFINITY, f64::max);
        let rounding = 1e-9 * most.abs().max(1e-3);
        let at_limit = |(limited, free): &(&f64, &f64)| sign * **limited >= most - rounding && sign * **free > most + rounding;
        limited.iter().zip(free).filter(at_limit).count() >= 3
    })
}

/// Whether `pattern` explains what is between `current` and `baseline`.
pub(super) fn explained(pattern: &[f64], current: &[f64], baseline: &[f64]) -> bool {
    let squares = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let change = squares(current, baseline);
    // Not a number is explained by nothing.
    change > 0.0 && squares(current, pattern) <= UNEXPLAINED * change
}

fn varies(series: &[f64]) -> bool {
    series.windows(2).any(|pair| pair[0] != pair[1])
}

/// `scale x + offset`
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub scale: f64,
    pub offset: f64,
}

impl Line {
    /// The least squares line through enough points of different `x`.
    pub fn fitting(x: &[f64], y: &[f64]) -> Option<Self> {
        if x.len() < FEWEST_ROWS || x.len() != y.len() || !varies(x) {
            return None;
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (mean_x, mean_y) = (mean(x), mean(y));
        let moment = |values: &[f64], of: f64| x.iter().zip(values).map(|(x, v)| (x - mean_x) * (v - of)).sum::<f64>();
        let scale = moment(y, mean_y) / moment(x, mean_x);
        let line = Self { scale, offset: mean_y - scale * mean_x };
        (line.scale.is_finite() && line.offset.is_finite()).then_some(line)
    }

    pub fn at(self, x: f64) -> f64 {
        self.scale * x + self.offset
    }
}

//! Normalization of one feature (state or actions) with the checkpoint's statistics.

use std::collections::BTreeMap;

use super::CheckpointError;

/// Statistics by feature (`observation.state`) and statistic (`mean`).
pub(super) type Statistics = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

/// Least standard deviation or range, in robot units: below it a normalization only magnifies noise.
const LEAST_SPREAD: f64 = 1e-6;

/// openpi's epsilon, on both ways (openpi `transforms.py`).
const OPENPI_EPSILON: f64 = 1e-6;

/// LeRobot's names of what is done to a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Identity,
    MeanStd,
    MinMax,
    Quantiles,
    Quantile10,
}

impl Mode {
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Identity, Self::MeanStd, Self::MinMax, Self::Quantiles, Self::Quantile10]
            .into_iter()
            .find(|mode| mode.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "IDENTITY",
            Self::MeanStd => "MEAN_STD",
            Self::MinMax => "MIN_MAX",
            Self::Quantiles => "QUANTILES",
            Self::Quantile10 => "QUANTILE10",
        }
    }

    /// The two statistics that the mode needs.
    fn statistics(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Identity => None,
            Self::MeanStd => Some(["mean", "std"]),
            Self::MinMax => Some(["min", "max"]),
            Self::Quantiles => Some(["q01", "q99"]),
            Self::Quantile10 => Some(["q10", "q90"]),
        }
    }
}

/// Statistics of one feature with the rule that the checkpoint's family applies.
#[derive(Clone, Debug)]
pub struct Normalizer {
    mode: Mode,
    width: usize,
    rule: Rule,
}

/// Both ways of each rule, in the arithmetic of the family.
#[derive(Clone, Debug)]
enum Rule {
    Identity,
    /// LeRobot, float32: `(x - mean) / (std + epsilon)`, back `x * std + mean`.
    MeanStd {
        mean: Vec<f32>,
        std: Vec<f32>,
        epsilon: f32,
    },
    /// LeRobot, float32: low..high to -1..1. Up to 0.3.3 an epsilon is added to the range on the way in; later it is zero.
    Range {
        low: Vec<f32>,
        high: Vec<f32>,
        epsilon: f32,
    },
    /// openpi, NumPy's float64: `(x - mean) / (std + 1e-6)`, back `x * (std + 1e-6) + mean`.
    Openpi {
        mean: Vec<f64>,
        std: Vec<f64>,
    },
}

/// Where statistics come from and what they are for, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub origin: &'a str,
    pub feature: &'a str,
}

impl Normalizer {
    /// LeRobot's rule for a feature of `width` entries. `range_epsilon` is the one of [`Rule::Range`].
    ///
    /// Every missing, short, non-finite or degenerate statistic is listed.
    pub(super) fn lerobot(
        source: Source,
        mode: Mode,
        width: usize,
        statistics: &Statistics,
        epsilon: f64,
        range_epsilon: f64,
    ) -> Result<Self, Vec<CheckpointError>> {
        let Some(names) = mode.statistics() else { return Ok(Self { mode, width, rule: Rule::Identity }) };
        let [low, high] = look_up(source, mode, names, statistics, Some(width))?;
        let spread: Vec<f64> = match mode {
            Mode::MeanStd => high.clone(),
            _ => low.iter().zip(&high).map(|(low, high)| high - low).collect(),
        };
        refuse_degenerate(source, mode, &spread)?;
        // The files hold float32; statistics pass through float64 without a change.
        let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        let rule = match mode {
            Mode::MeanStd => Rule::MeanStd { mean: narrow(low), std: narrow(high), epsilon: epsilon as f32 },
            _ => Rule::Range { low: narrow(low), high: narrow(high), epsilon: range_epsilon as f32 },
        };
        Ok(Self { mode, width, rule })
    }

    /// openpi's rule for pi0. The statistics may be padded to the model's width with entries of mean 0 and deviation 0 or 1.
    pub(super) fn openpi(source: Source, statistics: &Statistics) -> Result<Self, Vec<CheckpointError>> {
        let mode = Mode::MeanStd;
        let [mut mean, mut std] = look_up(source, mode, ["mean", "std"], statistics, None)?;
        let padding = |(mean, std): (&f64, &f64)| *mean == 0.0 && (*std == 0.0 || *std == 1.0);
        let width = mean.iter().zip(&std).rposition(|entry| !padding(entry)).map_or(0, |last| last + 1);
        mean.truncate(width);
        std.truncate(width);
        refuse_degenerate(source, mode, &std)?;
        if width == 0 {
            return Err(vec![CheckpointError::StatisticLength {
                origin: source.origin.into(),
                feature: source.feature.into(),
                statistic: "std",
                found: 0,
                expected: 1,
            }]);
        }
        Ok(Self { mode, width, rule: Rule::Openpi { mean, std } })
    }

    /// Entries that have statistics.
    pub fn width(&self) -> usize {
        self.width
    }

    /// LeRobot's name of the normalization: `MEAN_STD`, `IDENTITY`, `QUANTILES`, `QUANTILE10` or `MIN_MAX`.
    pub fn mode(&self) -> &'static str {
        self.mode.name()
    }

    /// The two statistics that the mode uses, by name, one value per entry; none for `IDENTITY`.
    pub fn statistics(&self) -> Vec<(&'static str, Vec<f64>)> {
        let widen = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect();
        let values = match &self.rule {
            Rule::Identity => return Vec::new(),
            Rule::MeanStd { mean, std, .. } => [widen(mean), widen(std)],
            Rule::Range { low, high, .. } => [widen(low), widen(high)],
            Rule::Openpi { mean, std } => [mean.clone(), std.clone()],
        };
        self.mode.statistics().into_iter().flatten().zip(values).collect()
    }

    /// Robot units to model space, in place; `values` has `width` entries.
    pub fn normalize(&self, values: &mut [f32]) {
        debug_assert_eq!(values.len(), self.width);
        match &self.rule {
            Rule::Identity => {}
            Rule::MeanStd { mean, std, epsilon } => each(values, mean, std, |x, mean, std| (x - mean) / (std + epsilon)),
            Rule::Range { low, high, epsilon } => {
                each(values, low, high, |x, low, high| 2.0 * (x - low) / (high - low + epsilon) - 1.0);
            }
            Rule::Openpi { mean, std } => {
                each(values, mean, std, |x, mean, std| ((f64::from(x) - mean) / (std + OPENPI_EPSILON)) as f32);
            }
        }
    }

    /// Model space to robot units, in place; `values` has `width` entries.
    pub fn unnormalize(&self, values: &mut [f32]) {
        debug_assert_eq!(values.len(), self.width);
        match &self.rule {
            Rule::Identity => {}
            // Two roundings, a product and a sum, as torch makes them: no fused multiply-add.
            Rule::MeanStd { mean, std, .. } => each(values, mean, std, |x, mean, std| x * std + mean),
            Rule::Range { low, high, .. } => each(values, low, high, |x, low, high| (x + 1.0) / 2.0 * (high - low) + low),
            Rule::Openpi { mean, std } => {
                each(values, mean, std, |x, mean, std| (f64::from(x) * (std + OPENPI_EPSILON) + mean) as f32);
            }
        }
    }
}

fn each<T: Copy>(values: &mut [f32], first: &[T], second: &[T], rule: impl Fn(f32, T, T) -> f32) {
    for ((value, &first), &second) in values.iter_mut().zip(first).zip(second) {
        *value = rule(*value, first, second);
    }
}

/// Two statistics of a feature, of `width` entries each (of equal length when `None`), all finite.
fn look_up(
    Source { origin, feature }: Source,
    mode: Mode,
    names: [&'static str; 2],
    statistics: &Statistics,
    width: Option<usize>,
) -> Result<[Vec<f64>; 2], Vec<CheckpointError>> {
    let (origin, feature, mut causes) = (origin.to_owned(), feature.to_owned(), Vec::new());
    let found = statistics.get(&feature);
    let values = names.map(|statistic| {
        let Some(values) = found.and_then(|found| found.get(statistic)) else {
            let (origin, feature) = (origin.clone(), feature.clone());
            causes.push(CheckpointError::StatisticMissing { origin, feature, statistic, mode: mode.name() });
            return Vec::new();
        };
        values.clone()
    });
    if !causes.is_empty() {
        return Err(causes);
    }
    let expected = width.unwrap_or(values[0].len());
    for (statistic, values) in names.into_iter().zip(&values) {
        if values.len() != expected {
            let (origin, feature, found) = (origin.clone(), feature.clone(), values.len());
            causes.push(CheckpointError::StatisticLength { origin, feature, statistic, found, expected });
        }
        for (entry, &value) in values.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
            let (origin, feature) = (origin.clone(), feature.clone());
            causes.push(CheckpointError::StatisticNotFinite { origin, feature, statistic, entry, value });
        }
    }
    if causes.is_empty() { Ok(values) } else { Err(causes) }
}

fn refuse_degenerate(Source { origin, feature }: Source, mode: Mode, spread: &[f64]) -> Result<(), Vec<CheckpointError>> {
    let causes: Vec<CheckpointError> = spread
        .iter()
        .enumerate()
        .filter(|(_, spread)| **spread < LEAST_SPREAD)
        .map(|(entry, &spread)| CheckpointError::StatisticDegenerate {
            origin: origin.into(),
            feature: feature.into(),
            entry,
            mode: mode.name(),
            spread,
            least: LEAST_SPREAD,
        })
        .collect();
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f32; 3] = [0.3, -1.7, 2.25];
    const FIRST: [f64; 3] = [0.1, -0.9, 1.3];
    const SECOND: [f64; 3] = [0.7, 0.013, 2.9];

    fn statistics(names: [&str; 2], first: [f64; 3], second: [f64; 3]) -> Statistics {
        let values = BTreeMap::from([(names[0].to_owned(), first.to_vec()), (names[1].to_owned(), second.to_vec())]);
        BTreeMap::from([("state".to_owned(), values)])
    }

    const SOURCE: Source = Source { origin: "test", feature: "state" };

    fn lerobot(mode: Mode, first: [f64; 3], second: [f64; 3], range_epsilon: f64) -> Normalizer {
        let statistics = statistics(mode.statistics().unwrap(), first, second);
        Normalizer::lerobot(SOURCE, mode, 3, &statistics, 1e-8, range_epsilon).unwrap()
    }

    /// The expected values are NumPy's float32 (openpi: float64) results of the formulas in LeRobot's `normalize_processor.py` and
    /// openpi's `transforms.py`.
    #[track_caller]
    fn both_ways(normalizer: &Normalizer, normalized: [f32; 3], unnormalized: [f32; 3]) {
        let (mut there, mut back) = (X, X);
        normalizer.normalize(&mut there);
        normalizer.unnormalize(&mut back);
        assert_eq!((there, back), (normalized, unnormalized));
    }

    #[test]
    fn mean_and_deviation_follow_lerobot_bit_by_bit() {
        let normalizer = lerobot(Mode::MeanStd, FIRST, SECOND, 0.0);
        both_ways(&normalizer, [0.285_714_33, -61.538_418, 0.327_586_2], [0.31, -0.922_099_95, 7.825]);
    }

    #[test]
    fn ranges_and_quantiles_follow_lerobot_bit_by_bit() {
        for mode in [Mode::MinMax, Mode::Quantiles, Mode::Quantile10] {
            let normalizer = lerobot(mode, FIRST, SECOND, 0.0);
            both_ways(&normalizer, [-0.333_333_25, -2.752_464_5, 0.187_5], [0.489_999_95, -1.219_55, 3.9]);
        }
    }

    #[test]
    fn older_lerobot_adds_an_epsilon_to_a_range() {
        let normalizer = lerobot(Mode::MinMax, [0.0; 3], [2e-6; 3], 1e-8);
        let mut values = [1e-6, 5e-7, 2e-6];
        normalizer.normalize(&mut values);
        assert_eq!(values, [-0.004_975_080_5, -0.502_487_54, 0.990_049_84]);
    }

    #[test]
    fn openpi_adds_its_epsilon_on_both_ways() {
        let normalizer = Normalizer::openpi(SOURCE, &statistics(["mean", "std"], FIRST, SECOND)).unwrap();
        both_ways(&normalizer, [0.285_713_88, -61.533_733, 0.327_586_08], [0.310_000_3, -0.922_101_7, 7.825_002]);
    }

    #[test]
    fn identity_changes_nothing() {
        let normalizer = Normalizer::lerobot(SOURCE, Mode::Identity, 3, &Statistics::new(), 1e-8, 0.0).unwrap();
        both_ways(&normalizer, X, X);
        assert!(normalizer.statistics().is_empty());
    }
}

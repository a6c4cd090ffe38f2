//! From values to places along an axis, with ticks that a reader can count by.

use super::figures;

/// A range of values along an axis, never empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
}

impl Scale {
    /// Both have to be finite; a range that is empty or too small for its numbers is widened.
    pub fn new(low: f64, high: f64) -> Self {
        let least = (low.abs().max(high.abs()) * 1e-9).max(1e-12);
        if high - low > least { Self { low, high } } else { Self { low: low - least, high: low + least } }
    }

    /// 0 at the low end and 1 at the high end.
    pub fn at(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// At most `most` ticks (at least 2), 1, 2 or 5 times a power of ten apart.
    pub fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let rough = (self.high - self.low) / most.max(2) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let (first, last) = ((self.low / step).ceil(), (self.high / step).floor());
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let label = |value: f64| match decimals {
            0..=4 => format!("{value:.decimals$}"),
            _ => figures::value(value),
        };
        // No more than a few: the range is a handful of steps wide.
        (0..=(last - first).max(-1.0) as i64).map(|index| (first + index as f64) * step).map(|tick| (tick, label(tick))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, most: usize) -> Vec<String> {
        Scale::new(low, high).ticks(most).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_of_the_range() {
        assert_eq!(labels(0.0, 4.98, 6), ["0", "1", "2", "3", "4"]);
        assert_eq!(labels(-0.13, 0.41, 4), ["0.0", "0.2", "0.4"]);
        assert_eq!(labels(0.0, 600.0, 6), ["0", "100", "200", "300", "400", "500", "600"]);
        assert_eq!(labels(-2.4e-7, 2.4e-7, 3), ["-2.0e-7", "0", "2.0e-7"]);
    }

    #[test]
    fn a_range_without_extent_still_places_its_values() {
        for (low, high) in [(0.0, 0.0), (1e9, 1e9), (-3.0, -3.0), (1e-30, 1e-30)] {
            let scale = Scale::new(low, high);
            assert!((0.0..=1.0).contains(&scale.at(low)), "{low}");
            assert!(scale.ticks(4).len() < 16, "{low}");
        }
    }
}

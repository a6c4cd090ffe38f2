//! How long inferences take, in control steps.

use std::collections::VecDeque;

/// So many of the newest delays decide: at two chunks a second those of the last 20 s.
const WINDOW: usize = 40;
/// The delay that this share of the window does not exceed is reckoned with.
const QUANTILE: f64 = 0.95;

/// The newest delays. The first of all is not among them: a cold start takes longer than anything after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Delays {
    rows: VecDeque<usize>,
    cold: Option<usize>,
}

impl Delays {
    /// An inference took so many control steps.
    pub fn record(&mut self, rows: usize) {
        if self.cold.is_none() {
            self.cold = Some(rows);
            return;
        }
        if self.rows.len() == WINDOW {
            self.rows.pop_front();
        }
        self.rows.push_back(rows);
    }

    /// The delay to reckon with. Until one was measured that is the cold start, which is no shorter, but at most `most`.
    pub fn reckoned(&self, most: usize) -> usize {
        self.p95().unwrap_or_else(|| self.cold.map_or(most, |cold| cold.min(most)))
    }

    /// What 95 % of the newest delays do not exceed; `None` until one was measured.
    pub fn p95(&self) -> Option<usize> {
        let mut sorted: Vec<_> = self.rows.iter().copied().collect();
        sorted.sort_unstable();
        // The nearest rank, counted from 1.
        let rank = (QUANTILE * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.checked_sub(1)?).copied()
    }

    pub fn last(&self) -> Option<usize> {
        self.rows.back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(rows: impl IntoIterator<Item = usize>) -> Delays {
        let mut delays = Delays::default();
        // The cold start.
        delays.record(1000);
        rows.into_iter().for_each(|rows| delays.record(rows));
        delays
    }

    #[test]
    fn the_cold_start_is_reckoned_with_until_another_delay_was_measured() {
        assert_eq!((Delays::default().p95(), Delays::default().reckoned(25)), (None, 25));
        assert_eq!((delays([]).p95(), delays([]).reckoned(25), delays([]).reckoned(2000)), (None, 25, 1000));
        assert_eq!((delays([3]).p95(), delays([3]).reckoned(25)), (Some(3), 3));
        assert_eq!(delays([30]).reckoned(25), 30);
    }

    #[test]
    fn one_delay_in_twenty_may_be_longer_than_the_one_that_is_reckoned_with() {
        assert_eq!(delays((0..19).map(|_| 5).chain([90])).p95(), Some(5));
        assert_eq!(delays((0..18).map(|_| 5).chain([90, 90])).p95(), Some(90));
        assert_eq!(delays(1..=40).p95(), Some(38));
    }

    #[test]
    fn a_long_delay_is_forgotten_with_the_window() {
        let mut delays = delays([90, 90, 90]);
        assert_eq!(delays.p95(), Some(90));
        (0..WINDOW - 3).for_each(|_| delays.record(4));
        assert_eq!(delays.p95(), Some(90), "three of forty are more than 5 %");
        delays.record(4);
        assert_eq!(delays.p95(), Some(4));
    }
}

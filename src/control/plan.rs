//! Rows with absolute times, and the clock of control steps that gives them.

use super::Stamp;

/// A step may come this share of a period before its time: the step that gave the times may have been late itself.
const EARLIEST: f64 = 0.95;
/// The same for the step after one that was taken in advance: two rows are not sent at once.
const EARLIEST_AFTER_ADVANCE: f64 = 0.5;

/// Numbers the control steps. Their times follow from the first one: a step that comes late does not delay those after it, and skips steps
/// when it is a whole period late.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    /// Seconds between two steps.
    period: f64,
    /// The newest step.
    last: i64,
    /// The newest step was taken before its time.
    in_advance: bool,
    /// A step and its time; `None` until the next step gives them.
    anchor: Option<(i64, Stamp)>,
}

impl Steps {
    pub fn new(period: f64) -> Self {
        Self { period, last: 0, in_advance: false, anchor: None }
    }

    pub fn last(&self) -> i64 {
        self.last
    }

    /// The step that happens at `now`; `None` when it has happened already.
    pub fn take(&mut self, now: Stamp) -> Option<i64> {
        let earliest = if self.in_advance { EARLIEST_AFTER_ADVANCE } else { EARLIEST };
        if self.late(now) < -earliest {
            return None;
        }
        self.last = self.next(now);
        self.in_advance = false;
        Some(self.last)
    }

    /// The step that happens at `now` or soon after it, taken in advance.
    pub fn take_next(&mut self, now: Stamp) -> i64 {
        self.last = self.next(now);
        self.in_advance = true;
        self.last
    }

    /// The step that happens at `now` or, when that has happened already, the one after it.
    pub fn next(&mut self, now: Stamp) -> i64 {
        // The cast saturates. What is missing to a whole period is rounding.
        let skipped = (self.late(now) + 1e-6).floor().max(0.0) as i64;
        self.last.saturating_add(1).saturating_add(skipped)
    }

    /// Whether `now` lies so far before the newest step that it is of another time.
    pub fn is_before(&mut self, now: Stamp) -> bool {
        self.late(now) < -3.0
    }

    /// When a step happens.
    pub fn time_of(&mut self, step: i64, now: Stamp) -> Stamp {
        let (anchor, stamp) = self.anchor(now);
        stamp.after((step - anchor) as f64 * self.period)
    }

    /// Whether the steps have times.
    pub fn has_time(&self) -> bool {
        self.anchor.is_some()
    }

    /// Forgets the times of the steps: the next one happens when it happens.
    pub fn lose_time(&mut self) {
        self.anchor = None;
        self.in_advance = false;
    }

    /// Periods from the time of the step after the newest one to `now`.
    fn late(&mut self, now: Stamp) -> f64 {
        let next = self.time_of(self.last + 1, now);
        now.seconds_since(next) / self.period
    }

    fn anchor(&mut self, now: Stamp) -> (i64, Stamp) {
        *self.anchor.get_or_insert((self.last + 1, now))
    }
}

/// What is left of a chunk: commands for one control step after the other.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The control step of row 0.
    first: i64,
    /// `[rows][joints]`
    rows: Vec<Vec<f64>>,
    /// Rows that were commanded or whose time has passed.
    consumed: usize,
    source: Source,
}

/// The model's side of a plan.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Normalized model output `[horizon, action_dim]`.
    pub actions: Vec<f32>,
    pub action_dim: usize,
    /// What relative actions count from.
    pub anchor: Vec<f32>,
    /// The row of the model's output that row 0 of the plan is.
    pub first: usize,
}

/// What a control step takes of a plan.
#[derive(Debug, PartialEq)]
pub(super) struct Advance {
    /// Rows whose time has passed.
    pub skipped: usize,
    /// `None` when the plan has run out.
    pub row: Option<Vec<f64>>,
}

impl Plan {
    pub fn new(first: i64, rows: Vec<Vec<f64>>, source: Source) -> Self {
        Self { first, rows, consumed: 0, source }
    }

    /// Takes the row of a control step, which is later than all before.
    pub fn advance(&mut self, step: i64) -> Advance {
        let index = usize::try_from(step.saturating_sub(self.first)).unwrap_or(0).min(self.rows.len());
        let skipped = index.saturating_sub(self.consumed);
        let row = self.rows.get(index).cloned();
        self.consumed = index + usize::from(row.is_some());
        Advance { skipped, row }
    }

    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Rows that are not consumed.
    pub fn left(&self) -> &[Vec<f64>] {
        &self.rows[self.consumed..]
    }

    pub fn left_mut(&mut self) -> &mut [Vec<f64>] {
        &mut self.rows[self.consumed..]
    }

    /// Rows that are not consumed, or else the last one.
    pub fn left_or_last(&self) -> &[Vec<f64>] {
        &self.rows[self.consumed.min(self.rows.len().saturating_sub(1))..]
    }

    /// The model's output for the rows that are not consumed `[rows, action_dim]`.
    pub fn left_of_model(&self) -> &[f32] {
        let begin = (self.source.first + self.consumed) * self.source.action_dim;
        self.source.actions.get(begin..).unwrap_or_default()
    }

    /// What relative actions of the model count from.
    pub fn model_anchor(&self) -> &[f32] {
        &self.source.anchor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: f64 = 0.02;

    fn stamp(milliseconds: i64) -> Stamp {
        Stamp::from_nanoseconds(milliseconds * 1_000_000)
    }

    fn plan(first: i64, rows: usize) -> Plan {
        let source = Source { actions: (0..2 * (rows + 3)).map(|i| i as f32).collect(), action_dim: 2, anchor: vec![], first: 3 };
        Plan::new(first, (0..rows).map(|row| vec![row as f64]).collect(), source)
    }

    #[test]
    fn steps_that_are_a_little_early_or_late_are_counted_once() {
        let mut steps = Steps::new(PERIOD);
        let times = [1000, 1026, 1035, 1069, 1080];
        assert_eq!(times.map(|time| steps.take(stamp(time))), [1, 2, 3, 4, 5].map(Some));
        assert_eq!(steps.take(stamp(1080)), None, "it has happened");
    }

    #[test]
    fn a_first_step_that_came_almost_a_period_late_costs_none_of_the_steps_after_it() {
        for late in [0, 5, 10, 11, 15, 18] {
            for jitter in [0, 1] {
                let mut steps = Steps::new(PERIOD);
                steps.take(stamp(1000 + late));
                let taken: Vec<_> = (1..100).map(|step| steps.take(stamp(1000 + 20 * step + jitter * (step % 2)))).collect();
                assert_eq!(taken, (2..101).map(Some).collect::<Vec<_>>(), "{late} ms, {jitter} ms");
            }
        }
    }

    #[test]
    fn steps_that_come_twice_as_often_as_they_should_are_taken_half_the_time() {
        let mut steps = Steps::new(PERIOD);
        let taken = (0..100).filter(|half| steps.take(stamp(1000 + 10 * half)).is_some()).count();
        assert!((50..=51).contains(&taken), "{taken}");
    }

    #[test]
    fn a_step_that_was_taken_in_advance_is_not_taken_again_at_its_time_and_not_followed_at_once() {
        for late in [0, 4] {
            let mut steps = Steps::new(PERIOD);
            steps.take(stamp(1000));
            assert_eq!(steps.take_next(stamp(1019 + late)), 2);
            assert_eq!(steps.take(stamp(1020 + late)), None, "{late}");
            assert_eq!(steps.take(stamp(1040)), Some(3), "{late}");
        }
    }

    #[test]
    fn a_late_step_does_not_delay_those_after_it() {
        let mut steps = Steps::new(PERIOD);
        let taken = [1000, 1055, 1060, 1080].map(|time| steps.take(stamp(time)));
        assert_eq!(taken, [1, 3, 4, 5].map(Some));
        assert_eq!(steps.time_of(5, stamp(1080)), stamp(1080));
    }

    #[test]
    fn numbers_go_on_when_the_time_is_lost() {
        let mut steps = Steps::new(PERIOD);
        steps.take(stamp(1_000_000));
        steps.lose_time();
        assert_eq!(steps.take(stamp(5)), Some(2));
        assert_eq!(steps.take(stamp(25)), Some(3));
        assert_eq!(steps.time_of(3, stamp(25)), stamp(25));
    }

    #[test]
    fn every_time_has_a_step() {
        let mut steps = Steps::new(PERIOD);
        for time in [0, i64::MAX, i64::MIN, 1] {
            steps.take(Stamp::from_nanoseconds(time));
            steps.take_next(Stamp::from_nanoseconds(time));
        }
    }

    #[test]
    fn late_rows_are_skipped_by_index() {
        let mut plan = plan(10, 5);
        let taken = |row: f64, skipped| Advance { skipped, row: Some(vec![row]) };
        assert_eq!([10, 11, 14].map(|step| plan.advance(step)), [taken(0.0, 0), taken(1.0, 0), taken(4.0, 2)]);
        assert_eq!(plan.consumed(), 5);
        assert_eq!(plan.advance(15), Advance { skipped: 0, row: None });
    }

    #[test]
    fn a_step_far_behind_the_end_skips_what_is_left_and_no_more() {
        let mut plan = plan(10, 5);
        plan.advance(10);
        assert_eq!(plan.advance(i64::MAX), Advance { skipped: 4, row: None });
        assert_eq!(plan.consumed(), 5);
        assert_eq!((plan.left().len(), plan.left_or_last()), (0, &[vec![4.0]][..]));
    }

    #[test]
    fn the_models_rows_that_are_left_belong_to_the_commands_that_are_left() {
        let mut plan = plan(10, 5);
        plan.advance(11);
        assert_eq!(plan.left()[0], [2.0]);
        assert_eq!(plan.left_of_model(), [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
        plan.advance(99);
        assert!(plan.left_of_model().is_empty());
    }
}

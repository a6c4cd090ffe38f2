//! Where the robot was commanded to be, in both ways of commanding it.

use std::collections::VecDeque;

use super::{LimitCounts, Limiter, Motion};

/// What a robot was commanded.
///
/// A controller that executes trajectories goes on with the newest one when a control step does not happen, and one that takes row after
/// row waits. Both keep the limits: what is planned goes on from where the trajectory is, the rows that are sent follow it as fast as the
/// limits let them, and each brakes from where it is.
#[derive(Clone, Debug)]
pub(super) struct Commanded {
    /// Where the newest trajectory is after `step`.
    told: Motion,
    /// Where the rows that were sent are after `step`.
    sent: Motion,
    /// Rows of the newest trajectory: the first one belongs to the control step after `step`.
    ahead: VecDeque<Vec<f64>>,
    step: i64,
}

/// What is commanded in a control step.
pub(super) struct Row {
    /// By the trajectory.
    pub told: Vec<f64>,
    /// To a controller that takes row after row.
    pub sent: Vec<f64>,
}

impl Commanded {
    /// Nothing yet; the robot rests after `step`.
    pub fn new(motion: Motion, step: i64) -> Self {
        Self { told: motion.clone(), sent: motion, ahead: VecDeque::new(), step }
    }

    /// Whether no joint moves, in either way of commanding. One may go on at a velocity that nobody ended.
    pub fn at_rest(&self) -> bool {
        self.told.at_rest() && self.sent.at_rest()
    }

    /// Lets the control steps before `step` pass in which nothing was commanded.
    pub fn pass(&mut self, limiter: &Limiter, step: i64) {
        let missed = u64::try_from(step.saturating_sub(self.step).saturating_sub(1)).unwrap_or(0);
        for _ in 0..missed {
            let Some(row) = self.ahead.pop_front() else {
                // A controller stays where its trajectory ended.
                self.told = limiter.rested(self.told.clone());
                break;
            };
            limiter.follow(&mut self.told, &row);
        }
        limiter.wait(&mut self.sent, missed);
        self.step = step.saturating_sub(1);
    }

    /// Limits the rows of the steps from the next one on and tells them instead of what was told before.
    pub fn tell_limited<'a>(
        &mut self,
        limiter: &Limiter,
        rows: impl Iterator<Item = &'a mut Vec<f64>>,
        counts: &mut LimitCounts,
    ) -> Vec<Vec<f64>> {
        let mut motion = self.told.clone();
        let limited = rows.map(|row| {
            limiter.limit(&mut motion, row, counts);
            row.clone()
        });
        self.ahead = limited.collect();
        self.ahead.iter().cloned().collect()
    }

    /// Tells the way to rest, of at most `most` rows, instead of what was told before.
    pub fn tell_braking(&mut self, limiter: &Limiter, most: usize) -> Vec<Vec<f64>> {
        self.ahead = self.braking(limiter, most).into();
        self.ahead.iter().cloned().collect()
    }

    /// The way to rest, of at most `most` rows; empty when the positions are not known.
    pub fn braking(&self, limiter: &Limiter, most: usize) -> Vec<Vec<f64>> {
        let (mut motion, mut rows) = (self.told.clone(), Vec::new());
        while rows.len() < most
            && let Some((row, rests)) = limiter.brake(&mut motion)
        {
            rows.push(row);
            if rests {
                break;
            }
        }
        rows
    }

    /// Rows that were told and are not commanded yet.
    pub fn ahead(&self) -> impl ExactSizeIterator<Item = &Vec<f64>> {
        self.ahead.iter()
    }

    /// The next row of a plan: of the trajectory, and of those that follow it. `None` when nothing of it is left.
    pub fn follow(&mut self, limiter: &Limiter) -> Option<Row> {
        let told = self.ahead.pop_front()?;
        let lead = self.told.clone();
        limiter.follow(&mut self.told, &told);
        self.step += 1;
        Some(Row { sent: limiter.chase(&mut self.sent, &lead, &told), told })
    }

    /// The next row of the way to rest. `None` while a position is not known: then nothing can be commanded.
    pub fn brake(&mut self, limiter: &Limiter) -> Option<Row> {
        self.ahead.pop_front();
        self.step += 1;
        Some(Row { told: limiter.brake(&mut self.told)?.0, sent: limiter.brake(&mut self.sent)?.0 })
    }

    /// Takes over measured positions, see [`Limiter::measure`].
    pub fn measure(&mut self, limiter: &Limiter, positions: &[Option<f64>]) {
        limiter.measure(&mut self.told, positions);
        limiter.measure(&mut self.sent, positions);
    }

    /// Nothing is sent any more.
    pub fn rested(mut self, limiter: &Limiter) -> Self {
        self.told = limiter.rested(self.told);
        self.sent = limiter.rested(self.sent);
        self
    }
}

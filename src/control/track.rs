//! The samples of one input that may still be needed, in the order of their stamps.

use std::collections::VecDeque;

use super::{AgeLimit, ClockJump, NotUsable, Stamp, clock::CLOCK_TOLERANCE};

/// A stamp that goes back by more than this, in seconds, does not belong to a late sample: its source has started over.
const STARTED_OVER: f64 = 1.0;
/// Samples of a history that are closer than this, in seconds, are thinned. Between two samples 5 ms apart a joint that accelerates with
/// 10 rad/s² is at most 3e-5 rad from the straight line.
pub(super) const SPACING: f64 = 0.005;
/// Samples that a history keeps: ten seconds and more.
const CAPACITY: usize = 2048;
/// Two values of a joint that differ by more than this from one sample to the next are an angle that was wrapped.
const WRAPPED: f64 = std::f64::consts::PI;

/// What became of a sample.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival<T> {
    pub verdict: Verdict,
    /// What is not needed any more: the sample before, or this one. Freeing an image takes time, so the caller does it outside of its lock.
    pub dropped: Option<T>,
}

/// Whether an input took a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the newest now. `superseded`: the newest before it was never part of an observation.
    Newest { superseded: bool },
    /// It is older than the newest by less than [`STARTED_OVER`].
    Late,
    /// The message had no stamp.
    Unstamped,
}

/// What an input tells of a certain time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StateAt<T> {
    /// There is a sample on one side of that time, or of exactly that time.
    Held(T),
    /// That time lies between two samples, at `weight` (0 to 1) of the way from `before` to `after`.
    Between { before: T, after: T, weight: f64 },
}

impl<T> StateAt<T> {
    /// The joint positions at that time, from the positions that `read` finds in a sample.
    pub fn positions<E>(&self, mut read: impl FnMut(&T) -> Result<Vec<f64>, E>) -> Result<Vec<f64>, E> {
        match self {
            Self::Held(sample) => read(sample),
            Self::Between { before, after, weight } => {
                let (before, after) = (read(before)?, read(after)?);
                Ok(before.into_iter().zip(after).map(|(before, after)| interpolate(before, after, *weight)).collect())
            }
        }
    }

    /// The same of something else in each sample.
    pub fn map<U>(self, mut convert: impl FnMut(T) -> U) -> StateAt<U> {
        match self {
            Self::Held(sample) => StateAt::Held(convert(sample)),
            Self::Between { before, after, weight } => {
                StateAt::Between { before: convert(before), after: convert(after), weight }
            }
        }
    }
}

fn interpolate(before: f64, after: f64, weight: f64) -> f64 {
    let wrapped = (after - before).abs() > WRAPPED;
    let weight = if wrapped { weight.round() } else { weight };
    before + weight * (after - before)
}

/// A sample that may be used.
#[derive(Debug, PartialEq)]
pub(super) struct Usable<'a, T> {
    /// What it shows is of this time.
    pub time: Stamp,
    pub age: f64,
    pub payload: &'a T,
}

#[derive(Debug)]
struct Sample<T> {
    stamp: Stamp,
    /// The clock when it was received.
    arrival: Stamp,
    payload: T,
}

impl<T> Sample<T> {
    fn is_ahead(&self) -> bool {
        self.stamp.seconds_since(self.arrival) > CLOCK_TOLERANCE
    }

    /// Whether the sample was made by the clock of after the jump, and the message came before its clock. Its stamp is then nearer to what
    /// that clock would have shown at its arrival.
    fn belongs_after(&self, jump: &ClockJump) -> bool {
        let age = self.arrival.seconds_since(self.stamp);
        (age + jump.seconds()).abs() < age.abs()
    }
}

/// Samples in the order of their stamps.
#[derive(Debug)]
pub(super) struct Track<T> {
    samples: VecDeque<Sample<T>>,
    /// Whether the newest sample was part of an observation.
    used: bool,
    /// Whether the last message had no stamp.
    unstamped: bool,
}

impl<T> Default for Track<T> {
    fn default() -> Self {
        Self { samples: VecDeque::new(), used: false, unstamped: false }
    }
}

impl<T> Track<T> {
    /// The newest sample, which shows what was `offset` seconds after its stamp, if it may be used at `now`.
    pub fn newest(&self, offset: f64, limit: AgeLimit, now: Stamp) -> Result<Usable<'_, T>, NotUsable> {
        let newest = self.samples.back().ok_or(NotUsable::Missing).and_then(|sample| {
            let time = sample.stamp.after(offset);
            Ok(Usable { time, age: limit.check(time, now)?, payload: &sample.payload })
        });
        newest.map_err(|problem| if self.unstamped { NotUsable::Unstamped } else { problem })
    }

    /// The newest sample is part of an observation.
    pub fn mark_used(&mut self) {
        self.used = true;
    }

    /// Takes a sample in the place of all others.
    pub fn replace(&mut self, stamp: Option<Stamp>, arrival: Stamp, payload: T) -> Arrival<T> {
        self.take(stamp, arrival, payload, |samples, sample| {
            let dropped = samples.pop_back();
            samples.clear();
            samples.push_back(sample);
            dropped
        })
    }

    /// Takes a sample after the others and keeps, thinned, what will be needed to tell of any time that is at most `span` seconds ago.
    pub fn append(&mut self, stamp: Option<Stamp>, arrival: Stamp, payload: T, span: f64) -> Arrival<T> {
        self.take(stamp, arrival, payload, |samples, sample| {
            let thinned = samples.len().checked_sub(2).and_then(|index| samples.get(index));
            let too_close = thinned.is_some_and(|before| sample.stamp.seconds_since(before.stamp) < SPACING);
            let equal = samples.back().is_some_and(|last| last.stamp == sample.stamp);
            let dropped = if too_close || equal { samples.pop_back() } else { None };
            // A stamp of the future does not make the others old, and neither does a clock that has yet to jump back.
            let now = arrival.min(sample.stamp);
            let outlived = |second: &Sample<T>| now.seconds_since(second.stamp) > span;
            while samples.len() >= CAPACITY || samples.get(1).is_some_and(outlived) {
                samples.pop_front();
            }
            samples.push_back(sample);
            dropped
        })
    }

    fn take(
        &mut self,
        stamp: Option<Stamp>,
        arrival: Stamp,
        payload: T,
        insert: impl FnOnce(&mut VecDeque<Sample<T>>, Sample<T>) -> Option<Sample<T>>,
    ) -> Arrival<T> {
        self.unstamped = stamp.is_none();
        let Some(stamp) = stamp else {
            return Arrival { verdict: Verdict::Unstamped, dropped: Some(payload) };
        };
        let superseded = !self.samples.is_empty() && !self.used;
        // What a wrong clock has dated ahead keeps nothing of the present out.
        let ahead = |last: &Sample<T>| last.stamp > stamp && last.is_ahead();
        let mut dropped = None;
        while self.samples.back().is_some_and(ahead) {
            dropped = self.samples.pop_back();
        }
        if let Some(last) = self.samples.back()
            && last.stamp > stamp
        {
            if last.stamp.seconds_since(stamp) <= STARTED_OVER {
                return Arrival { verdict: Verdict::Late, dropped: Some(payload) };
            }
            dropped = self.samples.pop_back();
            self.samples.clear();
        }
        let dropped = insert(&mut self.samples, Sample { stamp, arrival, payload }).or(dropped);
        self.used = false;
        Arrival { verdict: Verdict::Newest { superseded }, dropped: dropped.map(|sample| sample.payload) }
    }

    /// What the samples tell of `time`, from those that are at most `limit` seconds away from it, and the time that this is of.
    pub fn at(&self, time: Stamp, limit: f64) -> Option<(StateAt<&T>, Stamp)> {
        let later = self.samples.partition_point(|sample| sample.stamp <= time);
        let before = later.checked_sub(1).and_then(|index| self.samples.get(index));
        let before = before.filter(|before| time.seconds_since(before.stamp) <= limit);
        let after = self.samples.get(later).filter(|after| after.stamp.seconds_since(time) <= limit);
        match (before, after) {
            (Some(before), Some(after)) if before.stamp < time => {
                let weight = time.seconds_since(before.stamp) / after.stamp.seconds_since(before.stamp);
                Some((StateAt::Between { before: &before.payload, after: &after.payload, weight }, time))
            }
            (Some(sample), _) | (None, Some(sample)) => Some((StateAt::Held(&sample.payload), sample.stamp)),
            (None, None) => None,
        }
    }

    /// Drops what belongs to the time before a jump.
    pub fn forget(&mut self, jump: &ClockJump) {
        self.used &= self.samples.back().is_some_and(|newest| newest.belongs_after(jump));
        self.samples.retain(|sample| sample.belongs_after(jump));
        self.samples.iter_mut().for_each(|sample| sample.arrival = jump.after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: f64) -> Stamp {
        Stamp::from_nanoseconds((milliseconds * 1e6).round() as i64)
    }

    /// Samples that arrive 1 ms after their stamp and whose payload is their stamp.
    fn history(stamps: impl IntoIterator<Item = f64>, span: f64) -> Track<f64> {
        let mut track = Track::default();
        for stamp in stamps {
            let _ = track.append(Some(at(stamp)), at(stamp + 1.0), stamp, span);
        }
        track
    }

    fn kept(track: &Track<f64>) -> Vec<f64> {
        track.samples.iter().map(|sample| sample.payload).collect()
    }

    fn state(track: &Track<f64>, time: f64) -> Option<StateAt<f64>> {
        track.at(at(time), 0.1).map(|(state, _)| state.map(|&payload| payload))
    }

    #[test]
    fn a_newer_sample_replaces_and_returns_the_one_before() {
        let mut track = Track::default();
        let unused = Verdict::Newest { superseded: false };
        assert_eq!(track.replace(Some(at(10.0)), at(11.0), 'a'), Arrival { verdict: unused, dropped: None });
        let superseded = Verdict::Newest { superseded: true };
        assert_eq!(track.replace(Some(at(20.0)), at(21.0), 'b'), Arrival { verdict: superseded, dropped: Some('a') });
        track.mark_used();
        assert_eq!(track.replace(Some(at(30.0)), at(31.0), 'c'), Arrival { verdict: unused, dropped: Some('b') });
        assert_eq!(track.replace(Some(at(40.0)), at(41.0), 'd'), Arrival { verdict: superseded, dropped: Some('c') });
    }

    #[test]
    fn a_late_sample_is_dropped_and_one_of_the_same_stamp_is_newer() {
        let mut track = Track::default();
        let _ = track.replace(Some(at(2000.0)), at(2001.0), 'a');
        assert_eq!(track.replace(Some(at(1999.0)), at(2002.0), 'b'), Arrival { verdict: Verdict::Late, dropped: Some('b') });
        assert_eq!(track.replace(Some(at(1000.0)), at(2003.0), 'c'), Arrival { verdict: Verdict::Late, dropped: Some('c') });
        assert_eq!(track.replace(Some(at(2000.0)), at(2004.0), 'd').dropped, Some('a'));
    }

    #[test]
    fn a_source_that_starts_over_replaces_everything_of_its_old_time() {
        let mut track = history([2000.0, 2050.0, 2100.0], 1.0);
        let arrival = track.append(Some(at(1099.0)), at(2110.0), 1099.0, 1.0);
        assert_eq!(arrival, Arrival { verdict: Verdict::Newest { superseded: true }, dropped: Some(2100.0) });
        assert_eq!(kept(&track), [1099.0]);
    }

    #[test]
    fn a_sample_of_the_future_keeps_none_of_the_present_out() {
        let mut track = history([100.0, 120.0], 1.0);
        let _ = track.append(Some(at(500.0)), at(130.0), 500.0, 1.0);
        let _ = track.append(Some(at(510.0)), at(135.0), 510.0, 1.0);
        assert!(matches!(track.append(Some(at(140.0)), at(141.0), 140.0, 1.0).verdict, Verdict::Newest { .. }));
        assert_eq!(kept(&track), [100.0, 120.0, 140.0]);
    }

    #[test]
    fn a_sample_without_a_stamp_is_dropped_and_the_one_before_may_still_be_used() {
        let mut track = history([100.0], 1.0);
        assert_eq!(track.append(None, at(110.0), 7.0, 1.0), Arrival { verdict: Verdict::Unstamped, dropped: Some(7.0) });
        let limit = AgeLimit::from_milliseconds(50.0);
        assert_eq!(track.newest(0.0, limit, at(150.0)).map(|usable| *usable.payload), Ok(100.0));
        assert_eq!(track.newest(0.0, limit, at(151.0)), Err(NotUsable::Unstamped));
    }

    #[test]
    fn a_thousand_samples_a_second_are_thinned_and_the_newest_is_always_there() {
        let track = history((0..10_000).map(f64::from), 0.3);
        let kept = kept(&track);
        assert_eq!(kept.last(), Some(&9999.0));
        assert!(kept[0] <= 9699.0 && kept[1] >= 9699.0, "{} to {}", kept[0], kept[1]);
        assert!(kept.windows(2).all(|pair| pair[1] - pair[0] <= 5.0));
        assert!(kept.len() <= 80, "{}", kept.len());
    }

    #[test]
    fn samples_that_are_not_close_are_all_kept() {
        let stamps: Vec<f64> = (0..15).map(|sample| 20.0 * f64::from(sample)).collect();
        assert_eq!(kept(&history(stamps.clone(), 0.3)), stamps);
    }

    #[test]
    fn a_history_is_bounded_whatever_the_ages_that_are_asked_for() {
        let track = history((0..100_000).map(f64::from), 60.0);
        assert_eq!(track.samples.len(), CAPACITY);
        assert_eq!(kept(&track).last(), Some(&99_999.0));
    }

    #[test]
    fn a_time_between_two_samples_has_both_and_how_far_it_is_between_them() {
        let track = history([100.0, 120.0, 140.0], 1.0);
        assert_eq!(state(&track, 125.0), Some(StateAt::Between { before: 120.0, after: 140.0, weight: 0.25 }));
        assert_eq!(state(&track, 120.0), Some(StateAt::Held(120.0)));
        assert_eq!(state(&track, 140.0), Some(StateAt::Held(140.0)));
    }

    #[test]
    fn a_time_beyond_the_samples_has_the_nearest_if_that_is_near() {
        let track = history([100.0, 120.0], 1.0);
        assert_eq!(state(&track, 220.0), Some(StateAt::Held(120.0)));
        assert_eq!(state(&track, 221.0), None);
        assert_eq!(state(&track, 0.0), Some(StateAt::Held(100.0)));
        assert_eq!(state(&track, -1.0), None);
    }

    #[test]
    fn nothing_is_made_up_inside_of_a_long_gap() {
        let track = history([1000.0, 1900.0], 1.0);
        assert_eq!(state(&track, 1100.0), Some(StateAt::Held(1000.0)));
        assert_eq!(state(&track, 1450.0), None);
        assert_eq!(state(&track, 1800.0), Some(StateAt::Held(1900.0)));
    }

    #[test]
    fn positions_lie_on_the_straight_line_between_two_samples() {
        let read = |values: &[f64; 2]| Ok::<_, ()>(values.to_vec());
        let between = |weight| StateAt::Between { before: [1.0, -0.5], after: [2.0, 0.5], weight };
        assert_eq!(between(0.0).positions(read), Ok(vec![1.0, -0.5]));
        assert_eq!(between(0.25).positions(read), Ok(vec![1.25, -0.25]));
        assert_eq!(between(1.0).positions(read), Ok(vec![2.0, 0.5]));
        assert_eq!(StateAt::Held([0.1, 0.2]).positions(read), Ok(vec![0.1, 0.2]));
        assert_eq!(between(0.5).positions(|_| Err::<Vec<f64>, _>("broken")), Err("broken"));
    }

    #[test]
    fn an_angle_that_is_wrapped_between_two_samples_is_the_nearer_one() {
        let wrapped = |weight| {
            StateAt::Between { before: 3.1, after: -3.1, weight }.positions(|&angle| Ok::<_, ()>(vec![angle])).unwrap()[0]
        };
        assert_eq!((wrapped(0.2), wrapped(0.8)), (3.1, -3.1));
    }

    #[test]
    fn a_jump_back_keeps_only_what_the_new_clock_has_dated() {
        let mut track = history([19_980.0, 20_000.0], 1.0);
        let jump = ClockJump { before: at(20_020.0), after: at(10_020.0) };
        track.forget(&jump);
        assert!(track.samples.is_empty());
        // Messages may overtake the clock.
        let mut track = history([19_980.0, 20_000.0], 1.0);
        for stamp in [10_000.0, 10_010.0, 10_020.0] {
            let _ = track.append(Some(at(stamp)), at(20_020.0), stamp, 1.0);
        }
        track.forget(&jump);
        assert_eq!(kept(&track), [10_000.0, 10_010.0, 10_020.0]);
    }

    #[test]
    fn a_jump_forward_keeps_only_what_the_new_clock_has_dated() {
        let mut track = history([19_980.0, 20_000.0], 1.0);
        let _ = track.append(Some(at(30_010.0)), at(20_020.0), 30_010.0, 1.0);
        track.forget(&ClockJump { before: at(20_020.0), after: at(30_020.0) });
        assert_eq!(kept(&track), [30_010.0]);
    }

    #[test]
    fn a_sample_that_survived_a_jump_belongs_to_the_time_after_it() {
        let mut track = Track::default();
        let _ = track.replace(Some(at(10_010.0)), at(20_020.0), 'a');
        track.forget(&ClockJump { before: at(20_020.0), after: at(10_020.0) });
        assert!(!track.samples.is_empty());
        track.forget(&ClockJump { before: at(10_040.0), after: at(20_040.0) });
        assert!(track.samples.is_empty());
    }
}

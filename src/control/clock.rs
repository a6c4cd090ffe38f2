//! Jumps of the node's clock: a bag that starts over, a simulation that is reset, a computer whose time is set.

use std::fmt;

use super::Stamp;

/// Clocks of two machines that are kept together by NTP or PTP differ by less than this, in seconds. A clock that is put back by less is
/// being disciplined.
pub(super) const CLOCK_TOLERANCE: f64 = 0.05;
/// A clock that gains more than this between two looks, in seconds, has jumped.
const LONGEST_STEP: f64 = 1.0;

/// Notices when a clock that is looked at many times a second does not run on.
#[derive(Clone, Debug, Default)]
pub struct ClockWatch {
    /// The latest time since the last jump.
    latest: Option<Stamp>,
}

/// A clock went from `before` to `after` in no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockJump {
    pub before: Stamp,
    pub after: Stamp,
}

impl ClockWatch {
    /// Looks at the clock. The first look finds no jump, and neither does the first after simulated time has begun (it stands at 0 until
    /// then).
    pub fn observe(&mut self, now: Stamp) -> Option<ClockJump> {
        let before = self.latest.filter(|&latest| latest != Stamp::from_nanoseconds(0));
        let jump = before.map(|before| ClockJump { before, after: now }).filter(ClockJump::is_one);
        // Keeping the latest time notices a clock that goes back in small steps.
        self.latest = if jump.is_some() { Some(now) } else { self.latest.max(Some(now)) };
        jump
    }
}

impl ClockJump {
    /// How far the clock jumped: negative when it went back.
    pub fn seconds(&self) -> f64 {
        self.after.seconds_since(self.before)
    }

    fn is_one(&self) -> bool {
        !(-CLOCK_TOLERANCE..=LONGEST_STEP).contains(&self.seconds())
    }
}

impl fmt::Display for ClockJump {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.seconds() < 0.0 { "back" } else { "forward" };
        write!(formatter, "The clock jumped {direction} by {:.2} s", self.seconds().abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Stamp {
        Stamp::from_nanoseconds(milliseconds * 1_000_000)
    }

    /// The jumps that a watch notices, in milliseconds.
    fn jumps(times: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut watch = ClockWatch::default();
        let jumps = times.into_iter().filter_map(|time| watch.observe(at(time)));
        jumps.map(|jump| (jump.seconds() * 1e3).round() as i64).collect()
    }

    #[test]
    fn a_clock_that_runs_on_stands_still_or_misses_a_few_steps_has_not_jumped() {
        assert!(jumps([5000, 5020, 5040, 5040, 5040, 5060, 6060]).is_empty());
    }

    #[test]
    fn every_jump_is_told_once_with_its_length() {
        assert_eq!(jumps([20_000, 20_020, 10_000, 10_020, 10_040]), [-10_020]);
        assert_eq!(jumps([20_000, 20_020, 30_020, 30_040]), [10_000]);
        assert_eq!(jumps([20_000, 500, 20_000, 500]), [-19_500, 19_500, -19_500]);
    }

    #[test]
    fn the_limits_themselves_are_no_jump() {
        assert!(jumps([5000, 4950]).is_empty());
        assert_eq!(jumps([5000, 4949]), [-51]);
        assert!(jumps([5000, 6000]).is_empty());
        assert_eq!(jumps([5000, 6001]), [1001]);
    }

    #[test]
    fn a_clock_that_goes_back_in_small_steps_is_noticed() {
        assert_eq!(jumps([5000, 4970, 4940]), [-60]);
    }

    #[test]
    fn the_beginning_of_simulated_time_is_no_jump_but_its_return_to_zero_is() {
        assert!(jumps([0, 0, 1_000_000, 1_000_020]).is_empty());
        assert_eq!(jumps([5000, 0, 20]), [-5000]);
    }

    #[test]
    fn a_jump_tells_its_direction() {
        let jump = |before, after| ClockJump { before: at(before), after: at(after) }.to_string();
        assert_eq!(jump(20_000, 10_000), "The clock jumped back by 10.00 s");
        assert_eq!(jump(20_000, 30_000), "The clock jumped forward by 10.00 s");
    }
}

//! Points on the node's clock.

/// A point on the node's clock (system time, or `/clock` under `use_sim_time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(i64);

impl Stamp {
    pub fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    pub fn nanoseconds(self) -> i64 {
        self.0
    }

    /// From the two fields of `builtin_interfaces/Time`. Zero means "no stamp" in ROS messages.
    pub fn from_ros(sec: i32, nanosec: u32) -> Option<Self> {
        (sec != 0 || nanosec != 0).then(|| Self(i64::from(sec) * 1_000_000_000 + i64::from(nanosec)))
    }

    /// The two fields of `builtin_interfaces/Time`: seconds saturate at the end of what the message can hold (the year 2038).
    pub fn to_ros(self) -> (i32, u32) {
        let seconds = self.0.div_euclid(1_000_000_000).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        (seconds as i32, self.0.rem_euclid(1_000_000_000) as u32)
    }

    /// The point `seconds` later, to the nanosecond.
    pub fn after(self, seconds: f64) -> Self {
        Self(self.0.saturating_add((seconds * 1e9).round() as i64))
    }

    /// Seconds from `earlier` to this stamp; negative when `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ros_fields_survive_the_round_trip_before_and_after_the_epoch() {
        for (sec, nanosec) in [(1_763_640_000, 123_456_789), (0, 1), (-1, 999_999_999), (i32::MAX, 999_999_999), (i32::MIN, 0)] {
            assert_eq!(Stamp::from_ros(sec, nanosec).map(Stamp::to_ros), Some((sec, nanosec)));
        }
    }

    #[test]
    fn a_message_without_a_stamp_has_no_stamp() {
        assert_eq!(Stamp::from_ros(0, 0), None);
    }

    #[test]
    fn a_later_point_is_so_many_seconds_later_and_saturates() {
        let stamp = Stamp::from_nanoseconds(1_000_000_007);
        assert_eq!(stamp.after(0.02), Stamp::from_nanoseconds(1_020_000_007));
        assert_eq!(stamp.after(-2.0), Stamp::from_nanoseconds(-999_999_993));
        assert_eq!(stamp.after(f64::INFINITY), Stamp::from_nanoseconds(i64::MAX));
    }

    #[test]
    fn seconds_beyond_the_message_saturate() {
        assert_eq!(Stamp::from_nanoseconds(i64::MAX).to_ros().0, i32::MAX);
    }
}

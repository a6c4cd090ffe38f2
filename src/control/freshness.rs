//! Whether the newest sample of an input may be used.

use super::{Stamp, clock::CLOCK_TOLERANCE};

/// How old the newest sample of an input may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgeLimit {
    seconds: f64,
}

/// Why an input cannot be part of an observation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotUsable {
    #[error("nothing was received yet")]
    Missing,
    #[error("the newest sample is {:.0} ms old, the limit is {:.0} ms", age * 1e3, limit * 1e3)]
    Stale { age: f64, limit: f64 },
    #[error(
        "the newest sample is stamped {:.0} ms in the future. Set the clocks of both machines, or use_sim_time when a bag is played",
        ahead * 1e3
    )]
    Future { ahead: f64 },
    #[error("the newest sample has no stamp. The driver must fill header.stamp, or set sync.stamps to receive")]
    Unstamped,
    #[error(
        "its image was taken {:.0} ms before that of {newest}, the limit is {:.0} ms. Compare rates, stamps and stamp_offset_ms of both",
        skew * 1e3,
        limit * 1e3
    )]
    Skewed { skew: f64, newest: String, limit: f64 },
    #[error("no sample within {:.0} ms of the images, which were taken {:.0} ms ago", limit * 1e3, ago * 1e3)]
    Apart { ago: f64, limit: f64 },
}

impl NotUsable {
    /// The cause in one word, without its numbers.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stale { .. } => "stale",
            Self::Future { .. } => "future",
            Self::Unstamped => "unstamped",
            Self::Skewed { .. } => "skewed",
            Self::Apart { .. } => "apart",
        }
    }
}

impl AgeLimit {
    pub fn from_milliseconds(milliseconds: f64) -> Self {
        Self { seconds: milliseconds * 1e-3 }
    }

    pub fn seconds(self) -> f64 {
        self.seconds
    }

    /// Age in seconds at `now` of a sample of `stamp`.
    pub fn check(self, stamp: Stamp, now: Stamp) -> Result<f64, NotUsable> {
        let age = now.seconds_since(stamp);
        if age < -CLOCK_TOLERANCE {
            Err(NotUsable::Future { ahead: -age })
        } else if age > self.seconds {
            Err(NotUsable::Stale { age, limit: self.seconds })
        } else {
            Ok(age)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: i64 = 1_000_000;

    fn check(stamp: i64, now: i64) -> Result<f64, NotUsable> {
        AgeLimit::from_milliseconds(200.0)
            .check(Stamp::from_nanoseconds(stamp * MILLISECOND), Stamp::from_nanoseconds(now * MILLISECOND))
    }

    #[test]
    fn a_sample_is_usable_up_to_and_including_its_limit() {
        assert_eq!(check(1000, 1000), Ok(0.0));
        assert_eq!(check(1000, 1200), Ok(0.2));
        assert_eq!(check(1000, 1201), Err(NotUsable::Stale { age: 0.201, limit: 0.2 }));
    }

    #[test]
    fn a_stamp_slightly_ahead_is_clock_error_and_a_stamp_far_ahead_is_refused() {
        assert_eq!(check(1050, 1000), Ok(-0.05));
        assert_eq!(check(1051, 1000), Err(NotUsable::Future { ahead: 0.051 }));
    }

    #[test]
    fn a_clock_that_jumps_back_refuses_the_samples_of_the_old_time() {
        assert!(matches!(check(11_000, 1_000), Err(NotUsable::Future { .. })));
    }

    #[test]
    fn refusals_give_the_age_and_the_limit() {
        assert_eq!(check(1000, 1312).unwrap_err().to_string(), "the newest sample is 312 ms old, the limit is 200 ms");
    }
}

//! Counters of one input, read by the diagnostics.

use std::time::{Duration, Instant};

/// Callback times kept between two reports: more than the fastest input delivers in a second.
const DURATIONS_KEPT: usize = 4096;

/// Identity of a publisher, as the middleware gives it with every sample.
pub type PublisherId = [u8; 16];

/// What happened to the samples of one input since the node started. Counters never go back.
#[derive(Debug, Default)]
pub struct Meter {
    pub received: u64,
    /// Replaced by a newer sample before an inference used them. Normal when samples come faster than inferences.
    pub superseded: u64,
    /// Older than one that had arrived before.
    pub late: u64,
    /// Without a stamp.
    pub unstamped: u64,
    /// Sent by the publisher but never delivered: gaps in its sequence numbers.
    pub lost: u64,
    /// Samples that could not be used: wrong encoding, missing joint, not a number.
    pub refused: u64,
    last: Option<(PublisherId, u64)>,
    callbacks: Vec<Duration>,
    deliveries: Vec<Duration>,
    reported: Option<(Instant, u64)>,
}

/// Rates and durations since the report before. Durations are median and 99th percentile, `None` when there were none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    pub frequency: f64,
    /// In the callback.
    pub callback: Option<(Duration, Duration)>,
    /// From the publisher's write to the end of the callback, by the clocks of both machines.
    pub delivery: Option<(Duration, Duration)>,
}

impl Meter {
    /// Counts a received sample. `sequence` is the publisher's number of it, where the middleware knows one.
    pub fn receive(&mut self, publisher: PublisherId, sequence: Option<u64>) {
        self.received += 1;
        if let Some(sequence) = sequence {
            if let Some((known, last)) = self.last
                && known == publisher
            {
                self.lost += sequence.saturating_sub(last + 1);
            }
            self.last = Some((publisher, sequence));
        }
    }

    /// Records how long a callback took, and how long ago the publisher had written the sample.
    pub fn time(&mut self, callback: Duration, delivery: Option<Duration>) {
        if self.callbacks.len() < DURATIONS_KEPT {
            self.callbacks.push(callback);
            self.deliveries.extend(delivery);
        }
    }

    /// Rates and durations since the last report.
    pub fn report(&mut self, now: Instant) -> Report {
        let frequency = match self.reported.replace((now, self.received)) {
            Some((before, received)) if now > before => {
                (self.received - received) as f64 / now.duration_since(before).as_secs_f64()
            }
            _ => 0.0,
        };
        let summary = |durations: &mut Vec<Duration>| median_and_p99(&mut std::mem::take(durations));
        Report { frequency, callback: summary(&mut self.callbacks), delivery: summary(&mut self.deliveries) }
    }
}

/// How late control steps were since the report before.
#[derive(Debug, Default)]
pub struct Lateness(Vec<Duration>);

impl Lateness {
    /// Records a control step that began `seconds` after it was due.
    pub fn record(&mut self, seconds: f64) {
        if self.0.len() < DURATIONS_KEPT {
            self.0.push(Duration::from_secs_f64(seconds.max(0.0)));
        }
    }

    /// Median, 99th percentile and largest since the last report; `None` when there was no control step.
    pub fn report(&mut self) -> Option<(Duration, Duration, Duration)> {
        let mut times = std::mem::take(&mut self.0);
        let (median, p99) = median_and_p99(&mut times)?;
        Some((median, p99, *times.last()?))
    }
}

fn median_and_p99(durations: &mut [Duration]) -> Option<(Duration, Duration)> {
    durations.sort_unstable();
    let at = |quantile: f64| durations.get(((durations.len() as f64 * quantile).ceil() as usize).saturating_sub(1)).copied();
    Some((at(0.5)?, at(0.99)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: PublisherId = [1; 16];
    const OTHER: PublisherId = [2; 16];

    #[test]
    fn gaps_in_the_sequence_of_a_publisher_are_lost_samples() {
        let mut meter = Meter::default();
        for sequence in [7, 8, 9, 12, 13] {
            meter.receive(CAMERA, Some(sequence));
        }
        assert_eq!((meter.received, meter.lost), (5, 2));
    }

    #[test]
    fn a_restarted_publisher_and_a_reordered_sample_lose_nothing() {
        let mut meter = Meter::default();
        for (publisher, sequence) in [(CAMERA, 7), (OTHER, 1), (OTHER, 2), (OTHER, 1), (OTHER, 2)] {
            meter.receive(publisher, Some(sequence));
        }
        assert_eq!(meter.lost, 0);
    }

    #[test]
    fn the_frequency_is_that_of_the_time_between_two_reports() {
        let mut meter = Meter::default();
        let start = Instant::now();
        meter.receive(CAMERA, None);
        assert_eq!(meter.report(start).frequency, 0.0);
        for _ in 0..15 {
            meter.receive(CAMERA, None);
        }
        assert_eq!(meter.report(start + Duration::from_millis(500)).frequency, 30.0);
        assert_eq!(meter.report(start + Duration::from_millis(1500)).frequency, 0.0);
    }

    #[test]
    fn lateness_is_reported_once_as_median_99th_percentile_and_largest() {
        let mut lateness = Lateness::default();
        (1..=200).rev().for_each(|milliseconds| lateness.record(f64::from(milliseconds) * 1e-3));
        let [median, p99, largest] = [100, 198, 200].map(Duration::from_millis);
        assert_eq!(lateness.report(), Some((median, p99, largest)));
        assert_eq!(lateness.report(), None);
    }

    #[test]
    fn durations_are_reported_once_as_median_and_99th_percentile() {
        let mut meter = Meter::default();
        for microseconds in (1..=200).rev() {
            meter.time(Duration::from_micros(microseconds), (microseconds <= 100).then_some(Duration::from_millis(microseconds)));
        }
        let now = Instant::now();
        let report = meter.report(now);
        assert_eq!(report.callback, Some((Duration::from_micros(100), Duration::from_micros(198))));
        assert_eq!(report.delivery, Some((Duration::from_millis(50), Duration::from_millis(99))));
        assert_eq!((meter.report(now).callback, meter.report(now).delivery), (None, None));
    }
}

//! Logs to the console and `/rosout`.
//!
//! The whole crate logs with `tracing`; the layer here hands every event to rclrs, so that library and node speak through one logger with
//! the levels that `--ros-args --log-level` sets.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use rclrs::{LogSeverity, Logger, ToLogParams};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::LevelFilter,
    layer::{Context, SubscriberExt},
    util::{SubscriberInitExt, TryInitError},
};

/// One line a second and cause is what a console bears.
pub const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Sends every event of the process to the node's logger.
pub fn install(logger: Logger) -> Result<(), TryInitError> {
    tracing_subscriber::registry().with(RosLayer { logger }.with_filter(LevelFilter::DEBUG)).try_init()
}

struct RosLayer {
    logger: Logger,
}

impl<S: Subscriber> Layer<S> for RosLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let severity = match *event.metadata().level() {
            Level::ERROR => LogSeverity::Error,
            Level::WARN => LogSeverity::Warn,
            Level::INFO => LogSeverity::Info,
            Level::DEBUG | Level::TRACE => LogSeverity::Debug,
        };
        let mut text = EventText::default();
        event.record(&mut text);
        // C strings end at the first NUL.
        let text = text.0.replace('\0', "\u{fffd}");
        rclrs::log!(self.logger.severity(severity), "{text}");
    }
}

/// "message field=value ..."
#[derive(Default)]
struct EventText(String);

impl Visit for EventText {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}

/// At most one line per subject and interval, and only when its state changed. In its first interval it says nothing: a node that starts
/// has not found its peers yet.
#[derive(Debug)]
pub struct ChangeLog {
    interval: Duration,
    started: Instant,
    subjects: BTreeMap<String, (Option<String>, Instant)>,
}

/// What a [`ChangeLog`] found worth a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The subject has this problem now.
    Problem,
    /// The subject's last reported problem is gone.
    Recovered,
}

impl ChangeLog {
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, started: now, subjects: BTreeMap::new() }
    }

    /// Tells whether `problem` of `subject` (`None`: it is well) is worth a line at `now`. `problem` is a kind, without changing numbers.
    pub fn observe(&mut self, subject: &str, problem: Option<&str>, now: Instant) -> Option<Change> {
        match self.subjects.get_mut(subject) {
            None => {
                let problem = problem.filter(|_| now.duration_since(self.started) >= self.interval)?;
                self.subjects.insert(subject.to_owned(), (Some(problem.to_owned()), now));
                Some(Change::Problem)
            }
            Some((known, since)) => {
                if known.as_deref() == problem || now.duration_since(*since) < self.interval {
                    return None;
                }
                *known = problem.map(str::to_owned);
                *since = now;
                Some(if problem.is_some() { Change::Problem } else { Change::Recovered })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A log whose first interval is over, and the time at which that is so.
    fn log() -> (ChangeLog, Instant) {
        let start = Instant::now();
        (ChangeLog::new(SECOND, start), start + SECOND)
    }

    #[test]
    fn a_lasting_problem_is_told_once_and_its_end_once() {
        let (mut log, start) = log();
        assert_eq!(log.observe("top", Some("stale"), start), Some(Change::Problem));
        assert_eq!(log.observe("top", Some("stale"), start + 5 * SECOND), None);
        assert_eq!(log.observe("top", None, start + 6 * SECOND), Some(Change::Recovered));
        assert_eq!(log.observe("top", None, start + 9 * SECOND), None);
    }

    #[test]
    fn a_subject_that_was_always_well_says_nothing() {
        let (mut log, start) = log();
        assert_eq!(log.observe("top", None, start), None);
    }

    #[test]
    fn inputs_that_come_within_the_first_second_are_not_missed() {
        let start = Instant::now();
        let mut log = ChangeLog::new(SECOND, start);
        assert_eq!(log.observe("top", Some("missing"), start + SECOND / 2), None);
        assert_eq!(log.observe("left", Some("missing"), start + SECOND / 2), None);
        assert_eq!(log.observe("top", None, start + SECOND), None);
        assert_eq!(log.observe("left", Some("missing"), start + SECOND), Some(Change::Problem));
    }

    #[test]
    fn a_flickering_input_gets_one_line_a_second() {
        let (mut log, start) = log();
        let flicker = |ms: u32| if ms.is_multiple_of(2) { Some("stale") } else { None };
        let lines = (0..10_000).filter(|&ms| log.observe("top", flicker(ms), start + ms * SECOND / 1000).is_some()).count();
        assert_eq!(lines, 10);
    }

    #[test]
    fn another_problem_of_the_same_subject_is_told() {
        let (mut log, start) = log();
        log.observe("top", Some("missing"), start);
        assert_eq!(log.observe("top", Some("encoding"), start + SECOND), Some(Change::Problem));
    }
}

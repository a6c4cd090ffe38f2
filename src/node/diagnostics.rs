//! What `/diagnostics` tells of a configured policy: one status per input and one for the inference.

use std::{sync::Arc, time::Instant};

use rclrs::NodeState;
use ros_env::diagnostic_msgs::msg::{DiagnosticStatus, KeyValue};

use super::{
    control_health::{self, Health},
    inference::{InferenceStatus, Problem, Shared},
    messages::Inputs,
};
use crate::{
    backend::BackendInfo,
    control::{LimitCounts, NotUsable, Stamp},
    session::Input,
};

/// Makes the report of every second.
pub struct Reporter {
    node: String,
    device: String,
    backend: BackendInfo,
    inputs: Arc<Inputs>,
    /// Resolved topic of each input, in the order of [`Inputs::names`].
    topics: Vec<String>,
    shared: Shared,
    before: InferenceStatus,
    limits_before: LimitCounts,
    reported: Instant,
}

impl Reporter {
    pub fn new(node: &NodeState, backend: &BackendInfo, inputs: Arc<Inputs>, topics: Vec<String>, shared: Shared) -> Self {
        Self {
            node: node_name(node),
            device: device(backend),
            backend: backend.clone(),
            inputs,
            topics,
            shared,
            before: InferenceStatus::default(),
            limits_before: LimitCounts::default(),
            reported: Instant::now(),
        }
    }

    /// The state at `now` of a node that is active or not.
    pub fn report(&mut self, now: Stamp, active: bool) -> Vec<DiagnosticStatus> {
        let instant = Instant::now();
        let inputs = self.inputs.check(now).into_iter().zip(&self.topics);
        let mut status: Vec<_> = inputs.map(|((input, age), topic)| self.input(input, topic, age, instant)).collect();
        let inference = self.shared.status().clone();
        let (control, controller) = {
            let mut report = self.shared.control();
            (control_health::control(&mut report), report.status.clone())
        };
        let limits = controller.as_ref().map(|controller| controller.limits.clone()).unwrap_or_default();
        let mut thinking = self.inference(&inference, now, instant, active);
        thinking.values.extend(controller.iter().flat_map(control_health::inference));
        status.push(thinking);
        status.push(self.status("control", control));
        status.push(self.status("limits", control_health::limits(&limits, &self.limits_before)));
        status.push(self.status("device", control_health::device(&self.backend, inference.overdue(instant))));
        self.before = inference;
        self.limits_before = limits;
        self.reported = instant;
        status
    }

    fn input(&self, input: &Input, topic: &str, age: Result<f64, NotUsable>, now: Instant) -> DiagnosticStatus {
        let report = input.report(now);
        let (level, message) = match (&age, &report.refusal) {
            (Err(NotUsable::Missing) | Ok(_), Some(refusal)) => (DiagnosticStatus::ERROR, refusal.clone()),
            (Ok(_), None) => (DiagnosticStatus::OK, "Fresh".to_owned()),
            (Err(problem @ NotUsable::Stale { .. }), _) => (DiagnosticStatus::STALE, sentence(problem)),
            (Err(problem), _) => (DiagnosticStatus::ERROR, sentence(problem)),
        };
        let mut values = vec![
            value("topic", topic),
            value("frequency_hz", format_args!("{:.2}", report.rates.frequency)),
            value("received", report.received),
            value("superseded", report.superseded),
            value("late", report.late),
            value("unstamped", report.unstamped),
            value("lost", report.lost),
            value("refused", report.refused),
        ];
        if let Ok(age) | Err(NotUsable::Stale { age, .. }) = age {
            values.push(value("age_ms", milliseconds(age)));
        }
        for (key, times) in [("callback_us", report.rates.callback), ("delivery_us", report.rates.delivery)] {
            if let Some((median, p99)) = times {
                values.push(value(&format!("{key}_median"), format_args!("{:.1}", median.as_secs_f64() * 1e6)));
                values.push(value(&format!("{key}_p99"), format_args!("{:.1}", p99.as_secs_f64() * 1e6)));
            }
        }
        self.status(input.name(), (level, message, values))
    }

    fn inference(&self, status: &InferenceStatus, clock: Stamp, now: Instant, active: bool) -> DiagnosticStatus {
        let overdue = status.overdue(now).map(|elapsed| {
            let level = if elapsed < control_health::GIVEN_UP { DiagnosticStatus::WARN } else { DiagnosticStatus::ERROR };
            let seconds = elapsed.as_secs_f64();
            (level, format!("The inference runs for {seconds:.1} s already: it prepares for a new prompt length, or the backend does not answer"))
        });
        let (level, message) = match &status.problem {
            _ if !active => (DiagnosticStatus::OK, "Inactive".to_owned()),
            _ if let Some(overdue) = overdue => overdue,
            // Only simulated time begins at zero.
            _ if clock == Stamp::from_nanoseconds(0) => {
                (DiagnosticStatus::WARN, "use_sim_time is set and nothing was received on /clock yet".to_owned())
            }
            Some(Problem::Waiting(inputs)) => (DiagnosticStatus::WARN, format!("Waiting for inputs. {inputs}")),
            Some(Problem::Failed(error)) => (DiagnosticStatus::ERROR, error.clone()),
            None if status.chunks == 0 => match status.running {
                Some(started) => {
                    let seconds = now.saturating_duration_since(started).as_secs_f64();
                    (DiagnosticStatus::OK, format!("The first inference runs for {seconds:.1} s"))
                }
                None => (DiagnosticStatus::OK, "No inference was started yet".to_owned()),
            },
            None => (DiagnosticStatus::OK, "Publishing chunks".to_owned()),
        };
        let seconds = now.duration_since(self.reported).as_secs_f64();
        let mut values = vec![
            value("chunks", status.chunks),
            value("frequency_hz", format_args!("{:.2}", (status.chunks - self.before.chunks) as f64 / seconds)),
            value("failed", status.failed),
            value("device", &self.device),
        ];
        if let Some(last) = &status.last {
            let stages = [
                ("observation_ms", last.observation),
                ("vision_ms", last.vision),
                ("prefix_ms", last.prefix),
                ("denoise_ms", last.denoise),
                ("total_ms", last.total),
            ];
            values.extend(stages.map(|(key, time)| value(key, milliseconds(time.as_secs_f64()))));
            values.push(value("dropped_prompt_tokens", last.dropped_tokens));
        }
        self.status("inference", (level, message, values))
    }

    fn status(&self, task: &str, (level, message, values): Health) -> DiagnosticStatus {
        DiagnosticStatus { level, name: format!("{}: {task}", self.node), message, hardware_id: self.device.clone(), values }
    }
}

/// Full name of the node without the leading slash: what the names of its statuses begin with.
pub fn node_name(node: &NodeState) -> String {
    node.fully_qualified_name().trim_start_matches('/').to_owned()
}

/// Backend and device in a line.
pub fn device(backend: &BackendInfo) -> String {
    format!("{}: {}", backend.name, backend.device)
}

/// A value of a status.
pub fn value(key: &str, value: impl ToString) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_string() }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e3)
}

fn sentence(problem: &NotUsable) -> String {
    let text = problem.to_string();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

//! Diagnostics of how chunks become commands, of what the limits cut, and of the device.

use std::time::Duration;

use ros_env::diagnostic_msgs::msg::{DiagnosticStatus, KeyValue};

use super::{diagnostics::value, inference::ControlReport};
use crate::{
    backend::BackendInfo,
    control::{ControlState, ControlStatus, CutCount, LimitCounts},
};

/// A card compiles and captures for a new prompt length in less than this.
pub const GIVEN_UP: Duration = Duration::from_secs(30);

/// Level, message and values of a status.
pub type Health = (u8, String, Vec<KeyValue>);

/// Status `control`: latches, delays, counters and punctuality. Empties the report's lateness.
pub fn control(report: &mut ControlReport) -> Health {
    let Some(status) = &report.status else {
        return (DiagnosticStatus::OK, "Not configured".to_owned(), Vec::new());
    };
    let (level, message) = match (&status.latch, &status.waiting, status.state) {
        (Some(latch), _, _) => (DiagnosticStatus::ERROR, format!("{latch}. Nothing is commanded until ~/reset")),
        (None, Some(waiting), _) => (DiagnosticStatus::WARN, waiting.to_string()),
        (None, None, ControlState::Executing) if status.unguided => (
            DiagnosticStatus::WARN,
            "Commanding chunks that are not guided: an inference takes too many rows of a chunk".to_owned(),
        ),
        (None, None, state @ ControlState::Waiting) => (DiagnosticStatus::WARN, told(state).to_owned()),
        (None, None, state) => (DiagnosticStatus::OK, told(state).to_owned()),
    };
    let mut values = counters(status);
    if let Some((median, p99, largest)) = report.lateness.report() {
        let times = [("lateness_ms_median", median), ("lateness_ms_p99", p99), ("lateness_ms_max", largest)];
        values.extend(times.map(|(key, time)| value(key, format_args!("{:.3}", time.as_secs_f64() * 1e3))));
    }
    (level, message, values)
}

fn told(state: ControlState) -> &'static str {
    match state {
        ControlState::Inactive => "Inactive",
        ControlState::Waiting => "Waiting for a measured pose and the first chunk",
        ControlState::Holding => "Holding the pose until there is a chunk",
        ControlState::Executing => "Commanding",
        ControlState::Braking => "Coming to rest",
        ControlState::Latched => "Stopped",
    }
}

fn counters(status: &ControlStatus) -> Vec<KeyValue> {
    let mut values = vec![
        value("state", format_args!("{:?}", status.state)),
        value("rows_left", status.rows_left),
        value("execution_horizon", status.execution_horizon),
        value("stalls", status.counts.stalls),
        value("skipped_rows", status.counts.skipped_rows),
        value("blind", status.counts.blind),
    ];
    values.extend(status.counts.latches.iter().map(|(reason, count)| value(&format!("latched_{reason}"), count)));
    values
}

/// What the control thread knows of the inference: delays and refused chunks.
pub fn inference(status: &ControlStatus) -> Vec<KeyValue> {
    let rows = |rows: Option<usize>| rows.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string());
    let counts = &status.counts;
    let mut values = vec![
        value("delay_rows_p95", rows(status.delay_p95)),
        value("delay_rows_last", rows(status.last_delay)),
        value("overruns", counts.overruns),
        value("abandoned", counts.abandoned),
        value("chunks_rejected", counts.refused.values().sum::<u64>()),
    ];
    values.extend(counts.refused.iter().map(|(reason, count)| value(&format!("rejected_{reason}"), count)));
    if let Some(refusal) = &counts.last_refusal {
        values.push(value("last_rejection", refusal));
    }
    values
}

/// Status `device`: whether the backend answers. `overdue` is how long it has not, when that is too long to be true.
pub fn device(backend: &BackendInfo, overdue: Option<Duration>) -> Health {
    let values = vec![
        value("backend", backend.name),
        value("device", &backend.device),
        value("number_formats", &backend.dtypes),
        value("weights_mb", format_args!("{:.0}", backend.weight_bytes as f64 / 1e6)),
    ];
    match overdue {
        None => (DiagnosticStatus::OK, format!("{} holds the model", backend.name), values),
        Some(elapsed) => {
            let level = if elapsed < GIVEN_UP { DiagnosticStatus::WARN } else { DiagnosticStatus::ERROR };
            (level, format!("No answer for {:.1} s", elapsed.as_secs_f64()), values)
        }
    }
}

/// The counts of each limit with its name, in the order in which the limits are applied.
pub fn by_kind(counts: &LimitCounts) -> [(&'static str, &CutCount); 4] {
    let LimitCounts { position, step, velocity, acceleration } = counts;
    [("position", position), ("step", step), ("velocity", velocity), ("acceleration", acceleration)]
}

/// Status `limits`: how many values each limit cut, and the last one of each.
pub fn limits(counts: &LimitCounts, before: &LimitCounts) -> Health {
    let mut values = Vec::new();
    let mut cutting = Vec::new();
    for ((kind, now), (_, before)) in by_kind(counts).into_iter().zip(by_kind(before)) {
        values.push(value(&format!("{kind}_cut"), now.values));
        if let Some(last) = &now.last {
            values.push(value(&format!("{kind}_last"), last));
            if now.values > before.values {
                cutting.push(last.to_string());
            }
        }
    }
    match cutting.is_empty() {
        true => (DiagnosticStatus::OK, "No command was cut".to_owned(), values),
        false => (DiagnosticStatus::WARN, format!("Commands are cut: {}", cutting.join("; ")), values),
    }
}

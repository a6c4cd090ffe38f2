//! The diagnostics of every second, from the start of the node to its end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rclrs::{IntoPrimitiveOptions, Node, Publisher, RclrsError, Worker, WorkerTimer};
use ros_env::{
    diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus},
    std_msgs::msg::Header,
};

use super::{
    diagnostics::{Reporter, node_name, value},
    lifecycle::{Condition, Lifecycle, Primary, State},
    now,
    outputs::time_message,
};

const PERIOD: Duration = Duration::from_secs(1);

/// Publishes the state of the lifecycle, and what the reporter of a configured policy tells. Dropping it ends that.
pub struct Health {
    reporter: Arc<Mutex<Option<Reporter>>>,
    _timer: WorkerTimer<()>,
}

impl Health {
    pub fn start(node: &Node, worker: &Worker<()>, lifecycle: Lifecycle) -> Result<Self, RclrsError> {
        let publisher: Publisher<DiagnosticArray> = node.create_publisher("/diagnostics".reliable().keep_last(10))?;
        let (name, clock) = (format!("{}: lifecycle", node_name(node)), node.get_clock());
        let reporter = Arc::new(Mutex::new(None::<Reporter>));
        let shown = reporter.clone();
        // On the steady clock: a paused simulation is to be seen in the diagnostics, not to stop them.
        let timer = worker.create_timer_repeating(PERIOD, move |_: &mut ()| {
            let (stamp, condition) = (now(&clock), lifecycle.condition());
            let active = condition.state == State::Primary(Primary::Active);
            let mut status = vec![lifecycle_status(name.clone(), &condition)];
            status.extend(lock(&shown).iter_mut().flat_map(|reporter| reporter.report(stamp, active)));
            let header = Header { stamp: time_message(stamp), ..Default::default() };
            if let Err(error) = publisher.publish(DiagnosticArray { header, status }) {
                tracing::debug!("The diagnostics could not be published: {error}");
            }
        })?;
        Ok(Self { reporter, _timer: timer })
    }

    /// Reports inputs and inference from now on.
    pub fn show(&self, reporter: Reporter) {
        *lock(&self.reporter) = Some(reporter);
    }

    /// No longer: when it returns, nothing of the reporter is left.
    pub fn hide(&self) {
        *lock(&self.reporter) = None;
    }
}

fn lock(reporter: &Mutex<Option<Reporter>>) -> MutexGuard<'_, Option<Reporter>> {
    // A panic ends the process (see `node::run`), so a poisoned lock is never looked at again.
    reporter.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lifecycle_status(name: String, condition: &Condition) -> DiagnosticStatus {
    let Condition { state, since, failure } = condition;
    let seconds = Instant::now().saturating_duration_since(*since).as_secs_f64();
    let told = match state {
        State::Primary(Primary::Unconfigured) => "Unconfigured: no policy is open".to_owned(),
        State::Primary(Primary::Inactive) => "Inactive: the policy is open, nothing is published".to_owned(),
        State::Primary(Primary::Active) => "Active".to_owned(),
        State::Primary(Primary::Finalized) => "Finalized: the node can only be ended".to_owned(),
        State::Phase(_) => format!("{} for {seconds:.1} s", state.label()),
    };
    let (level, message) = match failure {
        None => (DiagnosticStatus::OK, told),
        Some(failure) => (DiagnosticStatus::ERROR, format!("{told}. {failure}")),
    };
    DiagnosticStatus {
        level,
        name,
        message,
        hardware_id: String::new(),
        values: vec![value("state", state.label()), value("seconds", format_args!("{seconds:.1}"))],
    }
}

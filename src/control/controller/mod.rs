//! From chunks to the commands of each control step.
//!
//! ```text
//! request ─► Ticket ─► inference ─► install ─► plan ─► tick ─► commands
//!               │                      │
//!               └── what is left of the chunk before ──┘
//! ```
//!
//! Control steps have numbers that follow from the time. Row `i` of a chunk belongs to the `i`-th step that was consumed after the chunk
//! was asked for, so an inference overlaps with the execution of the chunk before, and the rows that passed meanwhile are not commanded
//! again. While the robot holds its pose nothing is consumed: what is asked for then begins with row 0.

mod installation;

use std::{iter, mem};

use super::{
    ChunkError, Chunking, ComputedChunk, ControlConfig, ControlCounts, ControlError, ControlState, ControlStatus, DriftWatch,
    Installed, Latch, LimitCounts, LimitError, Limiter, Measured, OnInstruction, Replan, StallAction, Stamp, Tick, Ticket,
    Trajectory,
    commanded::{Commanded, Row},
    config::check_rate,
    delay::Delays,
    plan::{Advance, Plan, Steps},
};
use crate::robot::CommandKind;

/// The longest path of braking that is told in advance, in seconds.
const LONGEST_BRAKING: f64 = 30.0;
/// For so long, in seconds, a plan is followed while the robot is not measured any more.
const LONGEST_BLIND: f64 = 0.5;

/// Turns chunks into commands. Gets the time with every call and is told of everything in the order in which it happens.
#[derive(Clone, Debug)]
pub struct Controller {
    config: ControlConfig,
    limiter: Limiter,
    drift: Option<DriftWatch>,
    active: bool,
    latch: Option<Latch>,
    course: Course,
    steps: Steps,
    /// Rows of chunks that were commanded or whose time has passed.
    consumed: u64,
    pending: Option<Pending>,
    next_ticket: u64,
    /// The control step, and fraction of a step, at which [`Replan::Rate`] starts the next inference.
    due: f64,
    delays: Delays,
    /// The newest sample, when it can be used.
    measured: Option<Measured>,
    /// The newest control step with such a sample.
    seen: i64,
    waiting: Option<LimitError>,
    counts: ControlCounts,
    limits: LimitCounts,
}

/// What the robot is told.
#[derive(Clone, Debug)]
enum Course {
    /// Nothing, and where it stands is not known.
    Unknown,
    /// Nothing: it rests.
    Resting { commanded: Commanded, pose: Pose },
    /// The rows of a chunk.
    Following { plan: Plan, commanded: Commanded, before: Before, told: bool },
    /// To come to rest.
    Braking { commanded: Commanded, then: Then, told: bool },
}

/// Where a resting robot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pose {
    /// Where it was measured: it was not commanded yet.
    Measured,
    /// Where it was commanded to.
    Commanded,
}

/// What the robot did before the newest row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// It rested: no row of the plan was commanded yet.
    Rested(Pose),
    Moved,
}

/// What comes after braking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The pose is held.
    Hold,
    /// The pose is measured anew.
    Forget,
}

/// The inference that runs.
#[derive(Clone, Debug)]
struct Pending {
    id: u64,
    /// Nothing has happened since that makes its chunk useless.
    wanted: bool,
    issued: Stamp,
    step: i64,
    consumed: u64,
    guided_rows: usize,
}

impl Controller {
    pub fn new(config: ControlConfig) -> Result<Self, ControlError> {
        config.check()?;
        let limiter = Limiter::new(config.joints.clone(), config.period)?;
        Ok(Self {
            drift: config.drift.map(|limit| DriftWatch::new(&config.joints, limit)),
            limiter,
            active: false,
            latch: None,
            course: Course::Unknown,
            steps: Steps::new(config.period),
            consumed: 0,
            pending: None,
            next_ticket: 0,
            due: f64::NEG_INFINITY,
            delays: Delays::default(),
            measured: None,
            seen: 0,
            waiting: None,
            counts: ControlCounts::default(),
            limits: LimitCounts::default(),
            config,
        })
    }

    /// Commands may be sent from now on. A latch stays.
    pub fn activate(&mut self) {
        if !self.active {
            self.active = true;
            self.delays = Delays::default();
            self.due = f64::NEG_INFINITY;
        }
    }

    /// Brakes. Returns the whole way to rest as a trajectory, when it was not told before, and its first row; the others come with the
    /// control steps, in which the state stays [`ControlState::Braking`]. After it nothing is commanded.
    pub fn deactivate(&mut self, now: Stamp) -> Tick {
        let tick = self.break_off(now);
        self.active = false;
        self.measured = None;
        tick
    }

    /// Brakes and stays at rest until [`Self::reset`]. Returns the first row; the others come with the control steps. A robot that brakes
    /// already is told nothing new.
    pub fn stop(&mut self, now: Stamp) -> Tick {
        let tick = self.break_off(now);
        self.latch(Latch::Stopped);
        tick
    }

    /// Ends a latch: the robot starts anew from the pose in which it is measured. When that pose is still refused, the latch stays. Whether
    /// something was latched.
    pub fn reset(&mut self) -> Result<bool, LimitError> {
        if let (Some(Latch::Limits(_)), Some(measured)) = (&self.latch, &self.measured) {
            self.limiter.start(&measured.positions)?;
        }
        let latch = self.latch.take();
        if let (Some(drift), Some(_)) = (&mut self.drift, &latch) {
            drift.reset();
        }
        Ok(latch.is_some())
    }

    /// The clock jumped: what was planned belongs to another time. The robot brakes and starts anew from the pose that it holds then.
    pub fn clock_jumped(&mut self) {
        self.steps.lose_time();
        self.due = f64::NEG_INFINITY;
        self.measured = None;
        self.drop_pending();
        self.cut_short(Then::Forget);
    }

    pub fn instruction_changed(&mut self) {
        match self.config.on_instruction {
            OnInstruction::Flush => {
                self.drop_pending();
                if let Course::Following { .. } = self.course {
                    self.cut_short(Then::Hold);
                }
            }
            OnInstruction::Finish => {}
        }
    }

    /// Starts inferences at another rate; without effect when rows start them.
    pub fn set_rate(&mut self, hz: f64) -> Result<(), ControlError> {
        check_rate(hz)?;
        if let Replan::Rate(rate) = &mut self.config.replan {
            *rate = hz;
            self.due = f64::NEG_INFINITY;
        }
        Ok(())
    }

    /// The control step of `now`, to be called once a period, best with the time for which it was scheduled. One that is late by a period or
    /// more skips the rows whose time has passed; one that happened already commands nothing.
    pub fn tick(&mut self, now: Stamp, measured: Option<&Measured>) -> Tick {
        if !self.active && !matches!(self.course, Course::Braking { .. }) {
            return Tick::default();
        }
        if matches!(self.course, Course::Unknown | Course::Resting { .. }) {
            // Nothing is planned that another phase of the steps would delay.
            self.steps.lose_time();
        }
        let Some(step) = self.steps.take(now) else { return Tick::default() };
        if self.active {
            self.measured = measured.cloned();
            self.find_blindness(step);
            self.find_drift();
            self.find_pose();
        }
        self.command(step, now)
    }

    /// Whether it is time for an inference; at most one runs. Called right after [`Self::tick`]: the observation is of the same moment.
    pub fn request(&mut self, now: Stamp) -> Option<Ticket> {
        if !self.active || self.latch.is_some() {
            return None;
        }
        let cadence = self.cadence();
        let due = match (&self.course, self.config.replan) {
            (Course::Unknown | Course::Braking { then: Then::Forget, .. }, _) => return None,
            (Course::Resting { .. } | Course::Braking { then: Then::Hold, .. }, Replan::Drain) => true,
            (Course::Following { plan, .. }, Replan::Drain) => {
                plan.consumed() + cadence.delay >= cadence.execution || plan.left().len() <= cadence.delay
            }
            (course, Replan::Rate(hz)) => {
                let step = self.steps.last() as f64;
                let due = step >= self.due;
                if due {
                    // A due inference that is skipped is not made up for.
                    let interval = 1.0 / (hz * self.config.period);
                    self.due = if self.due + interval > step { self.due + interval } else { step + interval };
                    self.counts.overruns += u64::from(self.pending.is_some());
                }
                due || !matches!(course, Course::Following { .. })
            }
        };
        if !due || self.pending.is_some() {
            return None;
        }
        let guidance = self.guidance(&cadence);
        let id = self.next_ticket;
        self.next_ticket += 1;
        self.pending = Some(Pending {
            id,
            wanted: true,
            issued: now,
            step: self.steps.last(),
            consumed: self.consumed,
            guided_rows: guidance.as_ref().map_or(0, |guidance| guidance.horizon),
        });
        Some(Ticket { id, guidance })
    }

    /// Takes over a chunk from the next control step on, as a whole. A refused chunk changes nothing that is planned, except a first chunk
    /// in other units than the limits: it latches.
    pub fn install(&mut self, now: Stamp, ticket: &Ticket, chunk: ComputedChunk) -> Result<Installed, ChunkError> {
        let installed = self.take_over(now, ticket, chunk);
        match &installed {
            Ok(_) => self.counts.chunks += 1,
            Err(error) => self.count_refusal(error),
        }
        installed
    }

    /// The chunk was refused before it could be handed over.
    pub fn refuse(&mut self, ticket: &Ticket, error: &ChunkError) {
        self.release(ticket);
        self.count_refusal(error);
    }

    /// The inference failed, or there was no observation for it.
    pub fn abandon(&mut self, ticket: &Ticket) {
        self.release(ticket);
        self.counts.abandoned += 1;
    }

    pub fn status(&self) -> ControlStatus {
        let cadence = self.cadence();
        let state = match &self.course {
            Course::Braking { .. } => ControlState::Braking,
            _ if !self.active => ControlState::Inactive,
            _ if self.latch.is_some() => ControlState::Latched,
            Course::Unknown | Course::Resting { pose: Pose::Measured, .. } => ControlState::Waiting,
            Course::Resting { pose: Pose::Commanded, .. } => ControlState::Holding,
            Course::Following { .. } => ControlState::Executing,
        };
        ControlStatus {
            state,
            latch: self.latch.clone(),
            waiting: self.waiting.clone(),
            rows_left: if let Course::Following { plan, .. } = &self.course { plan.left().len() } else { 0 },
            delay_p95: self.delays.p95(),
            last_delay: self.delays.last(),
            execution_horizon: cadence.execution,
            unguided: self.config.chunking == Chunking::Rtc && cadence.guided == 0,
            counts: self.counts.clone(),
            limits: self.limits.clone(),
        }
    }

    /// Where the robot stands is to be measured anew.
    fn forget_pose(&mut self) {
        self.course = Course::Unknown;
        if let Some(drift) = &mut self.drift {
            drift.forget();
        }
    }

    fn drop_pending(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.wanted = false;
        }
    }

    /// The inference of a ticket has ended.
    fn release(&mut self, ticket: &Ticket) -> Option<Pending> {
        self.pending.take_if(|pending| pending.id == ticket.id)
    }

    fn count_refusal(&mut self, error: &ChunkError) {
        *self.counts.refused.entry(error.reason()).or_default() += 1;
        self.counts.last_refusal = Some(error.to_string());
    }

    /// Brakes for good; the first row is sent in advance of the next control step.
    fn break_off(&mut self, now: Stamp) -> Tick {
        self.drop_pending();
        if self.steps.is_before(now) {
            // Nobody has noticed yet that the clock was set back.
            self.clock_jumped();
        }
        self.cut_short(Then::Forget);
        // A way to rest that was told needs no step in advance, however often it is asked for.
        if !matches!(self.course, Course::Braking { told: false, .. }) {
            return Tick::default();
        }
        let step = self.steps.take_next(now);
        self.command(step, now)
    }

    /// Ends what is commanded before its end: the way to rest replaces it, whatever the stall action, because a controller that executes
    /// trajectories would go on. A robot that rests is told nothing.
    fn cut_short(&mut self, then: Then) {
        self.course = match mem::replace(&mut self.course, Course::Unknown) {
            Course::Unknown => return,
            Course::Following { commanded, before: Before::Moved, .. } => Course::Braking { commanded, then, told: false },
            // Told once is enough, unless it was told in another time.
            Course::Braking { commanded, told, .. } => Course::Braking { commanded, then, told: told && self.steps.has_time() },
            Course::Resting { commanded, pose } | Course::Following { commanded, before: Before::Rested(pose), .. } => {
                if !commanded.at_rest() {
                    Course::Braking { commanded, then, told: false }
                } else if then == Then::Forget {
                    return self.forget_pose();
                } else {
                    Course::Resting { commanded, pose }
                }
            }
        };
    }

    /// Does what is to be done when a plan has run out.
    fn stall(&mut self) {
        self.counts.stalls += 1;
        let sends = match self.config.stall {
            StallAction::Hold => true,
            StallAction::ZeroVelocity => self.config.joints.iter().any(|joint| joint.kind == CommandKind::Velocity),
            StallAction::None => false,
        };
        self.course = match mem::replace(&mut self.course, Course::Unknown) {
            Course::Following { commanded, .. } if sends => Course::Braking { commanded, then: Then::Hold, told: false },
            Course::Following { commanded, .. } => {
                Course::Resting { commanded: commanded.rested(&self.limiter), pose: Pose::Commanded }
            }
            other => other,
        };
    }

    /// Stops until the reset; the first reason counts.
    fn latch(&mut self, latch: Latch) {
        if self.latch.is_none() {
            *self.counts.latches.entry(latch.reason()).or_default() += 1;
            self.latch = Some(latch);
        }
    }

    /// Whether the robot was not measured for so long that nobody knows whether it follows.
    fn is_blind(&self, step: i64) -> bool {
        step.saturating_sub(self.seen) as f64 * self.config.period > LONGEST_BLIND
    }

    /// Ends a plan that is followed blindly.
    fn find_blindness(&mut self, step: i64) {
        if self.measured.is_some() {
            self.seen = step;
        } else if matches!(self.course, Course::Following { .. }) && self.is_blind(step) {
            self.counts.blind += 1;
            self.drop_pending();
            self.cut_short(Then::Hold);
        }
    }

    /// Stops a robot that is not where it was commanded to be.
    fn find_drift(&mut self) {
        let (Some(watch), Some(measured)) = (&mut self.drift, &self.measured) else { return };
        if matches!(self.course, Course::Braking { then: Then::Forget, .. }) {
            // It is measured anew anyway, and may be elsewhere: simulations that begin anew put it there.
            return;
        }
        watch.measure(measured.stamp, &measured.positions);
        if let (Some(drift), None) = (watch.drift().cloned(), &self.latch) {
            self.latch(Latch::Drift(drift));
            self.drop_pending();
            self.cut_short(Then::Forget);
        }
    }

    /// Notes where a robot stands that was not commanded yet.
    fn find_pose(&mut self) {
        if self.latch.is_some() || !matches!(self.course, Course::Unknown | Course::Resting { pose: Pose::Measured, .. }) {
            return;
        }
        let Some(measured) = &self.measured else {
            self.course = Course::Unknown;
            return;
        };
        self.waiting = None;
        self.course = match self.limiter.start(&measured.positions) {
            Ok(motion) => Course::Resting { commanded: Commanded::new(motion, self.steps.last()), pose: Pose::Measured },
            Err(error @ (LimitError::Outside { .. } | LimitError::MeasuredUnit { .. } | LimitError::FarMeasured { .. })) => {
                self.latch(Latch::Limits(error));
                self.drop_pending();
                Course::Unknown
            }
            Err(error) => {
                self.waiting = Some(error);
                Course::Unknown
            }
        };
    }

    /// The command of a control step.
    fn command(&mut self, step: i64, now: Stamp) -> Tick {
        if let Course::Following { plan, commanded, before, told } = &mut self.course {
            commanded.pass(&self.limiter, step);
            let Advance { skipped, row } = plan.advance(step);
            self.consumed += (skipped + usize::from(row.is_some())) as u64;
            self.counts.skipped_rows += skipped as u64;
            if let Some(mut row) = row {
                *before = Before::Moved;
                let rows = (!mem::replace(told, true)).then(|| {
                    let rows = iter::once(&mut row).chain(plan.left_mut());
                    commanded.tell_limited(&self.limiter, rows, &mut self.limits)
                });
                let row = commanded.follow(&self.limiter);
                return self.tell(step, now, row, rows);
            }
            self.stall();
        }
        let most = (LONGEST_BRAKING / self.config.period) as usize;
        if let Course::Braking { commanded, then, told } = &mut self.course {
            commanded.pass(&self.limiter, step);
            let rows = (!mem::replace(told, true)).then(|| commanded.tell_braking(&self.limiter, most));
            let row = commanded.brake(&self.limiter);
            if row.is_none() || commanded.at_rest() {
                match then {
                    Then::Hold => self.course = Course::Resting { commanded: commanded.clone(), pose: Pose::Commanded },
                    Then::Forget => self.course = Course::Unknown,
                }
            }
            let tick = self.tell(step, now, row, rows);
            if let Course::Unknown = self.course {
                self.forget_pose();
            }
            return tick;
        }
        Tick::default()
    }

    /// Sends what is commanded; nothing when nothing can be.
    fn tell(&mut self, step: i64, now: Stamp, row: Option<Row>, rows: Option<Vec<Vec<f64>>>) -> Tick {
        let Some(Row { told, sent }) = row else { return Tick::default() };
        let start = self.steps.time_of(step, now);
        if let Some(drift) = &mut self.drift {
            drift.command(start.after(self.config.period), &told, &sent);
        }
        let trajectory = rows.map(|rows| Trajectory { start, period: self.config.period, rows });
        Tick { command: Some(sent), trajectory }
    }
}

#[cfg(test)]
mod tests;

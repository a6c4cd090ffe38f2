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

use std::mem;

use super::{
    ChunkError, Chunking, ComputedChunk, ControlConfig, ControlCounts, ControlError, ControlState, ControlStatus, DriftWatch,
    GuidanceRequest, Installed, Join, Latch, LimitCounts, LimitError, Limiter, Measured, Motion, OnInstruction, Replan,
    StallAction, Stamp, Tick, Ticket, Trajectory,
    blend::crossfade,
    config::check_rate,
    delay::Delays,
    plan::{Advance, Plan, Source, Steps},
};
use crate::robot::CommandKind;

/// A chunk begins with the next control step. One that begins later than this after now, in seconds, is of another time.
const FAR_FUTURE: f64 = 1.0;
/// Two periods are the same when they differ by less than this share.
const PERIOD_TOLERANCE: f64 = 1e-6;
/// The longest path of braking that is told in advance, in seconds.
const LONGEST_BRAKING: f64 = 30.0;

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
    Resting { motion: Motion, pose: Pose },
    /// The rows of a chunk.
    Following { plan: Plan, motion: Motion, before: Before, told: bool },
    /// To come to rest.
    Braking { motion: Motion, then: Then, told: bool },
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

/// How chunks follow each other.
struct Cadence {
    /// Control steps that an inference takes.
    delay: usize,
    /// Rows to execute of each chunk.
    execution: usize,
    /// Rows to guide; 0: an inference takes too long for it.
    guided: usize,
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
            self.steps.lose_time();
            self.due = f64::NEG_INFINITY;
            self.measured = None;
        }
    }

    /// Nothing is commanded after what is returned: the way to rest, as a trajectory and its first row. A controller that takes row after
    /// row must be sent the others too, one each period.
    pub fn deactivate(&mut self, now: Stamp) -> Tick {
        let last = self.break_off(now);
        self.active = false;
        self.forget_pose();
        last
    }

    /// Brakes and stays at rest until [`Self::reset`]. Returns the first row; the others come with the control steps.
    pub fn stop(&mut self, now: Stamp) -> Tick {
        let tick = self.break_off(now);
        self.latch.get_or_insert(Latch::Stopped);
        tick
    }

    /// Ends a latch: the robot starts anew from the pose in which it is measured. When that pose is still refused, the latch stays.
    pub fn reset(&mut self) -> Result<(), LimitError> {
        if let (Some(Latch::Limits(_)), Some(measured)) = (&self.latch, &self.measured) {
            self.limiter.start(&measured.positions)?;
        }
        self.latch = None;
        if let Some(drift) = &mut self.drift {
            drift.reset();
        }
        Ok(())
    }

    /// The clock jumped: what was planned belongs to another time. The robot brakes and starts anew from the pose that it holds then.
    pub fn clock_jumped(&mut self) {
        self.steps.lose_time();
        self.due = f64::NEG_INFINITY;
        self.measured = None;
        self.drop_pending();
        self.brake(Then::Forget);
    }

    pub fn instruction_changed(&mut self) {
        match self.config.on_instruction {
            OnInstruction::Flush => {
                self.drop_pending();
                if let Course::Following { .. } = self.course {
                    self.brake(Then::Hold);
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

    /// The control step of `now`, to be called once a period. A late one skips the rows whose time has passed; one that happened already
    /// commands nothing.
    pub fn tick(&mut self, now: Stamp, measured: Option<&Measured>) -> Tick {
        if !self.active {
            return Tick::default();
        }
        if matches!(self.course, Course::Unknown | Course::Resting { .. }) {
            // Nothing is planned that another phase of the steps would delay.
            self.steps.lose_time();
        }
        let Some(step) = self.steps.take(now) else { return Tick::default() };
        self.measured = measured.cloned();
        self.find_drift();
        self.find_pose();
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
            _ if !self.active => ControlState::Inactive,
            Course::Braking { .. } => ControlState::Braking,
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
        self.brake(Then::Forget);
        if !self.active || !matches!(self.course, Course::Braking { .. }) {
            return Tick::default();
        }
        let step = self.steps.take_next(now);
        self.command(step, now)
    }

    /// Starts the stall action. A robot that rests is told nothing.
    fn brake(&mut self, then: Then) {
        let (motion, rests) = match mem::replace(&mut self.course, Course::Unknown) {
            Course::Unknown => return,
            Course::Resting { motion, pose } => (motion, Some(pose)),
            Course::Following { motion, before: Before::Rested(pose), .. } => (motion, Some(pose)),
            Course::Following { motion, before: Before::Moved, .. } => (motion, None),
            Course::Braking { motion, .. } => (motion, None),
        };
        self.course = match rests {
            None if self.stall_sends() => Course::Braking { motion, then, told: false },
            _ if then == Then::Forget => return self.forget_pose(),
            None => Course::Resting { motion: self.limiter.rested(motion), pose: Pose::Commanded },
            Some(pose) => Course::Resting { motion, pose },
        };
    }

    fn stall_sends(&self) -> bool {
        match self.config.stall {
            StallAction::Hold => true,
            StallAction::ZeroVelocity => self.config.joints.iter().any(|joint| joint.kind == CommandKind::Velocity),
            StallAction::None => false,
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
        if let (Some(drift), None) = (watch.drift(), &self.latch) {
            self.latch = Some(Latch::Drift(drift.clone()));
            self.drop_pending();
            self.brake(Then::Forget);
        }
    }

    /// Notes where a robot stands that was not commanded yet.
    fn find_pose(&mut self) {
        if self.latch.is_some() || !matches!(self.course, Course::Unknown | Course::Resting { pose: Pose::Measured, .. }) {
            return;
        }
        let Some(measured) = &self.measured else { return };
        self.waiting = None;
        match self.limiter.start(&measured.positions) {
            Ok(motion) => self.course = Course::Resting { motion, pose: Pose::Measured },
            Err(error @ (LimitError::Outside { .. } | LimitError::MeasuredUnit { .. })) => {
                self.latch = Some(Latch::Limits(error));
                self.drop_pending();
                self.course = Course::Unknown;
            }
            Err(error) => {
                self.waiting = Some(error);
                self.course = Course::Unknown;
            }
        }
    }

    /// The command of a control step.
    fn command(&mut self, step: i64, now: Stamp) -> Tick {
        if let Course::Following { plan, motion, before, told } = &mut self.course {
            let Advance { skipped, row } = plan.advance(step);
            self.consumed += (skipped + usize::from(row.is_some())) as u64;
            self.counts.skipped_rows += skipped as u64;
            if let Some(mut row) = row {
                // A row changes here when others were skipped before it; else the plan is limited as a whole when it is told.
                self.limiter.limit(motion, &mut row, &mut self.limits);
                *before = Before::Moved;
                let rows = (!mem::replace(told, true)).then(|| {
                    let mut ahead = motion.clone();
                    plan.left_mut().iter_mut().for_each(|row| self.limiter.limit(&mut ahead, row, &mut self.limits));
                    [&row].into_iter().chain(plan.left()).cloned().collect()
                });
                return self.tell(step, now, row, rows);
            }
            self.counts.stalls += 1;
            self.brake(Then::Hold);
        }
        if let Course::Braking { motion, then, told } = &mut self.course {
            let rows = (!mem::replace(told, true)).then(|| braking_path(&self.limiter, motion, self.config.period));
            let then = *then;
            let Some((row, rests)) = self.limiter.brake(motion) else {
                // Nothing was commanded.
                self.course = Course::Unknown;
                return Tick::default();
            };
            let rested = rests.then(|| motion.clone());
            let tick = self.tell(step, now, row, rows);
            match (rested, then) {
                (Some(motion), Then::Hold) => self.course = Course::Resting { motion, pose: Pose::Commanded },
                (Some(_), Then::Forget) => self.forget_pose(),
                (None, _) => {}
            }
            return tick;
        }
        Tick::default()
    }

    fn tell(&mut self, step: i64, now: Stamp, row: Vec<f64>, rows: Option<Vec<Vec<f64>>>) -> Tick {
        let start = self.steps.time_of(step, now);
        if let Some(drift) = &mut self.drift {
            drift.command(start.after(self.config.period), &row);
        }
        let trajectory = rows.map(|rows| Trajectory { start, period: self.config.period, rows });
        Tick { command: Some(row), trajectory }
    }

    fn cadence(&self) -> Cadence {
        let horizon = self.config.horizon;
        // As long as none was measured, at most the longest that a chunk has room for.
        let delay = self.delays.reckoned(horizon / 2);
        if 2 * delay > horizon {
            return Cadence { delay, execution: delay.min(horizon), guided: 0 };
        }
        let execution = self.config.execution_horizon.clamp(delay.max(1), (horizon - delay).max(1));
        Cadence { delay, execution, guided: horizon - execution }
    }

    fn guidance(&self, cadence: &Cadence) -> Option<GuidanceRequest> {
        let (Chunking::Rtc, Course::Following { plan, .. }) = (self.config.chunking, &self.course) else { return None };
        let horizon = cadence.guided.min(plan.left().len());
        (horizon > 0).then(|| GuidanceRequest {
            previous: plan.left_of_model().to_vec(),
            previous_anchor: plan.model_anchor().to_vec(),
            delay: cadence.delay,
            horizon,
        })
    }

    fn take_over(&mut self, now: Stamp, ticket: &Ticket, chunk: ComputedChunk) -> Result<Installed, ChunkError> {
        let pending = self.release(ticket).filter(|pending| pending.wanted).ok_or(ChunkError::Stale)?;
        self.check(&chunk)?;
        let took = now.seconds_since(pending.issued);
        if took > self.config.deadline {
            return Err(ChunkError::Deadline { took, deadline: self.config.deadline });
        }
        let ComputedChunk { rows, model_actions, action_dim, anchor } = chunk;
        let (horizon, guided_rows) = (self.config.horizon, pending.guided_rows);
        let delay = usize::try_from(self.consumed - pending.consumed).unwrap_or(usize::MAX);
        if delay >= horizon {
            return Err(ChunkError::Past { rows: horizon });
        }
        let (mut motion, before) = match &self.course {
            // Whoever forgets the pose drops the pending inference.
            Course::Unknown => return Err(ChunkError::Stale),
            Course::Resting { motion, pose } => (motion.clone(), Before::Rested(*pose)),
            Course::Following { motion, before, .. } => (motion.clone(), *before),
            Course::Braking { motion, .. } => (motion.clone(), Before::Moved),
        };
        let first = match &self.course {
            Course::Following { .. } => self.steps.last() + 1,
            _ => self.steps.next(now),
        };
        let ahead = self.steps.time_of(first, now).seconds_since(now);
        if ahead > FAR_FUTURE {
            return Err(ChunkError::Future { ahead });
        }
        if before == Before::Rested(Pose::Measured)
            && let Err(error) = self.limiter.check_units(rows.values())
        {
            self.latch = Some(Latch::Limits(error.clone()));
            self.course = Course::Unknown;
            return Err(ChunkError::Units(error));
        }

        let mut planned: Vec<_> = rows.rows().skip(delay).map(|(_, row)| row.to_vec()).collect();
        let mut mode = if guided_rows > 0 { Join::Rtc } else { Join::None };
        if let Chunking::Crossfade { seconds } = self.config.chunking {
            let count = (seconds / self.config.period).round().max(1.0) as usize;
            crossfade(&self.config.joints, &self.upcoming(), &mut planned, count);
            mode = Join::Crossfade;
        }
        if let Some(measured) = &self.measured {
            self.limiter.measure(&mut motion, &measured.positions);
        }
        let source = Source { actions: model_actions, action_dim, anchor, first: delay };
        self.course = Course::Following { plan: Plan::new(first, planned, source), motion, before, told: false };
        self.delays.record(usize::try_from(self.steps.last() - pending.step).unwrap_or(0));
        let start = self.steps.time_of(first - delay as i64, now);
        Ok(Installed { start, delay_rows: delay, guided_rows, mode })
    }

    /// Whether the chunk fits the robot.
    fn check(&self, chunk: &ComputedChunk) -> Result<(), ChunkError> {
        let ComputedChunk { rows, model_actions, action_dim, .. } = chunk;
        let (joints, period, horizon) = (self.config.joints.len(), self.config.period, self.config.horizon);
        let found = rows.rows().len();
        if rows.joints() != joints {
            Err(ChunkError::Joints { found: rows.joints(), expected: joints })
        } else if found != horizon {
            Err(ChunkError::Horizon { found, expected: horizon })
        } else if horizon.checked_mul(*action_dim) != Some(model_actions.len()) {
            Err(ChunkError::ModelWidth { found: model_actions.len(), rows: horizon, action_dim: *action_dim })
        } else if (rows.period() - period).abs() > PERIOD_TOLERANCE * period {
            Err(ChunkError::OtherPeriod { found: rows.period(), expected: period })
        } else {
            Ok(())
        }
    }

    /// What would be commanded next without a new chunk; empty when that is not known.
    fn upcoming(&self) -> Vec<Vec<f64>> {
        match &self.course {
            Course::Unknown => Vec::new(),
            Course::Following { plan, .. } => plan.left_or_last().to_vec(),
            Course::Resting { motion, .. } | Course::Braking { motion, .. } => {
                braking_path(&self.limiter, motion, self.config.period)
            }
        }
    }
}

/// The rows until the robot rests; empty when the positions are not known.
fn braking_path(limiter: &Limiter, motion: &Motion, period: f64) -> Vec<Vec<f64>> {
    let (mut motion, mut rows) = (motion.clone(), Vec::new());
    while let Some((row, rests)) = limiter.brake(&mut motion) {
        rows.push(row);
        if rests || rows.len() as f64 * period >= LONGEST_BRAKING {
            break;
        }
    }
    rows
}

#[cfg(test)]
mod tests;

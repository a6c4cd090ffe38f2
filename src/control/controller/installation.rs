//! Chunks: how they follow each other, and how one is taken over.

use super::{
    super::{
        ChunkError, Chunking, ComputedChunk, GuidanceRequest, Installed, Join, Latch, Replan, Stamp, Ticket,
        blend::crossfade,
        plan::{Plan, Source},
    },
    Before, Controller, Course, Pose,
};

/// A chunk begins with the next control step. One that begins later than this after now, in seconds, is of another time.
const FAR_FUTURE: f64 = 1.0;
/// Two periods are the same when they differ by less than this share.
const PERIOD_TOLERANCE: f64 = 1e-6;

/// How chunks follow each other.
pub(super) struct Cadence {
    /// Control steps that an inference takes.
    pub delay: usize,
    /// Rows to execute of each chunk.
    pub execution: usize,
    /// Rows to guide; 0: an inference takes too long for it.
    pub guided: usize,
}

impl Controller {
    pub(super) fn cadence(&self) -> Cadence {
        let horizon = self.config.horizon;
        // As long as none was measured, at most the longest that a chunk has room for.
        let delay = self.delays.reckoned(horizon / 2);
        if 2 * delay > horizon {
            return Cadence { delay, execution: delay.min(horizon), guided: 0 };
        }
        let wanted = match self.config.replan {
            Replan::Drain => self.config.execution_horizon,
            // The cast saturates. The last chunk is executed until the next one is due.
            Replan::Rate(hz) => (1.0 / (hz * self.config.period)).round() as usize,
        };
        let execution = wanted.clamp(delay.max(1), (horizon - delay).max(1));
        Cadence { delay, execution, guided: horizon - execution }
    }

    pub(super) fn guidance(&self, cadence: &Cadence) -> Option<GuidanceRequest> {
        let (Chunking::Rtc, Course::Following { plan, .. }) = (self.config.chunking, &self.course) else { return None };
        let horizon = cadence.guided.min(plan.left().len());
        (horizon > 0).then(|| GuidanceRequest {
            previous: plan.left_of_model().to_vec(),
            previous_anchor: plan.model_anchor().to_vec(),
            delay: cadence.delay,
            horizon,
        })
    }

    pub(super) fn take_over(&mut self, now: Stamp, ticket: &Ticket, chunk: ComputedChunk) -> Result<Installed, ChunkError> {
        let pending = self.release(ticket).filter(|pending| pending.wanted).ok_or(ChunkError::Stale)?;
        self.check(&chunk)?;
        let took = now.seconds_since(pending.issued);
        let delay = usize::try_from(self.consumed - pending.consumed).unwrap_or(usize::MAX);
        // A robot that held its pose all the time may still begin with row 0.
        let horizon = self.config.horizon;
        if delay >= horizon || (delay > 0 && took > horizon as f64 * self.config.period) {
            return Err(ChunkError::Past { age: took, rows: horizon });
        }
        if took > self.config.deadline {
            return Err(ChunkError::Deadline { took, deadline: self.config.deadline });
        }
        let ComputedChunk { rows, model_actions, action_dim, anchor } = chunk;
        let guided_rows = pending.guided_rows;
        let (mut commanded, before) = match &self.course {
            // Whoever forgets the pose otherwise drops the pending inference.
            Course::Unknown => return Err(ChunkError::Pose),
            Course::Resting { commanded, pose } => (commanded.clone(), Before::Rested(*pose)),
            Course::Following { commanded, before, .. } => (commanded.clone(), *before),
            Course::Braking { commanded, .. } => (commanded.clone(), Before::Moved),
        };
        if self.is_blind(self.steps.last()) {
            return Err(ChunkError::Pose);
        }
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
            self.latch(Latch::Limits(error.clone()));
            self.course = Course::Unknown;
            return Err(ChunkError::Units(error));
        }

        let mut planned: Vec<_> = rows.rows().skip(delay).map(|(_, row)| row.to_vec()).collect();
        let mut mode = if guided_rows > 0 { Join::Rtc } else { Join::None };
        if let Chunking::Crossfade { seconds } = self.config.chunking {
            let count = (seconds / self.config.period).round().max(1.0) as usize;
            let upcoming = self.upcoming(count);
            crossfade(&self.config.joints, &upcoming, &mut planned, count);
            mode = if upcoming.is_empty() { Join::None } else { Join::Crossfade };
        }
        if let Some(measured) = &self.measured {
            commanded.measure(&self.limiter, &measured.positions);
        }
        let source = Source { actions: model_actions, action_dim, anchor, first: delay };
        self.course = Course::Following { plan: Plan::new(first, planned, source), commanded, before, told: false };
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

    /// What would be commanded in the next steps, `most` of them, without a new chunk; empty when that is not known.
    fn upcoming(&self, most: usize) -> Vec<Vec<f64>> {
        match &self.course {
            Course::Unknown => Vec::new(),
            Course::Following { plan, .. } => plan.left_or_last().to_vec(),
            Course::Braking { commanded, .. } if commanded.ahead().len() > 0 => commanded.ahead().cloned().collect(),
            Course::Resting { commanded, .. } | Course::Braking { commanded, .. } => commanded.braking(&self.limiter, most),
        }
    }
}

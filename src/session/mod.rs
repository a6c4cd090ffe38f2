//! A policy at work: samples come in, chunks are computed from them, and each control step commands something. No ROS needed.
//!
//! ```text
//! samples ─► Inputs ─► Session::ask ─► ChunkRequest ─► Inference::infer ─► Finished ─► Session::install
//!                          ▲                                                              │
//!                      Session::tick ─► commands ◄────────────────────────────────────────┘
//! ```
//!
//! The node runs this with messages of ROS in threads and real time, a replay with messages of a bag one after the other in the time of the
//! bag. What is decided or computed is here and below; what is received, published and told is theirs.

mod inference;
mod inputs;
mod instruction;
pub mod meter;

use std::{collections::BTreeMap, sync::Arc};

pub use inference::{Finished, Inference, InferenceError};
pub use inputs::{Delivery, ImageMessage, Input, InputReport, Inputs, JointMessage, Samples, Snapshot, Taken};
pub use instruction::Instruction;

use crate::{
    control::{
        ChunkError, ClockJump, ClockWatch, ComputedChunk, Controller, Installed, Measured, NotUsable, Stamp, Tick, Ticket,
    },
    model::PrefixSchedule,
    policy::PrefixGuidance,
};

/// The control steps of a policy: the controller and its inputs, told of everything in the order in which it happens.
pub struct Session<C, J> {
    pub controller: Controller,
    inputs: Arc<Inputs<C, J>>,
    /// Joint names in the controller's order.
    joints: Vec<String>,
    /// Seconds between two rows.
    period: f64,
    /// Form and largest weight of the guidance towards the chunk before.
    guidance: (PrefixSchedule, f64),
    watch: ClockWatch,
    next: Stamp,
}

/// A control step that is to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When it was due: what the controller is told.
    pub due: Stamp,
    /// Seconds since the step was due that was expected.
    pub late: f64,
}

/// What is to be computed.
pub struct ChunkRequest<C, J> {
    pub snapshot: Snapshot<C, J>,
    pub ticket: Ticket,
    /// What the chunk is to be guided by.
    pub guidance: Option<PrefixGuidance>,
}

/// What a control step asks for.
pub struct Asked<C, J> {
    pub request: Option<ChunkRequest<C, J>>,
    /// Inputs that keep an observation from being made, and why.
    pub problems: BTreeMap<String, NotUsable>,
}

impl<C: ImageMessage, J: JointMessage> Session<C, J> {
    /// `joints` are those of the controller, `period` the seconds between two rows. The first control step is due at `now`.
    pub fn new(
        controller: Controller,
        inputs: Arc<Inputs<C, J>>,
        joints: Vec<String>,
        period: f64,
        guidance: (PrefixSchedule, f64),
        now: Stamp,
    ) -> Self {
        Self { controller, inputs, joints, period, guidance, watch: ClockWatch::default(), next: now }
    }

    pub fn inputs(&self) -> &Arc<Inputs<C, J>> {
        &self.inputs
    }

    /// Looks at the clock. After a jump the samples of the time before are dropped, and so is what was planned. To be called before whatever
    /// else happens at `now`: an order that is carried out in another time than the plan was made in would plan from a wrong step.
    pub fn observe_clock(&mut self, now: Stamp) -> Option<ClockJump> {
        let jump = self.watch.observe(now)?;
        self.inputs.reset(now);
        self.controller.clock_jumped();
        self.next = now;
        Some(jump)
    }

    /// When the next control step is due.
    pub fn next_step(&self) -> Stamp {
        self.next
    }

    /// The control step of `now`, when one is due. One that was slept through is not made up for, and the steps keep their phase.
    pub fn step(&mut self, now: Stamp) -> Option<Step> {
        let late = now.seconds_since(self.next);
        if late < 0.0 {
            return None;
        }
        let missed = (late / self.period).floor();
        let due = self.next.after(missed * self.period);
        self.next = self.next.after((missed + 1.0) * self.period);
        Some(Step { due, late })
    }

    /// What the control step that was due at `due` commands.
    pub fn tick(&mut self, due: Stamp, now: Stamp) -> Tick {
        let measured = self.measured(now);
        self.controller.tick(due, measured.as_ref())
    }

    /// Asks for a chunk if it is time for one and there is everything that it needs. To be called after [`Self::tick`] of the same step.
    pub fn ask(&mut self, due: Stamp, now: Stamp) -> Asked<C, J> {
        let checked = self.inputs.check(now);
        let mut problems: BTreeMap<String, NotUsable> =
            checked.into_iter().filter_map(|(input, age)| Some((input.name().to_owned(), age.err()?))).collect();
        let mut request = None;
        if problems.is_empty()
            && let Some(ticket) = self.controller.request(due)
        {
            match self.inputs.snapshot(now) {
                Ok(snapshot) => request = Some(ChunkRequest { snapshot, guidance: self.guidance(&ticket), ticket }),
                // What keeps them apart is known only together.
                Err(apart) => {
                    self.controller.abandon(&ticket);
                    problems.extend(apart);
                }
            }
        }
        Asked { request, problems }
    }

    /// Takes over what was computed for a ticket.
    pub fn install(&mut self, now: Stamp, ticket: &Ticket, chunk: ComputedChunk) -> Result<Installed, ChunkError> {
        self.controller.install(now, ticket, chunk)
    }

    /// There is no chunk for a ticket, or none that may be executed.
    pub fn give_up(&mut self, ticket: &Ticket, error: &InferenceError) {
        match error {
            InferenceError::Refused(refused) => self.controller.refuse(ticket, refused),
            _ => self.controller.abandon(ticket),
        }
    }

    /// What the controller asks for, in the form that the parameters choose.
    fn guidance(&self, ticket: &Ticket) -> Option<PrefixGuidance> {
        let (schedule, max_weight) = self.guidance;
        Some(PrefixGuidance::new(ticket.guidance.clone()?, schedule, max_weight))
    }

    /// Where the commanded joints are, when that is known now.
    fn measured(&self, now: Stamp) -> Option<Measured> {
        let (message, stamp) = self.inputs.measured(now)?;
        let (names, positions) = (message.names(), message.positions());
        let position = |joint: &String| {
            let index = names.iter().position(|name| name == joint)?;
            positions.get(index).copied().filter(|position| position.is_finite())
        };
        Some(Measured { stamp, positions: self.joints.iter().map(position).collect() })
    }
}

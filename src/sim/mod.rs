//! The closed loop in virtual time: a policy that takes so many control steps, the [`Controller`], and an arm that follows its commands.
//!
//! Shows what a way of joining chunks does to the commands before a robot is moved. Knows nothing of ROS or wall clocks.

mod arm;
mod undecided;

pub use arm::{Arm, Executes};
pub use undecided::Undecided;

use crate::control::{
    ComputedChunk, ControlConfig, ControlError, ControlStatus, Controller, GuidanceRequest, JointControl, Measured, Stamp, Tick,
    Ticket,
};

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Simulation {
    pub control: ControlConfig,
    pub arm: Arm,
    /// Control steps from an observation to its chunk.
    pub latency: usize,
    /// Control steps in all.
    pub steps: usize,
    /// Those that do not happen: the machine is busy.
    pub missed: Vec<usize>,
}

/// What a policy sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The control step of the observation, from 0.
    pub step: usize,
    /// Where the joints are, rad or m.
    pub positions: Vec<f64>,
}

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The row that the arm began to follow in each control step.
    pub commands: Vec<Option<Vec<f64>>>,
    /// Where each chunk but the first took over.
    pub borders: Vec<Border>,
    pub status: ControlStatus,
}

/// Where a chunk took over from the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Border {
    /// The first control step of the new chunk.
    pub step: usize,
    /// What would have been commanded from this step on without the new chunk, until the old one had run out.
    pub without: Vec<Vec<f64>>,
}

/// Why a simulation came to no end.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError<E> {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Policy(E),
}

impl Simulation {
    /// Runs the loop; `policy` computes a chunk for a scene, guided when it is asked to.
    pub fn run<E>(
        self,
        mut policy: impl FnMut(&Scene, Option<&GuidanceRequest>) -> Result<ComputedChunk, E>,
    ) -> Result<Outcome, SimulationError<E>> {
        let Self { control, mut arm, latency, steps, missed } = self;
        let period = control.period;
        let mut controller = Controller::new(control)?;
        controller.activate();
        let mut now = Stamp::from_nanoseconds(0);
        let mut running: Option<(usize, Ticket, ComputedChunk)> = None;
        let (mut commands, mut borders) = (Vec::new(), Vec::new());
        for step in 0..steps {
            if missed.contains(&step) {
                commands.push(arm.follow(&Tick::default(), now, period));
                now = now.after(period);
                continue;
            }
            let tick = controller.tick(now, Some(&measure(now, &arm)));
            commands.push(arm.follow(&tick, now, period));
            if let Some(ticket) = controller.request(now) {
                let scene = Scene { step, positions: arm.positions().to_vec() };
                let chunk = policy(&scene, ticket.guidance.as_ref()).map_err(SimulationError::Policy)?;
                running = Some((step + latency, ticket, chunk));
            }
            if let Some((_, ticket, chunk)) = running.take_if(|(ready, ..)| *ready <= step) {
                let without = continuation(controller.clone(), now, &arm, period);
                // A refused chunk is counted by the controller.
                if controller.install(now, &ticket, chunk).is_ok() && !without.is_empty() {
                    borders.push(Border { step: step + 1, without });
                }
            }
            now = now.after(period);
        }
        Ok(Outcome { commands, borders, status: controller.status() })
    }
}

fn measure(now: Stamp, arm: &Arm) -> Measured {
    Measured { stamp: now, positions: arm.positions().iter().copied().map(Some).collect() }
}

/// What a controller commands when no chunk comes any more.
fn continuation(mut controller: Controller, mut now: Stamp, arm: &Arm, period: f64) -> Vec<Vec<f64>> {
    let mut rows = Vec::new();
    loop {
        now = now.after(period);
        match controller.tick(now, Some(&measure(now, arm))).command {
            Some(row) => rows.push(row),
            None => return rows,
        }
    }
}

/// The largest of some distances between commands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Largest {
    /// rad or m; rad/s or m/s for a joint that takes velocities.
    pub distance: f64,
    /// The joint's column.
    pub joint: usize,
    /// The control step.
    pub step: usize,
}

impl Outcome {
    /// The largest distance of the first command of a chunk from what would have been commanded instead. Grippers are left out: they are
    /// to switch. `None` when no chunk took over from another.
    pub fn largest_jump(&self, joints: &[JointControl]) -> Option<Largest> {
        let jumps = self.borders.iter().filter_map(|border| {
            let (with, without) = (self.commands.get(border.step)?.as_ref()?, border.without.first()?);
            largest(border.step, joints, with, without)
        });
        jumps.max_by(|a, b| a.distance.total_cmp(&b.distance))
    }

    /// The largest distance of a command from the one before, grippers left out.
    pub fn largest_step(&self, joints: &[JointControl]) -> Option<Largest> {
        let pairs = self.commands.windows(2).enumerate();
        let steps = pairs.filter_map(|(index, pair)| largest(index + 1, joints, pair[1].as_ref()?, pair[0].as_ref()?));
        steps.max_by(|a, b| a.distance.total_cmp(&b.distance))
    }

    /// Share of the control steps since the first command that had one.
    pub fn commanded(&self) -> f64 {
        let since: Vec<_> = self.commands.iter().skip_while(|command| command.is_none()).collect();
        since.iter().filter(|command| command.is_some()).count() as f64 / since.len().max(1) as f64
    }
}

fn largest(step: usize, joints: &[JointControl], a: &[f64], b: &[f64]) -> Option<Largest> {
    let distances = joints.iter().zip(a.iter().zip(b)).enumerate().filter(|(_, (control, _))| !control.gripper);
    let distances = distances.map(|(joint, (_, (a, b)))| Largest { distance: (a - b).abs(), joint, step });
    distances.max_by(|a, b| a.distance.total_cmp(&b.distance))
}

//! The rules of the controller, in virtual time.

mod chunks;
mod random;
mod stops;

use super::*;
use crate::control::{CommandRows, Join, JointControl, JointLimits};

const PERIOD: f64 = 0.02;
const HORIZON: usize = 50;
const ACTION_DIM: usize = 3;

/// Turns without an end, because the rows of chunks are often numbered by their commands.
const ENDLESS: JointLimits = JointLimits { position: None, step: None, velocity: None, acceleration: None, continuous: true };

fn joint(name: &str, kind: CommandKind) -> JointControl {
    JointControl { name: name.to_owned(), kind, gripper: false, limits: ENDLESS }
}

/// An elbow and a gripper without limits; chunks of 50 rows replace each other at once after 25 rows.
fn config() -> ControlConfig {
    let gripper = JointControl { gripper: true, ..joint("gripper", CommandKind::Position) };
    ControlConfig {
        joints: vec![joint("elbow", CommandKind::Position), gripper],
        period: PERIOD,
        horizon: HORIZON,
        chunking: Chunking::None,
        replan: Replan::Drain,
        execution_horizon: 25,
        stall: StallAction::Hold,
        deadline: 10.0,
        drift: None,
        on_instruction: OnInstruction::Flush,
    }
}

/// An elbow that takes positions and a wheel that takes velocities.
fn mobile() -> ControlConfig {
    ControlConfig { joints: vec![joint("elbow", CommandKind::Position), joint("wheel", CommandKind::Velocity)], ..config() }
}

fn with_limits(mut config: ControlConfig, limits: JointLimits) -> ControlConfig {
    config.joints.iter_mut().for_each(|joint| joint.limits = limits);
    config
}

/// A controller, its clock and its robot.
#[derive(Clone)]
struct Rig {
    controller: Controller,
    now: Stamp,
    /// Where the robot is measured.
    positions: Vec<Option<f64>>,
}

impl Rig {
    /// Active, in a robot that stands at 0, one control step before the first.
    fn new(config: ControlConfig) -> Self {
        let positions = vec![Some(0.0); config.joints.len()];
        let mut controller = Controller::new(config).unwrap();
        controller.activate();
        Self { controller, now: Stamp::from_nanoseconds(1_763_640_000_000_000_000), positions }
    }

    fn pass(&mut self, milliseconds: i64) {
        self.now = self.now.after(milliseconds as f64 * 1e-3);
    }

    /// The control step of now.
    fn tick(&mut self) -> Tick {
        let measured = Measured { stamp: self.now, positions: self.positions.clone() };
        self.controller.tick(self.now, Some(&measured))
    }

    /// The next control step.
    fn step(&mut self) -> Tick {
        self.pass(20);
        self.tick()
    }

    /// What the first joint is commanded in each of the next control steps.
    fn elbow(&mut self, steps: usize) -> Vec<Option<f64>> {
        (0..steps).map(|_| self.step().command.map(|row| row[0])).collect()
    }

    #[track_caller]
    fn request(&mut self) -> Ticket {
        self.controller.request(self.now).expect("an inference is due")
    }

    /// Control steps until an inference is due.
    fn steps_until_request(&mut self) -> (usize, Ticket) {
        for steps in 1..1000 {
            self.step();
            if let Some(ticket) = self.controller.request(self.now) {
                return (steps, ticket);
            }
        }
        panic!("no inference is due");
    }

    fn install(&mut self, ticket: &Ticket, chunk: ComputedChunk) -> Result<Installed, ChunkError> {
        self.controller.install(self.now, ticket, chunk)
    }

    /// Executes a first chunk, which took so long that the next is asked for at once.
    fn with_first(config: ControlConfig, chunk: ComputedChunk) -> Self {
        let mut rig = Self::new(config);
        rig.step();
        let ticket = rig.request();
        rig.elbow(HORIZON / 2);
        rig.install(&ticket, chunk).unwrap();
        rig
    }

    /// Executes a second chunk of which row `i` commands `i`; inferences take `rows` control steps so far.
    fn with_delay(config: ControlConfig, rows: usize) -> Self {
        let mut rig = Self::with_first(config, counting(0.0));
        rig.step();
        let ticket = rig.request();
        rig.elbow(rows);
        rig.install(&ticket, counting(0.0)).unwrap();
        assert_eq!(rig.controller.status().delay_p95, Some(rows));
        rig
    }

    fn state(&self) -> ControlState {
        self.controller.status().state
    }
}

/// A chunk with these commands in each row for both joints.
fn chunk_of(values: impl Fn(usize) -> [f64; 2]) -> ComputedChunk {
    let names = ["elbow".to_owned(), "gripper".to_owned()];
    let rows = CommandRows::check(&names, HORIZON, PERIOD, (0..HORIZON).flat_map(values).collect()).unwrap();
    let model_actions = (0..HORIZON * ACTION_DIM).map(|i| (i / ACTION_DIM) as f32).collect();
    ComputedChunk { rows, model_actions, action_dim: ACTION_DIM, anchor: vec![0.5] }
}

/// A chunk of which row `i` commands `first + i`.
fn counting(first: f64) -> ComputedChunk {
    chunk_of(|row| [first + row as f64; 2])
}

/// A chunk that commands the same in every row.
fn constant(value: f64) -> ComputedChunk {
    chunk_of(|_| [value; 2])
}

fn rows(values: impl IntoIterator<Item = i32>) -> Vec<Option<f64>> {
    values.into_iter().map(|value| Some(f64::from(value))).collect()
}

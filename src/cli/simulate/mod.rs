//! `pi0_tt simulate`: what joining chunks does to the commands, before a robot is moved.

mod plot;

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::CliError;
use crate::{
    control::{
        ChunkError, Chunking, CommandRows, ComputedChunk, ControlConfig, JointControl, JointLimits, OnInstruction, Replan,
        StallAction,
    },
    model::PrefixSchedule,
    observation::{Observation, RgbImage},
    policy::{Policy, PolicyError, PolicyOptions, PrefixGuidance},
    progress, robot,
    sim::{Arm, Executes, Outcome, Scene, Simulation, SimulationError, Undecided},
};

/// Rows and seconds between them of the policy that needs no checkpoint.
const UNDECIDED: (usize, f64) = (50, 0.02);
/// Seconds after which a simulated joint has closed 63 % of the distance to its command.
const LAG: f64 = 0.06;

/// Simulate the closed loop and compare the ways of joining chunks
///
/// The loop runs in virtual time: a policy whose chunks come --latency control steps after their observation, the controller of the node,
/// and an arm whose joints follow their commands with a lag of 60 ms. It runs once for each of the modes none, crossfade and rtc, with the
/// same noise. Without --checkpoint the policy is a made-up one that wants another way with every chunk. A checkpoint sees gray images, and
/// an arm that begins with all joints at 0; no limits cut its commands.
///
/// jump: how far the first command of a chunk is from what the chunk before would have commanded instead. step: how far a command is from
/// the one before. Both are the largest of all joints that are not grippers, in rad or m (rad/s or m/s for joints that take velocities).
/// hold: the chunk ran out before the next one came.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint folder (LeRobot or openpi's PyTorch conversion) [default: a made-up policy]
    #[arg(long, value_name = "DIR", requires = "robot")]
    checkpoint: Option<PathBuf>,
    /// Robot profile: its name (aloha, aloha_sim, droid, so101) or a path
    #[arg(long, value_name = "NAME|FILE", requires = "checkpoint")]
    robot: Option<String>,
    /// What the robot is to do [default: the profile's instruction]
    #[arg(long, requires = "checkpoint")]
    instruction: Option<String>,
    /// Control steps from an observation to its chunk
    #[arg(long, value_name = "ROWS", default_value_t = 17)]
    latency: usize,
    /// Simulated time
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Rows of a chunk to execute before the next one replaces it [default: the profile's, else half of the chunk]
    #[arg(long, value_name = "ROWS", value_parser = super::positive())]
    execution_horizon: Option<usize>,
    /// Duration of a crossfade, 50 to 150
    #[arg(long, value_name = "MS", default_value_t = 100.0)]
    crossfade_ms: f64,
    /// How fast the guidance of rtc fades behind the delay
    #[arg(long, value_enum, default_value_t = PrefixSchedule::Linear)]
    schedule: PrefixSchedule,
    /// Largest weight of the guidance of rtc in a denoise step; above 0
    #[arg(long, value_name = "W", default_value_t = 10.0)]
    max_guidance_weight: f64,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    backend: super::BackendArgs,
    /// Draw the commands of one joint across the borders of its chunks in the three modes
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Why a simulated policy gave no chunk.
#[derive(Debug, thiserror::Error)]
pub enum SimulatedPolicyError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
}

/// What commands the simulated arm.
enum Simulated {
    Undecided,
    Checkpoint { policy: Box<Policy>, instruction: String },
}

/// One line of the table.
#[derive(Serialize)]
struct Row {
    mode: &'static str,
    /// rad or m; `None` when no chunk took over from another.
    largest_jump: Option<f64>,
    jump_joint: Option<String>,
    largest_step: Option<f64>,
    commands_per_second: f64,
    holds: u64,
    chunks: u64,
    refused: u64,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let mut policy = open(args)?;
    let (joints, period, horizon) = policy.robot();
    let profile_horizon = if let Simulated::Checkpoint { policy, .. } = &policy { policy.execution_horizon() } else { None };
    let steps = (f64::from(args.seconds) / period).round() as usize;
    let modes = [
        ("none", Chunking::None),
        ("crossfade", Chunking::Crossfade { seconds: args.crossfade_ms * 1e-3 }),
        ("rtc", Chunking::Rtc),
    ];
    let bar = progress::bar("Control steps", 3 * steps as u64);
    let mut outcomes = Vec::new();
    for (name, chunking) in modes {
        let control = ControlConfig {
            joints: joints.clone(),
            period,
            horizon,
            chunking,
            replan: Replan::Drain,
            execution_horizon: args.execution_horizon.or(profile_horizon).unwrap_or((horizon / 2).max(1)),
            stall: StallAction::Hold,
            deadline: f64::INFINITY,
            drift: None,
            on_instruction: OnInstruction::Flush,
        };
        let arm = Arm::new(&joints, vec![0.0; joints.len()], LAG, Executes::Trajectories);
        let simulation = Simulation { control, arm, latency: args.latency, steps, missed: Vec::new() };
        let before = outcomes.len() * steps;
        let outcome = policy.simulate(simulation, args, |step| bar.set_position((before + step) as u64))?;
        outcomes.push((name, outcome));
    }
    bar.finish_and_clear();
    if let Some(path) = &args.plot {
        plot::draw(&outcomes, &joints, period, path).map_err(|reason| CliError::Picture { path: path.clone(), reason })?;
    }
    let rows: Vec<_> = outcomes.iter().map(|(mode, outcome)| row(mode, outcome, &joints, period)).collect();
    if args.json {
        super::print_json(&rows)?;
    } else {
        super::print(table(args, &policy, horizon, &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open(args: &Args) -> Result<Simulated, CliError> {
    let (Some(checkpoint), Some(robot)) = (&args.checkpoint, &args.robot) else { return Ok(Simulated::Undecided) };
    let policy = Policy::open(&PolicyOptions {
        checkpoint: checkpoint.clone(),
        robot: robot::find(robot)?,
        backend: args.backend.options(),
        tokenizer: None,
        norm_stats: None,
        resize: None,
        seed: args.seed,
        steps: None,
    })?;
    if policy.info().synthetic {
        tracing::warn!("The weights are SYNTHETIC: these actions mean nothing");
    }
    let instruction = args.instruction.as_deref().or(policy.default_instruction()).ok_or(CliError::NoInstruction)?.to_owned();
    Ok(Simulated::Checkpoint { policy: Box::new(policy), instruction })
}

impl Simulated {
    /// The commanded joints, the seconds between two rows and the rows of a chunk.
    fn robot(&self) -> (Vec<JointControl>, f64, usize) {
        match self {
            Self::Undecided => (Undecided::joints(), UNDECIDED.1, UNDECIDED.0),
            Self::Checkpoint { policy, .. } => {
                let joint = |column: &robot::ActionColumn| JointControl {
                    name: column.joint.clone(),
                    kind: column.kind,
                    gripper: column.gripper,
                    limits: JointLimits::default(),
                };
                (policy.commands().iter().map(joint).collect(), policy.period(), policy.info().geometry.horizon)
            }
        }
    }

    /// Runs a simulation with the noise of the first chunks; `progress` is told the control step of each.
    fn simulate(&mut self, simulation: Simulation, args: &Args, progress: impl Fn(usize)) -> Result<Outcome, CliError> {
        let (schedule, max_weight) = (args.schedule, args.max_guidance_weight);
        let outcome = match self {
            Self::Undecided => {
                let mut undecided = Undecided::new(UNDECIDED.0, UNDECIDED.1, schedule, max_weight, args.seed);
                simulation.run(|scene, guidance| {
                    progress(scene.step);
                    undecided.chunk(scene, guidance).map_err(SimulatedPolicyError::from)
                })
            }
            Self::Checkpoint { policy, instruction } => {
                let mut index = 0;
                simulation.run(|scene, guidance| {
                    progress(scene.step);
                    let observation = observation(policy, scene, instruction)?;
                    let guidance = guidance.cloned().map(|request| PrefixGuidance::new(request, schedule, max_weight));
                    let chunk = policy.infer_at(&observation, index, guidance.as_ref())?;
                    index += 1;
                    let rows = CommandRows::check(&chunk.joints, chunk.horizon, chunk.period, chunk.actions)?;
                    Ok(ComputedChunk {
                        rows,
                        model_actions: chunk.model_actions,
                        action_dim: chunk.action_dim,
                        anchor: chunk.anchor,
                    })
                })
            }
        };
        outcome.map_err(|error| match error {
            SimulationError::Control(error) => CliError::Control(error),
            SimulationError::Policy(error) => CliError::Simulated(error),
        })
    }
}

/// Gray images, and the simulated joints; those of the state that are not commanded are at 0.
fn observation(policy: &Policy, scene: &Scene, instruction: &str) -> Result<Observation, PolicyError> {
    const SIDE: usize = 32;
    let gray = RgbImage::new(SIDE, SIDE, vec![128; 3 * SIDE * SIDE])?;
    let position = |joint: &String| {
        let column = policy.commands().iter().position(|command| command.joint == *joint);
        column.and_then(|column| scene.positions.get(column)).copied().unwrap_or(0.0)
    };
    Ok(Observation {
        images: policy.required_cameras().iter().map(|slot| (slot.clone(), gray.clone())).collect(),
        joints: policy.state_joints().iter().map(position).collect(),
        instruction: instruction.to_owned(),
    })
}

fn row(mode: &'static str, outcome: &Outcome, joints: &[JointControl], period: f64) -> Row {
    let jump = outcome.largest_jump(joints);
    let counts = &outcome.status.counts;
    Row {
        mode,
        largest_jump: jump.map(|jump| jump.distance),
        jump_joint: jump.and_then(|jump| joints.get(jump.joint)).map(|joint| joint.name.clone()),
        largest_step: outcome.largest_step(joints).map(|step| step.distance),
        commands_per_second: outcome.commanded() / period,
        holds: counts.stalls,
        chunks: counts.chunks,
        refused: counts.refused.values().sum(),
    }
}

fn table(args: &Args, policy: &Simulated, horizon: usize, rows: &[Row]) -> String {
    let name = match policy {
        Simulated::Undecided => "A made-up policy".to_owned(),
        Simulated::Checkpoint { policy, .. } => format!("{} on {}", policy.info().checkpoint.display(), policy.info().robot),
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name}: latency {} of {horizon} rows, {} s, seed {}", args.latency, args.seconds, args.seed);
    let width = rows.iter().flat_map(|row| &row.jump_joint).map(String::len).max().unwrap_or(0).max(5);
    let _ = writeln!(
        text,
        "{:<10} {:>10}  {:<width$} {:>10} {:>11} {:>6} {:>7} {:>8}",
        "mode", "jump", "joint", "step", "commands/s", "holds", "chunks", "refused"
    );
    let distance = |distance: Option<f64>| distance.map_or_else(|| "-".to_owned(), |distance| format!("{distance:.4}"));
    for row in rows {
        let Row { mode, largest_jump, jump_joint, largest_step, commands_per_second, holds, chunks, refused } = row;
        let (jump, joint, step) = (distance(*largest_jump), jump_joint.as_deref().unwrap_or("-"), distance(*largest_step));
        let _ = writeln!(
            text,
            "{mode:<10} {jump:>10}  {joint:<width$} {step:>10} {commands_per_second:>11.1} {holds:>6} {chunks:>7} {refused:>8}"
        );
    }
    text
}

//! `pi0_tt replay`: a policy over a recorded bag.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use super::CliError;
use crate::{
    backend::BackendKind,
    parameters::{ParameterFiles, Scalar},
    replay::{
        outputs::Recorder,
        overview::Overview,
        run::{self, NoOutputs, Remap, RunError, RunOptions},
        trace::Trace,
    },
};

/// The run ended, and not all of the bag could be read.
const DATA_LOSS: u8 = 3;

/// Run a policy over a recorded bag, in the time of the bag and without ROS
///
/// The inputs go through the same observation, control and policy code as in the node. Exit codes: 0 done; 1 when something is missing in the
/// bag, no chunk was computed, or inputs kept an observation from being made; 2 usage; 3 done, but the bag is damaged and was not read to its end.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Bag with the policy's inputs: a rosbag2 folder or an .mcap file
    bag: PathBuf,
    /// Checkpoint folder; goes before the parameter checkpoint
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Parameter file of the node /policy; of several the later one counts
    #[arg(long = "params", value_name = "FILE")]
    params: Vec<PathBuf>,
    /// Robot profile: its name or a path; goes before the parameter robot
    #[arg(long, value_name = "NAME|FILE")]
    robot: Option<String>,
    /// What computes; goes before the parameter backend
    #[arg(long, value_enum)]
    backend: Option<BackendKind>,
    /// CPU threads of the backend; goes before the parameter threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Another name for a topic of the policy, as in ROS: ~/joint_states:=/arm/joint_states
    #[arg(short = 'r', long = "remap", value_name = "FROM:=TO")]
    remaps: Vec<Remap>,
    /// Bag time from an observation to its chunk
    #[arg(long, value_name = "N", default_value_t = 100.0, value_parser = latency)]
    latency_ms: f64,
    /// Times without an observation are no failure
    #[arg(long)]
    allow_gaps: bool,
    /// Write what the node would publish into this new bag
    #[arg(long, value_name = "BAG")]
    output: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let options = RunOptions {
        bag: args.bag.clone(),
        parameters: parameters(args)?,
        remaps: args.remaps.clone(),
        latency: args.latency_ms * 1e-3,
    };
    let trace = match &args.output {
        None => run::run(options, &mut NoOutputs)?,
        Some(path) => {
            let mut recorder = Recorder::new(path)?;
            let trace = run::run(options, &mut recorder)?;
            recorder.finish()?;
            trace
        }
    };
    finish(&trace, args)
}

/// The parameters of the files, and those of the command line, which go before them.
fn parameters(args: &Args) -> Result<ParameterFiles, RunError> {
    let mut values = ParameterFiles::load(&args.params)?;
    let text = |text: String| Scalar::Text(text);
    let path = args.checkpoint.as_ref().map(|path| path.display().to_string());
    let backend = args.backend.as_ref().and_then(ValueEnum::to_possible_value).map(|value| value.get_name().to_owned());
    for (name, value, option) in [
        ("checkpoint", path.map(text), "--checkpoint"),
        ("robot", args.robot.clone().map(text), "--robot"),
        ("backend", backend.map(text), "--backend"),
        ("threads", args.threads.map(|threads| Scalar::Integer(threads.into())), "--threads"),
    ] {
        if let Some(value) = value {
            values.set(name, value, option);
        }
    }
    Ok(values)
}

/// Prints the numbers of a run and tells whether it is one to rely on.
fn finish(trace: &Trace, args: &Args) -> Result<ExitCode, CliError> {
    let overview = Overview::of(trace);
    if args.json {
        super::print_json(&overview)?;
    } else {
        super::print(&overview)?;
    }
    Ok(if trace.chunks.is_empty() {
        eprintln!("No chunk was computed, so nothing was tested");
        ExitCode::FAILURE
    } else if !trace.gaps.is_empty() && !args.allow_gaps {
        eprintln!("Inputs kept observations from being made. --allow-gaps takes that as it is");
        ExitCode::FAILURE
    } else if trace.damage.is_some() {
        ExitCode::from(DATA_LOSS)
    } else {
        ExitCode::SUCCESS
    })
}

fn latency(text: &str) -> Result<f64, String> {
    let milliseconds: f64 = text.parse().map_err(|_| "it is no number of milliseconds".to_owned())?;
    if (0.0..=600_000.0).contains(&milliseconds) { Ok(milliseconds) } else { Err("it must be 0 to 600000 ms".to_owned()) }
}

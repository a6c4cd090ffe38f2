//! `pi0_tt replay`: a policy over a recorded bag.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::ValueEnum;
use serde_json::json;

use super::CliError;
use crate::{
    backend::BackendKind,
    parameters::{ParameterFiles, Scalar},
    replay::{
        baseline::{self, RecordOptions},
        compare::{Comparison, Tier, ToleranceError, Tolerances},
        outputs::Recorder,
        overview::Overview,
        report::{self, Compared, Report},
        run::{self, NoOutputs, Remap, RunError, RunOptions},
        trace::Trace,
    },
};

/// Run a policy over a recorded bag, in the time of the bag and without ROS
///
/// The inputs go through the same observation, control and policy code as in the node. Exit codes: 0 done, and the same as the baseline; 1 when
/// it is different, something is missing in the bag, no chunk was computed, or inputs kept an observation from being made; 2 usage; 3 done, but
/// the bag is damaged and was not read to its end.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// What computes; goes before the parameter backend
    #[arg(long, value_enum)]
    backend: Option<BackendKind>,
    /// Times without an observation are no failure
    #[arg(long)]
    allow_gaps: bool,
    /// Write what the node would publish into this new bag
    #[arg(long, value_name = "BAG")]
    output: Option<PathBuf>,
    /// Keep the run in this new file, for later runs to be held against
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    record: Option<PathBuf>,
    /// Replace the file of --record if it exists
    #[arg(long, requires = "record")]
    force: bool,
    /// Hold the run against this recorded one
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    #[command(flatten)]
    scale: ScaleArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Where a report goes.
#[derive(clap::Args, Debug)]
pub struct ReportArgs {
    /// Write a page (index.html), a line of JSON per chunk (chunks.jsonl) and JUnit XML (junit.xml) into this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

impl ReportArgs {
    /// Writes the report of a run over `bag`, when one is wanted, with the frames of the worst chunk. Gives the exit code of the run.
    pub fn write(&self, bag: &Path, report: Report<'_>) -> Result<u8, CliError> {
        if let Some(folder) = &self.report {
            let worst = report.compared.and_then(|Compared { comparison, .. }| {
                let place = comparison.worst_chunk.or(comparison.first_chunk)?;
                Some(comparison.chunks.get(place)?.current)
            });
            let frames = match report.trace.chunks.get(worst.unwrap_or(0)) {
                Some(chunk) => run::frames(bag, report.trace, chunk)?,
                None => Vec::new(),
            };
            report::write(folder, &Report { frames: &frames, ..report })?;
            eprintln!("Report: {}", folder.join("index.html").display());
        }
        Ok(report.exit_code())
    }
}

/// How far two runs may be apart.
#[derive(clap::Args, Debug)]
pub struct ScaleArgs {
    /// Tolerances of every tier [default: those of config/tolerances.yaml]
    #[arg(long, value_name = "FILE")]
    tolerances: Option<PathBuf>,
    /// How strictly runs are compared [default: as strictly as their setups allow]
    #[arg(long, value_enum)]
    tier: Option<Tier>,
}

impl ScaleArgs {
    pub fn tolerances(&self) -> Result<Tolerances, ToleranceError> {
        self.tolerances.as_deref().map_or_else(|| Ok(Tolerances::default()), Tolerances::load)
    }

    pub fn compare(&self, baseline: &Trace, current: &Trace, tolerances: &Tolerances) -> Result<Comparison, ToleranceError> {
        Comparison::new(baseline, current, tolerances, self.tier)
    }
}

/// A policy and a bag.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// Bag with the policy's inputs: a rosbag2 folder, an .mcap or a .db3 file
    pub bag: PathBuf,
    /// Checkpoint folder; goes before the parameter checkpoint
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Parameter file of the node /policy; of several the later one counts
    #[arg(long = "params", value_name = "FILE")]
    params: Vec<PathBuf>,
    /// Robot profile: its name or a path; goes before the parameter robot
    #[arg(long, value_name = "NAME|FILE")]
    robot: Option<String>,
    /// CPU threads of the backend; goes before the parameter threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Another name for a topic of the policy, as in ROS: ~/joint_states:=/arm/joint_states
    #[arg(short = 'r', long = "remap", value_name = "FROM:=TO")]
    remaps: Vec<Remap>,
    /// Bag time from an observation to its chunk
    #[arg(long, value_name = "N", default_value_t = 100.0, value_parser = latency)]
    latency_ms: f64,
}

impl RunArgs {
    /// The run with `backend` instead of the parameters' when it is given.
    pub fn options(&self, backend: Option<BackendKind>) -> Result<RunOptions, RunError> {
        Ok(RunOptions {
            bag: self.bag.clone(),
            parameters: self.parameters(backend)?,
            remaps: self.remaps.clone(),
            latency: self.latency_ms * 1e-3,
        })
    }

    /// The parameters of the files, and those of the command line, which go before them.
    fn parameters(&self, backend: Option<BackendKind>) -> Result<ParameterFiles, RunError> {
        let mut values = ParameterFiles::load(&self.params)?;
        let text = |text: String| Scalar::Text(text);
        let path = self.checkpoint.as_ref().map(|path| path.display().to_string());
        let backend = backend.as_ref().and_then(ValueEnum::to_possible_value).map(|value| value.get_name().to_owned());
        for (name, value, option) in [
            ("checkpoint", path.map(text), "--checkpoint"),
            ("robot", self.robot.clone().map(text), "--robot"),
            ("backend", backend.map(text), "--backend"),
            ("threads", self.threads.map(|threads| Scalar::Integer(threads.into())), "--threads"),
        ] {
            if let Some(value) = value {
                values.set(name, value, option);
            }
        }
        Ok(values)
    }
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let options = args.run.options(args.backend)?;
    let tolerances = args.scale.tolerances()?;
    // Before the run, which may be long.
    let expected = args.baseline.as_deref().map(baseline::open).transpose()?;
    if let Some(path) = &args.record {
        baseline::check_free(path, args.force)?;
    }
    let trace = match &args.output {
        None => run::run(options, &mut NoOutputs)?,
        Some(path) => {
            let mut recorder = Recorder::new(path)?;
            let trace = run::run(options, &mut recorder)?;
            recorder.finish()?;
            trace
        }
    };
    if let Some(path) = &args.record {
        baseline::record(path, &trace, RecordOptions { force: args.force, allow_gaps: args.allow_gaps })?;
    }
    let comparison = expected.as_ref().map(|expected| args.scale.compare(expected, &trace, &tolerances)).transpose()?;
    let compared = expected.as_ref().zip(comparison.as_ref()).map(|(baseline, comparison)| Compared { baseline, comparison });
    let code =
        args.report.write(&args.run.bag, Report { trace: &trace, compared, frames: &[], gaps_allowed: args.allow_gaps })?;
    let overview = Overview::of(&trace);
    match (args.json, &comparison) {
        (true, None) => super::print_json(&overview)?,
        (true, Some(comparison)) => super::print_json(&json!({"run": overview, "comparison": comparison}))?,
        (false, None) => super::print(&overview)?,
        (false, Some(comparison)) => super::print(format!("{overview}\n{comparison}"))?,
    }
    if trace.chunks.is_empty() {
        eprintln!("No chunk was computed, so nothing was tested");
    } else if !trace.gaps.is_empty() && !args.allow_gaps {
        eprintln!("Inputs kept observations from being made. --allow-gaps takes that as it is");
    }
    Ok(ExitCode::from(code))
}

fn latency(text: &str) -> Result<f64, String> {
    let milliseconds: f64 = text.parse().map_err(|_| "it is no number of milliseconds".to_owned())?;
    if (0.0..=600_000.0).contains(&milliseconds) { Ok(milliseconds) } else { Err("it must be 0 to 600000 ms".to_owned()) }
}

//! `pi0_tt bench`: where the time of an inference goes.

mod grid;

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::ValueEnum;
use serde::Serialize;

use super::CliError;
use crate::{
    backend::{self, Backend},
    checkpoint::{Dtype, synthetic},
    model::{Camera, DenoiseRequest, Geometry, ModelInputs, Prompt, noise},
    progress,
};

/// Time the stages of an inference
///
/// Weights come from a checkpoint folder, or are synthetic for a named geometry. The first inference is a warm-up and not counted; every
/// inference has other inputs. On a card give --runs 100.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// tiny, small, base (the published sizes), or a checkpoint folder
    #[arg(long, value_name = "NAME|DIR", default_value = "base")]
    geometry: String,
    /// Number format of synthetic weights; a checkpoint keeps its own
    #[arg(long, value_enum, default_value_t = WeightFormat::F32)]
    dtype: WeightFormat,
    /// Cameras that are present
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = super::positive())]
    cameras: usize,
    /// Prompt tokens [default: 20, or as many as a smaller model takes]
    #[arg(long, value_name = "N", value_parser = super::positive())]
    tokens: Option<usize>,
    /// Euler steps
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = super::steps())]
    steps: usize,
    #[command(flatten)]
    backend: super::BackendArgs,
    /// Inferences that are counted, each with other inputs
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = super::positive())]
    runs: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// A bench.json of LeRobot on the same machine (its "runs" with TOTAL, siglip_per_image, prefill_llm, denoise_step_total): prints ratios
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// How cost grows: a table over 1 to 3 cameras, short and long prompts, 1 to 20 steps and 1 to 2 threads, and a picture of seconds over
    /// computed operations
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["cameras", "tokens", "steps", "threads", "runs", "json", "against"])]
    grid: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WeightFormat {
    F32,
    Bf16,
}

/// One stage over all runs, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Stage {
    name: &'static str,
    p50: f64,
    p90: f64,
    p99: f64,
    min: f64,
    gflop: f64,
}

#[derive(Debug, Serialize)]
struct Outcome {
    device: String,
    dtypes: String,
    cameras: usize,
    tokens: usize,
    steps: usize,
    runs: usize,
    stages: Vec<Stage>,
    /// From the start to a backend that is ready, without making synthetic weights, in seconds.
    load: f64,
    /// What the arithmetic units of this machine do at best with as many threads, in GFLOP/s; of the reference backend only.
    peak_gflops: Option<f64>,
    /// Largest resident memory of this process, in GB.
    peak_memory_gb: Option<f64>,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    if let Some(svg) = &args.grid {
        return grid::run(args, svg);
    }
    let against = args.against.as_ref().map(read_against).transpose()?;
    let outcome = measure(args)?;
    if args.json {
        super::print(format_args!("{}\n", serde_json::json!(outcome)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} ({}), {} cameras, {} prompt tokens, {} steps, {} runs after a warm-up",
        outcome.device, outcome.dtypes, outcome.cameras, outcome.tokens, outcome.steps, outcome.runs
    );
    let _ = writeln!(
        text,
        "{:<14} {:>9} {:>9} {:>9} {:>9} {:>10} {:>8} {:>10}",
        "stage", "min s", "p50 s", "p90 s", "p99 s", "GFLOP/s", "of peak", "vs LeRobot"
    );
    for stage in &outcome.stages {
        let rate = stage.gflop / stage.min;
        let ratio = against
            .as_ref()
            .and_then(|against| against.get(stage.name))
            .map_or_else(|| "-".to_owned(), |seconds| format!("{:.2}", stage.min / seconds));
        let share = outcome.peak_gflops.map_or_else(|| "-".to_owned(), |peak| format!("{:.0}%", 100.0 * rate / peak));
        let Stage { name, min, p50, p90, p99, .. } = stage;
        let _ = writeln!(text, "{name:<14} {min:>9.4} {p50:>9.4} {p90:>9.4} {p99:>9.4} {rate:>10.1} {share:>8} {ratio:>10}");
    }
    let memory = outcome.peak_memory_gb.map_or_else(|| "unknown".to_owned(), |gb| format!("{gb:.2} GB"));
    if let Some(peak) = outcome.peak_gflops {
        let _ = writeln!(text, "peak of this machine {peak:.0} GFLOP/s (multiply-adds in registers)");
    }
    let _ = writeln!(text, "ready after {:.1} s, peak memory {memory}", outcome.load);
    super::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// Seconds of one inference.
struct Times {
    vision: f64,
    prefix: f64,
    steps: Vec<f64>,
    total: f64,
}

impl Times {
    /// Inference number `index` of `model`; each has other inputs.
    fn take(model: &mut dyn Backend, geometry: &Geometry, of: (usize, usize, usize), index: u64) -> Result<Self, CliError> {
        let (cameras, tokens, steps) = of;
        let inputs = inputs(geometry, cameras, tokens, index);
        let noise = noise(0, index, geometry.horizon * geometry.action_dim);
        let request = DenoiseRequest { noise, steps, guidance: None };
        let start = Instant::now();
        let chunk = model.infer(&inputs, &request)?;
        Ok(Self {
            vision: chunk.times.vision.as_secs_f64(),
            prefix: chunk.times.prefix.as_secs_f64(),
            steps: chunk.times.steps.iter().map(|step| step.as_secs_f64()).collect(),
            total: start.elapsed().as_secs_f64(),
        })
    }
}

impl Args {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            WeightFormat::F32 => Dtype::F32,
            WeightFormat::Bf16 => Dtype::BF16,
        }
    }
}

fn measure(args: &Args) -> Result<Outcome, CliError> {
    let start = Instant::now();
    let (geometry, weights) = super::weights(&args.geometry, args.dtype())?;
    // Synthetic weights stand for a file: making them is not loading.
    let start = if Geometry::preset(&args.geometry).is_some() { Instant::now() } else { start };
    let mut model = backend::open(geometry, weights, &args.backend.options())?;
    let load = start.elapsed().as_secs_f64();

    let tokens = args.tokens.unwrap_or(geometry.prompt_slots.min(20));
    let bar = progress::bar("Inferences", args.runs as u64 + 1);
    let mut times = Vec::new();
    for index in 0..=args.runs {
        let Times { vision, prefix, steps, total } =
            Times::take(&mut *model, &geometry, (args.cameras, tokens, args.steps), index as u64)?;
        bar.inc(1);
        if index > 0 {
            times.push([vision, prefix, steps.iter().sum::<f64>() / steps.len() as f64, total]);
        }
    }
    bar.finish_and_clear();
    let flops = geometry.flops(args.cameras, tokens);
    let gflop = [flops.vision, flops.prefix, flops.step, flops.total(args.steps)].map(|flops| flops / 1e9);
    let stages = ["SigLIP", "prefix", "denoise step", "total"]
        .into_iter()
        .zip(gflop)
        .enumerate()
        .map(|(column, (name, gflop))| {
            let mut sorted: Vec<f64> = times.iter().map(|times| times[column]).collect();
            sorted.sort_by(f64::total_cmp);
            let quantile = |q: f64| sorted[((sorted.len() - 1) as f64 * q).round() as usize];
            Stage { name, min: sorted[0], p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), gflop }
        })
        .collect();
    let info = model.describe();
    Ok(Outcome {
        device: info.device,
        dtypes: info.dtypes,
        cameras: args.cameras,
        tokens,
        steps: args.steps,
        runs: args.runs,
        stages,
        load,
        peak_memory_gb: peak_memory_gb(),
        peak_gflops: model.peak_gflops(),
    })
}

/// Inputs that differ from run to run.
fn inputs(geometry: &Geometry, cameras: usize, tokens: usize, index: u64) -> ModelInputs {
    let pixels = 3 * geometry.vision.image_size.pow(2);
    let camera = |slot: usize| Camera::Present(synthetic::uniform(&format!("bench.{index}.{slot}"), pixels));
    ModelInputs {
        cameras: (0..cameras).map(camera).collect(),
        prompt: Prompt { ids: (0..tokens as u32).map(|slot| (2 + slot) % geometry.vocab_size as u32).collect() },
        state: synthetic::uniform(&format!("bench.{index}.state"), geometry.state_dim),
    }
}

/// Largest resident set of this process so far, from Linux.
fn peak_memory_gb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0 / 1e9)
}

/// The fastest seconds of each stage in LeRobot's runs, by our stage names.
fn read_against(path: &PathBuf) -> Result<BTreeMap<&'static str, f64>, CliError> {
    let failed = |reason: String| CliError::Against { path: path.clone(), reason };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let runs = json["runs"].as_array().ok_or_else(|| failed("it has no \"runs\"".into()))?;
    // The first run is LeRobot's warm-up as well.
    let fastest = |of: &dyn Fn(&serde_json::Value) -> Option<f64>| {
        runs.iter().skip(1).filter_map(of).min_by(f64::total_cmp).ok_or_else(|| failed("it has no run after the warm-up".into()))
    };
    Ok([
        ("SigLIP", fastest(&|run| run["siglip_per_image"]["total"].as_f64())?),
        ("prefix", fastest(&|run| run["prefill_llm"]["total"].as_f64())?),
        ("denoise step", fastest(&|run| run["denoise_step_total"]["mean"].as_f64())?),
        ("total", fastest(&|run| run["TOTAL"].as_f64())?),
    ]
    .into())
}

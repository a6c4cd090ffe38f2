//! `pi0_tt infer`: one chunk of actions from files, without ROS.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::CliError;
use crate::{
    observation::{CompressedImageView, JointSelector, Observation, ObservationError, ResizeKernel},
    policy::{Policy, PolicyChunk, PolicyOptions},
    robot,
};

/// Compute one chunk of actions from image files and joint values
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint folder (LeRobot or openpi's PyTorch conversion)
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Robot profile: its name (aloha, aloha_sim, droid, so101) or a path
    #[arg(long, value_name = "NAME|FILE")]
    robot: String,
    /// Image of a camera slot, JPEG or PNG; once for each camera
    #[arg(long = "image", value_name = "SLOT=FILE", value_parser = parse_pair::<PathBuf>)]
    images: Vec<(String, PathBuf)>,
    /// Values of the joints of the profile's state as sensor_msgs/JointState gives them (rad or m), separated by commas
    #[arg(long, value_name = "NAME=VALUE,...", value_delimiter = ',', value_parser = parse_pair::<f64>)]
    joints: Vec<(String, f64)>,
    /// What the robot is to do [default: the profile's instruction]
    #[arg(long)]
    instruction: Option<String>,
    #[command(flatten)]
    backend: super::BackendArgs,
    /// tokenizer.json or SentencePiece model, when the checkpoint folder has none
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// norm_stats.json of an openpi checkpoint with several assets
    #[arg(long, value_name = "FILE")]
    norm_stats: Option<PathBuf>,
    /// Overrides the resize that belongs to the checkpoint
    #[arg(long, value_enum)]
    resize: Option<ResizeKernel>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of the chunk: the same seed and number give the same noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    index: u64,
    /// Euler steps [default: the checkpoint's]
    #[arg(long, value_name = "N", value_parser = super::steps())]
    steps: Option<usize>,
    /// Print every row and the model's own output as JSON instead of a table of the first rows
    #[arg(long)]
    json: bool,
}

/// A chunk for programs.
#[derive(Serialize)]
struct Json<'a> {
    seed: u64,
    index: u64,
    joints: &'a [String],
    /// Seconds between two rows.
    period: f64,
    actions: Vec<&'a [f64]>,
    model_actions: Vec<&'a [f32]>,
    dropped_prompt_tokens: usize,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let mut policy = Policy::open(&PolicyOptions {
        checkpoint: args.checkpoint.clone(),
        robot: robot::find(&args.robot)?,
        backend: args.backend.options(),
        tokenizer: args.tokenizer.clone(),
        norm_stats: args.norm_stats.clone(),
        resize: args.resize,
        seed: args.seed,
        steps: args.steps,
    })?;
    if policy.info().synthetic {
        tracing::warn!("The weights are SYNTHETIC: these actions mean nothing");
    }
    let observation = observation(args, &policy)?;
    let chunk = policy.infer_at(&observation, args.index, None)?;
    if chunk.dropped_tokens > 0 {
        tracing::warn!("The instruction is too long for the model: {} tokens were cut off", chunk.dropped_tokens);
    }
    if args.json {
        let json = Json {
            seed: chunk.seed,
            index: chunk.index,
            joints: &chunk.joints,
            period: chunk.period,
            actions: chunk.actions.chunks(chunk.joints.len()).collect(),
            model_actions: chunk.model_actions.chunks(chunk.action_dim).collect(),
            dropped_prompt_tokens: chunk.dropped_tokens,
        };
        super::print(format_args!("{}\n", serde_json::json!(json)))?;
    } else {
        super::print(table(&policy, &chunk))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn observation(args: &Args, policy: &Policy) -> Result<Observation, CliError> {
    let mut images = BTreeMap::new();
    for (slot, path) in &args.images {
        let data = fs::read(path).map_err(|source| CliError::Read { path: path.clone(), source })?;
        let format = if data.starts_with(b"\x89PNG") { "png" } else { "jpeg" };
        let image = CompressedImageView { format, data: &data }
            .decode()
            .map_err(|source| CliError::Image { path: path.clone(), source: Box::new(source) })?;
        if images.insert(slot.clone(), image).is_some() {
            return Err(CliError::SlotTwice(slot.clone()));
        }
    }
    let (names, values): (Vec<&str>, Vec<f64>) = args.joints.iter().map(|(name, value)| (name.as_str(), *value)).unzip();
    let joints = JointSelector::new(policy.state_joints()).select(&names, &values).map_err(|error| match error {
        ObservationError::NoJoints => CliError::MissingJoints(policy.state_joints().to_vec()),
        ObservationError::MissingJoints { missing, .. } => CliError::MissingJoints(missing),
        other => CliError::Joints(other),
    })?;
    let instruction = args.instruction.as_deref().or(policy.default_instruction()).ok_or(CliError::NoInstruction)?;
    Ok(Observation { images, joints, instruction: instruction.to_owned() })
}

/// The first rows, one joint a line.
fn table(policy: &Policy, chunk: &PolicyChunk) -> String {
    const ROWS: usize = 8;
    let info = policy.info();
    let mut text = String::new();
    let shown = chunk.horizon.min(ROWS);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} on {}, {} ({}): chunk {} of seed {}, {} rows {:.3} s apart, the first {shown}:",
        info.checkpoint.display(),
        info.robot,
        info.backend.name,
        info.backend.device,
        chunk.index,
        chunk.seed,
        chunk.horizon,
        chunk.period
    );
    let width = chunk.joints.iter().map(String::len).max().unwrap_or(0);
    for (column, joint) in chunk.joints.iter().enumerate() {
        let _ = write!(text, "{joint:<width$}");
        for row in chunk.actions.chunks(chunk.joints.len()).take(shown) {
            let _ = write!(text, " {:>8.4}", row[column]);
        }
        let _ = writeln!(text);
    }
    let steps: f64 = chunk.times.steps.iter().map(std::time::Duration::as_secs_f64).sum();
    let _ = writeln!(
        text,
        "observation {:.3} s, SigLIP {:.3} s, prefix {:.3} s, {} denoise steps {steps:.3} s",
        chunk.observation_time.as_secs_f64(),
        chunk.times.vision.as_secs_f64(),
        chunk.times.prefix.as_secs_f64(),
        chunk.times.steps.len()
    );
    text
}

/// `NAME=VALUE`
fn parse_pair<T: std::str::FromStr>(text: &str) -> Result<(String, T), String>
where
    T::Err: std::fmt::Display,
{
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text} has no ="))?;
    Ok((name.to_owned(), value.parse().map_err(|error: T::Err| error.to_string())?))
}

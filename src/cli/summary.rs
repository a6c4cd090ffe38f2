//! `pi0_tt summary`: what a policy did in a recorded bag.

use std::{path::PathBuf, process::ExitCode};

use super::CliError;
use crate::replay::{ReplayError, messages::ActionChunk, messages::MessageType, summary::Recording};

/// Show what a policy node did in a recorded bag: chunk rate, stage times, input ages, diagnostics and commands
#[derive(clap::Args)]
pub struct Args {
    /// Bag with the node's action chunks: a rosbag2 folder or an .mcap file
    bag: PathBuf,
    /// Draw the commanded joints over time into this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Bag recorded at the same time that has the joint states, when BAG has none
    #[arg(long, value_name = "BAG")]
    inputs: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Prints the summary. A bag without a single chunk is an error.
pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let recording = Recording::read(&args.bag, args.inputs.as_deref())?;
    let summary = recording.summary().ok_or_else(|| ReplayError::Missing {
        path: args.bag.clone(),
        what: format!("message of type {}", ActionChunk::NAME),
        found: "its topic, with no message on it".into(),
    })?;
    if args.json {
        super::print_json(&summary)?;
    } else {
        super::print(&summary)?;
    }
    if let Some(svg) = &args.svg {
        recording.draw(svg)?;
        eprintln!("Drew {}", svg.display());
    }
    Ok(ExitCode::SUCCESS)
}

//! `pi0_tt inspect`: what a checkpoint folder holds and what is wrong with it.

use std::{path::PathBuf, process::ExitCode};

use super::CliError;
use crate::checkpoint::{OpenOptions, inspect::inspect};

/// Show what a checkpoint folder holds: family, geometry, parameters, statistics, tokenizer, and everything that is missing or wrong
///
/// The exit code is 0 when the checkpoint can be used and 1 when it cannot.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint folder: LeRobot's, or the one that openpi's PyTorch conversion wrote
    dir: PathBuf,
    /// tokenizer.json or SentencePiece .model, where it is not in the folder
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// openpi's norm_stats.json, where the folder holds those of several robots
    #[arg(long, value_name = "FILE")]
    norm_stats: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let options = OpenOptions { tokenizer: args.tokenizer.clone(), norm_stats: args.norm_stats.clone() };
    let report = inspect(&args.dir, &options);
    if args.json {
        super::print_json(&report)?;
    } else {
        super::print(format_args!("{report}\n"))?;
    }
    Ok(if report.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

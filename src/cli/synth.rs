//! `pi0_tt synth`: a synthetic checkpoint for tests, demonstrations and benches.

use std::{path::PathBuf, process::ExitCode};

use super::CliError;
use crate::{
    checkpoint::synth::{Precision, weight_bytes, write_synthetic},
    model::Geometry,
    progress,
};

/// Write a complete LeRobot checkpoint with synthetic weights (for tests and demonstrations: the actions mean nothing)
///
/// The folder holds what LeRobot 0.6 saves for pi0, with the state and action statistics of a bimanual ALOHA, and a tokenizer of 500 tokens.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder to write; it must not exist or be empty
    dir: PathBuf,
    /// Sizes of the model: tiny has every part in 2 MB, small has the true head and input sizes in 21 MB, base is the published pi0 in 13 GB (7 GB in bfloat16)
    #[arg(long, value_enum, default_value_t = Size::Tiny)]
    geometry: Size,
    /// Number format of the weights
    #[arg(long, value_enum, default_value_t = Precision::Float32)]
    dtype: Precision,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Size {
    Tiny,
    Small,
    Base,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let geometry = match args.geometry {
        Size::Tiny => Geometry::tiny(),
        Size::Small => Geometry::small(),
        Size::Base => Geometry::base(),
    };
    let bar = progress::bar("Synthetic weights", weight_bytes(&geometry, args.dtype));
    write_synthetic(&args.dir, &geometry, args.dtype, |bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    eprintln!("Wrote SYNTHETIC weights ({} parameters): the actions of this checkpoint mean nothing", geometry.parameters());
    super::print(format_args!("{}\n", args.dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

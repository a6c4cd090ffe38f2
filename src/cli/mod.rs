//! The command line: one file for each subcommand, each with its arguments and a `run`.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 refused or different, 2 usage.

pub mod bench;
pub mod compare;
pub mod coverage;
mod error;
pub mod graph;
pub mod infer;
pub mod inspect;
pub mod replay;
pub mod simulate;
pub mod summary;
pub mod synth;
pub mod verify;

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    path::PathBuf,
};

pub use error::CliError;

use crate::{
    backend::{BackendKind, BackendOptions},
    checkpoint::{Checkpoint, Dtype, Weights, synthetic},
    model::Geometry,
    progress,
};

/// Which backend computes, and how.
#[derive(clap::Args, Debug)]
pub struct BackendArgs {
    /// What computes
    #[arg(long, value_enum, default_value_t = BackendKind::Reference)]
    backend: BackendKind,
    /// CPU threads of the backend [default: all cores]
    #[arg(long, value_name = "N", value_parser = positive())]
    threads: Option<usize>,
    /// Folder for weights packed for the card [default: pi0_tt in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    weight_cache: Option<PathBuf>,
    /// Send ops to the card one by one instead of replaying captured traces: for first bring-up and simulators
    #[arg(long)]
    no_trace: bool,
}

impl BackendArgs {
    pub fn options(&self) -> BackendOptions {
        let &Self { backend: kind, threads, ref weight_cache, no_trace } = self;
        BackendOptions { kind, threads, weight_cache: weight_cache.clone(), trace: !no_trace }
    }
}

/// Synthetic weights of a named geometry in `dtype`, else the weights of a checkpoint folder in their own format.
fn weights(name: &str, dtype: Dtype) -> Result<(Geometry, Weights), CliError> {
    if let Some(geometry) = Geometry::preset(name) {
        let bar = progress::bar("Synthetic weights", geometry.parameters());
        let weights = synthetic::weights(&geometry, dtype, |made| bar.inc(made));
        bar.finish_and_clear();
        return Ok((geometry, weights));
    }
    let model = Checkpoint::open_model_only(name.as_ref())?;
    Ok((model.geometry, model.weights))
}

/// Writes a result to standard output. A reader who closed the pipe (`| head`) has seen enough, which is no error.
fn print(result: impl fmt::Display) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match write!(out, "{result}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}

/// Writes a result as JSON, indented and with its fields in their order.
fn print_json(result: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string_pretty(result).map_err(|error| CliError::Output(error.into()))?;
    print(json + "\n")
}

/// A whole number of at least 1 (clap's ranges are of u64).
fn positive() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

/// A number of Euler steps, with the limit that checkpoints and the node's parameter have.
fn steps() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=1000)
}

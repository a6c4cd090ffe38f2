//! The command line of pi0_tt. Needs no ROS.

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};
use pi0_tt::cli;
use tracing_subscriber::EnvFilter;

/// pi0 robot policies: check a checkpoint, verify the arithmetic, compute actions
#[derive(Parser)]
#[command(name = "pi0_tt", version, propagate_version = true, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(cli::bench::Args),
    Compare(cli::compare::Args),
    Coverage(cli::coverage::Args),
    Graph(cli::graph::Args),
    Infer(cli::infer::Args),
    Inspect(cli::inspect::Args),
    Replay(cli::replay::Args),
    Simulate(cli::simulate::Args),
    Summary(cli::summary::Args),
    Synth(cli::synth::Args),
    Verify(cli::verify::Args),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(io::stderr)
        .without_time()
        .init();
    let outcome = match Cli::parse().command {
        Command::Bench(args) => cli::bench::run(&args),
        Command::Compare(args) => cli::compare::run(&args),
        Command::Coverage(args) => cli::coverage::run(&args),
        Command::Graph(args) => cli::graph::run(&args),
        Command::Infer(args) => cli::infer::run(&args),
        Command::Inspect(args) => cli::inspect::run(&args),
        Command::Replay(args) => cli::replay::run(&args),
        Command::Simulate(args) => cli::simulate::run(&args),
        Command::Summary(args) => cli::summary::run(&args),
        Command::Synth(args) => cli::synth::run(&args),
        Command::Verify(args) => cli::verify::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

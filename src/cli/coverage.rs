//! `pi0_tt coverage`: what a recorded graph does on the card, and the least time that it can take.

use std::{fs, path::PathBuf, process::ExitCode};

use super::CliError;
use crate::backend::ttnn::{
    coverage::{self, Comparison, Coverage},
    record::Recording,
};

/// Show what a recorded graph does on the card: work of card and host, transfers, launches, memory, rooflines
#[derive(clap::Args)]
pub struct Args {
    /// Recording of `pi0_tt graph`
    graph: PathBuf,
    /// A second recording, to be shown beside it
    #[arg(long, value_name = "GRAPH")]
    against: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write the report as a page into this HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let coverages = std::iter::once(&args.graph)
        .chain(&args.against)
        .map(|path| {
            let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            Coverage::new(name, &Recording::read(path)?).map_err(|source| CliError::Coverage { path: path.clone(), source })
        })
        .collect::<Result<Vec<_>, CliError>>()?;
    if args.json {
        super::print_json(&coverages)?;
    } else {
        super::print(Comparison(&coverages))?;
    }
    if let Some(path) = &args.html {
        fs::write(path, coverage::page(&coverages)).map_err(|source| CliError::Write { path: path.clone(), source })?;
        eprintln!("Wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

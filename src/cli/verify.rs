//! `pi0_tt verify`: the reference backend against LeRobot's golden tensors.

use std::{path::PathBuf, process::ExitCode};

use super::CliError;
use crate::verify::verify;

/// Compare the reference backend with golden tensors made by LeRobot's own pi0
///
/// Every stored tensor is compared: resized images, each layer of SigLIP, language model and action expert, keys and values, masks,
/// positions, times, and the actions. Computes once with all rows and once with only those that can matter.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder with inputs.safetensors and intermediates.safetensors; weights come from model.safetensors there, else from the synthetic rule
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    golden: Vec<PathBuf>,
    /// Threads of the backend [default: all cores]
    #[arg(long, value_name = "N", value_parser = super::positive())]
    threads: Option<usize>,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let mut passed = true;
    for dir in &args.golden {
        let report = verify(dir, args.threads)?;
        super::print(format_args!("{report}\n\n"))?;
        passed &= report.passed();
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

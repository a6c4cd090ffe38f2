//! `pi0_tt verify`: a backend against LeRobot's golden tensors.

use std::{path::PathBuf, process::ExitCode};

use super::CliError;
use crate::{
    backend::BackendKind,
    verify::{verify, verify_card},
};

/// Compare a backend with golden tensors made by LeRobot's own pi0
///
/// On the reference backend every stored tensor is compared: resized images, each layer of SigLIP, language model and action expert,
/// keys and values, masks, positions, times, and the actions; once with all rows and once with only those that can matter. On a card
/// the keys and values that the expert reads, the expert's layers with the state token's row, and the actions.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder with inputs.safetensors and intermediates.safetensors; weights come from model.safetensors there, else from the synthetic rule
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    golden: Vec<PathBuf>,
    #[command(flatten)]
    backend: super::BackendArgs,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let mut passed = true;
    for dir in &args.golden {
        let options = args.backend.options();
        let report = match options.kind {
            BackendKind::Reference => verify(dir, options.threads)?,
            BackendKind::Ttnn | BackendKind::TtnnHost => verify_card(dir, &options)?,
        };
        super::print(format_args!("{report}\n\n"))?;
        passed &= report.passed();
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

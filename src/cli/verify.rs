//! `pi0_tt verify`: a backend against LeRobot's golden tensors.

use std::{path::PathBuf, process::ExitCode};

use super::CliError;
use crate::{
    backend::BackendKind,
    checkpoint::Dtype,
    verify::{verify, verify_against_reference, verify_card},
};

/// Euler steps of the comparison of two backends.
const STEPS: usize = 10;

/// Compare a backend with golden tensors made by LeRobot's own pi0
///
/// On the reference backend every stored tensor is compared: resized images, each layer of SigLIP, language model and action expert,
/// keys and values, masks, positions, times, and the actions; once with all rows and once with only those that can matter. On a card
/// the keys and values that the expert reads, the expert's layers with the state token's row, and the actions.
///
/// Without --golden another backend is compared with the reference backend, on a checkpoint or on synthetic weights: the check to run
/// first on a new card.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder with inputs.safetensors and intermediates.safetensors; weights come from model.safetensors there, else from the synthetic rule
    #[arg(long, value_name = "DIR", num_args = 1..)]
    golden: Vec<PathBuf>,
    /// What to compare backends on without --golden: a checkpoint folder, or small or base for synthetic weights of those sizes
    #[arg(long, value_name = "NAME|DIR", default_value = "small", conflicts_with = "golden")]
    geometry: String,
    #[command(flatten)]
    backend: super::BackendArgs,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    if args.golden.is_empty() {
        return compare_backends(args);
    }
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

/// The chosen backend against the reference.
fn compare_backends(args: &Args) -> Result<ExitCode, CliError> {
    let options = args.backend.options();
    if options.kind == BackendKind::Reference {
        return Err(CliError::NothingToCompare);
    }
    let (geometry, weights) = super::weights(&args.geometry, Dtype::BF16)?;
    let report = verify_against_reference(&geometry, weights, STEPS, &options)?;
    super::print(format_args!("{report}\n"))?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

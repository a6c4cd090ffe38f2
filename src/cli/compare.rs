//! `pi0_tt compare`: two backends over the same bag.

use std::process::ExitCode;

use clap::ValueEnum;

use super::{
    CliError,
    replay::{ReportArgs, RunArgs, ScaleArgs},
};
use crate::{
    backend::BackendKind,
    replay::{
        report::{Compared, Report},
        run::{self, NoOutputs},
        trace::Trace,
    },
};

/// Run a policy over a bag on two backends and compare what they do
///
/// One after the other, so that only one holds the weights. Exit codes: 0 the same within the tolerances, 1 different, or nothing was compared,
/// or one of them stopped; 2 usage; 3 the same, but the bag is damaged and was not read to its end.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Two backends: the second is held against the first
    #[arg(long, value_parser = pair, value_name = "A,B")]
    backends: (BackendKind, BackendKind),
    #[command(flatten)]
    scale: ScaleArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let (first, second) = args.backends;
    let tolerances = args.scale.tolerances()?;
    let trace = |backend| -> Result<Trace, CliError> { Ok(run::run(args.run.options(Some(backend))?, &mut NoOutputs)?) };
    let baseline = trace(first)?;
    let current = trace(second)?;
    let comparison = args.scale.compare(&baseline, &current, &tolerances)?;
    let compared = Compared { baseline: &baseline, comparison: &comparison };
    let report = Report { trace: &current, compared: Some(compared), frames: &[], gaps_allowed: true };
    let code = args.report.write(&args.run.bag, report)?;
    if args.json {
        super::print_json(&comparison)?;
    } else {
        super::print(&comparison)?;
    }
    Ok(ExitCode::from(code))
}

fn pair(text: &str) -> Result<(BackendKind, BackendKind), String> {
    let (first, second) = text.split_once(',').ok_or("two backends are needed, such as reference,ttnn")?;
    Ok((BackendKind::from_str(first.trim(), false)?, BackendKind::from_str(second.trim(), false)?))
}

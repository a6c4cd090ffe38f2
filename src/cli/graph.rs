//! `pi0_tt graph`: the ops of one inference on a card, recorded without card and weights.

use std::{path::PathBuf, process::ExitCode};

use super::CliError;
use crate::{
    backend::{
        Backend,
        ttnn::{
            Dispatch, Resident,
            record::{Event, Record, Recording, Workload},
            runtime::{DeviceInfo, Shapes},
            terms::CoreGrid,
        },
    },
    model::{Camera, DenoiseRequest, Geometry, Guidance, ModelInputs, Prompt},
};

/// Record the TTNN ops of one inference, without a card and without weights
///
/// The recording is JSON: every op with its operands, number formats, memory and program configurations, every transfer and every
/// freed tensor, in order. `pi0_tt coverage` explains it.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// tiny and small are for tests; base has the published sizes
    #[arg(long, value_name = "NAME", default_value = "base", value_parser = geometry)]
    geometry: Geometry,
    /// Cameras that are present
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = super::positive())]
    cameras: usize,
    /// Prompt tokens
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = super::positive())]
    tokens: usize,
    /// Euler steps
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = super::steps())]
    steps: usize,
    /// A chunk that is guided by the chunk before (real-time chunking)
    #[arg(long)]
    guided: bool,
    /// Worker cores of the card: 8x8 on an n150, 8x7 where a row is kept for dispatch
    #[arg(long, value_name = "XxY", default_value = "8x8", value_parser = grid)]
    grid: CoreGrid,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode, CliError> {
    let Args { geometry, cameras, tokens, steps, guided, grid, ref out } = *args;
    let recording = record(Workload { geometry, cameras, tokens, steps, guided }, DeviceInfo::wormhole(grid))?;
    recording.write(out)?;
    let launches = recording.events.iter().filter(|event| matches!(event, Event::Run { call, .. } if call.launches())).count();
    super::print(format_args!("{launches} launches, {} tensors\n", recording.tensors.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// One inference of `workload` on `device`, op by op.
pub fn record(workload: Workload, device: DeviceInfo) -> Result<Recording, CliError> {
    let Workload { geometry, cameras, tokens, steps, guided } = workload;
    let mut resident = Resident::without_values(Record::new(Shapes::new(device)), &geometry, Dispatch::EachOp)?;
    let pixels = vec![0.0; 3 * geometry.vision.image_size.pow(2)];
    let inputs = ModelInputs {
        cameras: vec![Camera::Present(pixels); cameras],
        prompt: Prompt { ids: vec![0; tokens] },
        state: vec![0.0; geometry.state_dim],
    };
    let chunk = vec![0.0; geometry.horizon * geometry.action_dim];
    let guidance = guided.then(|| Guidance { previous: chunk.clone(), weights: vec![0.0; geometry.horizon], max_weight: 1.0 });
    let request = DenoiseRequest { noise: chunk, steps, guidance };
    resident.infer(&inputs, &request)?;
    Ok(resident.runtime().recording(workload))
}

fn geometry(name: &str) -> Result<Geometry, String> {
    Geometry::preset(name).ok_or_else(|| "expected tiny, small or base".to_owned())
}

/// `8x8`
fn grid(text: &str) -> Result<CoreGrid, String> {
    let sides = text.split_once('x').and_then(|(x, y)| Some((x.parse().ok()?, y.parse().ok()?)));
    match sides {
        Some((x @ 1..=64, y @ 1..=64)) => Ok(CoreGrid { x, y }),
        _ => Err("expected columns x rows, such as 8x8".to_owned()),
    }
}

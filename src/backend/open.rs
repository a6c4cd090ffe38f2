//! Opens the backend that was chosen.

use std::path::PathBuf;

#[cfg(feature = "ttnn")]
use super::ttnn::device::{Device, DeviceOptions};
use super::{
    Backend, BackendError,
    reference::{Reference, ReferenceOptions},
    ttnn::{
        self, Dispatch, Resident,
        cache::{self, PackedWeights},
        host::{Host, Numerics},
        runtime::{DeviceInfo, Runtime},
        terms::CoreGrid,
    },
};
use crate::{checkpoint::Weights, model::Geometry};

/// Which backend computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendKind {
    /// The CPU in float32
    Reference,
    /// A Tenstorrent card
    Ttnn,
    /// The card's graph on the CPU in the card's number formats: slow, to see what the card will compute
    #[value(name = "ttnn_host")]
    TtnnHost,
}

/// How a backend computes.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    pub kind: BackendKind,
    /// CPU threads; `None` takes all cores.
    pub threads: Option<usize>,
    /// Folder of the weights packed for the card; `None` is [`cache::default_folder`].
    pub weight_cache: Option<PathBuf>,
    /// Whether the card replays captured traces, rather than getting op after op.
    pub trace: bool,
}

impl BackendOptions {
    /// A backend as it is without any choice.
    pub fn new(kind: BackendKind) -> Self {
        Self { kind, threads: None, weight_cache: None, trace: true }
    }
}

/// A backend with the weights of a model of `geometry`, which are let go as they are packed.
pub fn open(geometry: Geometry, weights: Weights, options: &BackendOptions) -> Result<Box<dyn Backend>, BackendError> {
    match options.kind {
        BackendKind::Reference => {
            let reference = ReferenceOptions { threads: options.threads, ..Default::default() };
            Ok(Box::new(Reference::new(geometry, weights, reference)?))
        }
        BackendKind::Ttnn => card(geometry, &weights, options),
        BackendKind::TtnnHost => {
            let name = "CPU in the number formats of a Wormhole card".to_owned();
            let device = DeviceInfo { name, ..DeviceInfo::wormhole(CoreGrid { x: 8, y: 8 }) };
            let host = Host::new(device, Numerics::Kernels).on(pool("ttnn_host", options.threads)?);
            resident(host, "ttnn_host", geometry, &weights, Dispatch::EachOp, options)
        }
    }
}

#[cfg(feature = "ttnn")]
fn card(geometry: Geometry, weights: &Weights, options: &BackendOptions) -> Result<Box<dyn Backend>, BackendError> {
    // The card first: a mistake there should not wait for gigabytes of weights.
    let device = Device::open(DeviceOptions { id: 0, trace_region_bytes: super::ttnn::TRACE_REGION_BYTES })?;
    let dispatch = if options.trace { Dispatch::Trace } else { Dispatch::EachOp };
    resident(device, "ttnn", geometry, weights, dispatch, options)
}

#[cfg(not(feature = "ttnn"))]
fn card(_: Geometry, _: &Weights, _: &BackendOptions) -> Result<Box<dyn Backend>, BackendError> {
    Err(BackendError::NotBuilt)
}

fn resident<R: Runtime + 'static>(
    runtime: R,
    name: &'static str,
    geometry: Geometry,
    weights: &Weights,
    dispatch: Dispatch,
    options: &BackendOptions,
) -> Result<Box<dyn Backend>, BackendError> {
    ttnn::check_model(&geometry, weights)?;
    let folder = options.weight_cache.clone().map_or_else(cache::default_folder, Ok)?;
    let packed = PackedWeights::open_or_pack(&folder, &geometry, weights)?;
    Ok(Box::new(Resident::new(runtime, name, &geometry, weights, dispatch, &mut |recipe| packed.get(recipe))?))
}

/// CPU threads of a backend; `None` takes all cores.
pub fn pool(name: &'static str, threads: Option<usize>) -> Result<rayon::ThreadPool, BackendError> {
    let threads = threads.unwrap_or(0);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| BackendError::Threads { threads, reason: error.to_string() })
}

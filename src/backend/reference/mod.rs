//! π0 on the CPU in float32: the oracle that every other backend is held against.
//!
//! The arithmetic is LeRobot's (which is openpi's PyTorch port): float32 projections, norms and softmax, time embedding in float64
//! rounded once, exact `t = 1 + k dt`. Weights stay in the checkpoint's format, packed for the kernels, and are widened as they are used.

mod attention;
mod gemma;
mod linear;
mod loader;
mod suffix;
mod vision;
mod workspace;

#[cfg(test)]
pub(crate) mod tests;

use std::time::Instant;

use self::{
    gemma::{Gemma, LayerCache, Pass, Until},
    loader::Loader,
    suffix::Suffix,
    vision::Vision,
    workspace::Workspace,
};
use super::{
    Backend, BackendError, BackendInfo, NoProbe, PrefixCache, Probe, check,
    kernels::gemm::{Instructions, peak_gflops},
    open::pool,
};
use crate::{
    checkpoint::{Tensor, Weights},
    model::{Camera, Chunk, DenoiseRequest, Geometry, ModelInputs, Rope, Sequence, StageTimes, layout},
};

/// Whether rows that cannot change the result are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// Rows of masked cameras and of prompt padding are left out, and the last prefix layer stops after its keys and values.
    #[default]
    Needed,
    /// Everything is computed and masked, as LeRobot does. For verification.
    All,
}

/// How the reference backend computes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceOptions {
    pub rows: Rows,
    /// Threads; `None` takes all cores.
    pub threads: Option<usize>,
}

/// π0 on the CPU.
pub struct Reference {
    geometry: Geometry,
    rows: Rows,
    vision: Vision,
    embed_tokens: Tensor,
    vlm: Gemma,
    suffix: Suffix,
    workspace: Workspace,
    pool: rayon::ThreadPool,
    info: BackendInfo,
}

/// Prefix keys and values with the sequence that they belong to.
struct Prefix {
    sequence: Sequence,
    layers: Vec<LayerCache>,
}

impl Reference {
    /// Packs the weights of a model of `geometry`, and lets each tensor go when it is packed.
    pub fn new(geometry: Geometry, weights: Weights, options: ReferenceOptions) -> Result<Self, BackendError> {
        check::weights(&geometry, &weights)?;
        let pool = pool("reference", options.threads)?;
        let (dtypes, weight_bytes) = (dtypes(&weights), weights.bytes());
        let mut loader = Loader::new(weights);
        let (embed_tokens, vision, vlm, suffix) = pool.install(|| {
            Ok::<_, BackendError>((
                loader.tensor(&format!("{}.embed_tokens.weight", layout::VLM))?,
                Vision::load(&mut loader, geometry.vision)?,
                Gemma::load(&mut loader, layout::VLM, geometry.vlm)?,
                Suffix::load(&mut loader, &geometry)?,
            ))
        })?;
        let device = format!("CPU with {}, {} threads", Instructions::detect().name(), pool.current_num_threads());
        let info = BackendInfo { name: "reference", device, dtypes, weight_bytes };
        Ok(Self { geometry, rows: options.rows, vision, embed_tokens, vlm, suffix, workspace: Workspace::default(), pool, info })
    }

    /// Changes which rows are computed from now on.
    pub fn compute(&mut self, rows: Rows) {
        self.rows = rows;
    }

    /// [`Backend::prefix`] that shows every intermediate to `probe`.
    pub fn prefix_probed(&mut self, inputs: &ModelInputs, probe: &mut (dyn Probe + Send)) -> Result<PrefixCache, BackendError> {
        check::inputs(&self.geometry, inputs)?;
        let sequence = Sequence::new(&self.valid(inputs), self.geometry.horizon);
        let mut workspace = std::mem::take(&mut self.workspace);
        let prefix = self.pool.install(|| self.prefix_of(inputs, sequence, &mut workspace, probe));
        self.workspace = workspace;
        Ok(prefix)
    }

    /// [`Backend::denoise`] that shows every intermediate to `probe`.
    pub fn denoise_probed(
        &mut self,
        prefix: &PrefixCache,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        probe: &mut (dyn Probe + Send),
    ) -> Result<Chunk, BackendError> {
        check::request(&self.geometry, inputs, request)?;
        let Prefix { sequence, layers } = prefix.payload()?;
        let Self { suffix, workspace, pool, .. } = self;
        let (actions, steps) =
            pool.install(|| suffix.denoise(&sequence.suffix, layers, &inputs.state, request, workspace, probe))?;
        Ok(Chunk { actions, times: StageTimes { steps, ..prefix.times.clone() } })
    }

    /// Which of the computed prefix rows are real.
    fn valid(&self, inputs: &ModelInputs) -> Vec<bool> {
        let tokens = self.geometry.vision.tokens();
        let cameras = inputs.cameras.iter().flat_map(|camera| std::iter::repeat_n(matches!(camera, Camera::Present(_)), tokens));
        let prompt = (0..self.geometry.prompt_slots).map(|slot| slot < inputs.prompt.ids.len());
        let all = cameras.chain(prompt);
        match self.rows {
            Rows::All => all.collect(),
            Rows::Needed => all.filter(|&valid| valid).collect(),
        }
    }

    fn prefix_of(
        &self,
        inputs: &ModelInputs,
        sequence: Sequence,
        workspace: &mut Workspace,
        probe: &mut dyn Probe,
    ) -> PrefixCache {
        if probe.watches() {
            for (name, rows) in [("positions.prefix", &sequence.prefix), ("positions.suffix", &sequence.suffix)] {
                probe.tensor(name, 1, &rows.positions.iter().map(|&position| position as f32).collect::<Vec<_>>());
            }
        }
        let start = Instant::now();
        // A masked camera is what LeRobot feeds for a missing one: every value -1.
        let black = vec![-1.0; 3 * self.geometry.vision.image_size.pow(2)];
        let (slots, images): (Vec<usize>, Vec<&[f32]>) = inputs
            .cameras
            .iter()
            .enumerate()
            .filter_map(|(slot, camera)| match (camera, self.rows) {
                (Camera::Present(pixels), _) => Some((slot, pixels.as_slice())),
                (Camera::Masked, Rows::All) => Some((slot, black.as_slice())),
                (Camera::Masked, Rows::Needed) => None,
            })
            .unzip();
        let mut h = self.vision.forward(&images, &slots, workspace, probe);
        let vision = start.elapsed();

        let start = Instant::now();
        let width = self.geometry.vlm.width;
        let padding = match self.rows {
            Rows::All => self.geometry.prompt_slots - inputs.prompt.ids.len(),
            Rows::Needed => 0,
        };
        let scale = (width as f64).sqrt() as f32;
        let first = h.len();
        for &id in inputs.prompt.ids.iter().chain(std::iter::repeat_n(&0, padding)) {
            let row = h.len();
            h.resize(row + width, 0.0);
            self.embed_tokens.data().widen_into(id as usize * width, &mut h[row..]);
            h[row..].iter_mut().for_each(|value| *value *= scale);
        }
        probe.tensor("prefix.lang_embs", width, &h[first..]);
        probe.tensor("prefix.embs", width, &h);

        let mut layers = Vec::with_capacity(self.geometry.vlm.depth);
        let until = match self.rows {
            Rows::All => Until::Output,
            Rows::Needed => Until::LastKeyValues,
        };
        let rope = Rope::new(&sequence.prefix.positions, self.geometry.vlm.head_dim);
        let pass = Pass { rows: &sequence.prefix, rope: &rope, past: &[], until, tag: "prefix" };
        self.vlm.forward(&mut h, pass, workspace, probe, Some(&mut layers));
        if until == Until::Output {
            probe.tensor("prefix.out", width, &h);
        }
        let times = StageTimes { vision, prefix: start.elapsed(), steps: Vec::new() };
        PrefixCache::new(times, Prefix { sequence, layers })
    }
}

impl Backend for Reference {
    fn describe(&self) -> BackendInfo {
        self.info.clone()
    }

    fn prefix(&mut self, inputs: &ModelInputs) -> Result<PrefixCache, BackendError> {
        self.prefix_probed(inputs, &mut NoProbe)
    }

    fn denoise(&mut self, prefix: &PrefixCache, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        self.denoise_probed(prefix, inputs, request, &mut NoProbe)
    }

    fn peak_gflops(&self) -> Option<f64> {
        Some(self.pool.install(peak_gflops))
    }

    fn infer_probed(
        &mut self,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        probe: &mut (dyn Probe + Send),
    ) -> Result<Chunk, BackendError> {
        let prefix = self.prefix_probed(inputs, probe)?;
        self.denoise_probed(&prefix, inputs, request, probe)
    }
}

/// The number formats of the weights in words, largest share first.
fn dtypes(weights: &Weights) -> String {
    let mut bytes = std::collections::BTreeMap::new();
    for (_, tensor) in weights.iter() {
        *bytes.entry(tensor.dtype()).or_insert(0) += tensor.bytes();
    }
    let mut shares: Vec<_> = bytes.into_iter().collect();
    shares.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    let names: Vec<String> = shares.iter().map(|(dtype, _)| dtype.to_string()).collect();
    format!("{} weights, float32 arithmetic", names.join(" + "))
}

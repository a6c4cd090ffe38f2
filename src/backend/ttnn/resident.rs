//! A π0 that stays on a runtime: weights, persistent inputs, captured traces.

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;

use super::{
    graph::{self, Denoise, GuidedStep, KeyValues, Model, Ops, Prefix, Schedule, model::suffix_rows, prefill::padded_rows},
    inputs,
    pack::{pack, unpack},
    runtime::{Runtime, RuntimeError},
    terms::{DataType, MemoryConfig, Shape},
    weights::{Recipe, patch_columns, recipes},
};
use crate::{
    backend::{Backend, BackendError, BackendInfo, PrefixCache, Probe, check},
    checkpoint::{Tensor, Weights},
    model::{Chunk, DenoiseRequest, EulerSchedule, Geometry, ModelInputs, StageTimes, layout},
};

/// Kinds of prefix that are kept ready, the least recently used one goes first. Each holds its tables, its keys and values, and what its
/// traces allocate in DRAM: tens of MB for up to three cameras on 64 cores, hundreds where hidden activations do not fit into L1.
const KEPT_SESSIONS: usize = 8;
/// DRAM for the traces of all kept sessions, in each of the card's 12 banks: 3,177 launches of about 5 kB, with room for the guided loop
/// beside the free one.
pub const TRACE_REGION_BYTES: usize = KEPT_SESSIONS * (3 << 20);

/// How ops reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// Captured once for each combination of cameras, prompt length, steps and guidance or none, then replayed.
    Trace,
    /// Op by op: for first bring-up, simulators and the CPU.
    EachOp,
}

/// π0 on the runtime `R`.
pub struct Resident<R: Runtime> {
    runtime: R,
    model: Model<R::Tensor>,
    dispatch: Dispatch,
    info: BackendInfo,
    /// What the schedules and the prompt are made of; absent when the runtime holds no values.
    source: Option<Source>,
    /// By number of steps.
    schedules: BTreeMap<usize, Schedule<R::Tensor>>,
    /// Inputs of guided loops, by number of steps.
    guided: BTreeMap<usize, Vec<GuidedStep<R::Tensor>>>,
    /// Most recently used last.
    sessions: Vec<Session<R>>,
    /// Counts computed prefixes: only the newest one's keys and values are still there.
    generation: u64,
}

struct Source {
    weights: Weights,
    embed_tokens: Tensor,
}

/// A kind of denoise loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Loop {
    steps: usize,
    guided: bool,
}

impl From<&DenoiseRequest> for Loop {
    fn from(request: &DenoiseRequest) -> Self {
        Self { steps: request.steps, guided: request.guidance.is_some() }
    }
}

/// Present cameras and prompt tokens: what the shapes of a prefix depend on.
type Key = (usize, usize);

struct Session<R: Runtime> {
    key: Key,
    prefix: Prefix<R::Tensor>,
    denoise: Denoise<R::Tensor>,
    patches: R::Tensor,
    prompt: R::Tensor,
    state: R::Tensor,
    noise: R::Tensor,
    vision: Stage<R, R::Tensor>,
    prefill: Stage<R, Vec<KeyValues<R::Tensor>>>,
    loops: BTreeMap<Loop, Stage<R, R::Tensor>>,
}

/// A part of the graph with its newest output, and its trace once it is captured.
struct Stage<R: Runtime, T> {
    output: Option<T>,
    trace: Option<R::Trace>,
}

impl<R: Runtime, T> Default for Stage<R, T> {
    fn default() -> Self {
        Self { output: None, trace: None }
    }
}

impl<R: Runtime, T> Stage<R, T> {
    /// Computes the output anew.
    fn run(
        &mut self,
        runtime: &mut R,
        dispatch: Dispatch,
        name: &str,
        probe: Option<&mut (dyn Probe + Send)>,
        graph: impl Fn(&mut Ops<'_, R>) -> Result<T, RuntimeError>,
    ) -> Result<&T, RuntimeError> {
        match (dispatch, &self.trace) {
            (Dispatch::Trace, Some(trace)) => runtime.replay(trace)?,
            (Dispatch::Trace, None) => {
                // Once op by op, so that every program is compiled: nothing may be compiled inside of a capture.
                drop(self.output.take());
                drop(Ops::new(runtime, None).scope(name, &graph)?);
                runtime.begin_capture()?;
                let output = Ops::new(runtime, None).scope(name, &graph);
                // A capture that failed is closed before anything else reaches the device.
                let trace = runtime.end_capture();
                self.output = Some(output?);
                runtime.replay(self.trace.insert(trace?))?;
            }
            (Dispatch::EachOp, _) => {
                drop(self.output.take());
                let probe = probe.map(|probe| probe as &mut (dyn Probe + Send));
                self.output = Some(Ops::new(runtime, probe).scope(name, &graph)?);
            }
        }
        self.output.as_ref().ok_or(RuntimeError::NoValues)
    }
}

/// Payload of a [`PrefixCache`].
struct Computed {
    key: Key,
    generation: u64,
}

impl<R: Runtime> Resident<R> {
    /// Uploads the weights; `packed` gives the bytes of one.
    pub fn new(
        mut runtime: R,
        name: &'static str,
        geometry: &Geometry,
        weights: &Weights,
        dispatch: Dispatch,
        packed: &mut dyn FnMut(&Recipe) -> Result<Bytes, RuntimeError>,
    ) -> Result<Self, BackendError> {
        check_model(geometry, weights)?;
        let embed_tokens = format!("{}.embed_tokens.weight", layout::VLM);
        let embed_tokens = weights.get(&embed_tokens).ok_or(BackendError::MissingTensor(embed_tokens))?.clone();
        let recipes = recipes(geometry);
        let model = Model::load(&mut runtime, geometry, &recipes, packed)?;
        Ok(Self::with_model(runtime, name, model, &recipes, dispatch, Some(Source { weights: weights.clone(), embed_tokens })))
    }

    /// Without values, on a runtime that holds none.
    pub fn without_values(mut runtime: R, geometry: &Geometry, dispatch: Dispatch) -> Result<Self, BackendError> {
        supported(geometry)?;
        let recipes = recipes(geometry);
        let model = Model::load(&mut runtime, geometry, &recipes, &mut |_| Err(RuntimeError::NoValues))?;
        Ok(Self::with_model(runtime, "shapes", model, &recipes, dispatch, None))
    }

    fn with_model(
        runtime: R,
        name: &'static str,
        model: Model<R::Tensor>,
        recipes: &[Recipe],
        dispatch: Dispatch,
        source: Option<Source>,
    ) -> Self {
        let info = BackendInfo {
            name,
            device: runtime.device().name.clone(),
            dtypes: "bfloat8_b weights (bfloat16 in the prefix's attention), bfloat16 activations, float32 sums".to_owned(),
            weight_bytes: recipes.iter().map(|recipe| recipe.spec.bytes() as u64).sum(),
        };
        let (schedules, guided) = (BTreeMap::new(), BTreeMap::new());
        Self { runtime, model, dispatch, info, source, schedules, guided, sessions: Vec::new(), generation: 0 }
    }

    pub fn runtime(&self) -> &R {
        &self.runtime
    }

    fn infer_with(
        &mut self,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        mut probe: Option<&mut (dyn Probe + Send)>,
    ) -> Result<Chunk, BackendError> {
        let geometry = self.model.geometry;
        check::inputs(&geometry, inputs)?;
        check::request(&geometry, inputs, request)?;
        let key = key(inputs);
        self.prepare(key, Some(request.into()))?;
        // Everything that a chunk needs goes up before its first op.
        self.write_observation(key, inputs)?;
        self.write_request(key, inputs, request)?;
        let times = self.run_prefix(key, reborrow(&mut probe))?;
        self.run_denoise(key, request.into(), times, probe)
    }

    /// Makes everything that must exist before a trace is captured.
    ///
    /// A tensor that is made while a trace exists may lie where the trace writes. So traces go first, and are captured again when
    /// they are next used.
    fn prepare(&mut self, key: Key, denoise: Option<Loop>) -> Result<(), BackendError> {
        if let Some(found) = self.sessions.iter().position(|session| session.key == key) {
            let session = self.sessions.remove(found);
            self.sessions.push(session);
        } else {
            self.drop_traces();
            if self.sessions.len() == KEPT_SESSIONS {
                self.sessions.remove(0);
            }
            let session = Session::new(&mut self.runtime, &self.model, key)?;
            self.sessions.push(session);
        }
        let Some(Loop { steps, guided }) = denoise else { return Ok(()) };
        if !self.schedules.contains_key(&steps) {
            self.drop_traces();
            let euler = EulerSchedule::new(steps).ok_or(BackendError::NoSteps)?;
            let weights = self.source.as_ref().map(|source| &source.weights);
            let schedule = Schedule::new(&mut self.runtime, &self.model, weights, euler)?;
            self.schedules.insert(steps, schedule);
        }
        if guided && !self.guided.contains_key(&steps) {
            self.drop_traces();
            let inputs = graph::guided_steps(&mut self.runtime, &self.model.geometry, steps)?;
            self.guided.insert(steps, inputs);
        }
        Ok(())
    }

    /// Whether [`Resident::prepare`] has nothing to make for this loop.
    fn has(&self, Loop { steps, guided }: Loop) -> bool {
        self.schedules.contains_key(&steps) && (!guided || self.guided.contains_key(&steps))
    }

    fn drop_traces(&mut self) {
        for session in &mut self.sessions {
            session.vision = Stage::default();
            session.prefill = Stage::default();
            session.loops.clear();
        }
        // The keys and values went with them.
        self.generation += 1;
    }

    fn write_observation(&mut self, key: Key, inputs: &ModelInputs) -> Result<(), BackendError> {
        let Self { runtime, model, source, sessions, .. } = self;
        let session = newest(sessions, key)?;
        let spec = runtime.spec(&session.patches);
        runtime.write(&session.patches, pack(&spec, &inputs::patches(&model.geometry, inputs)))?;
        let spec = runtime.spec(&session.prompt);
        let prompt = match source {
            Some(source) => inputs::prompt(&source.embed_tokens, &inputs.prompt.ids, spec.shape.rows()),
            None => vec![0.0; spec.shape.volume()],
        };
        Ok(runtime.write(&session.prompt, pack(&spec, &prompt))?)
    }

    fn write_request(&mut self, key: Key, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<(), BackendError> {
        let Geometry { horizon, action_dim, state_dim, .. } = self.model.geometry;
        let Self { runtime, sessions, guided, .. } = self;
        let session = newest(sessions, key)?;
        let mut write = |tensor, values: &[f32], width, first| {
            let spec = runtime.spec(tensor);
            runtime.write(tensor, pack(&spec, &inputs::placed(values, width, first, spec.shape.rows())))
        };
        write(&session.state, &inputs.state, state_dim, horizon)?;
        write(&session.noise, &request.noise, action_dim, 0)?;
        if let Some(guidance) = &request.guidance {
            let steps = guided.get(&request.steps).ok_or(BackendError::ForeignCache)?;
            let schedule = EulerSchedule::new(request.steps).ok_or(BackendError::NoSteps)?;
            for (step, GuidedStep { x_factor, velocity_factor, pull }) in steps.iter().enumerate() {
                let values = inputs::guidance(guidance, schedule, step, action_dim);
                for (tensor, values) in [x_factor, velocity_factor, pull].into_iter().zip(values) {
                    write(tensor, &values, action_dim, 0)?;
                }
            }
        }
        Ok(())
    }

    fn run_prefix(&mut self, key: Key, mut probe: Option<&mut (dyn Probe + Send)>) -> Result<StageTimes, BackendError> {
        let Self { runtime, model, dispatch, sessions, generation, .. } = self;
        let Session { prefix, patches, prompt, vision, prefill, .. } = newest(sessions, key)?;
        *generation += 1;
        let start = Instant::now();
        let images = vision.run(runtime, *dispatch, "vision", reborrow(&mut probe), |ops| {
            graph::vision(ops, model, patches, &prefix.position)
        })?;
        runtime.synchronize()?;
        let vision = start.elapsed();
        let start = Instant::now();
        prefill.run(runtime, *dispatch, "prefill", probe, |ops| graph::prefill(ops, model, prefix, images, prompt))?;
        runtime.synchronize()?;
        Ok(StageTimes { vision, prefix: start.elapsed(), steps: Vec::new() })
    }

    fn run_denoise(
        &mut self,
        key: Key,
        kind: Loop,
        times: StageTimes,
        probe: Option<&mut (dyn Probe + Send)>,
    ) -> Result<Chunk, BackendError> {
        let Geometry { horizon, action_dim, .. } = self.model.geometry;
        let Loop { steps, guided } = kind;
        let Self { runtime, model, dispatch, sessions, schedules, guided: inputs, .. } = self;
        let Session { denoise, state, noise, prefill, loops, .. } = newest(sessions, key)?;
        let (Some(schedule), Some(cache)) = (schedules.get(&steps), &prefill.output) else {
            return Err(BackendError::ForeignCache);
        };
        let guided = match (guided, inputs.get(&steps)) {
            (true, Some(inputs)) => Some(inputs.as_slice()),
            (true, None) => return Err(BackendError::ForeignCache),
            (false, _) => None,
        };
        let start = Instant::now();
        let actions = loops.entry(kind).or_default().run(runtime, *dispatch, "denoise", probe, |ops| {
            graph::denoise(ops, model, (denoise, schedule), guided, cache, [state, noise])
        })?;
        let spec = runtime.spec(actions);
        let values = unpack(&spec, &runtime.download(actions)?);
        // The steps run as one: their times are equal shares.
        let step = start.elapsed() / steps.try_into().unwrap_or(u32::MAX);
        Ok(Chunk { actions: values[..horizon * action_dim].to_vec(), times: StageTimes { steps: vec![step; steps], ..times } })
    }
}

impl<R: Runtime> Backend for Resident<R> {
    fn describe(&self) -> BackendInfo {
        self.info.clone()
    }

    fn prefix(&mut self, inputs: &ModelInputs) -> Result<PrefixCache, BackendError> {
        check::inputs(&self.model.geometry, inputs)?;
        let key = key(inputs);
        self.prepare(key, None)?;
        self.write_observation(key, inputs)?;
        let times = self.run_prefix(key, None)?;
        Ok(PrefixCache::new(times, Computed { key, generation: self.generation }))
    }

    fn denoise(&mut self, prefix: &PrefixCache, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        check::inputs(&self.model.geometry, inputs)?;
        check::request(&self.model.geometry, inputs, request)?;
        let &Computed { key, generation } = prefix.payload()?;
        if key != self::key(inputs) {
            return Err(BackendError::ForeignCache);
        }
        if generation != self.generation {
            return Err(BackendError::StaleCache);
        }
        if !self.has(request.into()) {
            // A loop's tensors are made while no trace exists, which takes the keys and values along: compute them again.
            self.prepare(key, Some(request.into()))?;
            self.write_observation(key, inputs)?;
            self.run_prefix(key, None)?;
            // It is the same prefix again, and no other one was computed since.
            self.generation = generation;
        }
        self.write_request(key, inputs, request)?;
        self.run_denoise(key, request.into(), prefix.times.clone(), None)
    }

    fn infer(&mut self, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        self.infer_with(inputs, request, None)
    }

    /// Op by op: a trace has no intermediate that could be read.
    fn infer_probed(
        &mut self,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        probe: &mut (dyn Probe + Send),
    ) -> Result<Chunk, BackendError> {
        self.drop_traces();
        let dispatch = std::mem::replace(&mut self.dispatch, Dispatch::EachOp);
        let chunk = self.infer_with(inputs, request, Some(probe));
        self.dispatch = dispatch;
        chunk
    }
}

impl<R: Runtime> Session<R> {
    fn new(runtime: &mut R, model: &Model<R::Tensor>, key: Key) -> Result<Self, RuntimeError> {
        let (cameras, tokens) = key;
        let geometry = &model.geometry;
        let prefix = Prefix::new(runtime, model, cameras, tokens)?;
        let denoise = Denoise::new(runtime, geometry, cameras, tokens)?;
        let images = cameras * geometry.vision.tokens();
        let prompt_rows = padded_rows(geometry, cameras, tokens) - images;
        let suffix = suffix_rows(geometry);
        runtime.enter("inputs");
        let mut input = |name, rows, columns, dtype| {
            let shape = Shape::matrix(rows, columns);
            runtime.enter(name);
            let tensor = graph::model::constant(runtime, shape, dtype, MemoryConfig::DramInterleaved, &vec![0.0; shape.volume()]);
            runtime.leave();
            tensor
        };
        let patches = input("patches", images, patch_columns(&geometry.vision), DataType::Bfloat16)?;
        let prompt = input("prompt", prompt_rows, geometry.vlm.width, DataType::Bfloat16)?;
        let state = input("state", suffix, geometry.state_dim, DataType::Float32)?;
        let noise = input("noise", suffix, geometry.action_dim, DataType::Float32)?;
        runtime.leave();
        let (vision, prefill) = (Stage::default(), Stage::default());
        Ok(Self { key, prefix, denoise, patches, prompt, state, noise, vision, prefill, loops: BTreeMap::new() })
    }
}

fn key(inputs: &ModelInputs) -> Key {
    (inputs::cameras(inputs), inputs.prompt.ids.len())
}

/// The session that [`Resident::prepare`] put last.
fn newest<R: Runtime>(sessions: &mut [Session<R>], key: Key) -> Result<&mut Session<R>, BackendError> {
    sessions.last_mut().filter(|session| session.key == key).ok_or(BackendError::ForeignCache)
}

fn reborrow<'a>(probe: &'a mut Option<&mut (dyn Probe + Send)>) -> Option<&'a mut (dyn Probe + Send)> {
    match probe {
        Some(probe) => Some(&mut **probe),
        None => None,
    }
}

/// Whether the graph can express the model. To be asked before any long work.
pub fn check_model(geometry: &Geometry, weights: &Weights) -> Result<(), BackendError> {
    check::weights(geometry, weights)?;
    supported(geometry)
}

fn supported(geometry: &Geometry) -> Result<(), BackendError> {
    let tile = super::terms::TILE;
    let unsupported = |what: String| Err(BackendError::Unsupported { what });
    if !geometry.vision.tokens().is_multiple_of(tile) {
        return unsupported(format!("{} tokens an image (a multiple of {tile} is needed)", geometry.vision.tokens()));
    }
    for (name, gemma) in [("language model", geometry.vlm), ("action expert", geometry.expert)] {
        if gemma.kv_heads != 1 {
            return unsupported(format!("{} key heads of the {name} (one is needed)", gemma.kv_heads));
        }
    }
    if geometry.vlm.head_dim != geometry.expert.head_dim || geometry.vlm.depth != geometry.expert.depth {
        return unsupported("towers of different head sizes or depths".to_owned());
    }
    Ok(())
}

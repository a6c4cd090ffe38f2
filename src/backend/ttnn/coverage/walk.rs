//! Goes through a recording once: checks it, follows the memory of its tensors, and picks out the events of one chunk.

use serde::Serialize;

use crate::backend::ttnn::{
    op::{Op, OpError},
    plan,
    record::{Event, Recording, TensorId},
    terms::{MemoryConfig, TensorSpec},
};

/// A recording that cannot be what `pi0_tt graph` wrote.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    #[error("Event {event} names the tensor {tensor}, which does not exist then. Record the graph again with `pi0_tt graph`")]
    Tensor { event: usize, tensor: TensorId },
    #[error("Event {event}: {source}. Record the graph again with `pi0_tt graph`")]
    Op { event: usize, source: OpError },
    #[error("Event {event}: {op} gives {inferred:?} and {recorded:?} are recorded. Record the graph again with `pi0_tt graph`")]
    Outputs { event: usize, op: &'static str, inferred: Vec<TensorSpec>, recorded: Vec<TensorSpec> },
    #[error("Event {event} ends or replays what was not begun. Record the graph again with `pi0_tt graph`")]
    Unpaired { event: usize },
    #[error("The recording computes nothing: no op comes before a download")]
    NoChunk,
}

/// Something that happens, with the scopes around it.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    pub scopes: Vec<String>,
    pub action: Action<'a>,
}

#[derive(Clone, Debug)]
pub enum Action<'a> {
    Run {
        call: &'a Op,
        inputs: Vec<TensorSpec>,
        outputs: Vec<TensorSpec>,
        /// Bytes of the weights and biases among the operands.
        weight_bytes: u64,
    },
    /// Host to device, a new tensor.
    Upload { tensor: TensorId },
    /// Host to device, into a tensor that exists.
    Write { tensor: TensorId },
    /// Device to host.
    Download { tensor: TensorId },
}

/// The most that tensors take at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HighWater {
    /// Bytes of DRAM.
    pub dram_bytes: u64,
    /// Bytes of L1 in the fullest core. Circular buffers come on top.
    pub l1_bytes: u64,
}

pub struct Walk<'a> {
    /// What happens once: weights, tables, first runs that compile programs.
    pub setup: Vec<Step<'a>>,
    /// What happens for one chunk: from its first input to its actions.
    pub chunk: Vec<Step<'a>>,
    pub high_water: HighWater,
    /// The scopes in which each tensor was made.
    pub origins: Vec<Vec<String>>,
}

impl<'a> Walk<'a> {
    pub fn new(recording: &'a Recording) -> Result<Self, CoverageError> {
        let tensors = recording.tensors.len();
        let mut walker = Walker {
            recording,
            scopes: Vec::new(),
            live: vec![None; tensors],
            storages: Vec::new(),
            uploaded: vec![false; tensors],
            held: HighWater::default(),
            high_water: HighWater::default(),
            origins: vec![Vec::new(); tensors],
            steps: Vec::new(),
            capture: None,
            traces: Vec::new(),
        };
        for (number, event) in recording.events.iter().enumerate() {
            walker.event(number, event)?;
        }
        let Walker { steps, high_water, origins, .. } = walker;
        let (setup, chunk) = split(steps)?;
        Ok(Self { setup, chunk, high_water, origins })
    }
}

/// Setup and the first chunk: from its first input, or its first op where no input is rewritten, to its download. Where traces are
/// replayed, ops outside of them were there to compile the programs.
fn split(steps: Vec<Placed<'_>>) -> Result<(Vec<Step<'_>>, Vec<Step<'_>>), CoverageError> {
    let first = |kind: fn(&Action<'_>) -> bool| steps.iter().position(|placed| kind(&placed.step.action));
    let run = first(|action| matches!(action, Action::Run { .. })).ok_or(CoverageError::NoChunk)?;
    let start = first(|action| matches!(action, Action::Write { .. })).unwrap_or(run);
    let download = steps[start..].iter().position(|placed| matches!(placed.step.action, Action::Download { .. }));
    let end = download.map_or(steps.len(), |after| start + after + 1);
    let traced = steps.iter().any(|placed| placed.traced);
    let (mut setup, mut chunk) = (Vec::new(), Vec::new());
    for (index, Placed { step, traced: of_trace }) in steps.into_iter().enumerate().take(end) {
        let compiles = traced && !of_trace && matches!(step.action, Action::Run { .. });
        if index < start || compiles { &mut setup } else { &mut chunk }.push(step);
    }
    if chunk.iter().any(|step| matches!(step.action, Action::Run { .. })) {
        Ok((setup, chunk))
    } else {
        Err(CoverageError::NoChunk)
    }
}

/// A step, and whether it ran as part of a trace.
struct Placed<'a> {
    step: Step<'a>,
    traced: bool,
}

/// A tensor's memory, which its views share.
struct Storage {
    memory: MemoryConfig,
    /// In all of DRAM, or in the fullest core's L1.
    bytes: u64,
    tensors: usize,
}

struct Walker<'a> {
    recording: &'a Recording,
    scopes: Vec<String>,
    /// Index of the storage of each tensor that is on the device.
    live: Vec<Option<usize>>,
    storages: Vec<Storage>,
    uploaded: Vec<bool>,
    held: HighWater,
    high_water: HighWater,
    origins: Vec<Vec<String>>,
    steps: Vec<Placed<'a>>,
    capture: Option<Vec<Step<'a>>>,
    traces: Vec<Vec<Step<'a>>>,
}

impl<'a> Walker<'a> {
    fn event(&mut self, number: usize, event: &'a Event) -> Result<(), CoverageError> {
        let unpaired = || CoverageError::Unpaired { event: number };
        match event {
            Event::Enter { scope } => self.scopes.push(scope.clone()),
            Event::Leave => drop(self.scopes.pop().ok_or_else(unpaired)?),
            &Event::Upload { tensor } => {
                let spec = *self.recording.tensors.get(tensor).ok_or(CoverageError::Tensor { event: number, tensor })?;
                self.make(tensor, spec, None);
                self.uploaded[tensor] = true;
                self.step(Action::Upload { tensor });
            }
            &Event::Write { tensor } => {
                self.spec(number, tensor)?;
                self.step(Action::Write { tensor });
            }
            &Event::Download { tensor } => {
                self.spec(number, tensor)?;
                self.step(Action::Download { tensor });
            }
            Event::Run { call, inputs, outputs } => self.run(number, call, inputs, outputs)?,
            &Event::Deallocate { tensor } => {
                self.spec(number, tensor)?;
                self.free(tensor);
            }
            Event::BeginCapture => self.capture = Some(Vec::new()),
            Event::EndCapture => self.traces.push(self.capture.take().ok_or_else(unpaired)?),
            &Event::Replay { trace } => {
                let steps = self.traces.get(trace).ok_or_else(unpaired)?;
                self.steps.extend(steps.iter().map(|step| Placed { step: step.clone(), traced: true }));
            }
        }
        Ok(())
    }

    fn run(&mut self, number: usize, call: &'a Op, inputs: &[TensorId], outputs: &[TensorId]) -> Result<(), CoverageError> {
        let specs = inputs.iter().map(|&tensor| self.spec(number, tensor)).collect::<Result<Vec<_>, _>>()?;
        let inferred = call.infer(&specs).map_err(|source| CoverageError::Op { event: number, source })?;
        let recorded = outputs
            .iter()
            .map(|&tensor| self.recording.tensors.get(tensor).copied().ok_or(CoverageError::Tensor { event: number, tensor }))
            .collect::<Result<Vec<_>, _>>()?;
        if inferred != recorded {
            return Err(CoverageError::Outputs { event: number, op: call.name(), inferred, recorded });
        }
        let view_of = if call.launches() { None } else { inputs.first().and_then(|&tensor| self.live[tensor]) };
        for (&tensor, &spec) in outputs.iter().zip(&recorded) {
            self.make(tensor, spec, view_of);
        }
        let product = matches!(call, Op::Linear { .. } | Op::MinimalMatmulSplit { .. });
        let weights = inputs.iter().zip(&specs).skip(1).filter(|&(&tensor, _)| product && self.uploaded[tensor]);
        let weight_bytes = weights.map(|(_, spec)| spec.bytes() as u64).sum();
        self.step(Action::Run { call, inputs: specs, outputs: recorded, weight_bytes });
        Ok(())
    }

    fn step(&mut self, action: Action<'a>) {
        let step = Step { scopes: self.scopes.clone(), action };
        match &mut self.capture {
            Some(capture) => capture.push(step),
            None => self.steps.push(Placed { step, traced: false }),
        }
    }

    /// What a tensor on the device is.
    fn spec(&self, event: usize, tensor: TensorId) -> Result<TensorSpec, CoverageError> {
        match (self.live.get(tensor), self.recording.tensors.get(tensor)) {
            (Some(Some(_)), Some(&spec)) => Ok(spec),
            _ => Err(CoverageError::Tensor { event, tensor }),
        }
    }

    /// `tensor` is in range.
    fn make(&mut self, tensor: TensorId, spec: TensorSpec, view_of: Option<usize>) {
        let storage = view_of.unwrap_or_else(|| {
            let bytes = match spec.memory {
                MemoryConfig::DramInterleaved => spec.bytes() as u64,
                MemoryConfig::L1Interleaved => plan::l1_share(&self.recording.device, &spec) as u64,
            };
            *self.held.of(spec.memory) += bytes;
            self.high_water.dram_bytes = self.high_water.dram_bytes.max(self.held.dram_bytes);
            self.high_water.l1_bytes = self.high_water.l1_bytes.max(self.held.l1_bytes);
            self.storages.push(Storage { memory: spec.memory, bytes, tensors: 0 });
            self.storages.len() - 1
        });
        self.storages[storage].tensors += 1;
        self.live[tensor] = Some(storage);
        self.origins[tensor] = self.scopes.clone();
    }

    fn free(&mut self, tensor: TensorId) {
        let Some(storage) = self.live[tensor].take() else { return };
        let storage = &mut self.storages[storage];
        storage.tensors -= 1;
        if storage.tensors == 0 {
            *self.held.of(storage.memory) -= storage.bytes;
        }
    }
}

impl HighWater {
    fn of(&mut self, memory: MemoryConfig) -> &mut u64 {
        match memory {
            MemoryConfig::DramInterleaved => &mut self.dram_bytes,
            MemoryConfig::L1Interleaved => &mut self.l1_bytes,
        }
    }
}

//! What a recorded graph does on the card, what is left to the host, and the least time that it can take.

mod cost;
mod figures;
mod html;
mod module;
mod text;
mod walk;

use std::{cmp::Reverse, ops::Add};

use serde::Serialize;

pub use html::page;
pub use module::Module;
pub use text::Comparison;
pub use walk::{CoverageError, HighWater};

use super::{
    op::Op,
    plan::DRAM_BYTES_PER_NS,
    record::{Recording, Workload},
    runtime::DeviceInfo,
    terms::TensorSpec,
};
use cost::Cost;
use walk::{Action, Step, Walk};

/// Numbers of cores that rooflines are given for: all of an n150, and of a chip whose dispatch takes a row of its grid.
const CORES: [usize; 2] = [64, 56];

/// The report of one recording.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// What tells it from another one.
    pub name: String,
    pub workload: Workload,
    pub device: DeviceInfo,
    /// In the order of [`Module::ALL`].
    pub modules: Vec<Share>,
    /// In the order in which they run.
    pub stages: Vec<Stage>,
    /// All stages, one after the other.
    pub total: Stage,
    /// Launches by op, most first.
    pub launches: Vec<(&'static str, usize)>,
    /// Of one chunk, in order.
    pub transfers: Vec<Transfer>,
    pub setup: Setup,
    pub high_water: HighWater,
}

/// What a module does, on the card and on the host.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    pub module: Module,
    /// For one chunk. Views are ops, though none that the card runs.
    pub card: Work,
    /// For one chunk: inputs that the host makes and outputs that it takes.
    pub host: Work,
    /// Before the first chunk: tables that the host makes, weights apart.
    pub once: Work,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    pub ops: usize,
    pub flops: u64,
    /// Read and written.
    pub bytes: u64,
}

/// A part of the graph that runs as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stage {
    pub name: String,
    pub launches: usize,
    /// Ops that are none to the card.
    pub views: usize,
    pub flops: u64,
    pub weight_bytes: u64,
    pub dram_bytes: u64,
    /// Nanoseconds of one core's matrix engine.
    #[serde(skip)]
    engine_ns: f64,
    pub rooflines: Vec<Roofline>,
    /// Of the products with their program configurations, one after the other: each the slower of its busiest core's arithmetic and
    /// of reading its weight.
    pub products_ms: f64,
}

/// The least time of a stage: the slower of arithmetic and DRAM, both at full speed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Roofline {
    pub cores: usize,
    pub compute_ms: f64,
    pub dram_ms: f64,
    pub ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Up,
    Down,
}

/// Tensors that cross between host and card with no op between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transfer {
    pub direction: Direction,
    pub tensors: Vec<Crossing>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Crossing {
    /// Where in the graph the tensor was made.
    pub name: String,
    pub spec: TensorSpec,
    pub bytes: u64,
}

/// What is done once, before the first chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Setup {
    pub uploads: usize,
    pub bytes: u64,
    pub launches: usize,
}

impl Coverage {
    pub fn new(name: String, recording: &Recording) -> Result<Self, CoverageError> {
        let walk = Walk::new(recording)?;
        let mut coverage = Self {
            name,
            workload: recording.workload,
            device: recording.device.clone(),
            modules: Module::ALL.map(Share::new).to_vec(),
            stages: Vec::new(),
            total: Stage { name: "total".to_owned(), ..Stage::default() },
            launches: Vec::new(),
            transfers: Vec::new(),
            setup: Setup::default(),
            high_water: walk.high_water,
        };
        for step in &walk.setup {
            coverage.set_up(recording, step);
        }
        let mut transferring = false;
        for step in &walk.chunk {
            let (direction, tensor) = match &step.action {
                Action::Run { call, inputs, outputs, weight_bytes } => {
                    coverage.run(&step.scopes, call, &Cost::of(call, inputs, outputs), *weight_bytes);
                    transferring = false;
                    continue;
                }
                &(Action::Upload { tensor } | Action::Write { tensor }) => (Direction::Up, tensor),
                &Action::Download { tensor } => (Direction::Down, tensor),
            };
            coverage.transfer(direction, &walk.origins[tensor], recording.tensors[tensor], transferring);
            transferring = true;
        }
        coverage.finish();
        Ok(coverage)
    }

    /// The card's share of the floating-point operations of a chunk.
    pub fn flops_on_card(&self) -> f64 {
        let sum = |work: fn(&Share) -> u64| self.modules.iter().map(work).sum::<u64>() as f64;
        let card = sum(|share| share.card.flops);
        card / (card + sum(|share| share.host.flops))
    }

    /// Batches, tensors and bytes that cross for one chunk.
    pub fn crossings(&self, direction: Direction) -> (usize, usize, u64) {
        let batches = || self.transfers.iter().filter(|transfer| transfer.direction == direction);
        let tensors = || batches().flat_map(|transfer| &transfer.tensors);
        (batches().count(), tensors().count(), tensors().map(|crossing| crossing.bytes).sum())
    }

    fn set_up(&mut self, recording: &Recording, step: &Step<'_>) {
        match step.action {
            Action::Run { call, .. } => self.setup.launches += usize::from(call.launches()),
            Action::Upload { tensor } | Action::Write { tensor } => {
                let bytes = recording.tensors[tensor].bytes() as u64;
                self.setup.uploads += 1;
                self.setup.bytes += bytes;
                // What inputs hold before the first chunk is nothing yet.
                let table = step.scopes.first().is_none_or(|scope| scope != "inputs");
                if let (true, Some(module)) = (table, Module::of_upload(&step.scopes)) {
                    self.share(module).once.count(0, bytes);
                }
            }
            Action::Download { .. } => {}
        }
    }

    fn run(&mut self, scopes: &[String], call: &Op, cost: &Cost, weight_bytes: u64) {
        let name = scopes.first().map_or("other", String::as_str);
        let index = self.stages.iter().position(|stage| stage.name == name).unwrap_or_else(|| {
            self.stages.push(Stage { name: name.to_owned(), ..Stage::default() });
            self.stages.len() - 1
        });
        let stage = &mut self.stages[index];
        stage.launches += usize::from(call.launches());
        stage.views += usize::from(!call.launches());
        stage.flops += cost.flops;
        stage.weight_bytes += weight_bytes;
        stage.dram_bytes += cost.dram_bytes;
        stage.engine_ns += cost.engine_ns;
        stage.products_ms += cost.product.map_or(0.0, |product| product.total() / 1e6);
        if call.launches() {
            match self.launches.iter_mut().find(|(name, _)| *name == call.name()) {
                Some((_, count)) => *count += 1,
                None => self.launches.push((call.name(), 1)),
            }
        }
        self.share(Module::of_op(scopes, call)).card.count(cost.flops, cost.bytes);
    }

    fn transfer(&mut self, direction: Direction, origin: &[String], spec: TensorSpec, continues: bool) {
        let bytes = spec.bytes() as u64;
        let module = match direction {
            Direction::Up => Module::of_upload(origin).unwrap_or(Module::Common),
            Direction::Down => Module::Denoise,
        };
        let geometry = &self.workload.geometry;
        // Embedded tokens are scaled, noise is drawn, factors of the guidance are computed. Everything else is moved.
        let flops = match (direction, module) {
            (Direction::Up, Module::Prefix) => self.workload.tokens * geometry.vlm.width,
            (Direction::Up, Module::Denoise) => geometry.horizon * geometry.action_dim,
            _ => 0,
        };
        self.share(module).host.count(flops as u64, bytes);
        let crossing = Crossing { name: origin.join("/"), spec, bytes };
        match self.transfers.last_mut() {
            Some(batch) if continues && batch.direction == direction => batch.tensors.push(crossing),
            _ => self.transfers.push(Transfer { direction, tensors: vec![crossing] }),
        }
    }

    fn finish(&mut self) {
        for stage in &mut self.stages {
            let dram_ms = stage.dram_bytes as f64 / DRAM_BYTES_PER_NS / 1e6;
            let roofline = |cores| {
                let compute_ms = stage.engine_ns / cores as f64 / 1e6;
                Roofline { cores, compute_ms, dram_ms, ms: compute_ms.max(dram_ms) }
            };
            stage.rooflines = CORES.map(roofline).to_vec();
        }
        let total = &mut self.total;
        total.rooflines = CORES.map(|cores| Roofline { cores, compute_ms: 0.0, dram_ms: 0.0, ms: 0.0 }).to_vec();
        for stage in &self.stages {
            total.launches += stage.launches;
            total.views += stage.views;
            total.flops += stage.flops;
            total.weight_bytes += stage.weight_bytes;
            total.dram_bytes += stage.dram_bytes;
            total.products_ms += stage.products_ms;
            for (total, stage) in total.rooflines.iter_mut().zip(&stage.rooflines) {
                total.compute_ms += stage.compute_ms;
                total.dram_ms += stage.dram_ms;
                total.ms += stage.ms;
            }
        }
        self.launches.sort_by_key(|&(name, count)| (Reverse(count), name));
    }

    fn share(&mut self, module: Module) -> &mut Share {
        // One for each module, in the order of the enum.
        &mut self.modules[module as usize]
    }
}

impl Share {
    fn new(module: Module) -> Self {
        Self { module, card: Work::default(), host: Work::default(), once: Work::default() }
    }
}

impl Work {
    fn count(&mut self, flops: u64, bytes: u64) {
        *self = *self + Self { ops: 1, flops, bytes };
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { ops: self.ops + other.ops, flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

#[cfg(test)]
mod tests;

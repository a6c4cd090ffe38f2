//! What a policy did in a recorded bag: rates, times, ages, diagnostics and commands.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    cdr,
    error::{CdrError, ReplayError},
    messages::{ActionChunk, DiagnosticArray, DiagnosticStatus, JointState, MessageType},
    plot,
    reader::BagReader,
};

/// Rows of the first chunk that are shown.
const ROWS: usize = 5;

/// A bag of a policy's outputs, decoded.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    /// Log time (nanoseconds) and chunk, in log-time order.
    chunks: Vec<(u64, ActionChunk)>,
    /// By status name.
    diagnostics: BTreeMap<String, Status>,
    /// Values of each joint over time, in seconds since the epoch.
    measured: BTreeMap<String, Vec<(f64, f64)>>,
}

/// What the diagnostics said under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub reports: usize,
    pub ok: usize,
    /// The last report that was not OK.
    pub problem: Option<String>,
    /// Values of the last report.
    pub values: BTreeMap<String, String>,
}

impl Status {
    fn add(&mut self, report: DiagnosticStatus) {
        self.reports += 1;
        match report.level {
            0 => self.ok += 1,
            level => {
                let level = ["OK", "WARN", "ERROR", "STALE"].get(usize::from(level)).unwrap_or(&"unknown level");
                self.problem = Some(format!("{level}, {}", report.message));
            }
        }
        self.values = report.values.into_iter().map(|value| (value.key, value.value)).collect();
    }
}

/// The numbers of a recording. Times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub bag: PathBuf,
    pub chunks: usize,
    /// From the first to the last chunk.
    pub span: f64,
    /// `None` for a single chunk.
    pub chunks_per_second: Option<f64>,
    pub backend: String,
    pub instruction: String,
    pub seed: u64,
    pub horizon: u32,
    pub period: f64,
    /// In the order in which they run.
    pub stages: Vec<Stage>,
    pub input_ages: Vec<Age>,
    pub diagnostics: BTreeMap<String, Status>,
    pub first_chunk: Rows,
}

/// Wall time of one stage over all chunks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    pub name: &'static str,
    pub p50: f64,
    pub p90: f64,
}

/// Age of one input over all chunks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Age {
    pub name: String,
    pub median: f64,
    pub max: f64,
}

/// Commands in the robot's units.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rows {
    pub joints: Vec<String>,
    /// Seconds after the chunk's planned start, and one value per joint.
    pub rows: Vec<(f64, Vec<f64>)>,
}

impl Recording {
    /// Reads the outputs of a policy. `inputs` is a bag on the same clock that has the joint states when `outputs` does not.
    pub fn read(outputs: &Path, inputs: Option<&Path>) -> Result<Self, ReplayError> {
        let bag = BagReader::open(outputs)?;
        let chunks_topic = bag.topic_of_type(ActionChunk::NAME)?.0;
        let diagnostics_topic = bag.topic_of_type(DiagnosticArray::NAME).ok().map(|(topic, _)| topic);
        let mut recording =
            Self { path: outputs.into(), chunks: Vec::new(), diagnostics: BTreeMap::new(), measured: BTreeMap::new() };
        let mut read = vec![0_u64; bag.topics().len()];
        for message in bag.messages() {
            let message = message?;
            let index = read[message.topic];
            read[message.topic] += 1;
            let topic = || bag.topics()[message.topic].name.clone();
            let wrong =
                |type_name, error: CdrError| ReplayError::Message { topic: topic(), index, type_name, reason: error.to_string() };
            if message.topic == chunks_topic {
                let chunk: ActionChunk = cdr::decode(&message.data).map_err(|error| wrong(ActionChunk::NAME, error))?;
                check_shape(&chunk).map_err(|reason| ReplayError::Message {
                    topic: topic(),
                    index,
                    type_name: ActionChunk::NAME,
                    reason,
                })?;
                recording.chunks.push((message.log_time, chunk));
            } else if Some(message.topic) == diagnostics_topic {
                let array: DiagnosticArray = cdr::decode(&message.data).map_err(|error| wrong(DiagnosticArray::NAME, error))?;
                for report in array.status {
                    recording.diagnostics.entry(report.name.clone()).or_default().add(report);
                }
            }
        }
        recording.measured = match inputs {
            Some(inputs) => joint_curves(&BagReader::open(inputs)?)?,
            None => joint_curves(&bag)?,
        };
        Ok(recording)
    }

    /// The numbers; `None` when no chunk was recorded.
    pub fn summary(&self) -> Option<Summary> {
        let (start, first) = self.chunks.first()?;
        let (end, last) = self.chunks.last()?;
        let span = (end - start) as f64 * 1e-9;
        let each = |value: fn(&ActionChunk) -> f64| self.chunks.iter().map(|(_, chunk)| value(chunk)).collect::<Vec<_>>();
        let stage = |name, value| {
            let times = each(value);
            Stage { name, p50: quantile(&times, 0.5), p90: quantile(&times, 0.9) }
        };
        let mut ages = BTreeMap::<&str, Vec<f64>>::new();
        for age in self.chunks.iter().flat_map(|(_, chunk)| &chunk.input_ages) {
            ages.entry(&age.name).or_default().push(age.age);
        }
        let rows = first.actions.chunks(first.joint_names.len().max(1)).take(ROWS);
        Some(Summary {
            bag: self.path.clone(),
            chunks: self.chunks.len(),
            span,
            chunks_per_second: (span > 0.0).then(|| (self.chunks.len() - 1) as f64 / span),
            backend: last.backend.clone(),
            instruction: last.instruction.clone(),
            seed: last.seed,
            horizon: last.horizon,
            period: last.period,
            stages: vec![
                stage("observation", |chunk| chunk.stage_times.observation),
                stage("vision", |chunk| chunk.stage_times.vision),
                stage("prefix", |chunk| chunk.stage_times.prefix),
                stage("denoise (all steps)", |chunk| chunk.stage_times.denoise_steps.iter().sum()),
                stage("total", |chunk| chunk.stage_times.total),
            ],
            input_ages: ages
                .into_iter()
                .map(|(name, ages)| Age { name: name.into(), median: quantile(&ages, 0.5), max: quantile(&ages, 1.0) })
                .collect(),
            diagnostics: self.diagnostics.clone(),
            first_chunk: Rows {
                joints: first.joint_names.clone(),
                rows: rows.enumerate().map(|(row, values)| (row as f64 * first.period, values.to_vec())).collect(),
            },
        })
    }

    /// Draws every commanded joint over time.
    pub fn draw(&self, svg: &Path) -> Result<(), ReplayError> {
        let chunks: Vec<_> = self.chunks.iter().map(|(_, chunk)| chunk).collect();
        plot::draw(&chunks, &self.measured, svg)
    }
}

/// The matrix must have the size that the chunk says, and its rows a time.
fn check_shape(chunk: &ActionChunk) -> Result<(), String> {
    let (rows, columns, found) = (chunk.horizon as usize, chunk.joint_names.len(), chunk.actions.len());
    if rows.checked_mul(columns) != Some(found) {
        return Err(format!("it announces {rows} rows of {columns} joints and holds {found} actions"));
    }
    if !(chunk.period.is_finite() && chunk.period > 0.0) {
        return Err(format!("its rows are {} s apart", chunk.period));
    }
    Ok(())
}

/// Joint positions over stamps from every JointState topic.
fn joint_curves(bag: &BagReader) -> Result<BTreeMap<String, Vec<(f64, f64)>>, ReplayError> {
    let mut curves = BTreeMap::<String, Vec<(f64, f64)>>::new();
    let mut index = 0;
    for message in bag.messages() {
        let message = message?;
        let topic = &bag.topics()[message.topic];
        if topic.type_name != JointState::NAME {
            continue;
        }
        let state: JointState = cdr::decode(&message.data).map_err(|error| ReplayError::Message {
            topic: topic.name.clone(),
            index,
            type_name: JointState::NAME,
            reason: error.to_string(),
        })?;
        index += 1;
        let time = state.header.stamp.seconds();
        for (name, position) in state.name.into_iter().zip(state.position) {
            curves.entry(name).or_default().push((time, position));
        }
    }
    Ok(curves)
}

/// Nearest-rank quantile of at least one value.
pub(super) fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (at * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.bag.display())?;
        write!(f, "  chunks       {} in {:.2} s", self.chunks, self.span)?;
        if let Some(rate) = self.chunks_per_second {
            write!(f, ", {rate:.2} per second")?;
        }
        writeln!(f)?;
        let (horizon, period) = (self.horizon, self.period);
        writeln!(f, "  each         {horizon} rows, {:.0} ms apart, backend {}, seed {}", period * 1e3, self.backend, self.seed)?;
        writeln!(f, "  instruction  {:?}", self.instruction)?;

        writeln!(f, "\n  {:<22}{:>12}{:>12}", "stage", "p50 / ms", "p90 / ms")?;
        for stage in &self.stages {
            writeln!(f, "  {:<22}{:>12.1}{:>12.1}", stage.name, stage.p50 * 1e3, stage.p90 * 1e3)?;
        }
        writeln!(f, "\n  {:<22}{:>12}{:>12}", "age of input", "median / ms", "max / ms")?;
        for age in &self.input_ages {
            writeln!(f, "  {:<22}{:>12.1}{:>12.1}", age.name, age.median * 1e3, age.max * 1e3)?;
        }
        if !self.diagnostics.is_empty() {
            writeln!(f, "\n  {:<22}{:>12}  counters at the end", "diagnostics", "reports OK")?;
        }
        for (name, status) in &self.diagnostics {
            // Names are "<node>: <subject>".
            let subject = name.rsplit(": ").next().unwrap_or(name);
            let counters = status.values.iter().filter(|(_, value)| value.parse::<u64>().is_ok());
            let counters: Vec<_> = counters.map(|(key, value)| format!("{key} {value}")).collect();
            writeln!(f, "  {subject:<22}{:>12}  {}", format!("{} of {}", status.ok, status.reports), counters.join(", "))?;
        }
        for (name, status) in &self.diagnostics {
            if let Some(problem) = &status.problem {
                writeln!(f, "  last problem of {name}: {problem}")?;
            }
        }
        writeln!(f, "\n  first rows of the first chunk, in the robot's units")?;
        write!(f, "  {:<22}", "joint")?;
        for (time, _) in &self.first_chunk.rows {
            write!(f, "{:>12}", format!("+{:.0} ms", time * 1e3))?;
        }
        writeln!(f)?;
        for (joint, name) in self.first_chunk.joints.iter().enumerate() {
            write!(f, "  {name:<22}")?;
            for (_, values) in &self.first_chunk.rows {
                write!(f, "{:>12.4}", values[joint])?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

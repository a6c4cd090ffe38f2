//! The numbers of a run.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    summary::{Age, Stage, quantile},
    trace::{BagInput, ChunkTrace, Gap, Outcome, Trace},
};

/// The numbers of a run, for a person or a program. Times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    pub bag: String,
    pub backend: String,
    pub seed: u64,
    pub latency: f64,
    /// From the first message of an input to the bag's last message.
    pub span: f64,
    pub chunks: usize,
    pub chunks_per_second: f64,
    pub commands: usize,
    pub inputs: Vec<BagInput>,
    pub input_ages: Vec<Age>,
    pub delays: Delays,
    /// Wall times, in the order in which the stages run.
    pub stages: Vec<Stage>,
    /// Chunks of which nothing was commanded, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Inferences that gave no chunk, by reason.
    pub failed: BTreeMap<String, u64>,
    pub gaps: Vec<Gap>,
    /// The bag's first moment in nanoseconds, which gaps are told from.
    pub start: i64,
    pub latch: Option<String>,
    pub damage: Option<String>,
}

/// Rows of the chunks that were taken over; medians and largest.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Delays {
    pub delay_rows: Option<(usize, usize)>,
    pub guided_rows: Option<(usize, usize)>,
    pub executed_rows: Option<(usize, usize)>,
}

impl Overview {
    pub fn of(trace: &Trace) -> Self {
        let Trace { setup, inputs, span, chunks, commands, gaps, failed, damage, latch } = trace;
        let seconds = (span.1 - span.0) as f64 * 1e-9;
        let mut ages = BTreeMap::<&str, Vec<f64>>::new();
        for (name, sample) in chunks.iter().flat_map(|chunk| &chunk.samples) {
            ages.entry(name).or_default().push(sample.age);
        }
        let age = |(name, ages): (&str, Vec<f64>)| Age {
            name: name.to_owned(),
            median: quantile(&ages, 0.5),
            max: quantile(&ages, 1.0),
        };
        let stage = |name, time: fn(&ChunkTrace) -> f64| {
            let times: Vec<f64> = chunks.iter().map(time).collect();
            Stage { name, p50: quantile(&times, 0.5), p90: quantile(&times, 0.9) }
        };
        let stages = vec![
            stage("observation", |chunk| chunk.times.observation),
            stage("vision", |chunk| chunk.times.vision),
            stage("prefix", |chunk| chunk.times.prefix),
            stage("denoise", |chunk| chunk.times.denoise),
            stage("total", |chunk| chunk.times.total),
        ];
        let mut refused = BTreeMap::new();
        for chunk in chunks {
            if let Outcome::Refused { reason } = &chunk.outcome {
                *refused.entry(reason.clone()).or_default() += 1;
            }
        }
        Self {
            bag: setup.bag.clone(),
            backend: setup.backend.clone(),
            seed: setup.seed,
            latency: setup.latency,
            span: seconds,
            chunks: chunks.len(),
            chunks_per_second: if seconds > 0.0 { chunks.len() as f64 / seconds } else { 0.0 },
            commands: commands.len(),
            inputs: inputs.clone(),
            input_ages: ages.into_iter().map(age).collect(),
            delays: Delays::of(chunks),
            stages: if chunks.is_empty() { Vec::new() } else { stages },
            refused,
            failed: failed.clone(),
            gaps: gaps.clone(),
            start: span.0,
            latch: latch.clone(),
            damage: damage.clone(),
        }
    }

    fn write_problems(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, reasons) in [("refused chunks", &self.refused), ("failed inferences", &self.failed)] {
            for (reason, count) in reasons {
                writeln!(f, "  {what}: {count} times: {reason}")?;
            }
        }
        for Gap { from, to, inputs } in &self.gaps {
            let at = |stamp: &i64| (stamp - self.start) as f64 * 1e-9;
            let inputs: Vec<_> = inputs.iter().map(|(input, reason)| format!("{input}: {reason}")).collect();
            writeln!(f, "  no observation from {:.2} s to {:.2} s. {}", at(from), at(to), inputs.join("; "))?;
        }
        for (what, problem) in [("stopped", &self.latch), ("not read to its end", &self.damage)] {
            if let Some(problem) = problem {
                writeln!(f, "  {what}: {problem}")?;
            }
        }
        Ok(())
    }
}

impl Delays {
    fn of(chunks: &[ChunkTrace]) -> Self {
        let rows = |pick: fn(&Outcome) -> Option<usize>| {
            let rows: Vec<f64> = chunks.iter().filter_map(|chunk| pick(&chunk.outcome)).map(|rows| rows as f64).collect();
            // The casts keep the value: they are numbers of rows.
            (!rows.is_empty()).then(|| (quantile(&rows, 0.5) as usize, quantile(&rows, 1.0) as usize))
        };
        Self {
            delay_rows: rows(
                |outcome| if let Outcome::Installed { delay_rows, .. } = outcome { Some(*delay_rows) } else { None },
            ),
            guided_rows: rows(
                |outcome| if let Outcome::Installed { guided_rows, .. } = outcome { Some(*guided_rows) } else { None },
            ),
            executed_rows: rows(|outcome| if let Outcome::Installed { executed, .. } = outcome { Some(*executed) } else { None }),
        }
    }
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bag, backend, seed, latency, span, chunks, chunks_per_second, commands, delays, .. } = self;
        writeln!(f, "{bag}")?;
        writeln!(f, "  chunks       {chunks} in {span:.2} s, {chunks_per_second:.2} per second")?;
        writeln!(f, "  commands     {commands} control steps")?;
        writeln!(f, "  policy       backend {backend}, seed {seed}, chunks {:.0} ms after their observation", latency * 1e3)?;

        writeln!(f, "\n  {:<22}{:>12}{:>12}  topic", "input", "messages", "refused")?;
        for BagInput { name, topic, messages, refused, .. } in &self.inputs {
            writeln!(f, "  {name:<22}{messages:>12}{:>12}  {topic}", refused.values().sum::<u64>())?;
            for (reason, count) in refused {
                writeln!(f, "    {count} times: {reason}")?;
            }
        }
        if !self.stages.is_empty() {
            writeln!(f, "\n  {:<22}{:>12}{:>12}", "age of input", "median / ms", "max / ms")?;
        }
        for age in &self.input_ages {
            writeln!(f, "  {:<22}{:>12.1}{:>12.1}", age.name, age.median * 1e3, age.max * 1e3)?;
        }
        let rows = [("delay", delays.delay_rows), ("guided", delays.guided_rows), ("executed", delays.executed_rows)];
        if delays.delay_rows.is_some() {
            writeln!(f, "\n  {:<22}{:>12}{:>12}", "rows of a chunk", "median", "max")?;
        }
        for (name, rows) in rows {
            if let Some((median, max)) = rows {
                writeln!(f, "  {name:<22}{median:>12}{max:>12}")?;
            }
        }
        if !self.stages.is_empty() {
            writeln!(f, "\n  {:<22}{:>12}{:>12}", "stage", "p50 / ms", "p90 / ms")?;
        }
        for stage in &self.stages {
            writeln!(f, "  {:<22}{:>12.1}{:>12.1}", stage.name, stage.p50 * 1e3, stage.p90 * 1e3)?;
        }
        self.write_problems(f)
    }
}

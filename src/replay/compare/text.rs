//! A comparison for a terminal.

use std::fmt;

use super::{ChunkComparison, Comparison, Difference, Divergence, Verdict, sentence::Seconds};

/// Bounds that are listed of a chunk or of the commands.
const LISTED: usize = 5;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTested => "not tested",
            Self::Same => "same",
            Self::Different => "different",
        })
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stamp, chunk, row, joint, baseline, current, tolerance } = self;
        write!(f, "{joint} at {}", Seconds(*stamp))?;
        match (chunk, row) {
            (Some(chunk), Some(row)) => write!(f, ", chunk {chunk}, row {row}")?,
            _ => f.write_str(", command")?,
        }
        write!(f, ": {current:.6} and was {baseline:.6}")?;
        if *tolerance > 0.0 { write!(f, ", {tolerance:.1e} is allowed") } else { Ok(()) }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, tier, tier_reason, counts, commands, chunks, .. } = self;
        writeln!(f, "{verdict}, tier {tier} ({tier_reason})")?;
        write!(f, "  chunks       {} compared, {} of them different", counts.compared, counts.different)?;
        writeln!(f, "; {} in the baseline, {} now", counts.baseline, counts.current)?;
        writeln!(f, "  commands     {} compared", commands.compared)?;
        let mut findings = self.findings.iter();
        if *verdict == Verdict::Different
            && let Some(cause) = findings.next()
        {
            writeln!(f, "\n  what changed first: {cause}")?;
        }
        for finding in findings {
            writeln!(f, "  also: {finding}")?;
        }
        if let Some(first) = self.first_chunk.and_then(|first| chunks.get(first)) {
            exceeded(f, &format!("chunk {}, the first that differs", first.index), &first.exceeded)?;
        }
        exceeded(f, "commands", &commands.exceeded)?;
        if let Some(first) = &self.first {
            writeln!(f, "\n  first divergence: {first}")?;
        }
        if counts.different > 1 {
            writeln!(f, "  only the first chunk that differs tells of the cause: each chunk may be guided by the one before")?;
        }
        if let Some(worst) = self.worst_chunk.and_then(|worst| chunks.get(worst)) {
            let ChunkComparison { index, relative_rms, pcc, .. } = worst;
            write!(f, "\n  worst chunk  {index}: relative RMS of the model actions {relative_rms:.3e}")?;
            match pcc {
                Some(pcc) => writeln!(f, ", correlation {pcc:.6}")?,
                None => writeln!(f, ", no correlation (constant)")?,
            }
            self.table(f)?;
        }
        Ok(())
    }
}

impl Comparison {
    /// The largest differences of each joint over all chunks, and of its commands.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ["actions max", "worst mean", "commands max", "mean", "allowed max", "mean"];
        write!(f, "\n  {:<22}", "joint")?;
        titles.iter().try_for_each(|title| write!(f, "{title:>14}"))?;
        writeln!(f)?;
        for (at, bounds) in self.joints.iter().enumerate() {
            let worst = |pick: fn(&Difference) -> f64| {
                self.chunks.iter().filter_map(|chunk| chunk.joints.get(at)).map(pick).fold(0.0, f64::max)
            };
            let commands = self.commands.joints.get(at).copied().unwrap_or_default();
            write!(f, "  {:<22}", bounds.joint)?;
            for value in [worst(|joint| joint.max), worst(|joint| joint.mean), commands.max, commands.mean] {
                write!(f, "{value:>14.3e}")?;
            }
            writeln!(f, "{:>14.3e}{:>14.3e}", bounds.actions.max, bounds.actions.mean)?;
        }
        Ok(())
    }
}

fn exceeded(f: &mut fmt::Formatter<'_>, what: &str, sentences: &[String]) -> fmt::Result {
    if sentences.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n  {what}:")?;
    sentences.iter().take(LISTED).try_for_each(|sentence| writeln!(f, "    {sentence}"))?;
    match sentences.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => writeln!(f, "    and {more} more"),
    }
}

//! What a replay found, for machines and for people: `chunks.jsonl`, `junit.xml` and a page, `index.html`, that stands alone.
//!
//! ```text
//! Trace (+ baseline Trace, Comparison, camera frames) ─► Report ─┬► lines  one JSON object per chunk, the last line decides
//!                                                                ├► junit  a test case per input, stage and joint
//!                                                                └► page   verdict, plots, frames, tables; complete without its script
//! ```
//!
//! Knows nothing of bags, backends and command lines. Every text of a bag or a profile is escaped; numbers that are not finite are `null`
//! in JSON and words on the page.

mod chart;
mod curve;
mod error;
mod figures;
mod junit;
mod lines;
mod page;
mod pairs;
mod scale;
mod verdict;

use std::{fs, path::Path};

pub use error::ReportError;

use super::{
    compare::{ChunkComparison, Comparison, Verdict},
    trace::{Joint, Trace},
};
use crate::{observation::RgbImage, robot::CommandKind};

/// Everything that is shown of a run.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub trace: &'a Trace,
    /// `None` when there was nothing to compare with.
    pub compared: Option<Compared<'a>>,
    /// What the cameras showed at the worst divergence, or at any chunk worth seeing.
    pub frames: &'a [Frame],
    /// Times without an observation are no failure.
    pub gaps_allowed: bool,
}

/// What a run was compared with, and how it differs.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    pub baseline: &'a Trace,
    pub comparison: &'a Comparison,
}

/// The image that a chunk was computed from.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Camera slot
    pub camera: String,
    /// Index of the chunk
    pub chunk: u64,
    /// Nanoseconds: when it was taken.
    pub stamp: i64,
    pub image: RgbImage,
}

impl Report<'_> {
    /// `None`: there was nothing to compare with, and chunks were computed.
    pub fn verdict(&self) -> Option<Verdict> {
        match self.compared {
            Some(compared) => Some(compared.comparison.verdict),
            None if self.trace.chunks.is_empty() => Some(Verdict::NotTested),
            None => None,
        }
    }

    /// 0: the same, or recorded. 1: different, nothing was tested, or inputs were missing at times. 3: the bag could not be read to its end.
    pub fn exit_code(&self) -> u8 {
        match self.verdict() {
            Some(Verdict::Different | Verdict::NotTested) => 1,
            _ if self.has_bad_gaps() => 1,
            _ if self.trace.damage.is_some() => 3,
            _ => 0,
        }
    }

    fn has_bad_gaps(&self) -> bool {
        !self.gaps_allowed && !self.trace.gaps.is_empty()
    }

    /// How each chunk of the trace differs from the baseline's; `None` where the baseline has none.
    fn differences(&self) -> Vec<Option<&ChunkComparison>> {
        let mut found = vec![None; self.trace.chunks.len()];
        for chunk in self.compared.iter().flat_map(|compared| &compared.comparison.chunks) {
            if let Some(place) = found.get_mut(chunk.current) {
                *place = Some(chunk);
            }
        }
        found
    }
}

/// Unit of a joint's commands; a gripper has that of its driver, which nobody declares.
fn unit(joint: &Joint) -> &'static str {
    match (joint.gripper, joint.kind) {
        (true, _) => "",
        (false, CommandKind::Position) => "rad",
        (false, CommandKind::Velocity) => "rad/s",
    }
}

/// Writes the three files into `folder`, which is made when it is not there. Files of these names are replaced; nothing else is touched.
pub fn write(folder: &Path, report: &Report) -> Result<(), ReportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ReportError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    // The page goes last: whoever waits for it finds the others.
    for (name, content) in
        [("chunks.jsonl", lines::lines(report)?), ("junit.xml", junit::xml(report)), ("index.html", page::page(report)?)]
    {
        let path = folder.join(name);
        fs::write(&path, content).map_err(failed(&path))?;
    }
    Ok(())
}

//! What happened to the images at the backend.

use super::{Finding, pair::Pair, values::same_camera};
use crate::replay::trace::{CameraTrace, ChunkTrace};

/// Share of the square sum of a change of the 8 x 8 fields that a turned or mirrored picture may leave: the fields of an image whose side
/// is not a multiple of 8 are not turned exactly.
const UNEXPLAINED: f64 = 0.01;
/// Rounding of a deviation: above this an image is not of one colour.
const CONSTANT: f32 = 1e-6;

/// Names what happened to the cameras of a chunk that both runs have.
pub(super) fn changes(pair: &Pair, b: &ChunkTrace, c: &ChunkTrace) -> Vec<Finding> {
    let names = &pair.baseline.setup.cameras;
    let (before, after) = (&b.model.cameras, &c.model.cameras);
    let slots = names.len().min(before.len()).min(after.len());
    let mut left: Vec<usize> = (0..slots).filter(|&slot| !same_camera(pair, &before[slot], &after[slot])).collect();
    let mut out = Vec::new();
    while let Some(slot) = left.first().copied() {
        left.remove(0);
        let exchanged =
            |other: &usize| same_camera(pair, &before[slot], &after[*other]) && same_camera(pair, &before[*other], &after[slot]);
        if let Some(at) = left.iter().position(exchanged) {
            let other = left.remove(at);
            out.push(Finding::CamerasSwapped { first: names[slot].clone(), second: names[other].clone() });
        } else {
            out.push(change(names[slot].clone(), &before[slot], &after[slot]));
        }
    }
    out
}

fn change(camera: String, b: &CameraTrace, c: &CameraTrace) -> Finding {
    let (before, after, deviations, mean) = match (b, c) {
        (CameraTrace::Masked, _) => return Finding::MaskDropped { camera },
        (_, CameraTrace::Masked) => return Finding::MaskAdded { camera },
        (
            CameraTrace::Present { fields: b, deviation: b_deviation, .. },
            CameraTrace::Present { fields: c, deviation, mean, .. },
        ) => (b, c, (*b_deviation, *deviation), *mean),
    };
    if deviations.1 <= CONSTANT && deviations.0 > CONSTANT {
        return Finding::CameraConstant { camera, value: mean };
    }
    // `[3, 8, 8]`: channel, row and column of a field from those that it was at.
    let moved = |from: fn(usize, usize, usize) -> (usize, usize, usize)| {
        let squares = |pairs: &mut dyn Iterator<Item = (f32, f32)>| pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let source = |at: usize| {
            let (channel, row, column) = from(at / 64, at / 8 % 8, at % 8);
            before.get(channel * 64 + row * 8 + column).copied().unwrap_or(f32::NAN)
        };
        let change = squares(&mut after.iter().copied().zip(before.iter().copied()));
        let rest = squares(&mut after.iter().copied().enumerate().map(|(at, value)| (value, source(at))));
        change > 0.0 && rest <= UNEXPLAINED * change
    };
    if moved(|channel, row, column| (channel, 7 - row, 7 - column)) {
        Finding::CameraTurned { camera }
    } else if moved(|channel, row, column| (channel, row, 7 - column)) {
        Finding::CameraMirrored { camera, axis: "left to right" }
    } else if moved(|channel, row, column| (channel, 7 - row, column)) {
        Finding::CameraMirrored { camera, axis: "upside down" }
    } else if moved(|channel, row, column| (2 - channel, row, column)) {
        Finding::CameraColours { camera }
    } else {
        let distance = before.iter().zip(after).map(|(b, c)| (b - c).abs()).fold(0.0, f32::max);
        Finding::CameraImage { camera, distance }
    }
}

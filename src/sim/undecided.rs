//! A policy that wants another way with every chunk: shows what joining chunks does without a checkpoint.

use std::f64::consts::{PI, TAU};

use super::Scene;
use crate::{
    control::{ChunkError, CommandRows, ComputedChunk, GuidanceRequest, JointControl, JointLimits},
    model::{Guidance, PrefixSchedule, noise},
    robot::CommandKind,
};

/// Euler steps, as many as pi0 makes.
const STEPS: usize = 10;
/// Joints and how far they swing, in rad.
const ARM: [(&str, f64); 2] = [("shoulder", 0.6), ("elbow", 0.4)];
/// Joints of the arm, and the gripper.
const JOINTS: usize = ARM.len() + 1;
/// Seconds of one swing; the gripper is open for half of it.
const SWING: f64 = 4.0;
/// Standard deviations in rad of the half waves, one and a half waves ... that a chunk's way differs by.
const WAVES: [f64; 3] = [0.2, 0.1, 0.05];
/// Seconds in which a chunk goes over from where the arm is to the swing.
const APPROACH: f64 = 0.25;

/// Flow matching with a known answer: each joint swings, and the noise of each chunk decides by which smooth curve it differs from that.
///
/// Chunks `m` are normally distributed, so their velocity field is known: `v = (x - E[m | x]) / t`. As those of a trained policy do, they
/// begin where the arm is measured, and they are guided in the denoise loop like those of a model.
#[derive(Clone, Debug)]
pub struct Undecided {
    names: Vec<String>,
    horizon: usize,
    period: f64,
    schedule: PrefixSchedule,
    max_weight: f64,
    seed: u64,
    chunks: u64,
}

impl Undecided {
    /// Chunks of `horizon` rows, one every `period` seconds; guided ones with these weights (see [`Guidance`]).
    pub fn new(horizon: usize, period: f64, schedule: PrefixSchedule, max_weight: f64, seed: u64) -> Self {
        let names = Self::joints().into_iter().map(|joint| joint.name).collect();
        Self { names, horizon, period, schedule, max_weight, seed, chunks: 0 }
    }

    /// The joints that it commands, without limits.
    pub fn joints() -> Vec<JointControl> {
        let names = ARM.iter().map(|(name, _)| (*name, false)).chain([("gripper", true)]);
        let joint = |(name, gripper): (&str, bool)| JointControl {
            name: name.to_owned(),
            kind: CommandKind::Position,
            gripper,
            limits: JointLimits::default(),
        };
        names.map(joint).collect()
    }

    /// The next chunk. An error when the horizon or the period is none of a robot.
    pub fn chunk(&mut self, scene: &Scene, guidance: Option<&GuidanceRequest>) -> Result<ComputedChunk, ChunkError> {
        let guidance = guidance.map(|request| {
            let mut previous = request.previous.clone();
            previous.resize(self.horizon * JOINTS, 0.0);
            let weights = self.schedule.prefix_weights(request.delay, request.horizon, self.horizon);
            Guidance { previous, weights, max_weight: self.max_weight }
        });
        let mean = self.mean(scene);
        let mut x = noise(self.seed, self.chunks, self.horizon * JOINTS);
        self.chunks += 1;
        for step in 0..STEPS {
            let time = 1.0 - step as f64 / STEPS as f64;
            let expected = self.expectation(&mean, &x, time);
            let mut v: Vec<f32> = x.iter().zip(&expected).map(|(x, expected)| (x - expected) / time as f32).collect();
            if let Some(guidance) = &guidance {
                guidance.guide(time, &x, &mut v);
            }
            x.iter_mut().zip(&v).for_each(|(x, v)| *x -= v / STEPS as f32);
        }
        let values = x.iter().copied().map(f64::from).collect();
        let rows = CommandRows::check(&self.names, self.horizon, self.period, values)?;
        let anchor = scene.positions.iter().map(|&position| position as f32).collect();
        Ok(ComputedChunk { rows, model_actions: x, action_dim: JOINTS, anchor })
    }

    /// The mean of the chunks from a scene: from where the arm is to its swing, `[horizon, joints]`.
    fn mean(&self, scene: &Scene) -> Vec<f32> {
        let swing = |time: f64| ARM.map(|(_, swing)| swing * (time / SWING * TAU).sin());
        let now = scene.step as f64 * self.period;
        let begin = swing(now);
        let mut chunk = Vec::with_capacity(self.horizon * JOINTS);
        for row in 0..self.horizon {
            let later = row as f64 * self.period;
            let left = (-later / APPROACH).exp();
            let arm = swing(now + later).into_iter().zip(begin).zip(&scene.positions);
            chunk.extend(arm.map(|((swing, begin), position)| (swing + (position - begin) * left) as f32));
            chunk.push(if ((now + later) / SWING).fract() < 0.5 { 1.0 } else { 0.0 });
        }
        chunk
    }

    /// The chunk to expect behind `x` at `time`: what of `x` is in the waves is partly noise, all else is.
    fn expectation(&self, mean: &[f32], x: &[f32], time: f64) -> Vec<f32> {
        let mut expected = mean.to_vec();
        for (wave, deviation) in WAVES.into_iter().enumerate() {
            let curve: Vec<f64> = (0..self.horizon).map(|row| self.wave(wave, row)).collect();
            let variance = deviation * deviation * self.horizon as f64 / 2.0;
            let share = (1.0 - time) * variance / ((1.0 - time).powi(2) * variance + time * time);
            for joint in 0..ARM.len() {
                let column = || (joint..mean.len()).step_by(JOINTS);
                let found: f64 =
                    column().zip(&curve).map(|(i, curve)| (f64::from(x[i]) - (1.0 - time) * f64::from(mean[i])) * curve).sum();
                column().zip(&curve).for_each(|(i, curve)| expected[i] += (share * found * curve) as f32);
            }
        }
        expected
    }

    /// Row `row` of a wave that begins at 0; the waves are orthonormal (the type IV sine transform).
    fn wave(&self, wave: usize, row: usize) -> f64 {
        let rows = self.horizon as f64;
        (2.0 / rows).sqrt() * (PI / rows * (row as f64 + 0.5) * (wave as f64 + 0.5)).sin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Undecided {
        Undecided::new(50, 0.02, PrefixSchedule::Linear, 10.0, 3)
    }

    fn scene() -> Scene {
        Scene { step: 30, positions: vec![0.1, 0.2, 1.0] }
    }

    #[test]
    fn chunks_differ_by_waves_of_the_declared_size() {
        let mut policy = policy();
        let mean = policy.mean(&scene());
        let mut squares = [0.0; WAVES.len()];
        const CHUNKS: usize = 400;
        for _ in 0..CHUNKS {
            let chunk = policy.chunk(&scene(), None).unwrap();
            for (wave, square) in squares.iter_mut().enumerate() {
                let found: f64 = (0..50)
                    .map(|row| f64::from(chunk.model_actions[row * JOINTS] - mean[row * JOINTS]) * policy.wave(wave, row))
                    .sum();
                *square += found * found / 25.0;
            }
        }
        for (square, deviation) in squares.into_iter().zip(WAVES) {
            // Five standard errors of a deviation, and what ten Euler steps miss.
            let found = (square / CHUNKS as f64).sqrt();
            assert!((found / deviation - 1.0).abs() < 0.3, "{found} {deviation}");
        }
    }

    #[test]
    fn an_unguided_chunk_begins_near_the_arm_and_the_gripper_is_sure() {
        let chunk = policy().chunk(&scene(), None).unwrap();
        for (found, wanted) in chunk.model_actions.iter().zip(&scene().positions) {
            assert!((f64::from(*found) - wanted).abs() < 0.05, "{found} {wanted}");
        }
        assert!(chunk.model_actions.iter().skip(2).step_by(JOINTS).all(|gripper| (gripper - 1.0).abs() < 1e-6));
    }

    #[test]
    fn a_guided_chunk_keeps_to_the_chunk_before_where_that_is_executed() {
        let mut policy = policy();
        let before = policy.chunk(&scene(), None).unwrap().model_actions;
        let distance = |chunk: ComputedChunk| {
            let rows = before.iter().zip(&chunk.model_actions).take(10 * JOINTS);
            rows.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let free = distance(policy.chunk(&scene(), None).unwrap());
        let previous = before[..30 * JOINTS].to_vec();
        let request = GuidanceRequest { previous, previous_anchor: vec![], delay: 10, horizon: 25 };
        let guided = distance(policy.chunk(&scene(), Some(&request)).unwrap());
        assert!(guided < 0.02 * free, "{guided} {free}");
    }
}

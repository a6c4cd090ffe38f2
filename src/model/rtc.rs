//! Real-time chunking: a chunk is guided, while it is denoised, towards the rows of the chunk before that the robot still executes.
//!
//! In the Euler step at time `t`, with the chunk `x` and its velocity `v`:
//!
//! ```text
//! x0  = x - t v                         the actions that v leads to
//! err = (previous - x0) w               w is the weight of each row
//! v  <- v - g err                       g is the guidance weight of the step:
//! g   = min(max, (1 - tau) / tau * ((1 - tau)^2 + tau^2) / (1 - tau)^2),  tau = 1 - t
//! ```
//!
//! Source: LeRobot 0.6.1, `policies/rtc/modeling_rtc.py`, after Black et al., "Real-Time Execution of Action Chunking Flow Policies"
//! (arXiv 2506.07339). The paper multiplies the error with the Jacobian of `x0`. LeRobot asks autograd for that, but computes `v` before
//! `x` requires a gradient: the Jacobian is the identity and its correction equals the error, in every step. So no backpropagation
//! is needed, and guidance costs next to nothing.

use serde::{Deserialize, Serialize};

/// How the weight of the rows falls behind those that are executed while the chunk is computed, which have weight 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PrefixSchedule {
    /// In a straight line
    Linear,
    /// As `w (exp(w) - 1) / (e - 1)` of the straight line
    Exp,
    /// Not at all: 1 up to the horizon
    Ones,
    /// At once: 0 behind the delay
    Zeros,
}

impl PrefixSchedule {
    /// The weight of each of `rows` rows: 1 for the first `delay`, falling up to `horizon`, 0 from there on. A delay beyond the horizon
    /// counts as the horizon, a horizon beyond the rows goes on behind them.
    pub fn prefix_weights(self, delay: usize, horizon: usize, rows: usize) -> Vec<f32> {
        let start = delay.min(horizon);
        let falling = horizon.min(rows).saturating_sub(start);
        // torch.linspace(1, 0, falling + 2) without its ends. In float32 where LeRobot is.
        let line = |row: usize| (1.0 - (row - start + 1) as f64 / (falling + 1) as f64) as f32;
        let weight = |row: usize| match self {
            _ if row < start => 1.0,
            _ if row >= horizon => 0.0,
            Self::Linear => line(row),
            Self::Exp => line(row) * (f64::from(line(row)).exp_m1() as f32 / (std::f64::consts::E - 1.0) as f32),
            Self::Ones => 1.0,
            Self::Zeros => 0.0,
        };
        (0..rows).map(weight).collect()
    }
}

/// The guidance weight `g` of the step at `time`, at most `max`. In float32, as LeRobot computes it.
pub fn guidance_weight(time: f64, max: f64) -> f32 {
    let tau = (1.0 - time) as f32;
    let left = (1.0 - tau) * (1.0 - tau);
    // Infinite at tau = 0, where the maximum takes over.
    ((1.0 - tau) / tau * ((left + tau * tau) / left)).min(max as f32)
}

/// What one chunk is guided by.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// The unexecuted rows of the chunk before in model space, `[horizon, action_dim]`: row i is what row i of the new chunk replaces. Zero
    /// in the rows behind them, which weigh nothing, and in the columns that the robot does not use, which LeRobot guides to zero too.
    pub previous: Vec<f32>,
    /// Weight of each row, `[horizon]`.
    pub weights: Vec<f32>,
    /// The most that a step's guidance may weigh; above 0.
    pub max_weight: f64,
}

impl Guidance {
    /// Guides the velocity `v` of the chunk `x` at `time`; both are `[horizon, action_dim]`.
    pub fn guide(&self, time: f64, x: &[f32], v: &mut [f32]) {
        let (t, g) = (time as f32, guidance_weight(time, self.max_weight));
        let columns = x.len() / self.weights.len();
        for (index, ((v, x), previous)) in v.iter_mut().zip(x).zip(&self.previous).enumerate() {
            let err = (previous - (x - t * *v)) * self.weights[index / columns];
            *v -= g * err;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_beyond_the_horizon_counts_as_the_horizon() {
        for schedule in [PrefixSchedule::Linear, PrefixSchedule::Exp, PrefixSchedule::Ones, PrefixSchedule::Zeros] {
            assert_eq!(schedule.prefix_weights(8, 3, 5), [1.0, 1.0, 1.0, 0.0, 0.0], "{schedule:?}");
            assert_eq!(schedule.prefix_weights(8, 9, 5), [1.0; 5], "{schedule:?}");
        }
    }

    #[test]
    fn a_horizon_of_no_rows_guides_nothing() {
        assert_eq!(PrefixSchedule::Ones.prefix_weights(2, 0, 4), [0.0; 4]);
        assert!(PrefixSchedule::Linear.prefix_weights(2, 4, 0).is_empty());
    }

    #[test]
    fn weight_one_at_time_one_steers_to_the_chunk_before() {
        // x - v is where a single step leads; with g = 1 the guided velocity leads to the chunk before instead.
        let guidance = Guidance { previous: vec![0.5, -2.0, 9.0, 9.0], weights: vec![1.0, 0.0], max_weight: 1.0 };
        let (x, mut v) = ([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]);
        guidance.guide(1.0, &x, &mut v);
        assert_eq!(v, [0.5, 4.0, 2.0, 1.0]);
    }
}

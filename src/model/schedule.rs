//! The flow-matching time: Euler steps from noise (t = 1) to actions (t = 0), and the sine-cosine embedding of t.

/// Times of an Euler integration with equal steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EulerSchedule {
    steps: usize,
}

impl EulerSchedule {
    /// `None` for zero steps.
    pub fn new(steps: usize) -> Option<Self> {
        (steps > 0).then_some(Self { steps })
    }

    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The step, negative because t runs from 1 to 0. In float64; a backend rounds it where it multiplies.
    pub fn dt(&self) -> f64 {
        -1.0 / self.steps as f64
    }

    /// Time of step `k`: `1 + k dt`.
    pub fn exact_time(&self, k: usize) -> f64 {
        1.0 + k as f64 * self.dt()
    }

    /// Time of step `k`, computed in float64 and then rounded, as LeRobot does. Adding dt up in float32 drifts by 1e-6.
    pub fn time(&self, k: usize) -> f32 {
        self.exact_time(k) as f32
    }
}

/// Sines, then cosines of `2 pi t / period` with `width / 2` periods spaced geometrically from `min_period` to `max_period`.
///
/// In float64 (openpi's PyTorch port and LeRobot); the caller rounds to float32 once.
pub fn time_embedding(time: f32, width: usize, min_period: f64, max_period: f64) -> Vec<f64> {
    let half = width / 2;
    let angle = |i: usize| {
        let fraction = if half > 1 { i as f64 / (half - 1) as f64 } else { 0.0 };
        let period = min_period * (max_period / min_period).powf(fraction);
        1.0 / period * 2.0 * std::f64::consts::PI * f64::from(time)
    };
    (0..half).map(|i| angle(i).sin()).chain((0..half).map(|i| angle(i).cos())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_do_not_accumulate_rounding() {
        let schedule = EulerSchedule::new(10).unwrap();
        let times: Vec<f32> = (0..10).map(|k| schedule.time(k)).collect();
        assert_eq!(times, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]);
    }

    #[test]
    fn zero_steps_have_no_schedule() {
        assert_eq!(EulerSchedule::new(0), None);
    }
}

//! Rotary position embedding, half-split: `(x1 cos - x2 sin, x2 cos + x1 sin)` with `angle = position / 10000^(2i / head_dim)`.

/// Sines and cosines of every row, `[rows, head_dim / 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub half: usize,
}

impl Rope {
    /// Tables for rows at `positions`.
    ///
    /// Frequencies and angles are rounded to float32 as Hugging Face's Gemma does; at position 800 an exact angle differs by 2e-5.
    pub fn new(positions: &[i64], head_dim: usize) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / 10_000f64.powf(f64::from(2 * i as u32) / head_dim as f64) as f32).collect();
        let angles =
            || positions.iter().flat_map(|&position| frequencies.iter().map(move |frequency| position as f32 * frequency));
        Self {
            cos: angles().map(|angle| f64::from(angle).cos() as f32).collect(),
            sin: angles().map(|angle| f64::from(angle).sin() as f32).collect(),
            half,
        }
    }

    /// Rotates `row`'s heads in place: `heads` is `[n, head_dim]` of one row.
    pub fn rotate(&self, row: usize, heads: &mut [f32]) {
        let table = row * self.half..(row + 1) * self.half;
        let (cos, sin) = (&self.cos[table.clone()], &self.sin[table]);
        for head in heads.chunks_exact_mut(2 * self.half) {
            let (first, second) = head.split_at_mut(self.half);
            for (((x1, x2), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*x1, *x2) = (*x1 * c - *x2 * s, *x2 * c + *x1 * s);
            }
        }
    }
}

//! State token, action tokens and the Euler loop of the action expert.

use std::time::{Duration, Instant};

use super::{
    Loader, Probe, Workspace,
    gemma::{Gemma, LayerCache, Pass, Until},
    linear::{Finish, Linear},
};
use crate::{
    backend::{
        BackendError,
        kernels::{
            elementwise::{add, silu},
            gemm::{Instructions, RowTiles},
        },
    },
    model::{DenoiseRequest, EulerSchedule, Geometry, Rope, Rows, layout, time_embedding},
};

/// The suffix: everything that is computed anew in each Euler step.
pub struct Suffix {
    geometry: Geometry,
    state_proj: Linear,
    action_in_proj: Linear,
    /// The half of `action_time_mlp_in` that multiplies the embedded action.
    action_mlp_in: Linear,
    /// The other half, that multiplies the time embedding, with the bias.
    time_mlp_in: Linear,
    action_time_mlp_out: Linear,
    action_out_proj: Linear,
    expert: Gemma,
    /// What each step adds to the embedded actions: depends on t alone, so it is computed once for each schedule.
    time_rows: Option<(EulerSchedule, Vec<f32>)>,
}

impl Suffix {
    pub fn load(loader: &mut Loader, geometry: &Geometry) -> Result<Self, BackendError> {
        let width = geometry.expert.width;
        // [width, 2 width]: the columns of the action come first, then those of the time.
        let mlp_in = loader.vector("action_time_mlp_in.weight")?;
        let half = |start: usize| -> Vec<f32> {
            mlp_in.chunks_exact(2 * width).flat_map(|row| row[start..start + width].iter().copied()).collect()
        };
        let bias = loader.vector("action_time_mlp_in.bias")?;
        Ok(Self {
            geometry: *geometry,
            state_proj: loader.linear("state_proj")?,
            action_in_proj: loader.linear("action_in_proj")?,
            action_mlp_in: loader.made(&half(0), width, Finish::Nothing)?,
            time_mlp_in: loader.made(&half(width), width, Finish::Bias(bias))?,
            action_time_mlp_out: loader.linear("action_time_mlp_out")?,
            action_out_proj: loader.linear("action_out_proj")?,
            expert: Gemma::load(loader, layout::EXPERT, geometry.expert)?,
            time_rows: None,
        })
    }

    /// Integrates `request.noise` to actions `[horizon, action_dim]`, guided where that is asked for; also the time of each step.
    pub fn denoise(
        &mut self,
        rows: &Rows,
        prefix: &[LayerCache],
        state: &[f32],
        request: &DenoiseRequest,
        workspace: &mut Workspace,
        probe: &mut dyn Probe,
    ) -> Result<(Vec<f32>, Vec<Duration>), BackendError> {
        let schedule = EulerSchedule::new(request.steps).ok_or(BackendError::NoSteps)?;
        let (width, horizon) = (self.geometry.expert.width, self.geometry.horizon);
        let time_rows = match self.time_rows.take() {
            Some((of, rows)) if of == schedule => rows,
            _ => self.time_rows(schedule),
        };
        let dt = schedule.dt() as f32;

        probe.tensor("state_padded", state.len(), state);
        let mut state_token = vec![0.0; width];
        workspace.x.pack(state, state.len());
        self.state_proj.forward(&workspace.x, &mut state_token);

        let mut x = request.noise.clone();
        let mut v = vec![0.0; x.len()];
        let (mut embedded, mut hidden) = (vec![0.0; horizon * width], vec![0.0; horizon * width]);
        let mut h = vec![0.0; (horizon + 1) * width];
        let rope = Rope::new(&rows.positions, self.geometry.expert.head_dim);
        let mut times = Vec::with_capacity(request.steps);
        for (step, time_row) in time_rows.chunks_exact(width).enumerate() {
            let start = Instant::now();
            probe.tensor(&format!("step.{step}.x_t"), self.geometry.action_dim, &x);

            let tiles = &mut workspace.x;
            tiles.pack(&x, self.geometry.action_dim);
            self.action_in_proj.forward(tiles, &mut embedded);
            tiles.pack(&embedded, width);
            self.action_mlp_in.forward(tiles, &mut hidden);
            for row in hidden.chunks_exact_mut(width) {
                add(row, time_row);
                silu(row);
            }
            h[..width].copy_from_slice(&state_token);
            tiles.pack(&hidden, width);
            self.action_time_mlp_out.forward(tiles, &mut h[width..]);
            probe.tensor(&format!("step.{step}.suffix_embs"), width, &h);

            let pass = Pass { rows, rope: &rope, past: prefix, until: Until::Output, tag: &format!("step.{step}") };
            self.expert.forward(&mut h, pass, workspace, probe, None);
            probe.tensor(&format!("step.{step}.suffix_out"), width, &h);

            workspace.x.pack(&h[width..], width);
            self.action_out_proj.forward(&workspace.x, &mut v);
            probe.tensor(&format!("step.{step}.v_t"), self.geometry.action_dim, &v);
            if let Some(guidance) = &request.guidance {
                guidance.guide(schedule.exact_time(step), &x, &mut v);
            }
            for (x, v) in x.iter_mut().zip(&v) {
                *x += dt * v;
            }
            times.push(start.elapsed());
        }
        self.time_rows = Some((schedule, time_rows));
        Ok((x, times))
    }

    /// `time_embedding(t) W_time^T + b` of every step, `[steps, width]`.
    fn time_rows(&self, schedule: EulerSchedule) -> Vec<f32> {
        let Geometry { min_period, max_period, .. } = self.geometry;
        let width = self.geometry.expert.width;
        let embeddings: Vec<f32> = (0..schedule.steps())
            .flat_map(|step| time_embedding(schedule.time(step), width, min_period, max_period))
            .map(|value| value as f32)
            .collect();
        let mut rows = vec![0.0; embeddings.len()];
        let mut x = RowTiles::new(Instructions::detect());
        x.pack(&embeddings, width);
        self.time_mlp_in.forward(&x, &mut rows);
        rows
    }
}

//! Memory that every forward pass uses anew.

use crate::backend::kernels::{
    attention::KeyValues,
    gemm::{Instructions, RowTiles},
};

/// The intermediates of a layer. Each buffer has room for the largest pass so far and holds nothing from one layer to the next.
pub struct Workspace {
    /// The rows that the next product takes.
    pub x: RowTiles,
    /// Queries, keys and values of each row, side by side.
    pub qkv: Vec<f32>,
    /// Keys and values of the pass's own rows.
    pub own: Vec<KeyValues>,
    /// `[sequences, heads, rows, head_dim]`
    pub attended: Vec<f32>,
    pub hidden: Vec<f32>,
    pub projected: Vec<f32>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            x: RowTiles::new(Instructions::detect()),
            qkv: Vec::new(),
            own: Vec::new(),
            attended: Vec::new(),
            hidden: Vec::new(),
            projected: Vec::new(),
        }
    }
}

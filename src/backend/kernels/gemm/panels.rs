//! The right operand of a product, packed for the innermost loop.

use std::{cell::RefCell, io, ops::Range};

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

use super::tile::{Format, Instructions};
use crate::{backend::kernels::room, checkpoint::TensorData};

/// Inputs that are packed at a time: what a panel needs of them stays in the first-level cache.
const CHUNK: usize = 64;
/// Outputs of the widest panel.
const WIDEST: usize = 32;

thread_local! {
    static BLOCK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A weight in panels of as many outputs as the innermost loop computes at a time, each `[inputs, outputs]` in the format that the
/// weight was stored in. Outputs that a panel has too many are zero.
pub struct Panels {
    set: Instructions,
    format: Format,
    inputs: usize,
    panels: usize,
    storage: Storage,
}

enum Storage {
    /// Weights: in huge pages where the system has them.
    Mapped(MmapMut),
    /// Activations: packed anew in the same memory.
    Owned(Vec<f32>),
}

/// How the outputs of several weights lie in the panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// One weight after the other.
    Stacked,
    /// A panel of each weight in turn.
    Alternating,
}

impl Panels {
    /// Packs weights, each `[outputs, inputs]`, with all threads. They stay in their format when it is the same.
    pub fn new(set: Instructions, weights: &[TensorData<'_>], inputs: usize, arrangement: Arrangement) -> io::Result<Self> {
        let outputs: Vec<usize> = weights.iter().map(|weight| len(weight) / inputs).collect();
        let width = 2 * set.lanes();
        let panels = match arrangement {
            Arrangement::Stacked => outputs.iter().sum::<usize>().div_ceil(width),
            Arrangement::Alternating => outputs.iter().map(|outputs| outputs.div_ceil(width)).max().unwrap_or(0) * outputs.len(),
        };
        // The weight and its row that an output of a panel is; nothing for an output too many.
        let source = |panel: usize, output: usize| match arrangement {
            Arrangement::Stacked => {
                let mut row = panel * width + output;
                outputs.iter().enumerate().find_map(|(weight, &outputs)| {
                    let found = (row < outputs).then_some((weight, row));
                    row = row.saturating_sub(outputs);
                    found
                })
            }
            Arrangement::Alternating => {
                let (weight, row) = (panel % outputs.len(), panel / outputs.len() * width + output);
                (row < outputs[weight]).then_some((weight, row))
            }
        };
        let narrow: Option<Vec<_>> = weights.iter().map(bits).collect();
        let (format, bytes) = match narrow {
            Some(narrow) if narrow.iter().all(|(format, _)| *format == narrow[0].0) => {
                let format = narrow[0].0;
                let read =
                    |weight: usize, start: usize, out: &mut [u16]| out.copy_from_slice(&narrow[weight].1[start..][..out.len()]);
                (format, packed(set, format, panels, inputs, source, read)?)
            }
            _ => {
                let read = |weight: usize, start: usize, out: &mut [f32]| weights[weight].widen_into(start, out);
                (Format::F32, packed(set, Format::F32, panels, inputs, source, read)?)
            }
        };
        Ok(Self { set, format, inputs, panels, storage: Storage::Mapped(bytes) })
    }

    /// Room for a float32 operand.
    pub fn empty(set: Instructions) -> Self {
        Self { set, format: Format::F32, inputs: 0, panels: 0, storage: Storage::Owned(Vec::new()) }
    }

    /// Packs `outputs` rows of `inputs` values that are `stride` values apart, on this thread.
    pub fn pack_rows(&mut self, x: &[f32], stride: usize, outputs: usize, inputs: usize) {
        let width = self.width();
        for (panel, out) in self.resize(outputs, inputs).chunks_exact_mut((width * inputs).max(1)).enumerate() {
            let row = |output: usize, start: usize, out: &mut [f32]| {
                let output = panel * width + output;
                let found = output < outputs;
                if found {
                    out.copy_from_slice(&x[output * stride + start..][..out.len()]);
                }
                found
            };
            pack_panel(width, |output| output, row, out);
        }
    }

    /// Packs `inputs` rows of `outputs` values that are `stride` values apart, on this thread.
    pub fn pack_columns(&mut self, x: &[f32], stride: usize, outputs: usize, inputs: usize) {
        let width = self.width();
        for (panel, out) in self.resize(outputs, inputs).chunks_exact_mut((width * inputs).max(1)).enumerate() {
            let columns = panel * width..outputs.min((panel + 1) * width);
            for (row, out) in x.chunks(stride).zip(out.chunks_exact_mut(width)) {
                let (values, too_many) = out.split_at_mut(columns.len());
                values.copy_from_slice(&row[columns.clone()]);
                too_many.fill(0.0);
            }
        }
    }

    /// Packs a float32 operand that `fill` writes with all threads: `[inputs, columns]` for columns that start at a multiple of 32.
    pub fn pack_blocks(&mut self, outputs: usize, inputs: usize, fill: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let width = self.width();
        let panels = self.resize(outputs, inputs).par_chunks_mut((WIDEST * inputs).max(1));
        panels.with_max_len(1).enumerate().for_each(|(block, out)| {
            let columns = block * WIDEST..outputs.min((block + 1) * WIDEST);
            BLOCK.with_borrow_mut(|values| {
                let values = room(values, inputs * columns.len());
                fill(columns.clone(), values);
                for (panel, out) in out.chunks_exact_mut(width * inputs).enumerate() {
                    let first = panel * width;
                    let last = columns.len().min(first + width);
                    for (row, out) in values.chunks_exact(columns.len()).zip(out.chunks_exact_mut(width)) {
                        out.fill(0.0);
                        out[..last - first].copy_from_slice(&row[first..last]);
                    }
                }
            });
        });
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.panels
    }

    /// Outputs of one panel.
    pub fn width(&self) -> usize {
        2 * self.set.lanes()
    }

    pub(super) fn instructions(&self) -> Instructions {
        self.set
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// `[inputs, width]` of one panel in its format.
    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        let size = self.inputs * self.width() * self.format.size();
        let bytes: &[u8] = match &self.storage {
            Storage::Mapped(bytes) => bytes,
            Storage::Owned(values) => bytemuck::cast_slice(values),
        };
        &bytes[panel * size..(panel + 1) * size]
    }

    fn resize(&mut self, outputs: usize, inputs: usize) -> &mut [f32] {
        let panels = outputs.div_ceil(self.width());
        let size = panels * self.width() * inputs;
        (self.inputs, self.panels, self.format) = (inputs, panels, Format::F32);
        if let Storage::Mapped(_) = self.storage {
            self.storage = Storage::Owned(Vec::new());
        }
        match &mut self.storage {
            Storage::Owned(values) => room(values, size),
            Storage::Mapped(_) => &mut [],
        }
    }
}

fn len(weight: &TensorData<'_>) -> usize {
    match weight {
        TensorData::F32(values) => values.len(),
        TensorData::BF16(values) => values.len(),
        TensorData::F16(values) => values.len(),
    }
}

/// The bits of a narrow format.
fn bits<'a>(weight: &TensorData<'a>) -> Option<(Format, &'a [u16])> {
    match weight {
        TensorData::F32(_) => None,
        TensorData::BF16(values) => Some((Format::BF16, bytemuck::cast_slice(values))),
        TensorData::F16(values) => Some((Format::F16, bytemuck::cast_slice(values))),
    }
}

/// All panels. `source` says which row of which weight an output is, and `read` takes elements of a weight from `start` on.
fn packed<T: Pod + Send>(
    set: Instructions,
    format: Format,
    panels: usize,
    inputs: usize,
    source: impl Fn(usize, usize) -> Option<(usize, usize)> + Sync,
    read: impl Fn(usize, usize, &mut [T]) + Sync,
) -> io::Result<MmapMut> {
    let (width, lanes) = (2 * set.lanes(), set.lanes());
    let mut bytes = MmapMut::map_anon((panels * inputs * width * size_of::<T>()).max(1))?;
    // A system without huge pages refuses, and then the pages are small.
    #[cfg(target_os = "linux")]
    let _ = bytes.advise(Advice::HugePage);
    let place = |output: usize| match format {
        Format::F32 | Format::F16 => output,
        Format::BF16 => output % lanes * 2 + output / lanes,
    };
    let values: &mut [T] = bytemuck::cast_slice_mut(&mut bytes[..panels * inputs * width * size_of::<T>()]);
    values.par_chunks_mut((inputs * width).max(1)).with_max_len(1).enumerate().for_each(|(panel, out)| {
        let row = |output: usize, start: usize, out: &mut [T]| {
            let found = source(panel, output);
            if let Some((weight, row)) = found {
                read(weight, row * inputs + start, out);
            }
            found.is_some()
        };
        pack_panel(width, place, row, out);
    });
    Ok(bytes)
}

/// Writes one panel `[inputs, width]`: output `o` in column `place(o)`. `row` reads elements of an output's row from a start on, or says
/// that there is no such output.
fn pack_panel<T: Pod>(
    width: usize,
    place: impl Fn(usize) -> usize,
    row: impl Fn(usize, usize, &mut [T]) -> bool,
    panel: &mut [T],
) {
    match width {
        WIDEST => pack_inputs(place, row, panel.as_chunks_mut::<WIDEST>().0),
        _ => pack_inputs(place, row, panel.as_chunks_mut::<{ WIDEST / 2 }>().0),
    }
}

fn pack_inputs<T: Pod, const WIDTH: usize>(
    place: impl Fn(usize) -> usize,
    row: impl Fn(usize, usize, &mut [T]) -> bool,
    panel: &mut [[T; WIDTH]],
) {
    let mut values = [T::zeroed(); CHUNK];
    for (chunk, panel) in panel.chunks_mut(CHUNK).enumerate() {
        let values = &mut values[..panel.len()];
        for output in 0..WIDTH {
            if !row(output, chunk * CHUNK, values) {
                values.fill(T::zeroed());
            }
            let place = place(output) % WIDTH;
            for (inputs, value) in panel.iter_mut().zip(&*values) {
                inputs[place] = *value;
            }
        }
    }
}

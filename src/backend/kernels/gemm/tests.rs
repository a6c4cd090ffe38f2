//! The kernel against float64, and its instruction sets against each other.

use half::{bf16, f16};

use super::*;
use crate::checkpoint::{Tensor, TensorData, synthetic};

const SHAPES: [(usize, usize, usize); 6] = [(1, 1, 1), (3, 5, 7), (51, 1025, 300), (17, 2050, 97), (29, 512, 64), (788, 3, 33)];

/// Deterministic values in -1..1.
fn values(n: usize, salt: &str) -> Vec<f32> {
    synthetic::uniform(salt, n)
}

fn formats(shape: [usize; 2], w: &[f32]) -> [Tensor; 3] {
    [
        Tensor::from_f32(shape.to_vec(), w.to_vec()),
        Tensor::from_bf16(shape.to_vec(), w.iter().map(|&v| bf16::from_f32(v)).collect()),
        Tensor::from_f16(shape.to_vec(), w.iter().map(|&v| f16::from_f32(v)).collect()),
    ]
}

fn in_float64(x: &[f32], w: &[f32], inputs: usize) -> Vec<f64> {
    let row = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
    x.chunks_exact(inputs).flat_map(|x| w.chunks_exact(inputs).map(move |w| row(x, w))).collect()
}

fn computed(
    set: Instructions,
    x: &[f32],
    weights: &[TensorData<'_>],
    inputs: usize,
    epilogue: Epilogue<'_>,
    width: usize,
) -> Vec<f32> {
    let mut tiles = RowTiles::new(set);
    tiles.pack(x, inputs);
    let arrangement = if let Epilogue::Gated = epilogue { Arrangement::Alternating } else { Arrangement::Stacked };
    let panels = Panels::new(set, weights, inputs, arrangement).unwrap();
    let mut out = vec![f32::NAN; x.len() / inputs * width];
    product(&tiles, &panels, epilogue, &mut out, width);
    out
}

#[test]
fn products_equal_float64_in_every_format_and_at_odd_sizes() {
    for (rows, inputs, outputs) in SHAPES {
        let x = values(rows * inputs, "x");
        for tensor in formats([outputs, inputs], &values(outputs * inputs, "w")) {
            let expected = in_float64(&x, &tensor.to_f32(), inputs);
            for set in Instructions::all() {
                let out = computed(set, &x, &[tensor.data()], inputs, Epilogue::Store, outputs);
                for (got, want) in out.iter().zip(&expected) {
                    assert!((f64::from(*got) - want).abs() < 1e-5 * (inputs as f64).sqrt(), "{set:?} {tensor:?}: {got} {want}");
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_and_every_number_of_rows_and_threads_gives_the_same_bits() {
    for (rows, inputs, outputs) in SHAPES {
        let x = values(rows * inputs, "x");
        for tensor in formats([outputs, inputs], &values(outputs * inputs, "w")) {
            let all = computed(Instructions::Portable, &x, &[tensor.data()], inputs, Epilogue::Store, outputs);
            for set in Instructions::all() {
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let same = pool.install(|| computed(set, &x, &[tensor.data()], inputs, Epilogue::Store, outputs));
                    assert!(same == all, "{set:?}, {threads} threads, {tensor:?}");
                }
                let first = computed(set, &x[..inputs], &[tensor.data()], inputs, Epilogue::Store, outputs);
                assert!(first == all[..outputs], "{set:?}, one row of {tensor:?}");
            }
        }
    }
}

#[test]
fn narrow_weights_are_widened_exactly() {
    let (inputs, outputs) = (77, 50);
    let x = values(5 * inputs, "x");
    for tensor in formats([outputs, inputs], &values(outputs * inputs, "w")) {
        let wide = Tensor::from_f32(vec![outputs, inputs], tensor.to_f32());
        for set in Instructions::all() {
            let [narrow, wide] = [&tensor, &wide].map(|w| computed(set, &x, &[w.data()], inputs, Epilogue::Store, outputs));
            assert!(narrow == wide, "{set:?} {tensor:?}");
        }
    }
}

#[test]
fn stacked_weights_of_different_formats_are_one_product() {
    let (inputs, x) = (40, values(3 * 40, "x"));
    let [wide, brain, half] = [(7, 0), (33, 1), (5, 2)]
        .map(|(outputs, format)| formats([outputs, inputs], &values(outputs * inputs, &format!("w{outputs}")))[format].clone());
    let stacked = [wide.to_f32(), brain.to_f32(), half.to_f32()].concat();
    let stacked = Tensor::from_f32(vec![45, inputs], stacked);
    for set in Instructions::all() {
        let parts = computed(set, &x, &[wide.data(), brain.data(), half.data()], inputs, Epilogue::Store, 45);
        assert!(parts == computed(set, &x, &[stacked.data()], inputs, Epilogue::Store, 45), "{set:?}");
        // The first outputs alone.
        let first = computed(set, &x, &[stacked.data()], inputs, Epilogue::Store, 40);
        assert!(first.chunks(40).zip(parts.chunks(45)).all(|(first, all)| first == &all[..40]), "{set:?}");
    }
}

#[test]
fn epilogues_are_what_separate_passes_would_do() {
    let (rows, inputs, outputs) = (19, 70, 45);
    let x = values(rows * inputs, "x");
    let [gate, up] = ["gate", "up"].map(|name| Tensor::from_f32(vec![outputs, inputs], values(outputs * inputs, name)));
    let bias = values(outputs, "bias");
    for set in Instructions::all() {
        let [plain, upper] = [&gate, &up].map(|w| computed(set, &x, &[w.data()], inputs, Epilogue::Store, outputs));
        let rows_of = |change: &dyn Fn(usize, &mut [f32])| {
            let mut rows = plain.clone();
            rows.chunks_exact_mut(outputs).enumerate().for_each(|(row, values)| change(row, values));
            rows
        };
        let expected = rows_of(&|_, row| add(row, &bias));
        assert!(computed(set, &x, &[gate.data()], inputs, Epilogue::Bias(&bias), outputs) == expected, "{set:?}");
        let expected = rows_of(&|_, row| bias_gelu(row, &bias));
        assert!(computed(set, &x, &[gate.data()], inputs, Epilogue::BiasGelu(&bias), outputs) == expected, "{set:?}");
        let expected = rows_of(&|row, gate| gelu_times(gate, &upper[row * outputs..][..outputs]));
        assert!(computed(set, &x, &[gate.data(), up.data()], inputs, Epilogue::Gated, outputs) == expected, "{set:?}");
    }
}

#[test]
fn operands_packed_anew_hold_nothing_of_what_they_held_before() {
    for set in Instructions::all() {
        let (mut x, mut by_rows, mut by_columns, mut by_blocks) =
            (RowTiles::new(set), Panels::empty(set), Panels::empty(set), Panels::empty(set));
        for (rows, inputs, outputs) in [(20, 90, 70), (4, 33, 34), (9, 91, 5)] {
            let (a, w) = (values(rows * inputs, "a"), values(outputs * inputs, "w"));
            let transposed: Vec<f32> = (0..inputs * outputs).map(|at| w[at % outputs * inputs + at / outputs]).collect();
            x.pack_here(&a, inputs, rows, inputs);
            by_rows.pack_rows(&w, inputs, outputs, inputs);
            by_columns.pack_columns(&transposed, outputs, outputs, inputs);
            by_blocks.pack_blocks(outputs, inputs, |columns, out| {
                for (row, out) in transposed.chunks_exact(outputs).zip(out.chunks_exact_mut(columns.len())) {
                    out.copy_from_slice(&row[columns.clone()]);
                }
            });
            let expected = computed(set, &a, &[TensorData::F32(&w)], inputs, Epilogue::Store, outputs);
            for panels in [&by_rows, &by_columns, &by_blocks] {
                let stride = panels.panels() * panels.width();
                let mut out = vec![f32::NAN; rows * stride];
                multiply(&x, 0, 0..x.tiles(), panels, 0..panels.panels(), &mut out, stride, false);
                for (got, want) in out.chunks_exact(stride).zip(expected.chunks_exact(outputs)) {
                    assert!(&got[..outputs] == want && got[outputs..].iter().all(|too_many| *too_many == 0.0), "{set:?}");
                }
            }
        }
    }
}

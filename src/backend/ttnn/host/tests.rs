//! Each op against a plain float64 formula over the values that the operands' formats hold.

use super::*;
use crate::{
    backend::ttnn::{
        format,
        pack::{pack, unpack},
        terms::{
            Activation, ComputeKernelConfig, CoreGrid, DataType, MatmulProgramConfig, MemoryConfig, MinimalMatmulConfig,
            Multicast, SdpaProgramConfig, Shape,
        },
    },
    checkpoint::synthetic::uniform,
};

use DataType::{Bfloat8B, Bfloat16, Float32};

const DRAM: MemoryConfig = MemoryConfig::DramInterleaved;
const GRID: CoreGrid = CoreGrid { x: 8, y: 8 };
const MINIMAL: MinimalMatmulConfig =
    MinimalMatmulConfig { m_block_size: 2, k_block_size: 2, n_block_size: 2, subblock_h: 1, subblock_w: 1, grid: GRID };

fn host(numerics: Numerics) -> Host {
    Host::new(DeviceInfo::wormhole(GRID), numerics)
}

fn compute(math_fidelity: MathFidelity) -> ComputeKernelConfig {
    ComputeKernelConfig { math_fidelity, math_approx_mode: false, fp32_dest_acc_en: true, packer_l1_acc: true }
}

fn linear(dtype: DataType, math_fidelity: MathFidelity, fused_activation: Option<Activation>) -> Op {
    let program = MatmulProgramConfig {
        multicast: Multicast::OneD,
        grid: GRID,
        in0_block_w: 1,
        out_subblock_h: 1,
        out_subblock_w: 1,
        out_block_h: 1,
        out_block_w: 1,
        per_core_m: 1,
        per_core_n: 1,
        fused_activation,
    };
    Op::Linear { program, dtype, memory: DRAM, compute: compute(math_fidelity) }
}

fn sdpa(scale: f32, math_fidelity: MathFidelity) -> Op {
    let program = SdpaProgramConfig { grid: GRID, q_chunk_size: 32, k_chunk_size: 32, exp_approx_mode: false };
    Op::ScaledDotProductAttention { scale, program, memory: DRAM, compute: compute(math_fidelity) }
}

/// A tensor with values and the values that its format holds of them.
struct Given {
    tensor: HostTensor,
    shape: Shape,
    values: Vec<f64>,
}

impl Given {
    fn at(&self, outer: usize, row: usize, column: usize) -> f64 {
        self.values[(outer * self.shape.rows() + row) * self.shape.columns() + column]
    }
}

fn upload(host: &mut Host, shape: [usize; 4], dtype: DataType, values: &[f32]) -> Given {
    let spec = TensorSpec::new(Shape(shape), dtype, DRAM);
    let packed = pack(&spec, values);
    let held = unpack(&spec, &packed).into_iter().map(f64::from).collect();
    let tensor = host.upload(spec, &mut || Ok(packed.clone())).unwrap();
    Given { tensor, shape: Shape(shape), values: held }
}

/// Deterministic values in -1..1.
fn given(host: &mut Host, shape: [usize; 4], dtype: DataType, salt: &str) -> Given {
    upload(host, shape, dtype, &uniform(salt, Shape(shape).volume()))
}

/// The logical values, after a look at the padding: all of it is NaN and no NaN is outside of it.
fn values(host: &mut Host, tensor: &HostTensor) -> Vec<f64> {
    let (shape, padded) = (tensor.spec.shape, tensor.spec.shape.padded());
    for (number, row) in tensor.operand().unwrap().rows().chunks_exact(padded.columns()).enumerate() {
        for (column, value) in row.iter().enumerate() {
            let inside = number % padded.rows() < shape.rows() && column < shape.columns();
            assert_eq!(value.is_nan(), !inside, "row {number} column {column} of {shape:?} is {value}");
        }
    }
    let packed = host.download(tensor).unwrap();
    unpack(&tensor.spec, &packed).into_iter().map(f64::from).collect()
}

fn run(host: &mut Host, op: &Op, inputs: &[&Given]) -> Vec<Vec<f64>> {
    let inputs: Vec<&HostTensor> = inputs.iter().map(|input| &input.tensor).collect();
    let outputs = host.run(op, &inputs).unwrap();
    let specs: Vec<TensorSpec> = inputs.iter().map(|input| input.spec).collect();
    assert_eq!(outputs.iter().map(|output| output.spec).collect::<Vec<_>>(), op.infer(&specs).unwrap());
    outputs.iter().map(|output| values(host, output)).collect()
}

/// `got` may differ by the rounding of `dtype` (half a unit of 8 or 24 bits) and by `slack`.
fn assert_close(got: &[f64], want: &[f64], dtype: DataType, slack: f64) {
    let rounding = if dtype == Float32 { (-24f64).exp2() } else { (-8f64).exp2() };
    assert_eq!(got.len(), want.len());
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= rounding * want.abs() + slack, "{index}: {got}, expected {want}");
    }
}

/// `x weight` in float64, `[rows of x, columns]`.
fn product(x: &Given, weight: &Given) -> Vec<f64> {
    let [a, b, rows, inputs] = x.shape.0;
    let columns = weight.shape.columns();
    let mut out = Vec::new();
    for row in 0..a * b * rows {
        for column in 0..columns {
            out.push((0..inputs).map(|k| x.at(0, row, k) * weight.at(0, k, column)).sum());
        }
    }
    out
}

/// Error of a float32 sum of `terms` products of values up to 1.
fn sum_error(terms: usize) -> f64 {
    terms as f64 * (-24f64).exp2()
}

const SIZES: [(usize, usize, usize); 4] = [(1, 32, 32), (33, 72, 100), (64, 1056, 320), (40, 2080, 544)];

#[test]
fn linear_multiplies_in_every_format_and_at_ragged_sizes() {
    let mut host = host(Numerics::Formats);
    for (rows, inputs, columns) in SIZES {
        for (x_type, weight_type, dtype) in [
            (Bfloat16, Bfloat8B, Bfloat16),
            (Bfloat16, Bfloat16, Bfloat16),
            (Float32, Float32, Float32),
            (Bfloat8B, Bfloat8B, Float32),
        ] {
            let x = given(&mut host, [1, 1, rows, inputs], x_type, "x");
            let weight = given(&mut host, [1, 1, inputs, columns], weight_type, "weight");
            let got = run(&mut host, &linear(dtype, MathFidelity::HiFi2, None), &[&x, &weight]);
            assert_close(&got[0], &product(&x, &weight), dtype, sum_error(inputs));
        }
    }
}

#[test]
fn linear_adds_the_bias_before_the_activation() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [1, 2, 33, 72], Bfloat16, "x");
    let weight = given(&mut host, [1, 1, 72, 300], Bfloat8B, "weight");
    let bias = given(&mut host, [1, 1, 1, 300], Bfloat16, "bias");
    let sums: Vec<f64> = product(&x, &weight).iter().enumerate().map(|(i, v)| v + bias.values[i % 300]).collect();

    let got = run(&mut host, &linear(Float32, MathFidelity::HiFi2, None), &[&x, &weight, &bias]);
    assert_close(&got[0], &sums, Float32, sum_error(72));

    let silu: Vec<f64> = sums.iter().map(|v| v / (1.0 + (-v).exp())).collect();
    let got = run(&mut host, &linear(Float32, MathFidelity::HiFi2, Some(Activation::Silu)), &[&x, &weight, &bias]);
    assert_close(&got[0], &silu, Float32, 3.0 * sum_error(72));

    // The tanh form, from which the exact one differs by 5e-4 and TTNN's fit by up to 5e-3.
    let tanh = |v: f64| 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3))).tanh());
    let gelu: Vec<f64> = sums.iter().map(|&v| tanh(v)).collect();
    let got = run(&mut host, &linear(Float32, MathFidelity::HiFi2, Some(Activation::Gelu)), &[&x, &weight, &bias]);
    assert_close(&got[0], &gelu, Float32, 6e-3);
}

#[test]
fn bfloat8_outputs_are_rounded_row_by_row() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [1, 1, 40, 64], Bfloat16, "x");
    let weight = given(&mut host, [1, 1, 64, 72], Bfloat8B, "weight");
    let wide = run(&mut host, &linear(Float32, MathFidelity::HiFi2, None), &[&x, &weight]).remove(0);
    let mut expected: Vec<f32> = wide.iter().map(|&v| v as f32).collect();
    expected.chunks_exact_mut(72).for_each(|row| format::round(Bfloat8B, row));
    let got = run(&mut host, &linear(Bfloat8B, MathFidelity::HiFi2, None), &[&x, &weight]).remove(0);
    assert_eq!(got, expected.into_iter().map(f64::from).collect::<Vec<_>>());
}

#[test]
fn minimal_matmul_split_gives_the_columns_in_chunks() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [1, 1, 64, 96], Bfloat16, "x");
    let weight = given(&mut host, [1, 1, 96, 640], Bfloat8B, "weight");
    let op = Op::MinimalMatmulSplit {
        chunks: 2,
        config: MINIMAL,
        dtype: Bfloat16,
        memory: DRAM,
        compute: compute(MathFidelity::HiFi2),
    };
    let got = run(&mut host, &op, &[&x, &weight]);
    let whole = product(&x, &weight);
    for (chunk, got) in got.iter().enumerate() {
        let want: Vec<f64> = whole.chunks_exact(640).flat_map(|row| &row[chunk * 320..(chunk + 1) * 320]).copied().collect();
        assert_close(got, &want, Bfloat16, sum_error(96));
    }
}

#[test]
fn norms_take_their_epsilon_and_the_logical_columns() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [1, 2, 33, 72], Bfloat16, "x");
    for epsilon in [1e-6f32, 0.5] {
        let norm = |layer: bool| {
            let rows = x.values.chunks_exact(72).flat_map(move |row| {
                let mean = if layer { row.iter().sum::<f64>() / 72.0 } else { 0.0 };
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 72.0;
                row.iter().map(move |v| (v - mean) / (variance + f64::from(epsilon)).sqrt())
            });
            rows.collect::<Vec<f64>>()
        };
        let op = Op::LayerNorm { epsilon, memory: DRAM, compute: compute(MathFidelity::HiFi3) };
        assert_close(&run(&mut host, &op, &[&x])[0], &norm(true), Bfloat16, 1e-5);
        let op = Op::RmsNorm { epsilon, memory: DRAM, compute: compute(MathFidelity::HiFi3) };
        assert_close(&run(&mut host, &op, &[&x])[0], &norm(false), Bfloat16, 1e-5);
    }
}

/// Attention in float64 over the first `keys` rows of `k` and `v`.
fn attention(q: &Given, k: &Given, v: &Given, mask: Option<&Given>, keys: usize, scale: f64) -> Vec<f64> {
    let ([batch, heads, queries, dim], kv_heads) = (q.shape.0, k.shape.0[1]);
    let mut out = Vec::new();
    for outer in 0..batch * heads {
        let kv = outer / heads * kv_heads + outer % heads / (heads / kv_heads);
        for query in 0..queries {
            let score = |key: usize| {
                let dot: f64 = (0..dim).map(|d| q.at(outer, query, d) * k.at(kv, key, d)).sum();
                (dot + mask.map_or(0.0, |mask| mask.at(0, query, key))) * scale
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                out.push(weights.iter().enumerate().map(|(key, weight)| weight * v.at(kv, key, d)).sum::<f64>() / total);
            }
        }
    }
    out
}

#[test]
fn attention_is_the_plain_formula_for_grouped_heads_and_batches() {
    let mut host = host(Numerics::Formats);
    for (batch, heads, kv_heads, queries, keys, dim) in [(1, 8, 1, 64, 96, 64), (3, 4, 4, 32, 32, 96), (2, 6, 2, 288, 45, 32)] {
        let q = given(&mut host, [batch, heads, queries, dim], Bfloat16, "q");
        let k = given(&mut host, [batch, kv_heads, keys, dim], Bfloat16, "k");
        let v = given(&mut host, [batch, kv_heads, keys, dim], Bfloat16, "v");
        let got = run(&mut host, &sdpa(0.7, MathFidelity::HiFi2), &[&q, &k, &v]);
        assert_close(&got[0], &attention(&q, &k, &v, None, keys, f64::from(0.7f32)), Bfloat16, 1e-5);
    }
}

#[test]
fn an_additive_mask_hides_keys_from_its_query_row_only() {
    let mut host = host(Numerics::Formats);
    let q = given(&mut host, [1, 8, 64, 64], Bfloat16, "q");
    let k = given(&mut host, [1, 1, 96, 64], Bfloat16, "k");
    let v = given(&mut host, [1, 1, 96, 64], Bfloat16, "v");
    let hidden = |query: usize, key: usize| if query == 50 && key < 50 || key >= 90 { -1e9 } else { 0.0 };
    let mask: Vec<f32> = (0..64 * 96).map(|i| hidden(i / 96, i % 96)).collect();
    let mask = upload(&mut host, [1, 1, 64, 96], Bfloat16, &mask);
    let got = run(&mut host, &sdpa(0.125, MathFidelity::HiFi2), &[&q, &k, &v, &mask]);
    assert_close(&got[0], &attention(&q, &k, &v, Some(&mask), 96, 0.125), Bfloat16, 1e-5);
}

#[test]
fn keys_beyond_the_logical_rows_of_a_view_do_not_matter() {
    let mut host = host(Numerics::Formats);
    let q = given(&mut host, [1, 8, 64, 64], Bfloat16, "q");
    let shortened = |host: &mut Host, salt: &str, tail: f32| {
        let mut values = uniform(salt, 96 * 64);
        values[70 * 64..].fill(tail);
        let whole = upload(host, [1, 1, 96, 64], Bfloat16, &values);
        let view = host.run(&Op::Reshape { shape: Shape([1, 1, 70, 64]) }, &[&whole.tensor]).unwrap().remove(0);
        Given { tensor: view, ..whole }
    };
    let mut results = Vec::new();
    for tail in [0.0, 1e30, f32::NAN] {
        let (k, v) = (shortened(&mut host, "k", tail), shortened(&mut host, "v", tail));
        let got = run(&mut host, &sdpa(0.125, MathFidelity::HiFi2), &[&q, &k, &v]).remove(0);
        assert_close(&got, &attention(&q, &k, &v, None, 70, 0.125), Bfloat16, 1e-5);
        results.push(got);
    }
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn heads_are_cut_out_of_a_row_and_joined_again() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [2, 1, 64, 6 * 32], Bfloat16, "x");
    let op = Op::NlpCreateQkvHeads { num_heads: 4, num_kv_heads: 1, memory: DRAM };
    let outputs = host.run(&op, &[&x.tensor]).unwrap();
    for (output, (first, heads)) in outputs.iter().zip([(0, 4), (4, 1), (5, 1)]) {
        assert_eq!(output.spec.shape, Shape([2, heads, 64, 32]));
        let got = values(&mut host, output);
        for (index, value) in got.iter().enumerate() {
            let (outer, row, column) = (index / 32 / 64, index / 32 % 64, index % 32);
            assert_eq!(*value, x.at(outer / heads, row, (first + outer % heads) * 32 + column));
        }
    }
    let joined = host.run(&Op::NlpConcatHeads { memory: DRAM }, &[&outputs[0]]).unwrap().remove(0);
    let expected: Vec<f64> = x.values.chunks_exact(6 * 32).flat_map(|row| &row[..4 * 32]).copied().collect();
    assert_eq!(values(&mut host, &joined), expected);
}

#[test]
fn rotary_embedding_rotates_halves_with_the_tables_row() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [2, 3, 32, 64], Bfloat16, "x");
    let cos = given(&mut host, [1, 1, 32, 64], Bfloat16, "cos");
    let sin = given(&mut host, [1, 1, 32, 64], Bfloat16, "sin");
    let op = Op::RotaryEmbedding { memory: DRAM, compute: compute(MathFidelity::HiFi3) };
    let want: Vec<f64> = (0..x.values.len())
        .map(|index| {
            let (outer, row, column) = (index / 64 / 32, index / 64 % 32, index % 64);
            let rotated = if column < 32 { -x.at(outer, row, column + 32) } else { x.at(outer, row, column - 32) };
            x.at(outer, row, column) * cos.at(0, row, column) + rotated * sin.at(0, row, column)
        })
        .collect();
    assert_close(&run(&mut host, &op, &[&x, &cos, &sin])[0], &want, Bfloat16, 1e-6);
}

#[test]
fn concat_puts_rows_below_each_other_head_by_head() {
    let mut host = host(Numerics::Formats);
    let a = given(&mut host, [1, 2, 64, 40], Bfloat16, "a");
    let b = given(&mut host, [1, 2, 33, 40], Bfloat16, "b");
    let got = run(&mut host, &Op::Concat { memory: DRAM }, &[&a, &b]).remove(0);
    let want: Vec<f64> =
        (0..2).flat_map(|head| [&a.values[head * 2560..][..2560], &b.values[head * 1320..][..1320]].concat()).collect();
    assert_eq!(got, want);
}

#[test]
fn elementwise_ops_round_to_the_dtype_they_are_told() {
    let mut host = host(Numerics::Formats);
    let (a, b) = (given(&mut host, [1, 1, 50, 72], Float32, "a"), given(&mut host, [1, 1, 50, 72], Bfloat16, "b"));
    let both = |f: fn(f64, f64) -> f64| a.values.iter().zip(&b.values).map(|(&a, &b)| f(a, b)).collect::<Vec<f64>>();
    for dtype in [Float32, Bfloat16] {
        let got = run(&mut host, &Op::Add { dtype, memory: DRAM }, &[&a, &b]);
        assert_close(&got[0], &both(|a, b| a + b), dtype, 0.0);
    }
}

#[test]
fn addcmul_adds_a_product_in_float32() {
    let mut host = host(Numerics::Kernels);
    let [a, b, c] = ["a", "b", "c"].map(|salt| given(&mut host, [1, 1, 50, 32], Float32, salt));
    let got = run(&mut host, &Op::Addcmul { memory: DRAM }, &[&a, &b, &c]);
    let want: Vec<f64> = (0..a.values.len()).map(|i| a.values[i] + b.values[i] * c.values[i]).collect();
    assert_close(&got[0], &want, Float32, 1e-7);
}

#[test]
fn multiply_changes_its_first_operand_in_place() {
    let mut host = host(Numerics::Formats);
    for dtype in [Float32, Bfloat16, Bfloat8B] {
        for activation in [None, Some(Activation::Silu)] {
            let (a, b) = (given(&mut host, [1, 1, 50, 72], dtype, "a"), given(&mut host, [1, 1, 50, 72], Bfloat16, "b"));
            assert!(host.run(&Op::Multiply { lhs_activation: activation }, &[&a.tensor, &b.tensor]).unwrap().is_empty());
            let activated = |a: f64| if activation.is_some() { a / (1.0 + (-a).exp()) } else { a };
            let want: Vec<f64> = a.values.iter().zip(&b.values).map(|(&a, &b)| activated(a) * b).collect();
            // A block of bfloat8_b is rounded by half a unit of its largest value: 2^-7 of up to 1.
            let slack = if dtype == Bfloat8B { (-7f64).exp2() } else { 1e-6 };
            assert_close(&values(&mut host, &a.tensor), &want, dtype, slack);
        }
    }
}

#[test]
fn where_chooses_by_a_condition_that_is_not_zero() {
    let mut host = host(Numerics::Formats);
    let mask: Vec<f32> = (0..64 * 40).map(|i| [0.0, 1.0, -2.0][i / 40 % 3]).collect();
    let mask = upload(&mut host, [1, 1, 64, 40], Bfloat16, &mask);
    let (a, b) = (given(&mut host, [1, 1, 64, 40], Bfloat16, "a"), given(&mut host, [1, 1, 64, 40], Bfloat16, "b"));
    let got = run(&mut host, &Op::Where { memory: DRAM }, &[&mask, &a, &b]).remove(0);
    for (index, value) in got.iter().enumerate() {
        assert_eq!(*value, if index / 40 % 3 == 0 { b.values[index] } else { a.values[index] });
    }
}

#[test]
fn heads_go_into_tensors_that_exist_and_leave_the_rows_behind_them() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [1, 1, 64, 6 * 32], Bfloat16, "x");
    let q = given(&mut host, [1, 4, 64, 32], Bfloat16, "q");
    let (k, v) = (given(&mut host, [1, 1, 96, 32], Bfloat16, "k"), given(&mut host, [1, 1, 64, 32], Bfloat16, "v"));
    let op = Op::NlpCreateQkvHeads { num_heads: 4, num_kv_heads: 1, memory: DRAM };
    let cut = run(&mut host, &op, &[&x]);
    assert!(run(&mut host, &op, &[&x, &q, &k, &v]).is_empty());
    assert_eq!(values(&mut host, &q.tensor), cut[0]);
    assert_eq!(values(&mut host, &k.tensor), [&cut[1][..], &k.values[64 * 32..]].concat());
    assert_eq!(values(&mut host, &v.tensor), cut[2]);
}

#[test]
fn hifi2_drops_the_last_bit_of_bfloat16_activations_when_kernels_are_imitated() {
    // 1 + 2^-7 needs all eight bits of bfloat16; HiFi2 takes seven of operand A.
    let values = |numerics, fidelity| {
        let mut host = host(numerics);
        let x = upload(&mut host, [1, 1, 1, 1], Bfloat16, &[1.0078125]);
        let weight = upload(&mut host, [1, 1, 1, 1], Bfloat16, &[1.0078125]);
        run(&mut host, &linear(Float32, fidelity, None), &[&x, &weight])[0][0]
    };
    let exact = 1.0078125 * 1.0078125;
    assert_eq!(values(Numerics::Formats, MathFidelity::HiFi2), exact);
    assert_eq!(values(Numerics::Kernels, MathFidelity::HiFi3), exact);
    assert_eq!(values(Numerics::Kernels, MathFidelity::HiFi2), 1.0078125);
    assert_eq!(values(Numerics::Kernels, MathFidelity::LoFi), 1.0);
}

#[test]
fn imitated_attention_kernels_differ_by_the_rounding_of_scores_and_weights() {
    let results = [Numerics::Formats, Numerics::Kernels].map(|numerics| {
        let mut host = host(numerics);
        let q = given(&mut host, [1, 8, 64, 64], Bfloat16, "q");
        let k = given(&mut host, [1, 1, 96, 64], Bfloat16, "k");
        let v = given(&mut host, [1, 1, 96, 64], Bfloat16, "v");
        run(&mut host, &sdpa(0.125, MathFidelity::HiFi3), &[&q, &k, &v]).remove(0)
    });
    let worst = results[0].iter().zip(&results[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // Scores up to 20 are off by 2^-4 before the scale of 1/8, weights by 2^-8 of themselves.
    assert!(worst > 0.0 && worst < 0.02, "{worst}");
}

/// Writes heads of `silu(x weight)`, times themselves, into the first rows of `cache`; gives twice the cache.
fn graph(host: &mut Host, x: &HostTensor, weight: &HostTensor, cache: &HostTensor) -> HostTensor {
    let hidden = host.run(&linear(Bfloat16, MathFidelity::HiFi2, Some(Activation::Silu)), &[x, weight]).unwrap().remove(0);
    host.run(&Op::Multiply { lhs_activation: None }, &[&hidden, &hidden]).unwrap();
    let heads = Op::NlpCreateQkvHeads { num_heads: 1, num_kv_heads: 1, memory: DRAM };
    let queries = host.run(&Op::Reshape { shape: Shape([1, 1, 64, 96]) }, &[&hidden]).unwrap().remove(0);
    let [q, k, v] = host.run(&heads, &[&queries]).unwrap().try_into().unwrap();
    host.run(&heads, &[&queries, &q, cache, &v]).unwrap();
    drop(k);
    let view = host.run(&Op::Reshape { shape: cache.spec.shape }, &[cache]).unwrap().remove(0);
    host.run(&Op::Add { dtype: Bfloat16, memory: DRAM }, &[&view, cache]).unwrap().remove(0)
}

#[test]
fn a_replayed_trace_gives_what_the_ops_give_and_follows_its_inputs() {
    let mut host = host(Numerics::Formats);
    let weight = given(&mut host, [1, 1, 64, 96], Bfloat8B, "weight");
    let cache = given(&mut host, [1, 1, 96, 32], Bfloat16, "cache");
    let x = given(&mut host, [1, 1, 64, 64], Bfloat16, "first");

    host.begin_capture().unwrap();
    let output = graph(&mut host, &x.tensor, &weight.tensor, &cache.tensor);
    let trace = host.end_capture().unwrap();
    let early = host.download(&output).unwrap_err().to_string();
    assert!(early.contains("before the trace"), "{early}");

    let mut seen = Vec::new();
    for salt in ["first", "second", "first"] {
        let values_of = uniform(salt, 64 * 64);
        let (eager_x, eager_cache) =
            (upload(&mut host, [1, 1, 64, 64], Bfloat16, &values_of), given(&mut host, [1, 1, 96, 32], Bfloat16, "cache"));
        let eager = graph(&mut host, &eager_x.tensor, &weight.tensor, &eager_cache.tensor);
        let expected = values(&mut host, &eager);

        host.write(&x.tensor, pack(&x.tensor.spec, &values_of)).unwrap();
        host.replay(&trace).unwrap();
        assert_eq!(values(&mut host, &output), expected);
        assert_eq!(values(&mut host, &cache.tensor), values(&mut host, &eager_cache.tensor));
        seen.push(expected);
    }
    assert_eq!(seen[0], seen[2]);
    assert_ne!(seen[0], seen[1]);

    // The linear's result and the heads were intermediate: nobody holds them, so their memory is free.
    let kept: Vec<bool> = trace.calls.iter().flat_map(|call| &call.outputs).map(|output| output.operand().is_ok()).collect();
    assert_eq!(kept, [false, false, false, false, true]);
}

#[test]
fn an_intermediate_result_that_is_viewed_lives_until_the_last_view_is_read() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [1, 1, 64, 64], Bfloat16, "x");
    let add = Op::Add { dtype: Bfloat16, memory: DRAM };
    host.begin_capture().unwrap();
    let twice = host.run(&add, &[&x.tensor, &x.tensor]).unwrap().remove(0);
    let view = host.run(&Op::Reshape { shape: Shape([1, 2, 32, 64]) }, &[&twice]).unwrap().remove(0);
    let more = host.run(&add, &[&twice, &x.tensor]).unwrap().remove(0);
    let last = host.run(&add, &[&view, &view]).unwrap().remove(0);
    drop((twice, view, more));
    let trace = host.end_capture().unwrap();
    host.replay(&trace).unwrap();
    host.replay(&trace).unwrap();
    let want: Vec<f64> = x.values.iter().map(|v| 4.0 * v).collect();
    assert_eq!(values(&mut host, &last), want);
    assert_eq!(trace.calls.iter().map(|call| call.dead.len()).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn operands_of_wrong_shape_are_refused_with_the_ops_name() {
    let mut host = host(Numerics::Formats);
    let a = given(&mut host, [1, 1, 64, 64], Bfloat16, "a").tensor;
    let b = given(&mut host, [1, 1, 32, 96], Bfloat16, "b").tensor;
    let (hifi2, memory) = (compute(MathFidelity::HiFi2), DRAM);
    let split = Op::MinimalMatmulSplit { chunks: 2, config: MINIMAL, dtype: Bfloat16, memory, compute: hifi2 };
    let cases: [(Op, &[&HostTensor]); 14] = [
        (linear(Bfloat16, MathFidelity::HiFi2, None), &[&a, &b]),
        (linear(Bfloat16, MathFidelity::HiFi2, None), &[&a, &a, &b]),
        (split, &[&a, &b]),
        (Op::RmsNorm { epsilon: 1e-6, memory, compute: hifi2 }, &[&a, &b]),
        (sdpa(1.0, MathFidelity::HiFi2), &[&a, &a, &b]),
        (sdpa(1.0, MathFidelity::HiFi2), &[&a, &a, &a, &b]),
        (Op::NlpCreateQkvHeads { num_heads: 5, num_kv_heads: 1, memory }, &[&a]),
        (Op::RotaryEmbedding { memory, compute: hifi2 }, &[&a, &b, &b]),
        (Op::NlpCreateQkvHeads { num_heads: 0, num_kv_heads: 1, memory }, &[&a, &b, &a, &a]),
        (Op::Multiply { lhs_activation: None }, &[&a, &b]),
        (Op::Concat { memory }, &[&a, &b]),
        (Op::Add { dtype: Bfloat16, memory }, &[&a, &b]),
        (Op::Addcmul { memory }, &[&a, &a, &b]),
        (Op::Reshape { shape: Shape([1, 1, 64, 32]) }, &[&a]),
    ];
    for (op, inputs) in cases {
        let error = host.run(&op, inputs).unwrap_err().to_string();
        assert!(error.starts_with(op.name()), "{error}");
    }
}

#[test]
fn bytes_that_are_not_the_tensors_are_refused_and_leave_it_as_it_was() {
    let mut host = host(Numerics::Formats);
    let x = given(&mut host, [1, 1, 33, 64], Bfloat16, "x");
    let before = host.download(&x.tensor).unwrap();
    let error = host.write(&x.tensor, Bytes::from(vec![0; 33 * 64 * 2])).unwrap_err().to_string();
    assert!(error.contains("4224") && error.contains("8192"), "{error}");
    assert_eq!(host.download(&x.tensor).unwrap(), before);
}

//! The product behind every linear layer: faer, which the reference backend uses, beside the plain `gemm` crate.
//!
//! `y = x W^T` with weights row-major as in a checkpoint, at the shapes of the published pi0. Throughput is in floating-point operations
//! (two for each multiply and add): an "element" of the report is one operation.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};

/// Rows, outputs, inputs.
const SHAPES: [(&str, usize, usize, usize); 4] = [
    ("SigLIP MLP", 768, 4304, 1152),
    ("prefix gate", 816, 16384, 2048),
    ("prefix down", 816, 2048, 16384),
    ("expert gate", 51, 4096, 1024),
];

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    group.sample_size(10);
    for (name, rows, outputs, inputs) in SHAPES {
        let (x, w) = (vec![0.5f32; rows * inputs], vec![0.25f32; outputs * inputs]);
        let mut y = vec![0f32; rows * outputs];
        group.throughput(Throughput::Elements(2 * (rows * outputs * inputs) as u64));
        for threads in [1, 2] {
            let parallelism = if threads == 1 { Par::Seq } else { Par::rayon(threads) };
            group.bench_function(BenchmarkId::new(format!("faer, {threads} threads"), name), |bench| {
                bench.iter(|| {
                    matmul(
                        MatMut::from_row_major_slice_mut(&mut y, rows, outputs),
                        Accum::Replace,
                        MatRef::from_row_major_slice(&x, rows, inputs),
                        MatRef::from_row_major_slice(&w, outputs, inputs).transpose(),
                        1.0,
                        parallelism,
                    );
                });
            });
            let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
            group.bench_function(BenchmarkId::new(format!("gemm, {threads} threads"), name), |bench| {
                // SAFETY: the pointers are to the whole matrices and the strides are those of their row-major layouts.
                bench.iter(|| unsafe {
                    gemm::gemm(
                        rows,
                        outputs,
                        inputs,
                        y.as_mut_ptr(),
                        1,
                        outputs as isize,
                        false,
                        x.as_ptr(),
                        1,
                        inputs as isize,
                        w.as_ptr(),
                        inputs as isize,
                        1,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        parallelism,
                    );
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);

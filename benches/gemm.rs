//! The products of the published π0, `y = x W^T`: our kernel beside faer and the plain `gemm` crate, and the peak of the machine.
//!
//! Weights are row-major as in a checkpoint for the libraries and packed once for ours, as they are in use. Throughput is in floating-point
//! operations (two for each multiply and add): an "element" of the report is one operation. The bench named `peak` does nothing but
//! multiply-adds in registers, so the share of the peak is a rate divided by that of `peak` with as many threads; it is printed first.

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use half::bf16;
use pi0_tt::{
    backend::kernels::gemm::{Arrangement, Epilogue, Instructions, Panels, RowTiles, peak_gflops, product},
    checkpoint::TensorData,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Rows, outputs, inputs.
const SHAPES: [(&str, usize, usize, usize); 5] = [
    ("SigLIP MLP", 768, 4304, 1152),
    ("prefix gate", 788, 16384, 2048),
    ("prefix down", 788, 2048, 16384),
    ("expert gate", 51, 4096, 1024),
    ("expert down", 51, 1024, 4096),
];

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    group.sample_size(10);
    for threads in [1, 2] {
        let Ok(pool) = ThreadPoolBuilder::new().num_threads(threads).build() else { return };
        eprintln!("peak with {threads} threads: {:.1} GFLOP/s", pool.install(peak_gflops));
        for shape in SHAPES {
            let (_, rows, outputs, inputs) = shape;
            group.throughput(Throughput::Elements(2 * (rows * outputs * inputs) as u64));
            ours(&mut group, &pool, shape);
            libraries(&mut group, threads, shape);
        }
    }
    group.finish();
}

/// The kernel with the best instructions that this machine has, on both formats of weights.
fn ours(group: &mut BenchmarkGroup<'_, WallTime>, pool: &ThreadPool, (name, rows, outputs, inputs): (&str, usize, usize, usize)) {
    let set = Instructions::detect();
    let x = vec![0.5f32; rows * inputs];
    let (wide, narrow) = (vec![0.25f32; outputs * inputs], vec![bf16::from_f32(0.25); outputs * inputs]);
    for (format, weight) in [("float32", TensorData::F32(&wide)), ("bfloat16", TensorData::BF16(&narrow))] {
        let Ok(panels) = pool.install(|| Panels::new(set, &[weight], inputs, Arrangement::Stacked)) else { return };
        let (mut tiles, mut y) = (RowTiles::new(set), vec![0f32; rows * outputs]);
        let id = BenchmarkId::new(format!("ours, {format}, {} threads", pool.current_num_threads()), name);
        group.bench_function(id, |bench| {
            pool.install(|| {
                bench.iter(|| {
                    tiles.pack(&x, inputs);
                    product(&tiles, &panels, Epilogue::Store, &mut y, outputs);
                });
            });
        });
    }
}

fn libraries(
    group: &mut BenchmarkGroup<'_, WallTime>,
    threads: usize,
    (name, rows, outputs, inputs): (&str, usize, usize, usize),
) {
    let (x, w) = (vec![0.5f32; rows * inputs], vec![0.25f32; outputs * inputs]);
    let mut y = vec![0f32; rows * outputs];
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

criterion_group!(benches, products);
criterion_main!(benches);

use super::*;
use crate::{
    backend::{
        Backend,
        ttnn::{
            Dispatch, Resident,
            op::OpError,
            record::{Event, FORMAT, Record},
            runtime::{Runtime, Shapes},
            terms::{
                ComputeKernelConfig, CoreGrid, DataType, MathFidelity, MatmulProgramConfig, MemoryConfig, Multicast,
                SdpaProgramConfig, Shape,
            },
        },
    },
    model::{Camera, DenoiseRequest, Geometry, Guidance, ModelInputs, Prompt},
};

const L1: MemoryConfig = MemoryConfig::L1Interleaved;
const DRAM: MemoryConfig = MemoryConfig::DramInterleaved;
const COMPUTE: ComputeKernelConfig = ComputeKernelConfig {
    math_fidelity: MathFidelity::HiFi2,
    math_approx_mode: false,
    fp32_dest_acc_en: false,
    packer_l1_acc: true,
};
const GRID: CoreGrid = CoreGrid { x: 8, y: 8 };

fn workload() -> Workload {
    Workload { geometry: Geometry::small(), cameras: 1, tokens: 5, steps: 2, guided: false }
}

fn bf16(shape: [usize; 4], memory: MemoryConfig) -> TensorSpec {
    TensorSpec::new(Shape(shape), DataType::Bfloat16, memory)
}

/// `[64, 1024] x [1024, 2560]` on 40 cores, split into heads, attended to, and read back.
fn recorded() -> Recording {
    let mut runtime = Record::new(Shapes::new(DeviceInfo::wormhole(GRID)));
    let mut upload = |scope: &[&str], spec| {
        scope.iter().for_each(|scope| runtime.enter(scope));
        let tensor = runtime.upload(spec, &mut || unreachable!("shapes hold no values")).unwrap();
        scope.iter().for_each(|_| runtime.leave());
        tensor
    };
    let weight = upload(&["weights"], TensorSpec::new(Shape::matrix(1024, 2560), DataType::Bfloat8B, DRAM));
    let x = upload(&["inputs", "noise"], bf16([1, 1, 64, 1024], DRAM));
    let prompt = upload(&["inputs", "prompt"], bf16([1, 1, 32, 64], DRAM));
    for input in [&x, &prompt] {
        let size = runtime.spec(input).bytes();
        runtime.write(input, vec![0; size].into()).unwrap();
    }
    runtime.enter("denoise");
    let program = MatmulProgramConfig {
        multicast: Multicast::OneD,
        grid: GRID,
        in0_block_w: 8,
        out_subblock_h: 1,
        out_subblock_w: 2,
        out_block_h: 2,
        out_block_w: 2,
        per_core_m: 2,
        per_core_n: 2,
        fused_activation: None,
    };
    let linear = Op::Linear { program, dtype: DataType::Bfloat16, memory: L1, compute: COMPUTE };
    let qkv = runtime.run(&linear, &[&x, &weight]).unwrap().remove(0);
    let heads = Op::NlpCreateQkvHeads { num_heads: 8, num_kv_heads: 1, memory: L1 };
    let [q, k, v] = runtime.run(&heads, &[&qkv]).unwrap().try_into().ok().unwrap();
    drop(qkv);
    let view = Op::Reshape { shape: Shape([1, 1, 50, 256]) };
    let [k, v] = [k, v].map(|rows| runtime.run(&view, &[&rows]).unwrap().remove(0));
    let program = SdpaProgramConfig { grid: GRID, q_chunk_size: 32, k_chunk_size: 64, exp_approx_mode: false };
    let attention = Op::ScaledDotProductAttention { scale: 0.0625, program, memory: L1, compute: COMPUTE };
    let attended = runtime.run(&attention, &[&q, &k, &v]).unwrap().remove(0);
    runtime.leave();
    runtime.download(&attended).unwrap();
    runtime.recording(workload())
}

fn close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} instead of {expected}");
}

#[test]
fn arithmetic_bytes_and_times_of_a_small_graph_are_those_counted_by_hand() {
    let coverage = Coverage::new("small".into(), &recorded()).unwrap();
    let product = 2 * 64 * 1024 * 2560;
    // 64 keys: 50 and the padding of their tile.
    let attention = 4 * 64 * 64 * 8 * 256;
    let total = &coverage.total;
    assert_eq!((total.launches, total.views), (3, 2));
    assert_eq!(total.flops, product + attention);
    let weight = 1024 * 2560 / 1024 * 1088;
    assert_eq!(total.weight_bytes, weight);
    // x and the weight are read from DRAM, everything else lies in L1.
    assert_eq!(total.dram_bytes, weight + 64 * 1024 * 2);
    // HiFi2: 2048 operations a nanosecond in each core.
    close(total.rooflines[0].compute_ms, (product + attention) as f64 / 2048.0 / 64.0 / 1e6);
    close(total.rooflines[1].compute_ms, (product + attention) as f64 / 2048.0 / 56.0 / 1e6);
    close(total.rooflines[0].dram_ms, total.dram_bytes as f64 / 288e6);
    assert_eq!(total.rooflines[0].ms, total.rooflines[0].compute_ms.max(total.rooflines[0].dram_ms));
    // 2 x 2 tiles of 32 products with 32 cycles on each of 40 cores, or reading the weight.
    close(total.products_ms, (2.0 * 2.0 * 32.0 * 32.0_f64).max(weight as f64 / 288.0) / 1e6);
    assert_eq!(coverage.launches, [("linear", 1), ("nlp_create_qkv_heads", 1), ("scaled_dot_product_attention", 1)]);
}

#[test]
fn transfers_are_batches_with_names_and_the_host_has_its_share() {
    let coverage = Coverage::new("small".into(), &recorded()).unwrap();
    let names = |transfer: &Transfer| transfer.tensors.iter().map(|crossing| crossing.name.clone()).collect::<Vec<_>>();
    let [up, down] = &coverage.transfers[..] else { panic!("{:?}", coverage.transfers) };
    assert_eq!((up.direction, names(up)), (Direction::Up, vec!["inputs/noise".into(), "inputs/prompt".into()]));
    assert_eq!((down.direction, names(down)), (Direction::Down, vec!["denoise".into()]));
    assert_eq!(coverage.crossings(Direction::Up), (1, 2, 64 * 1024 * 2 + 32 * 64 * 2));
    let share = |module| coverage.modules.iter().find(|share| share.module == module).copied().unwrap();
    assert_eq!(share(Module::Prefix).host.flops, 5 * 256);
    // The noise that is drawn; it goes up and the actions come down.
    assert_eq!((share(Module::Denoise).host.ops, share(Module::Denoise).host.flops), (2, 50 * 32));
    assert_eq!(coverage.setup, Setup { uploads: 3, bytes: 1024 * 2560 / 1024 * 1088 + 64 * 1024 * 2 + 32 * 64 * 2, launches: 0 });
}

#[test]
fn views_take_no_memory_and_what_is_freed_is_free() {
    let coverage = Coverage::new("small".into(), &recorded()).unwrap();
    // In a core: the projection takes three tiles, q two, k and v one each. The attended rows, two more, come when the first is gone.
    assert_eq!(coverage.high_water.l1_bytes, (3 + 2 + 1 + 1) * 2048);
    assert_eq!(coverage.high_water.dram_bytes, coverage.setup.bytes);
}

fn resident(workload: Workload, dispatch: Dispatch) -> Recording {
    let geometry = workload.geometry;
    let runtime = Record::new(Shapes::new(DeviceInfo::wormhole(GRID)));
    let mut resident = Resident::without_values(runtime, &geometry, dispatch).unwrap();
    let inputs = ModelInputs {
        cameras: vec![Camera::Present(vec![0.0; 3 * geometry.vision.image_size.pow(2)]); workload.cameras],
        prompt: Prompt { ids: vec![0; workload.tokens] },
        state: vec![0.0; geometry.state_dim],
    };
    let chunk = vec![0.0; geometry.horizon * geometry.action_dim];
    let guidance = Guidance { previous: chunk.clone(), weights: vec![0.0; geometry.horizon], max_weight: 1.0 };
    let request = DenoiseRequest { noise: chunk, steps: workload.steps, guidance: workload.guided.then_some(guidance) };
    resident.infer(&inputs, &request).unwrap();
    resident.runtime().recording(workload)
}

#[test]
fn a_chunk_is_the_same_op_by_op_and_as_traces() {
    let [each, traced] =
        [Dispatch::EachOp, Dispatch::Trace].map(|dispatch| Coverage::new("π0".into(), &resident(workload(), dispatch)).unwrap());
    assert_eq!((&each.stages, &each.total), (&traced.stages, &traced.total));
    assert_eq!((&each.modules, &each.launches, &each.transfers), (&traced.modules, &traced.launches, &traced.transfers));
    // The first runs of the programs come before the traces.
    assert_eq!(traced.setup.launches, each.setup.launches + each.total.launches);
}

#[test]
fn every_part_of_the_model_is_accounted_for() {
    let coverage = Coverage::new("π0".into(), &resident(workload(), Dispatch::EachOp)).unwrap();
    let names: Vec<_> = coverage.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["vision", "prefill", "denoise"]);
    for share in &coverage.modules {
        // Tables are made once; everything else is a matter of each chunk.
        assert!(share.card.ops > 0 || share.module == Module::Common, "{share:?}");
        assert_eq!(share.once.ops > 0, matches!(share.module, Module::Common | Module::Masks), "{share:?}");
    }
    assert_eq!((coverage.crossings(Direction::Up).0, coverage.crossings(Direction::Down).0), (1, 1));
    assert!(coverage.crossings(Direction::Up).1 == 4 && coverage.flops_on_card() > 0.99, "{:?}", coverage.transfers);
}

#[test]
fn the_published_model_reaches_what_it_was_designed_for() {
    let workload = Workload { geometry: Geometry::base(), cameras: 2, tokens: 32, steps: 10, guided: false };
    let recording = resident(workload, Dispatch::EachOp);
    let coverage = Coverage::new("π0".into(), &recording).unwrap();
    let total = &coverage.total;
    assert!(total.launches <= 3200, "{}", total.launches);
    assert!(total.weight_bytes <= 6_200_000_000, "{}", total.weight_bytes);
    assert!(total.products_ms <= 45.0, "{}", total.products_ms);
    assert!(coverage.flops_on_card() >= 0.99, "{}", coverage.flops_on_card());
    assert_eq!((coverage.crossings(Direction::Up).0, coverage.crossings(Direction::Down).0), (1, 1));
    // The model's own count leaves out what pads rows, heads and the MLP to tiles: a tenth of SigLIP, a fifth of the expert.
    let model = workload.geometry.flops(workload.cameras, workload.tokens).total(workload.steps);
    let padding = total.flops as f64 / model - 1.0;
    assert!((0.0..0.1).contains(&padding), "{padding}");
    // Weights alone are the floor of the denoise steps.
    let denoise = &coverage.stages[2];
    assert!(denoise.rooflines[0].ms >= denoise.weight_bytes as f64 / 288e6 && denoise.rooflines[0].ms < 15.0, "{denoise:?}");
}

#[test]
fn guidance_costs_a_launch_a_step_and_its_factors_in_the_same_batch() {
    let [free, guided] = [false, true].map(|guided| {
        let workload = Workload { geometry: Geometry::base(), cameras: 2, tokens: 32, steps: 10, guided };
        Coverage::new("π0".into(), &resident(workload, Dispatch::EachOp)).unwrap()
    });
    assert_eq!(guided.total.launches, free.total.launches + 10);
    assert!(guided.total.launches <= 3200, "{}", guided.total.launches);
    let (batches, tensors, bytes) = free.crossings(Direction::Up);
    assert_eq!(guided.crossings(Direction::Up), (batches, tensors + 30, bytes + 30 * 64 * 32 * 4));
    assert!(guided.total.dram_bytes - free.total.dram_bytes < 1 << 20);
    let share = |coverage: &Coverage| coverage.modules.iter().find(|share| share.module == Module::Denoise).unwrap().card.ops;
    assert_eq!(share(&guided), share(&free) + 10);
}

#[test]
fn a_recording_that_was_changed_is_refused_and_the_place_is_named() {
    let fails = |change: &dyn Fn(&mut Recording)| {
        let mut recording = recorded();
        change(&mut recording);
        Coverage::new("changed".into(), &recording).unwrap_err()
    };
    let first_run = recorded().events.iter().position(|event| matches!(event, Event::Run { .. })).unwrap();
    let unknown = fails(&|recording| recording.events.insert(0, Event::Download { tensor: 99 }));
    assert!(matches!(unknown, CoverageError::Tensor { event: 0, tensor: 99 }), "{unknown}");
    let freed = fails(&|recording| recording.events.insert(first_run, Event::Deallocate { tensor: 0 }));
    assert!(matches!(freed, CoverageError::Tensor { tensor: 0, .. }), "{freed}");
    let shape = fails(&|recording| recording.tensors[0].shape = Shape::matrix(1056, 2560));
    assert!(matches!(shape, CoverageError::Op { source: OpError { op: "linear", .. }, .. }), "{shape}");
    let output = fails(&|recording| recording.tensors[3].dtype = DataType::Float32);
    assert!(matches!(output, CoverageError::Outputs { op: "linear", .. }), "{output}");
    let left = fails(&|recording| recording.events.insert(0, Event::Leave));
    assert!(matches!(left, CoverageError::Unpaired { event: 0 }), "{left}");
    let replayed = fails(&|recording| recording.events.push(Event::Replay { trace: 0 }));
    assert!(matches!(replayed, CoverageError::Unpaired { .. }), "{replayed}");
    let empty = fails(&|recording| recording.events.clear());
    assert!(matches!(empty, CoverageError::NoChunk), "{empty}");
    assert_eq!(recorded().format, FORMAT);
}

#[test]
fn a_page_of_two_plans_stands_alone_and_escapes_names() {
    let mut second = Coverage::new("<8x7>".into(), &recorded()).unwrap();
    second.device.grid.y = 7;
    let html = page(&[Coverage::new("8x8".into(), &recorded()).unwrap(), second]);
    assert!(html.contains("&lt;8x7&gt;") && !html.contains("<8x7>"));
    for outside in ["http:", "https:", "src=", "<script", "<link", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
    let opened = |tag: &str| html.matches(&format!("<{tag}")).count();
    for tag in ["table", "section", "div", "svg", "tbody", "tr", "caption", "thead"] {
        assert_eq!(opened(&format!("{tag} ")) + opened(&format!("{tag}>")), html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    // Every table scrolls by keyboard, and one bar is the longest.
    assert_eq!(html.matches("tabindex=\"0\"").count(), opened("table"));
    assert_eq!(html.matches("width=\"620.0\"").count(), 2, "one for each plan");
}

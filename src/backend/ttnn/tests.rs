//! The graph on the CPU in the card's number formats, against the reference backend on the same weights and inputs.

use std::sync::{
    Arc,
    atomic::{AtomicIsize, Ordering},
};

use bytes::Bytes;

use super::{
    Dispatch, Resident,
    host::{Host, HostTensor, Numerics},
    op::Op,
    pack::pack,
    record::{Event, Record, Workload},
    runtime::{DeviceInfo, Runtime, RuntimeError},
    terms::{CoreGrid, TensorSpec},
};
use crate::{
    backend::{
        Backend, BackendError, Shown,
        reference::{Reference, ReferenceOptions},
    },
    checkpoint::{Dtype, Weights, synthetic},
    model::{Camera, DenoiseRequest, Geometry, Guidance, ModelInputs, PrefixSchedule, Prompt, noise},
};

const STEPS: usize = 10;

fn host(numerics: Numerics) -> Host {
    Host::new(DeviceInfo::wormhole(CoreGrid { x: 8, y: 8 }), numerics)
}

fn model(dispatch: Dispatch, numerics: Numerics) -> (Resident<Host>, Weights) {
    let (resident, weights) = model_on(host(numerics), dispatch);
    (resident.unwrap(), weights)
}

fn model_on<R: Runtime>(runtime: R, dispatch: Dispatch) -> (Result<Resident<R>, BackendError>, Weights) {
    let geometry = Geometry::small();
    let weights = synthetic::weights(&geometry, Dtype::F32, |_| ());
    let mut packed = |recipe: &super::weights::Recipe| {
        let values = recipe.values(&weights).map_err(|error| RuntimeError::Weights(error.to_string()))?;
        Ok(pack(&recipe.spec, &values))
    };
    let resident = Resident::new(runtime, "ttnn_host", &geometry, &weights, dispatch, &mut packed);
    (resident, weights)
}

/// Inputs with the cameras that are `present` and a prompt of `tokens`.
fn inputs(present: &[bool], tokens: u32, salt: &str) -> ModelInputs {
    let geometry = Geometry::small();
    let pixels = 3 * geometry.vision.image_size.pow(2);
    let camera = |(slot, &present): (usize, &bool)| match present {
        true => Camera::Present(synthetic::uniform(&format!("{salt}.{slot}"), pixels)),
        false => Camera::Masked,
    };
    ModelInputs {
        cameras: present.iter().enumerate().map(camera).collect(),
        prompt: Prompt { ids: (0..tokens).map(|slot| 2 + slot * 7 % 900).collect() },
        state: synthetic::uniform(&format!("{salt}.state"), geometry.state_dim),
    }
}

fn request(index: u64) -> DenoiseRequest {
    let geometry = Geometry::small();
    DenoiseRequest { noise: noise(3, index, geometry.horizon * geometry.action_dim), steps: STEPS, guidance: None }
}

/// `request` guided by the rows of `previous` from row 10 on.
fn guided(index: u64, previous: &[f32], schedule: PrefixSchedule) -> DenoiseRequest {
    let geometry = Geometry::small();
    let mut rows = previous[10 * geometry.action_dim..].to_vec();
    rows.resize(previous.len(), 0.0);
    let weights = schedule.prefix_weights(7, 25, geometry.horizon);
    DenoiseRequest { guidance: Some(Guidance { previous: rows, weights, max_weight: 10.0 }), ..request(index) }
}

/// Root mean square of the difference over that of `wanted`.
fn relative_rms(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let difference: f64 = found.iter().zip(wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = wanted.iter().map(|&b| f64::from(b).powi(2)).sum();
    (difference / size).sqrt()
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| {
        a.iter().zip(b).map(|(&a, &b)| f(f64::from(a) - mean_a, f64::from(b) - mean_b)).sum::<f64>()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[test]
fn every_layer_and_the_actions_stay_within_the_cards_bounds_of_the_reference() {
    for numerics in [Numerics::Formats, Numerics::Kernels] {
        let (mut card, weights) = model(Dispatch::EachOp, numerics);
        let mut reference = Reference::new(Geometry::small(), weights.clone(), ReferenceOptions::default()).unwrap();
        // Prompts that end inside of a tile, at its end, and in the second one; one to three cameras.
        for (present, tokens) in [(&[true, true, false][..], 9), (&[true, true, true], 32), (&[false, true, false], 41)] {
            let (inputs, request) = (inputs(present, tokens, "a"), request(0));
            let (mut found, mut wanted) = (Shown::default(), Shown::default());
            let chunk = card.infer_probed(&inputs, &request, &mut found).unwrap();
            let prefix = reference.prefix_probed(&inputs, &mut wanted).unwrap();
            let golden = reference.denoise_probed(&prefix, &inputs, &request, &mut wanted).unwrap();
            let (rms, pcc) = (relative_rms(&chunk.actions, &golden.actions), correlation(&chunk.actions, &golden.actions));
            println!("{numerics:?}, {present:?}, {tokens} tokens: actions relative RMS {rms:.2e}, PCC {pcc:.6}");
            assert!(rms <= 2e-2 && pcc >= 0.9995, "{numerics:?} {present:?} {tokens}: {rms} {pcc}");
            let mut compared = 0;
            for (name, (width, values)) in &found.0 {
                let (wanted_width, golden) = &wanted.0[name];
                assert_eq!(width, wanted_width, "{name}");
                if name.starts_with("prefix.kv.") || name.starts_with("step.0.layer.") {
                    let error = relative_rms(values, golden);
                    assert!(error <= 3e-2, "{name}: {error}");
                    compared += 1;
                }
                // The state token's mask is invisible in the actions: its row is a check of its own.
                if name.starts_with("step.0.layer.") {
                    let error = relative_rms(&values[..*width], &golden[..*width]);
                    assert!(error <= 3e-2, "state row of {name}: {error}");
                }
            }
            // Keys and values of both layers as the expert reads them, and both expert layers.
            assert_eq!(compared, 4 + 2);
        }
    }
}

#[test]
fn guided_chunks_stay_within_the_cards_bounds_of_the_reference() {
    let inputs = inputs(&[true, true, false], 9, "a");
    for numerics in [Numerics::Formats, Numerics::Kernels] {
        let (mut card, weights) = model(Dispatch::EachOp, numerics);
        let mut reference = Reference::new(Geometry::small(), weights.clone(), ReferenceOptions::default()).unwrap();
        let previous = reference.infer(&inputs, &request(1)).unwrap().actions;
        let free = card.infer(&inputs, &request(0)).unwrap().actions;
        for schedule in [PrefixSchedule::Linear, PrefixSchedule::Exp, PrefixSchedule::Ones, PrefixSchedule::Zeros] {
            let request = guided(0, &previous, schedule);
            let (found, golden) =
                (card.infer(&inputs, &request).unwrap().actions, reference.infer(&inputs, &request).unwrap().actions);
            let (rms, pcc) = (relative_rms(&found, &golden), correlation(&found, &golden));
            println!("{numerics:?}, {schedule:?}: actions relative RMS {rms:.2e}, PCC {pcc:.6}");
            assert!(rms <= 2e-2 && pcc >= 0.9995, "{numerics:?} {schedule:?}: {rms} {pcc}");
            assert!(relative_rms(&found, &free) > 0.1, "{schedule:?} changed nothing");
        }
    }
}

#[test]
fn a_captured_trace_follows_its_inputs_and_equals_op_by_op() {
    let (mut traced, _) = model(Dispatch::Trace, Numerics::Formats);
    let (mut eager, _) = model(Dispatch::EachOp, Numerics::Formats);
    let mut seen: Vec<Vec<f32>> = Vec::new();
    // Two kinds of prefix, each captured once and then replayed with other cameras, states and noise.
    for (index, (present, tokens, salt)) in
        [(&[true, true][..], 9, "a"), (&[true, true], 9, "b"), (&[true, false], 12, "a"), (&[true, true], 9, "c")]
            .into_iter()
            .enumerate()
    {
        let inputs = inputs(present, tokens, salt);
        let mut requests = vec![request(index as u64)];
        // The guided loop is a trace of its own beside the free one, and follows what guides it.
        if let Some(previous) = seen.last() {
            requests
                .extend([PrefixSchedule::Linear, PrefixSchedule::Ones].map(|schedule| guided(index as u64, previous, schedule)));
        }
        for request in requests {
            let (found, wanted) = (traced.infer(&inputs, &request).unwrap(), eager.infer(&inputs, &request).unwrap());
            assert_eq!(found.actions, wanted.actions, "inference {index}");
            assert!(!seen.contains(&found.actions), "inference {index} repeats an earlier one");
            seen.push(found.actions);
        }
    }
}

#[test]
fn a_guided_chunk_and_then_a_free_one_leave_nothing_to_capture() {
    let (resident, _) = model_on(Record::new(host(Numerics::Formats)), Dispatch::Trace);
    let (mut card, inputs) = (resident.unwrap(), inputs(&[true, true], 9, "a"));
    let workload = Workload { geometry: Geometry::small(), cameras: 2, tokens: 9, steps: STEPS, guided: true };
    let captures = |card: &Resident<Record<Host>>| {
        let events = card.runtime().recording(workload).events;
        events.iter().filter(|event| matches!(event, Event::BeginCapture)).count()
    };
    let guided = guided(0, &request(0).noise, PrefixSchedule::Linear);
    card.infer(&inputs, &guided).unwrap();
    card.infer(&inputs, &request(0)).unwrap();
    // Vision, prefill and both loops.
    assert_eq!(captures(&card), 4);
    card.infer(&inputs, &guided).unwrap();
    card.infer(&inputs, &request(1)).unwrap();
    assert_eq!(captures(&card), 4);
}

#[test]
fn a_prefix_that_a_newer_one_overwrote_is_refused() {
    let (mut card, _) = model(Dispatch::EachOp, Numerics::Formats);
    let (a, b) = (inputs(&[true, true], 9, "a"), inputs(&[true, true], 9, "b"));
    card.infer(&a, &request(0)).unwrap();
    let first = card.prefix(&a).unwrap();
    let again = card.denoise(&first, &a, &request(1)).unwrap();
    assert_eq!(again.actions, card.denoise(&first, &a, &request(1)).unwrap().actions);
    // Another number of steps needs tensors of its own, and leaves the prefix what it was.
    let fewer = DenoiseRequest { steps: 5, ..request(1) };
    let short = card.denoise(&first, &a, &fewer).unwrap();
    assert_eq!(short.actions, card.infer(&a, &fewer).unwrap().actions);
    // So does the first guided chunk.
    let guided = guided(1, &again.actions, PrefixSchedule::Linear);
    let first = card.prefix(&a).unwrap();
    let pulled = card.denoise(&first, &a, &guided).unwrap();
    assert_eq!(pulled.actions, card.infer(&a, &guided).unwrap().actions);
    let first = card.prefix(&a).unwrap();
    assert_eq!(again.actions, card.denoise(&first, &a, &request(1)).unwrap().actions);
    assert!(matches!(card.denoise(&first, &inputs(&[true, true], 10, "a"), &request(1)), Err(BackendError::ForeignCache)));
    card.prefix(&b).unwrap();
    assert!(matches!(card.denoise(&first, &a, &request(1)), Err(BackendError::StaleCache)));
}

#[test]
fn a_geometry_that_the_graph_cannot_express_is_refused_by_name() {
    let geometry = Geometry::tiny();
    let Err(error) = Resident::without_values(host(Numerics::Formats), &geometry, Dispatch::EachOp) else {
        panic!("16 tokens an image are no tile")
    };
    assert!(error.to_string().contains("16 tokens an image"), "{error}");
}

/// The host runtime, which does not answer once when `left` reaches zero.
struct Faulty {
    host: Host,
    left: Arc<AtomicIsize>,
}

impl Faulty {
    fn fails(&self) -> Result<(), RuntimeError> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(RuntimeError::Lost("the test cut it off".to_owned())),
            _ => Ok(()),
        }
    }
}

impl Runtime for Faulty {
    type Tensor = HostTensor;
    type Trace = <Host as Runtime>::Trace;

    fn device(&self) -> &DeviceInfo {
        self.host.device()
    }

    fn spec(&self, tensor: &HostTensor) -> TensorSpec {
        self.host.spec(tensor)
    }

    fn upload(
        &mut self,
        spec: TensorSpec,
        packed: &mut dyn FnMut() -> Result<Bytes, RuntimeError>,
    ) -> Result<HostTensor, RuntimeError> {
        self.fails()?;
        self.host.upload(spec, packed)
    }

    fn write(&mut self, tensor: &HostTensor, packed: Bytes) -> Result<(), RuntimeError> {
        self.fails()?;
        self.host.write(tensor, packed)
    }

    fn download(&mut self, tensor: &HostTensor) -> Result<Bytes, RuntimeError> {
        self.fails()?;
        self.host.download(tensor)
    }

    fn run(&mut self, op: &Op, inputs: &[&HostTensor]) -> Result<Vec<HostTensor>, RuntimeError> {
        self.fails()?;
        self.host.run(op, inputs)
    }

    fn begin_capture(&mut self) -> Result<(), RuntimeError> {
        self.fails()?;
        self.host.begin_capture()
    }

    fn end_capture(&mut self) -> Result<Self::Trace, RuntimeError> {
        self.host.end_capture()
    }

    fn replay(&mut self, trace: &Self::Trace) -> Result<(), RuntimeError> {
        self.fails()?;
        self.host.replay(trace)
    }

    fn synchronize(&mut self) -> Result<(), RuntimeError> {
        self.fails()?;
        self.host.synchronize()
    }
}

#[test]
fn a_failure_anywhere_in_a_chunk_is_an_error_and_the_next_chunk_is_right() {
    let (mut sound, _) = model(Dispatch::EachOp, Numerics::Formats);
    for dispatch in [Dispatch::EachOp, Dispatch::Trace] {
        let left = Arc::new(AtomicIsize::new(-1));
        let (card, _) = model_on(Faulty { host: host(Numerics::Formats), left: left.clone() }, dispatch);
        let mut card = card.unwrap();
        // While tables are uploaded, in each stage, in captures, in replays, and while the actions come down.
        for (index, calls) in [3, 12, 40, 60, 110, 200, 420, 0, 5, 1, 8].into_iter().enumerate() {
            let inputs = inputs(&[true, index % 2 == 0], 9 + index as u32 / 3, "a");
            let request = match index % 3 {
                1 => guided(index as u64, &request(index as u64).noise, PrefixSchedule::Linear),
                _ => request(index as u64),
            };
            left.store(calls, Ordering::Relaxed);
            let outcome = card.infer(&inputs, &request);
            let failed = left.swap(-1, Ordering::Relaxed) < 0;
            match outcome {
                Err(BackendError::Runtime(RuntimeError::Lost(reason))) => assert!(failed, "{reason}"),
                Err(error) => panic!("{dispatch:?} {calls}: {error}"),
                Ok(_) => assert!(!failed, "{dispatch:?} {calls}: the failure was lost"),
            }
            let found = card.infer(&inputs, &request).unwrap();
            assert_eq!(found.actions, sound.infer(&inputs, &request).unwrap().actions, "{dispatch:?} {calls}");
        }
    }
}

#[test]
fn a_card_without_room_for_a_plan_is_refused_with_the_op_and_its_size() {
    // A tenth of a core's memory: no product of the language model fits.
    let device = DeviceInfo { l1_bytes: 140_000, ..DeviceInfo::wormhole(CoreGrid { x: 8, y: 8 }) };
    let (card, _) = model_on(Host::new(device, Numerics::Formats), Dispatch::EachOp);
    let error = card.unwrap().infer(&inputs(&[true], 9, "a"), &request(0)).unwrap_err();
    assert!(error.to_string().contains("grid of 8x8"), "{error}");
}

#[test]
fn a_smaller_grid_gives_the_same_actions() {
    let (card, _) = model_on(Host::new(DeviceInfo::wormhole(CoreGrid { x: 8, y: 7 }), Numerics::Formats), Dispatch::EachOp);
    let (mut whole, _) = model(Dispatch::EachOp, Numerics::Formats);
    let (inputs, request) = (inputs(&[true, true], 9, "a"), request(0));
    assert_eq!(card.unwrap().infer(&inputs, &request).unwrap().actions, whole.infer(&inputs, &request).unwrap().actions);
}

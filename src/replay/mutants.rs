//! The mutant gate: faults that people make, each put into a running policy over the demo bag. Every one must be found and named, and the
//! clean run must be the same.
//!
//! Faults come in through files and parameters, or through the seam between the policy and its backend. Where the setup would give a fault
//! away the comparison is made twice: as it is, and with the setup of the baseline, so that only values can tell.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::{
    compare::{ArrayChange, Comparison, Finding, Limit, SetupItem, Tier, Tolerances, Verdict},
    run::{NoOutputs, RunOptions, Seam, run_through},
    trace::Trace,
};
use crate::{
    backend::{
        Backend, BackendError, BackendInfo, PrefixCache, Probe,
        reference::{Reference, ReferenceOptions, tests::OtherSequence},
    },
    checkpoint::{Tensor, Weights, synth},
    model::{Camera, Chunk, DenoiseRequest, Geometry, Mask, ModelInputs, Sequence, noise},
    parameters::{ParameterFiles, Scalar},
};

/// A tiny synthetic checkpoint and a profile of a robot with one camera, with room for changed copies of both.
struct Lab(tempfile::TempDir);

static LAB: LazyLock<Lab> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    synth::write_synthetic(&folder.path().join("checkpoint"), &Geometry::tiny(), synth::Precision::Float32, |_| ()).unwrap();
    Lab(folder)
});

/// The run without a fault.
static CLEAN: LazyLock<Trace> = LazyLock::new(|| Run::new().trace());

/// A run that may be changed before it starts.
struct Run {
    checkpoint: PathBuf,
    profile: PathBuf,
    parameters: Vec<(&'static str, Scalar)>,
    latency: f64,
    seam: Seam,
}

impl Run {
    fn new() -> Self {
        Self {
            checkpoint: LAB.0.path().join("checkpoint"),
            profile: source("config/robots/aloha_sim.yaml"),
            parameters: vec![("cameras.base_0_rgb.transport", text("compressed"))],
            latency: 0.1,
            seam: Seam::default(),
        }
    }

    /// With the text `from` of the robot profile replaced, wherever it stands.
    fn profile(mut self, name: &str, from: &[&str], to: &[&str]) -> Self {
        let mut yaml = fs::read_to_string(&self.profile).unwrap();
        for (from, to) in from.iter().zip(to) {
            assert!(yaml.contains(from), "{from}");
            yaml = yaml.replace(from, to);
        }
        self.profile = LAB.0.path().join(name);
        fs::write(&self.profile, yaml).unwrap();
        self
    }

    fn parameter(mut self, name: &'static str, value: Scalar) -> Self {
        self.parameters.push((name, value));
        self
    }

    /// With a copy of the checkpoint whose statistics `change` is given by name.
    fn statistics(mut self, name: &str, change: impl Fn(&str, &mut Vec<f32>)) -> Self {
        let copy = LAB.0.path().join(name);
        copy_folder(&self.checkpoint, &copy);
        for file in [
            "policy_preprocessor_step_6_normalizer_processor.safetensors",
            "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
        ] {
            let bytes = fs::read(copy.join(file)).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let changed: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
                .iter()
                .map(|(name, view)| {
                    let mut values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                    change(name, &mut values);
                    (name.to_owned(), view.shape().to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
                })
                .collect();
            let views = changed.iter().map(|(name, shape, bytes)| {
                (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
            });
            fs::write(copy.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
        }
        self.checkpoint = copy;
        self
    }

    /// With something between the policy and the witness.
    fn around(mut self, fault: Fault) -> Self {
        self.seam.around = Box::new(|witness| Box::new(Faulty { backend: witness, fault }));
        self
    }

    /// With a mistake in masks or positions of the reference.
    fn sequence(mut self, change: fn(&mut Sequence)) -> Self {
        self.seam.open = Box::new(move |geometry, weights, _| {
            let reference = Reference::new(geometry, weights, ReferenceOptions::default())?;
            Ok(Box::new(OtherSequence { reference, change }))
        });
        self
    }

    /// With a scaled tensor of weights.
    fn weight(mut self, tensor: &'static str) -> Self {
        self.seam.open = Box::new(move |geometry, weights, _| {
            let mut changed = Weights::default();
            for (name, old) in weights.iter() {
                let values = old.to_f32();
                let scale = if name.contains(tensor) { 1.5 } else { 1.0 };
                let values = values.into_iter().map(|value| scale * value).collect();
                changed.insert(name, Tensor::from_f32(old.shape().to_vec(), values));
            }
            Ok(Box::new(Reference::new(geometry, changed, ReferenceOptions::default())?))
        });
        self
    }

    fn trace(self) -> Trace {
        let mut parameters = ParameterFiles::default();
        let path = |path: &Path| Scalar::Text(path.to_str().unwrap().to_owned());
        parameters.set("checkpoint", path(&self.checkpoint), "test");
        parameters.set("robot", path(&self.profile), "test");
        for (name, value) in self.parameters {
            parameters.set(name, value, "test");
        }
        let bag = source("tests/data/bags/aloha_transfer_cube");
        let options = RunOptions { bag, parameters, remaps: Vec::new(), latency: self.latency };
        run_through(options, self.seam, &mut NoOutputs).unwrap()
    }

    /// Compares with the clean run, first as it is. Gives the findings with the setup and those of the values alone, the cause first.
    fn against(self, clean: &Trace) -> (Vec<Finding>, Vec<Finding>) {
        let mut trace = self.trace();
        let told = different(clean, &trace, None);
        trace.setup = clean.setup.clone();
        trace.inputs.clone_from(&clean.inputs);
        let untold = different(clean, &trace, None);
        // The cause is the same where only large differences count.
        let loose = different(clean, &trace, Some(Tier::AcrossBackends));
        let kind = |findings: &[Finding]| findings.first().map(std::mem::discriminant);
        assert_eq!(kind(&untold), kind(&loose), "{untold:#?}\n{loose:#?}");
        (told, untold)
    }

    fn found(self) -> (Vec<Finding>, Vec<Finding>) {
        self.against(&CLEAN)
    }

    /// The cause of a fault that the setup does not know of.
    fn cause(self) -> Finding {
        let (told, untold) = self.found();
        assert_eq!(told, untold);
        untold.into_iter().next().unwrap()
    }
}

#[track_caller]
fn different(clean: &Trace, trace: &Trace, tier: Option<Tier>) -> Vec<Finding> {
    let comparison = Comparison::new(clean, trace, &Tolerances::default(), tier).unwrap();
    assert_eq!(comparison.verdict, Verdict::Different, "{:#?}", comparison.findings);
    assert!(!comparison.findings.is_empty());
    comparison.findings
}

/// What happens to the inputs and outputs of a backend.
type Fault = Box<dyn Fn(&mut ModelInputs, &mut DenoiseRequest) -> After + Send>;
/// What happens to a chunk `[horizon, action_dim]`.
type After = Option<fn(&mut [f32])>;

struct Faulty {
    backend: Box<dyn Backend>,
    fault: Fault,
}

impl Backend for Faulty {
    fn describe(&self) -> BackendInfo {
        self.backend.describe()
    }

    fn prefix(&mut self, inputs: &ModelInputs) -> Result<PrefixCache, BackendError> {
        self.backend.prefix(inputs)
    }

    fn denoise(&mut self, prefix: &PrefixCache, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        self.backend.denoise(prefix, inputs, request)
    }

    fn infer(&mut self, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        let (mut inputs, mut request) = (inputs.clone(), request.clone());
        let after = (self.fault)(&mut inputs, &mut request);
        let mut chunk = self.backend.infer(&inputs, &request)?;
        if let Some(after) = after {
            after(&mut chunk.actions);
        }
        Ok(chunk)
    }

    fn infer_probed(
        &mut self,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        probe: &mut (dyn Probe + Send),
    ) -> Result<Chunk, BackendError> {
        self.backend.infer_probed(inputs, request, probe)
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(value: &str) -> Scalar {
    Scalar::Text(value.to_owned())
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn pixels(inputs: &mut ModelInputs, slot: usize) -> &mut Vec<f32> {
    match &mut inputs.cameras[slot] {
        Camera::Present(pixels) => pixels,
        Camera::Masked => panic!("camera {slot} is masked"),
    }
}

fn swapped(a: &str, b: &str) -> ArrayChange {
    ArrayChange::Permuted(vec![(a.to_owned(), b.to_owned()), (b.to_owned(), a.to_owned())])
}

fn is_setup(finding: &Finding, wanted: &SetupItem) -> bool {
    matches!(finding, Finding::Setup { item, .. } if item == wanted)
}

#[test]
fn the_clean_run_is_the_same() {
    let again = Run::new().trace();
    let comparison = Comparison::new(&CLEAN, &again, &Tolerances::default(), None).unwrap();
    assert_eq!((comparison.verdict, comparison.tier), (Verdict::Same, Tier::Exact), "{:#?}", comparison.findings);
    assert!(comparison.counts.compared > 40 && comparison.commands.compared > 200, "{:?}", comparison.counts);
    assert_eq!(comparison.findings, []);
}

#[test]
fn joint_order() {
    let [waist, elbow] = ["left_waist", "left_elbow"];
    let lines = |first: &str, second: &str| {
        format!("  - {{joint: {first}, unit: rad}}\n  - {{joint: left_shoulder, unit: rad}}\n  - {{joint: {second}, unit: rad}}")
    };
    let run = Run::new().profile("order.yaml", &[&lines(waist, elbow)], &[&lines(elbow, waist)]);
    let (told, untold) = run.found();
    assert!(told.iter().any(|finding| is_setup(finding, &SetupItem::StateJoints)), "{told:#?}");
    assert!(is_setup(&told[0], &SetupItem::StateJoints), "{told:#?}");
    assert!(told.contains(&Finding::State { chunk: 0, change: swapped(waist, elbow) }), "{told:#?}");
    assert_eq!(untold[0], Finding::Positions { chunk: 0, change: swapped(waist, elbow) });
}

#[test]
fn gripper_sign() {
    let state = "{joint: left_gripper, unit: normalized}";
    let run = Run::new().profile("sign.yaml", &[state], &["{joint: left_gripper, unit: rad, sign: -1}"]);
    let (told, untold) = run.found();
    assert!(is_setup(&told[0], &SetupItem::File("robot".to_owned())), "{told:#?}");
    assert_eq!(untold[0], Finding::State { chunk: 0, change: ArrayChange::Negated(vec!["left_gripper".to_owned()]) });

    let action = "{joint: left_gripper, command: position, unit: normalized}";
    let run = Run::new().profile(
        "action_sign.yaml",
        &[action],
        &["{joint: left_gripper, command: position, unit: rad, sign: -1, gripper: true}"],
    );
    let (_, untold) = run.found();
    assert_eq!(untold[0], Finding::Actions { chunk: 0, change: ArrayChange::Negated(vec!["left_gripper".to_owned()]) });
}

#[test]
fn gripper_map() {
    let action = "{joint: right_gripper, command: position, unit: normalized}";
    let turned = "{joint: right_gripper, command: position, unit: normalized, linear: {robot: [0.0, 1.0], policy: [1.0, 0.0]}}";
    let (_, untold) = Run::new().profile("map.yaml", &[action], &[turned]).found();
    let Finding::Actions { chunk: 0, change: ArrayChange::Reversed { column, sum } } = &untold[0] else { panic!("{untold:#?}") };
    assert!(column == "right_gripper" && (sum - 1.0).abs() < 1e-6, "{untold:#?}");
}

#[test]
fn camera_black() {
    let cause = Run::new().around(Box::new(|inputs, _| {
        pixels(inputs, 0).fill(-1.0);
        None
    }));
    assert_eq!(cause.cause(), Finding::CameraConstant { camera: "base_0_rgb".to_owned(), value: -1.0 });
}

#[test]
fn camera_turned() {
    let camera = "base_0_rgb".to_owned();
    let (_, untold) = Run::new().profile("turned.yaml", &["{name: top}"], &["{name: top, rotate_180: true}"]).found();
    assert_eq!(untold[0], Finding::CameraTurned { camera: camera.clone() });
    let colours = Run::new().around(Box::new(|inputs, _| {
        let pixels = pixels(inputs, 0);
        let channel = pixels.len() / 3;
        let (red, rest) = pixels.split_at_mut(channel);
        red.swap_with_slice(&mut rest[channel..]);
        None
    }));
    assert_eq!(colours.cause(), Finding::CameraColours { camera });
}

#[test]
fn cameras_swapped() {
    let cause = Run::new().around(Box::new(|inputs, _| {
        inputs.cameras.swap(0, 2);
        None
    }));
    let [first, second] = ["base_0_rgb", "right_wrist_0_rgb"].map(str::to_owned);
    assert_eq!(cause.cause(), Finding::CamerasSwapped { first, second });
}

#[test]
fn mask_dropped() {
    for value in [0.0, -1.0] {
        let cause = Run::new().around(Box::new(move |inputs, _| {
            inputs.cameras[1] = Camera::Present(vec![value; pixels(inputs, 0).len()]);
            None
        }));
        assert_eq!(cause.cause(), Finding::MaskDropped { camera: "left_wrist_0_rgb".to_owned() });
    }
}

#[test]
fn resize_kernel() {
    let (told, untold) = Run::new().parameter("resize", text("openpi")).found();
    assert!(is_setup(&told[0], &SetupItem::Parameter("resize".to_owned())), "{told:#?}");
    for finding in [&told[1], &untold[0]] {
        assert!(matches!(finding, Finding::CameraImage { camera, .. } if camera == "base_0_rgb"), "{finding:?}");
    }
}

#[test]
fn row_shift() {
    let cause = Run::new().around(Box::new(|_, _| Some(|actions| actions.rotate_left(Geometry::tiny().action_dim))));
    assert_eq!(cause.cause(), Finding::ModelActions { chunk: 0, on_the_way: true, change: ArrayChange::Shifted { rows: -1 } });
}

#[test]
fn stale_normalizer() {
    let (told, untold) = Run::new()
        .statistics("statistics", |name, values| match name {
            "observation.state.mean" => values.iter_mut().for_each(|mean| *mean += 0.1),
            "observation.state.std" => values.iter_mut().for_each(|deviation| *deviation *= 1.5),
            _ => {}
        })
        .found();
    assert!(is_setup(&told[0], &SetupItem::File("normalizer".to_owned())), "{told:#?}");
    let Finding::State { chunk: 0, change: ArrayChange::Affine(maps) } = &untold[0] else { panic!("{untold:#?}") };
    assert!(maps.len() > 3 && maps.iter().all(|map| (map.scale - 1.0 / 1.5).abs() < 1e-3), "{maps:?}");

    let (_, untold) = Run::new()
        .statistics("action_statistics", |name, values| {
            if name == "action.std" {
                values.iter_mut().for_each(|deviation| *deviation *= 1.5);
            }
        })
        .found();
    let Finding::Actions { chunk: 0, change: ArrayChange::Affine(maps) } = &untold[0] else { panic!("{untold:#?}") };
    assert!(maps.len() == 14 && maps.iter().all(|map| (map.scale - 1.5).abs() < 1e-3), "{maps:?}");
}

#[test]
fn noise_seed() {
    let (told, untold) = Run::new().parameter("seed", Scalar::Integer(1)).found();
    assert!(is_setup(&told[0], &SetupItem::Seed), "{told:#?}");
    assert_eq!(untold[0], Finding::Noise { chunk: 0 });
    let cause = Run::new().around(Box::new(|_, request| {
        request.noise = noise(99, 0, request.noise.len());
        None
    }));
    assert_eq!(cause.cause(), Finding::Noise { chunk: 0 });
}

#[test]
fn rope_offset() {
    let cause = Run::new().sequence(|sequence| {
        let first = sequence.suffix.positions[0];
        sequence.suffix.positions.iter_mut().for_each(|position| *position -= first);
    });
    assert!(matches!(cause.cause(), Finding::RopePositions { tower, current: 0.0, .. } if tower == "suffix"));
    let cause = Run::new().sequence(|sequence| sequence.prefix.positions.iter_mut().for_each(|position| *position += 3));
    assert!(matches!(cause.cause(), Finding::RopePositions { tower, baseline: 0.0, current: 3.0 } if tower == "prefix"));
}

#[test]
fn rope_offset_without_positions() {
    // Another backend may not show its positions.
    let hide = |mut trace: Trace| {
        trace.chunks[0].model.intermediates.retain(|tensor| !tensor.name.starts_with("positions."));
        trace
    };
    let clean = hide(CLEAN.clone());
    let mutant =
        hide(Run::new().sequence(|sequence| sequence.prefix.positions.iter_mut().for_each(|position| *position *= 2)).trace());
    let findings = different(&clean, &mutant, None);
    assert!(matches!(findings[0], Finding::RopeRotation { .. }), "{findings:#?}");
}

#[test]
fn attention_mask() {
    let Finding::Intermediate { name, place, .. } = Run::new().sequence(|sequence| sequence.suffix.mask = Mask::All).cause()
    else {
        panic!("not named")
    };
    assert_eq!(name, "step.0.layer.0.self_attn");
    assert!(place.contains("attention of layer 0 of the action expert"), "{place}");
}

#[test]
fn weights() {
    for (tensor, expected) in [
        ("vision_model.encoder.layers.1.mlp.fc1.weight", "Layer 1 of SigLIP for camera base_0_rgb"),
        ("multi_modal_projector.linear.weight", "The projector behind SigLIP for camera base_0_rgb"),
        ("gemma_expert.model.layers.2.mlp.down_proj.weight", "Layer 2 of the action expert in step 0"),
        ("action_out_proj.weight", "The action output projection in step 0"),
    ] {
        let cause = Run::new().weight(tensor).cause();
        assert!(matches!(&cause, Finding::Intermediate { place, .. } if place == expected), "{tensor}: {cause:?}");
    }
}

#[test]
fn stale_tokens() {
    let cause = Run::new().around(Box::new(|inputs, _| {
        inputs.prompt.ids.truncate(3);
        None
    }));
    assert!(matches!(cause.cause(), Finding::Tokens { chunk: 0, first: 3, current, .. } if current.len() == 3));
}

#[test]
fn denoise_steps() {
    let (told, untold) = Run::new().parameter("denoise_steps", Scalar::Integer(8)).found();
    assert!(is_setup(&told[0], &SetupItem::Steps), "{told:#?}");
    assert_eq!(untold[0], Finding::Steps { baseline: 10, current: 8 });
}

#[test]
fn guidance_lost() {
    let cause = Run::new().around(Box::new(|_, request| {
        request.guidance = None;
        None
    }));
    assert!(matches!(cause.cause(), Finding::Guidance { baseline: true, current: false, .. }));
}

#[test]
fn delay() {
    let mut run = Run::new();
    run.latency = 0.06;
    let (told, untold) = run.found();
    assert!(is_setup(&told[0], &SetupItem::Latency), "{told:#?}");
    // A chunk that is there sooner starts at an earlier row.
    assert!(
        untold
            .iter()
            .any(|finding| matches!(finding, Finding::Delay { .. } | Finding::GuidedRows { .. } | Finding::Start { .. })),
        "{untold:#?}"
    );
}

#[test]
fn limits_dropped() {
    let limit = |run: Run| run.parameter("joint_limits.left_waist.max_velocity", Scalar::Number(0.5));
    let clean = limit(Run::new()).trace();
    let (told, untold) = Run::new().against(&clean);
    assert!(is_setup(&told[0], &SetupItem::Parameter("joint_limits.left_waist.max_velocity".to_owned())), "{told:#?}");
    let Finding::Commands { change: ArrayChange::Limited { limit: Limit::Velocity, columns }, .. } = &untold[0] else {
        panic!("{untold:#?}")
    };
    assert_eq!(columns, &["left_waist"]);
}

//! From sensor values to robot commands, and back to what LeRobot computed on the way.

mod common;

use std::collections::BTreeMap;

use pi0_tt::{
    backend::{
        Backend, BackendKind, BackendOptions,
        reference::{Reference, ReferenceOptions},
    },
    checkpoint::{Dtype, synth, synthetic},
    model::{DenoiseRequest, Geometry, PrefixSchedule, noise},
    observation::{Observation, RgbImage},
    policy::{Policy, PolicyError, PolicyOptions, PrefixGuidance},
};

fn options(checkpoint: &std::path::Path) -> PolicyOptions {
    PolicyOptions {
        checkpoint: checkpoint.to_owned(),
        robot: pi0_tt::robot::find("config/robots/aloha_sim.yaml").unwrap(),
        backend: BackendOptions { threads: Some(2), ..BackendOptions::new(BackendKind::Reference) },
        tokenizer: None,
        norm_stats: None,
        resize: None,
        seed: 5,
        steps: None,
    }
}

fn observation() -> Observation {
    let pixels = (0..48 * 64 * 3).map(|i| (i * 37 % 251) as u8).collect();
    Observation {
        images: BTreeMap::from([("base_0_rgb".to_owned(), RgbImage::new(64, 48, pixels).unwrap())]),
        joints: (0..14).map(|i| f64::from(i) * 0.05).collect(),
        instruction: "transfer the red cube".to_owned(),
    }
}

fn checkpoint() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synth::write_synthetic(&dir.path().join("ck"), &Geometry::tiny(), synth::Precision::Float32, |_| ()).unwrap();
    dir
}

#[test]
fn a_seed_and_a_chunk_number_give_the_same_chunk_again() {
    let dir = checkpoint();
    let open = |seed| Policy::open(&PolicyOptions { seed, ..options(&dir.path().join("ck")) }).unwrap();
    let mut policy = open(5);
    let chunks: Vec<_> = (0..3).map(|_| policy.infer(&observation(), None).unwrap()).collect();
    assert_eq!([0, 1, 2].map(|i: usize| chunks[i].index), [0, 1, 2]);
    assert_ne!(chunks[0].actions, chunks[1].actions, "the noise is fixed");

    let again = open(5).infer_at(&observation(), 2, None).unwrap();
    assert_eq!(again.model_actions, chunks[2].model_actions);
    assert_ne!(open(6).infer(&observation(), None).unwrap().actions, chunks[0].actions, "the seed is ignored");
}

#[test]
fn every_input_changes_the_chunk() {
    let dir = checkpoint();
    let mut policy = Policy::open(&options(&dir.path().join("ck"))).unwrap();
    let right = policy.infer_at(&observation(), 0, None).unwrap().model_actions;
    let mut changed = |change: &dyn Fn(&mut Observation)| {
        let mut observation = observation();
        change(&mut observation);
        policy.infer_at(&observation, 0, None).unwrap().model_actions
    };
    let black = RgbImage::new(64, 48, vec![0; 64 * 48 * 3]).unwrap();
    assert_ne!(changed(&|o| _ = o.images.insert("base_0_rgb".into(), black.clone())), right, "the image is ignored");
    assert_ne!(changed(&|o| o.joints[3] += 0.1), right, "the joints are ignored");
    assert_ne!(changed(&|o| o.instruction = "open the drawer".into()), right, "the instruction is ignored");
}

#[test]
fn a_refused_observation_does_not_use_up_a_chunk_number() {
    let dir = checkpoint();
    let mut policy = Policy::open(&options(&dir.path().join("ck"))).unwrap();
    let mut broken = observation();
    broken.joints[2] = f64::NAN;
    let error = policy.infer(&broken, None).unwrap_err();
    assert!(matches!(error, PolicyError::Observation(_)) && error.to_string().contains("left_elbow"), "{error}");
    broken = observation();
    broken.images.clear();
    assert!(policy.infer(&broken, None).unwrap_err().to_string().contains("base_0_rgb"));
    assert_eq!(policy.infer(&observation(), None).unwrap().index, 0);
}

#[test]
fn the_first_rows_of_a_guided_chunk_go_on_where_the_chunk_before_was() {
    let dir = checkpoint();
    let mut policy = Policy::open(&options(&dir.path().join("ck"))).unwrap();
    let first = policy.infer(&observation(), None).unwrap();
    let columns = first.joints.len();
    // The robot executed three rows, and will execute two more.
    let guidance = PrefixGuidance {
        previous: first.model_actions[3 * first.action_dim..].to_vec(),
        previous_anchor: first.anchor.clone(),
        delay: 2,
        horizon: 50,
        schedule: PrefixSchedule::Linear,
        max_weight: 10.0,
    };
    let jump = |chunk: &[f64]| (0..2 * columns).map(|i| (chunk[i] - first.actions[3 * columns + i]).abs()).fold(0.0, f64::max);
    let guided = policy.infer_at(&observation(), 1, Some(&guidance)).unwrap();
    let free = policy.infer_at(&observation(), 1, None).unwrap();
    assert!(jump(&guided.actions) < 0.1 * jump(&free.actions), "{} {}", jump(&guided.actions), jump(&free.actions));

    let refusal = |change: &dyn Fn(&mut PrefixGuidance)| {
        let mut guidance = guidance.clone();
        change(&mut guidance);
        Policy::open(&options(&dir.path().join("ck"))).unwrap().infer(&observation(), Some(&guidance)).unwrap_err().to_string()
    };
    assert!(refusal(&|guidance| guidance.previous.clear()).contains("0 values left"));
    assert!(refusal(&|guidance| guidance.previous.truncate(33)).contains("33 values left"));
    assert!(refusal(&|guidance| guidance.previous.resize(11 * 32, 0.0)).contains("at most 10"));
    assert!(refusal(&|guidance| guidance.previous_anchor.truncate(7)).contains("anchor of the chunk before has 7 values"));
    assert!(refusal(&|guidance| guidance.previous[5] = f32::INFINITY).contains("The chunk before holds the value inf"));
}

#[test]
fn warming_up_uses_up_no_chunk_number_and_changes_no_chunk() {
    let dir = checkpoint();
    let open = || Policy::open(&options(&dir.path().join("ck"))).unwrap();
    let mut warm = open();
    warm.warm_up("transfer the red cube", true).unwrap();
    let (found, wanted) = (warm.infer(&observation(), None).unwrap(), open().infer(&observation(), None).unwrap());
    assert_eq!((found.index, found.actions), (0, wanted.actions));
}

#[test]
#[cfg(not(feature = "ttnn"))]
fn a_backend_that_is_not_in_the_build_says_so() {
    let dir = checkpoint();
    let absent = PolicyOptions { backend: BackendOptions::new(BackendKind::Ttnn), ..options(&dir.path().join("ck")) };
    let error = Policy::open(&absent).err().expect("no card without the feature");
    assert!(matches!(error, PolicyError::Backend(pi0_tt::backend::BackendError::NotBuilt)));
    assert!(error.to_string().contains("ttnn_host"), "{error}");
}

#[test]
fn the_cards_graph_on_the_cpu_commands_what_the_reference_commands() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("ck");
    synth::write_synthetic(&checkpoint, &Geometry::small(), synth::Precision::Float32, |_| ()).unwrap();
    let cache = dir.path().join("cache");
    let host = BackendOptions { weight_cache: Some(cache.clone()), ..BackendOptions::new(BackendKind::TtnnHost) };
    let host = PolicyOptions { backend: host, ..options(&checkpoint) };
    let mut card = Policy::open(&host).unwrap();
    let mut reference = Policy::open(&options(&checkpoint)).unwrap();
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1, "the packed weights go where they were told to");
    for _ in 0..2 {
        let (found, wanted) = (card.infer(&observation(), None).unwrap(), reference.infer(&observation(), None).unwrap());
        let difference: f64 = found.actions.iter().zip(&wanted.actions).map(|(a, b)| (a - b).powi(2)).sum();
        let size: f64 = wanted.actions.iter().map(|b| b * b).sum();
        assert!((difference / size).sqrt() <= 2e-2, "{}", (difference / size).sqrt());
    }
    assert_eq!(card.info().backend.name, "ttnn_host");
}

#[test]
fn bfloat16_weights_agree_with_float32_weights_to_their_rounding() {
    let geometry = Geometry::tiny();
    let [wide, narrow] = [Dtype::F32, Dtype::BF16].map(|dtype| {
        let weights = synthetic::weights(&geometry, dtype, |_| ());
        let mut model = Reference::new(geometry, weights, ReferenceOptions::default()).unwrap();
        let inputs = common::model_inputs(&geometry);
        let prefix = model.prefix(&inputs).unwrap();
        let request = DenoiseRequest { noise: noise(0, 0, geometry.horizon * geometry.action_dim), steps: 10, guidance: None };
        model.denoise(&prefix, &inputs, &request).unwrap().actions
    });
    let difference: f32 = wide.iter().zip(&narrow).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f32 = wide.iter().map(|a| a * a).sum();
    let relative = (difference / size).sqrt();
    assert!(relative < 2e-2 && relative > 1e-5, "{relative}");
}

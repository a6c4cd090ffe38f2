//! The whole graph on the host runtime, beside the reference backend.

use std::collections::BTreeMap;

use super::*;
use crate::{
    backend::{
        Backend, Probe,
        reference::{Reference, ReferenceOptions},
        ttnn::{Dispatch, Resident, pack::pack, terms::CoreGrid, weights::Recipe},
    },
    checkpoint::{Dtype, Weights, synthetic},
    model::{Camera, DenoiseRequest, Geometry, ModelInputs, Prompt, noise},
};

/// Keeps every tensor.
#[derive(Default)]
struct Seen(BTreeMap<String, Vec<f32>>);

impl Probe for Seen {
    fn tensor(&mut self, name: &str, _: usize, values: &[f32]) {
        self.0.insert(name.to_owned(), values.to_vec());
    }
}

fn inputs(geometry: &Geometry, salt: &str) -> ModelInputs {
    let pixels = 3 * geometry.vision.image_size.pow(2);
    let camera = |slot: usize| Camera::Present(synthetic::uniform(&format!("{salt}.{slot}"), pixels));
    ModelInputs {
        cameras: vec![camera(0), camera(1), Camera::Masked],
        prompt: Prompt { ids: vec![2, 17, 301, 108, 44] },
        state: synthetic::uniform(&format!("{salt}.state"), geometry.state_dim),
    }
}

fn request(geometry: &Geometry) -> DenoiseRequest {
    DenoiseRequest { noise: noise(1, 0, geometry.horizon * geometry.action_dim), steps: 10 }
}

fn resident(geometry: &Geometry, weights: &Weights, numerics: Numerics, dispatch: Dispatch) -> Resident<Host> {
    let host = Host::new(DeviceInfo::wormhole(CoreGrid { x: 8, y: 8 }), numerics);
    let mut packed = |recipe: &Recipe| {
        let values = recipe.values(weights).map_err(|error| RuntimeError::Weights(error.to_string()))?;
        Ok(pack(&recipe.spec, &values))
    };
    Resident::new(host, "ttnn_host", geometry, weights, dispatch, &mut packed).unwrap()
}

/// Root mean square of the difference over that of `right`.
fn relative_rms(got: &[f32], right: &[f32]) -> f64 {
    assert_eq!(got.len(), right.len());
    let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = sum(&mut got.iter().zip(right).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (difference / sum(&mut right.iter().map(|v| f64::from(*v)))).sqrt()
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let mean = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a) - mean_a, f64::from(*b) - mean_b));
    let of = |f: fn((f64, f64)) -> f64| pairs().map(f).sum::<f64>();
    of(|(a, b)| a * b) / (of(|(a, _)| a * a) * of(|(_, b)| b * b)).sqrt()
}

#[test]
fn the_graph_in_the_cards_formats_stays_near_the_reference() {
    let geometry = Geometry::small();
    let weights = synthetic::weights(&geometry, Dtype::F32, |_| ());
    let (inputs, request) = (inputs(&geometry, "graph"), request(&geometry));
    let mut expected = Seen::default();
    let mut reference = Reference::new(geometry, &weights, ReferenceOptions::default()).unwrap();
    let prefix = reference.prefix_probed(&inputs, &mut expected).unwrap();
    let right = reference.denoise_probed(&prefix, &inputs, &request, &mut expected).unwrap();
    for numerics in [Numerics::Formats, Numerics::Kernels] {
        let mut model = resident(&geometry, &weights, numerics, Dispatch::EachOp);
        let mut seen = Seen::default();
        let chunk = model.infer_probed(&inputs, &request, &mut seen).unwrap();
        let (rms, pcc) = (relative_rms(&chunk.actions, &right.actions), correlation(&chunk.actions, &right.actions));
        assert!(rms <= 2e-2 && pcc >= 0.9995, "{numerics:?}: actions {rms} {pcc}");
        let compared = seen.0.iter().filter_map(|(name, values)| Some((name, relative_rms(values, expected.0.get(name)?))));
        let compared: Vec<(&String, f64)> = compared.collect();
        // Keys and values of the prefix, and each layer of each step with its state row.
        for kind in ["prefix.kv.0.key", "prefix.kv.1.value", "prefix.layer.0", "step.0.layer.0", "step.9.layer.1"] {
            assert!(compared.iter().any(|(name, _)| *name == kind), "{kind} was not compared");
        }
        for (name, error) in compared {
            assert!(error <= 3e-2, "{numerics:?}: {name} {error}");
        }
    }
}

#[test]
fn traces_give_the_chunks_of_single_ops_and_follow_their_inputs() {
    let geometry = Geometry::small();
    let weights = synthetic::weights(&geometry, Dtype::F32, |_| ());
    let request = request(&geometry);
    let mut by_op = resident(&geometry, &weights, Numerics::Formats, Dispatch::EachOp);
    let mut traced = resident(&geometry, &weights, Numerics::Formats, Dispatch::Trace);
    let mut chunks = Vec::new();
    for salt in ["first", "second", "first"] {
        let inputs = inputs(&geometry, salt);
        let expected = by_op.infer(&inputs, &request).unwrap().actions;
        assert_eq!(traced.infer(&inputs, &request).unwrap().actions, expected);
        chunks.push(expected);
    }
    assert_eq!(chunks[0], chunks[2]);
    assert_ne!(chunks[0], chunks[1]);
}

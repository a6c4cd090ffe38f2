//! Baselines give back the bits that were recorded, or an error that names the file.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::replay::trace::{Gap, synthetic};

fn recorded(trace: &Trace) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("baseline.safetensors");
    record(&path, trace, RecordOptions { allow_gaps: true, ..RecordOptions::default() }).unwrap();
    (folder, path)
}

/// Everything of a trace in bits: the JSON that holds all but the arrays, and the arrays.
fn bits(trace: &Trace) -> (String, Vec<Vec<u8>>) {
    let (document, arrays) = split(trace).unwrap();
    (document, arrays.into_iter().map(|array| array.bytes).collect())
}

#[test]
fn a_run_comes_back_as_it_was() {
    let trace = synthetic::trace(5);
    let (_folder, path) = recorded(&trace);
    assert_eq!(open(&path).unwrap(), trace);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file was left");
}

#[cfg(unix)]
#[test]
fn others_may_read_a_baseline() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = recorded(&synthetic::trace(1));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o044, 0o044);
}

#[test]
fn a_refused_chunk_keeps_what_it_had() {
    let mut trace = synthetic::trace(3);
    trace.chunks[1].actions.clear();
    trace.chunks[1].model_actions[7] = f32::from_bits(0x7fc1_2345);
    trace.chunks[0].model.intermediates[1].values[3] = f32::NEG_INFINITY;
    trace.chunks[0].model.intermediates[1].rms = f64::INFINITY;
    let (_folder, path) = recorded(&trace);
    let back = open(&path).unwrap();
    assert_eq!(bits(&back), bits(&trace));
    assert!(back.chunks[1].actions.is_empty() && back.chunks[1].model_actions[7].to_bits() == 0x7fc1_2345);
}

#[test]
fn nothing_is_written_over_unless_it_is_forced() {
    let (_folder, path) = recorded(&synthetic::trace(1));
    let refusal = record(&path, &synthetic::trace(2), RecordOptions::default()).unwrap_err();
    assert!(matches!(&refusal, BaselineError::Exists(file) if *file == path) && refusal.to_string().contains("--force"));
    assert_eq!(open(&path).unwrap().chunks.len(), 1);
    record(&path, &synthetic::trace(2), RecordOptions { force: true, ..RecordOptions::default() }).unwrap();
    assert_eq!(open(&path).unwrap().chunks.len(), 2);
}

#[test]
fn runs_that_are_no_measure_are_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("baseline");
    let refusal = |change: &dyn Fn(&mut Trace)| {
        let mut trace = synthetic::trace(2);
        change(&mut trace);
        let error = record(&path, &trace, RecordOptions::default()).unwrap_err();
        assert!(!path.exists());
        error
    };
    assert!(matches!(refusal(&|trace| trace.chunks.clear()), BaselineError::NoChunks));
    assert!(matches!(refusal(&|trace| trace.damage = Some("cut off".to_owned())), BaselineError::Damaged(_)));
    let gap = Gap { from: 1, to: 2, inputs: [("base".to_owned(), "too old".to_owned())].into() };
    let gaps = refusal(&|trace| trace.gaps.push(gap.clone()));
    assert!(matches!(&gaps, BaselineError::Gaps { count: 1, first } if first == "base: too old"), "{gaps}");
    let width = refusal(&|trace| _ = trace.chunks[1].positions.pop());
    assert!(matches!(width, BaselineError::Width { what: "positions", chunk: 1, found: 3, expected: 4 }));
    // JSON has no such number.
    assert!(matches!(refusal(&|trace| trace.chunks[1].skew = f64::NAN), BaselineError::Unwritable(_)));
    let nowhere = record(Path::new("/nowhere/baseline"), &synthetic::trace(1), RecordOptions::default());
    assert!(matches!(nowhere, Err(BaselineError::Write { .. })));
}

#[test]
fn files_that_are_no_baseline_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |bytes: &[u8]| {
        let path = folder.path().join("file");
        fs::write(&path, bytes).unwrap();
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        error
    };
    assert!(matches!(open(&folder.path().join("missing")).unwrap_err(), BaselineError::Read { .. }));
    assert!(matches!(open(folder.path()).unwrap_err(), BaselineError::Foreign { .. }));
    assert!(matches!(refusal(b""), BaselineError::Empty(_)));
    assert!(matches!(refusal(b"seed: 7\nsteps: 10\n"), BaselineError::Foreign { .. }));
    assert!(matches!(refusal(b"short"), BaselineError::Damage { .. }));
    // A header that claims 10 GB.
    assert!(matches!(refusal(&[&10_000_000_000u64.to_le_bytes()[..], b"{}"].concat()), BaselineError::Foreign { .. }));
    let with = |metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        safetensors::serialize(std::iter::empty::<(&str, &Array)>(), Some(metadata)).unwrap()
    };
    assert!(matches!(refusal(&with(&[("format", "pt")])), BaselineError::Foreign { .. }));
    let newer = refusal(&with(&[("format", FORMAT), ("version", "2")]));
    assert!(
        matches!(&newer, BaselineError::Version { found, .. } if found == "2") && newer.to_string().contains("record it again")
    );
    assert!(matches!(refusal(&with(&[("format", FORMAT), ("version", "1")])), BaselineError::Damage { .. }));
}

#[test]
fn a_document_that_does_not_fit_its_arrays_is_refused() {
    // As a program would write it that gets the digest right.
    let (document, arrays) = split(&synthetic::trace(2)).unwrap();
    let refusal = |document: String, arrays: &[Array]| {
        let parts = arrays.iter().map(|array| (array.name, array.dtype, array.shape.as_slice(), array.bytes.as_slice()));
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("version", "1".to_owned()),
            ("digest", digest(&document, parts)),
            ("trace", document),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        let bytes = safetensors::serialize(arrays.iter().map(|array| (array.name, array)), Some(metadata)).unwrap();
        match decode(&bytes) {
            Err(Undecodable::Damage(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    let huge = document.replace("\"horizon\":16", "\"horizon\":18446744073709551615");
    assert!(refusal(huge, &arrays).contains("does not fit"));
    assert!(refusal("{}".to_owned(), &arrays).contains("cannot be read"));
    assert!(refusal(document.clone(), &arrays[1..]).contains("actions"));
    let mut sizes = arrays;
    let at = sizes.iter().position(|array| array.name == "intermediate_sizes").unwrap();
    for size in [-1, i64::MAX, 1 << 40] {
        sizes[at].bytes[..8].copy_from_slice(&i64::to_le_bytes(size));
        assert!(refusal(document.clone(), &sizes).contains(if size < 0 { "claims" } else { "too early" }));
    }
}

/// A run with any bits in its arrays, and any finite numbers elsewhere.
fn any_trace() -> impl Strategy<Value = Trace> {
    let finite =
        prop_oneof![any::<f64>().prop_filter("finite", |value| value.is_finite()), Just(-0.0), Just(5e-324), Just(0.1 + 0.2)];
    (1u64..4, prop::collection::vec(any::<u64>(), 64), prop::collection::vec(finite, 8), any::<f32>(), ".{0,12}", any::<i64>())
        .prop_map(|(chunks, bits, scalars, mean, text, stamp)| {
            let mut trace = synthetic::trace(chunks);
            let mut at = 0;
            let mut next = || {
                at += 1;
                bits[at % bits.len()].rotate_left(at as u32)
            };
            for chunk in &mut trace.chunks {
                let model = &mut chunk.model;
                let f32s = chunk.model_actions.iter_mut().chain(&mut model.state);
                f32s.chain(model.intermediates.iter_mut().flat_map(|tensor| &mut tensor.values))
                    .for_each(|value| *value = f32::from_bits(next() as u32));
                let f64s = chunk.actions.iter_mut().chain(&mut chunk.positions);
                f64s.chain(model.intermediates.iter_mut().map(|tensor| &mut tensor.rms))
                    .for_each(|value| *value = f64::from_bits(next()));
                (chunk.skew, chunk.times.total, chunk.times.prefix) = (scalars[0], scalars[1], scalars[2]);
                chunk.samples.values_mut().for_each(|sample| sample.age = scalars[3]);
                if let CameraTrace::Present { mean: of_camera, fields, .. } = &mut model.cameras[0] {
                    *of_camera = if mean.is_finite() { mean } else { 0.1 };
                    fields.iter_mut().for_each(|value| *value = f32::from_bits(next() as u32));
                }
                chunk.instruction.clone_from(&text);
                chunk.observed = stamp;
            }
            for command in &mut trace.commands {
                command.row.iter_mut().for_each(|value| *value = f64::from_bits(next()));
                command.stamp = next() as i64;
            }
            (trace.setup.latency, trace.setup.period) = (scalars[4], scalars[5]);
            trace.latch = Some(text);
            trace
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bits_come_back(trace in any_trace()) {
        let back = decode(&encode(&trace).unwrap()).unwrap();
        prop_assert_eq!(bits(&back), bits(&trace));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_an_error(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
        let bytes = encode(&synthetic::trace(2)).unwrap();
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(decode(&flipped).is_err());
        prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

//! `pi0_tt verify` against LeRobot's golden sets.

mod common;

use std::{fs, path::Path, process::Command};

use pi0_tt::{
    backend::{BackendKind, BackendOptions},
    verify::{VerifyError, verify, verify_card},
};
use safetensors::SafeTensors;

/// The program with its output and exit code.
fn run(dirs: &[&Path]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_pi0_tt")).arg("verify").arg("--golden").args(dirs).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn holds(name: &str) {
    if let Some(dir) = common::golden(name) {
        let report = verify(&dir, None).unwrap();
        println!("{report}");
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn tiny_float32_holds_its_bounds() {
    holds("tiny_f32");
}

#[test]
fn tiny_bfloat16_holds_its_bounds() {
    holds("tiny_bf16");
}

#[test]
fn small_float32_holds_its_bounds() {
    holds("small_f32");
}

#[test]
fn small_bfloat16_holds_its_bounds() {
    holds("small_bf16");
}

/// The card's graph on the CPU.
fn holds_on_the_graph(name: &str) {
    if let Some(dir) = common::golden(name) {
        let cache = tempfile::tempdir().unwrap();
        let options =
            BackendOptions { weight_cache: Some(cache.path().to_owned()), ..BackendOptions::new(BackendKind::TtnnHost) };
        let report = verify_card(&dir, &options).unwrap();
        println!("{report}");
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn the_cards_graph_holds_its_bounds_of_float32() {
    holds_on_the_graph("small_f32");
}

#[test]
fn the_cards_graph_holds_its_bounds_of_bfloat16() {
    holds_on_the_graph("small_bf16");
}

#[test]
fn without_goldens_a_backend_is_compared_with_the_reference() {
    let cache = tempfile::tempdir().unwrap();
    let verify = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_pi0_tt")).arg("verify").args(arguments).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    let folder = cache.path().to_str().unwrap();
    let (text, _, code) = verify(&["--backend", "ttnn_host", "--weight-cache", folder]);
    assert_eq!(code, Some(0), "{text}");
    assert!(["prefix.kv.key", "step.layer.state_row", "actions"].iter().all(|kind| text.contains(kind)), "{text}");
    let (_, error, code) = verify(&[]);
    assert!(code == Some(1) && error.contains("--backend ttnn"), "{error}");
}

#[test]
#[ignore = "3.2 billion parameters, 17 GB of memory, three minutes: make test-full runs it"]
fn the_cards_graph_holds_its_bounds_at_the_published_size() {
    holds_on_the_graph("full_f32");
}

#[test]
#[ignore = "3.2 billion parameters, 13 GB of memory, two minutes: make test-full runs it"]
fn the_published_size_holds_its_bounds() {
    holds("full_f32");
}

#[test]
fn a_single_wrong_value_is_named_and_gives_exit_code_one() {
    let source = common::data("golden_tiny");
    let dir = tempfile::tempdir().unwrap();
    for name in ["inputs.safetensors", "meta.json"] {
        fs::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    let file = dir.path().join("intermediates.safetensors");
    let mut bytes = fs::read(source.join("intermediates.safetensors")).unwrap();
    fs::write(&file, &bytes).unwrap();
    let (text, code) = run(&[dir.path()]);
    assert_eq!(code, Some(0), "{text}");

    // Changes one value of the state token's row in the last layer by a thousandth.
    let tensor = SafeTensors::deserialize(&bytes).unwrap().tensor("step.0.layer.2").unwrap().data().as_ptr() as usize;
    let start = tensor - bytes.as_ptr() as usize;
    let value = f32::from_le_bytes(bytes[start..start + 4].try_into().unwrap());
    bytes[start..start + 4].copy_from_slice(&(value + 1e-3).to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let (text, code) = run(&[dir.path()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAILED") && text.contains("step.0.layer.2.state_row"), "{text}");
}

#[test]
fn a_stored_tensor_that_is_not_compared_is_named_and_fails() {
    let source = common::data("golden_tiny");
    let dir = tempfile::tempdir().unwrap();
    for name in ["inputs.safetensors", "meta.json"] {
        fs::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    let bytes = fs::read(source.join("intermediates.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let write = |keep: &dyn Fn(&str) -> bool| {
        let mut tensors: Vec<_> = golden.tensors().into_iter().filter(|(name, _)| keep(name)).collect();
        tensors.push(("prefix.surplus".into(), golden.tensor("state_padded").unwrap()));
        safetensors::serialize_to_file(tensors, None, &dir.path().join("intermediates.safetensors")).unwrap();
    };
    write(&|_| true);
    let (text, code) = run(&[dir.path()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("prefix.surplus is in the golden set and was not compared"), "{text}");
    assert_eq!(text.matches("FAILED").count(), 2, "{text}");

    write(&|name| !name.ends_with("actions"));
    assert!(matches!(verify(dir.path(), None), Err(VerifyError::NoRuns(_))));
}

#[test]
fn a_folder_without_a_golden_set_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(verify(dir.path(), None), Err(VerifyError::NoGolden(_))));
    assert_eq!(run(&[dir.path()]).1, Some(1));
}

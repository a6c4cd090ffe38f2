//! Damaged and malicious safetensors files: a clear error each, no panic, no large allocation.

use pi0_tt::checkpoint::{Checkpoint, CheckpointError, OpenOptions, inspect::inspect};
use proptest::prelude::*;
use safetensors::SafeTensorError;

use super::{
    common::data,
    folder::{Folder, assert_matches},
};

/// A file with the given header and `data` bytes after it.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn cause(bytes: &[u8]) -> CheckpointError {
    let folder = Folder::lerobot();
    folder.write("model.safetensors", bytes);
    folder.cause()
}

fn tensor(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

#[test]
fn an_empty_file_is_named_as_such() {
    assert_matches!(cause(b""), CheckpointError::EmptyFile { .. });
}

#[test]
fn truncated_and_overlong_files_are_refused() {
    use SafeTensorError::*;
    let one = format!("{{{}}}", tensor("a", "F32", "[2]", 0, 8));
    let refused = |bytes: &[u8]| match cause(bytes) {
        CheckpointError::Safetensors { source, .. } => source,
        other => panic!("{other:?}"),
    };
    assert_matches!(refused(b"1234"), HeaderTooSmall);
    assert_matches!(refused(&file(&one, 8)[..20]), InvalidHeaderLength);
    assert_matches!(refused(&file(&one, 7)), MetadataIncompleteBuffer);
    assert_matches!(refused(&file(&one, 9)), MetadataIncompleteBuffer);
    assert_matches!(refused(&u64::MAX.to_le_bytes()), HeaderTooLarge);
    assert_matches!(refused(&(1u64 << 40).to_le_bytes()), HeaderTooLarge);
    assert_matches!(refused(&50_000_000u64.to_le_bytes()), InvalidHeaderLength);
    assert_matches!(refused(&file("{", 0)), InvalidHeaderDeserialization(_));
    assert_matches!(refused(&file("[]", 0)), InvalidHeaderDeserialization(_));
    assert_matches!(refused(&file(&"[".repeat(100_000), 0)), InvalidHeaderDeserialization(_));
    let mut not_utf8 = file("{  }", 0);
    not_utf8[9] = 0xff;
    assert_matches!(refused(&not_utf8), InvalidHeader(_));
}

#[test]
fn offsets_and_shapes_that_do_not_fit_are_refused() {
    let cases = [
        ("overlap", format!("{},{}", tensor("a", "F32", "[2]", 0, 8), tensor("b", "F32", "[2]", 4, 12)), 12),
        ("hole", format!("{},{}", tensor("a", "F32", "[2]", 0, 8), tensor("b", "F32", "[1]", 12, 16)), 16),
        ("outside", tensor("a", "F32", "[100]", 0, 400), 8),
        ("backwards", tensor("a", "F32", "[2]", 8, 0), 8),
        ("shape", tensor("a", "F32", "[3]", 0, 8), 8),
        ("overflow", tensor("a", "F32", "[4294967296,4294967296,4294967296]", 0, 8), 8),
        ("bit overflow", tensor("a", "F32", "[1152921504606846976]", 0, 8), 8),
        ("negative", tensor("a", "F32", "[-1]", 0, 8), 8),
        ("type", tensor("a", "F31", "[2]", 0, 8), 8),
    ];
    for (name, header, data) in cases {
        match cause(&file(&format!("{{{header}}}"), data)) {
            CheckpointError::Safetensors { source, .. } => assert!(!source.to_string().is_empty()),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_tensor_named_twice_is_refused() {
    let header = format!("{{{},{}}}", tensor("a", "F32", "[2]", 0, 8), tensor("a", "F32", "[2]", 0, 8));
    assert_matches!(cause(&file(&header, 8)), CheckpointError::DuplicateTensor { name, .. } if name == "a");
}

#[test]
fn tensors_without_elements_or_with_odd_layer_numbers_are_only_unexpected() {
    let expert = "paligemma_with_expert.gemma_expert.model.layers";
    let tensors = [
        tensor("action_in_proj.weight", "F32", "[0,0]", 0, 0),
        tensor(&format!("{expert}.18446744073709551615.self_attn.q_proj.weight"), "F32", "[0]", 0, 0),
        tensor(&format!("{expert}.99999999999999999999999.x"), "F32", "[]", 0, 4),
    ];
    match cause(&file(&format!("{{{}}}", tensors.join(",")), 4)) {
        CheckpointError::Tensors { unexpected, .. } => assert_eq!(unexpected.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_that_are_not_aligned_are_read_all_the_same() {
    let folder = Folder::lerobot();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // Another writer may pad the header by one space more.
    let mut shifted = (length as u64 + 1).to_le_bytes().to_vec();
    shifted.extend(&bytes[8..8 + length]);
    shifted.push(b' ');
    shifted.extend(&bytes[8 + length..]);
    // Another folder's: this one's file is about to be written over.
    let reference = Folder::lerobot().open();
    folder.write("model.safetensors", shifted);
    let ours = folder.open();
    for (name, tensor) in reference.weights.iter() {
        assert!(ours.weights.get(name).unwrap().to_f32() == tensor.to_f32());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever byte is flipped, in any file: an answer, not a panic.
    #[test]
    fn flipped_bytes_never_panic(which in 0usize..7, at in 0.0f64..1.0, value in any::<u8>(), cut in any::<bool>()) {
        let folder = Folder::lerobot();
        let names = [
            "config.json", "meta.json", "policy_preprocessor.json", "policy_postprocessor.json",
            "policy_preprocessor_step_6_normalizer_processor.safetensors", "tokenizer/tokenizer.json", "model.safetensors",
        ];
        let mut bytes = std::fs::read(folder.join(names[which])).unwrap();
        // Of the weights, the header is of interest.
        let length = bytes.len().min(20_000);
        let index = (at * length as f64) as usize;
        bytes[index] = value;
        if cut {
            bytes.truncate(index);
        }
        folder.write(names[which], &bytes);
        let report = inspect(folder.path(), &Default::default());
        prop_assert_eq!(report.usable, folder.try_open().is_ok());
    }

    #[test]
    fn flipped_bytes_of_a_sentencepiece_model_never_panic(at in 0.0f64..1.0, value in any::<u8>(), cut in any::<bool>()) {
        let scratch = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(data("tokenizer/tokenizer.model")).unwrap();
        let index = (at * bytes.len() as f64) as usize;
        bytes[index] = value;
        if cut {
            bytes.truncate(index);
        }
        let path = scratch.path().join("tokenizer.model");
        std::fs::write(&path, bytes).unwrap();
        let options = OpenOptions { tokenizer: Some(path), ..OpenOptions::default() };
        let folder = Folder::lerobot();
        if let Ok(checkpoint) = Checkpoint::open(folder.path(), &options) {
            prop_assert!(checkpoint.prompt.encode("fold the towel").is_ok());
        }
    }
}

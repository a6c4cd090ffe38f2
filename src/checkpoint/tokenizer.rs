//! PaliGemma's tokenizer, from `tokenizer.json` or a SentencePiece `.model`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokenizers::Tokenizer as HfTokenizer;

use super::{CheckpointError, files, sentencepiece};

/// Where a checkpoint folder may keep its tokenizer, in the order of search.
const PLACES: [&str; 4] = ["tokenizer/tokenizer.json", "tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model"];

/// Gemma's beginning of a sequence.
const BOS: &str = "<bos>";

/// Kind of tokenizer file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum TokenizerKind {
    /// `tokenizer.json` of Hugging Face.
    HuggingFace,
    /// SentencePiece `.model`.
    SentencePiece,
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HuggingFace => "tokenizer.json (Hugging Face)",
            Self::SentencePiece => "SentencePiece",
        })
    }
}

/// A tokenizer whose every id has a row in the model's embedding table.
#[derive(Debug)]
pub(super) struct Tokenizer {
    pub path: PathBuf,
    pub kind: TokenizerKind,
    /// Number of tokens.
    pub size: usize,
    /// Id of the token that every prompt begins with.
    pub bos: u32,
    inner: HfTokenizer,
}

impl Tokenizer {
    /// Opens `chosen`, or the first tokenizer that the checkpoint folder holds.
    pub fn find(dir: &Path, chosen: Option<&Path>, vocab_size: Option<usize>) -> Result<Self, CheckpointError> {
        let searched: Vec<PathBuf> = match chosen {
            Some(path) => vec![path.to_owned()],
            None => PLACES.iter().map(|place| dir.join(place)).collect(),
        };
        match searched.iter().find(|path| path.is_file()) {
            Some(path) => Self::open(path, vocab_size),
            None => Err(CheckpointError::NoTokenizer { searched }),
        }
    }

    /// `vocab_size` is the number of rows of the embedding table, when known.
    fn open(path: &Path, vocab_size: Option<usize>) -> Result<Self, CheckpointError> {
        let bytes = files::read(path)?;
        let unusable = |reason| CheckpointError::Tokenizer { path: path.to_owned(), reason };
        let (kind, inner) = if path.extension().is_some_and(|extension| extension == "model") {
            (TokenizerKind::SentencePiece, sentencepiece::load(&bytes).map_err(unusable)?)
        } else {
            let inner = load_json(&bytes).map_err(|source| unusable(source.to_string()))?;
            (TokenizerKind::HuggingFace, inner)
        };
        let vocab = inner.get_vocab(true);
        let largest = vocab.values().copied().max().unwrap_or(0);
        if let Some(vocab_size) = vocab_size.filter(|&size| largest as usize >= size) {
            return Err(CheckpointError::Vocabulary { path: path.to_owned(), largest, vocab_size });
        }
        let Some(bos) = inner.token_to_id(BOS) else { return Err(unusable(format!("it has no token {BOS}"))) };
        Ok(Self { path: path.to_owned(), kind, size: vocab.len(), bos, inner })
    }

    /// Ids of a text, without BOS.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|source| CheckpointError::Encode { reason: source.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Reads a `tokenizer.json` without the parts that have no use here: padding is no business of a backend, what is cut off is
/// counted by `PromptEncoder`, and BOS is put before every text as Gemma's tokenizer class in transformers does.
fn load_json(text: &[u8]) -> serde_json::Result<HfTokenizer> {
    // Through a tree of values, because the library panics on JSON that breaks off inside some of its parts.
    let mut tokenizer: Value = serde_json::from_slice(text)?;
    if let Some(parts) = tokenizer.as_object_mut() {
        for part in ["truncation", "padding", "post_processor", "decoder"] {
            parts.remove(part);
        }
    }
    serde_json::from_value(tokenizer)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde::Deserialize;

    use super::*;

    /// Ids of Python's libraries, made by tools/train_test_tokenizer.py.
    #[derive(Deserialize)]
    struct Golden {
        texts: Vec<Row>,
    }

    #[derive(Deserialize)]
    struct Row {
        text: String,
        sentencepiece: Vec<u32>,
        tokenizers: Vec<u32>,
    }

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn golden() -> Vec<Row> {
        let text = fs::read(root().join("tests/data/tokenizer/golden.json")).unwrap();
        serde_json::from_slice::<Golden>(&text).unwrap().texts
    }

    fn hugging_face() -> Tokenizer {
        Tokenizer::open(&root().join("src/checkpoint/synthetic_tokenizer.json"), Some(512)).unwrap()
    }

    fn sentence_piece() -> Tokenizer {
        Tokenizer::open(&root().join("tests/data/tokenizer/tokenizer.model"), Some(512)).unwrap()
    }

    #[test]
    fn a_sentencepiece_model_gives_the_ids_of_python_sentencepiece() {
        let tokenizer = sentence_piece();
        assert_eq!(tokenizer.kind, TokenizerKind::SentencePiece);
        for row in golden() {
            assert_eq!(tokenizer.encode(&row.text).unwrap(), row.sentencepiece, "{:?}", row.text);
        }
    }

    #[test]
    fn a_tokenizer_json_gives_the_ids_of_python_tokenizers() {
        let tokenizer = hugging_face();
        assert_eq!(tokenizer.kind, TokenizerKind::HuggingFace);
        for row in golden() {
            assert_eq!(tokenizer.encode(&row.text).unwrap(), row.tokenizers, "{:?}", row.text);
        }
    }

    #[test]
    fn both_files_are_one_tokenizer_but_for_the_names_of_control_tokens() {
        let (hugging_face, sentence_piece) = (hugging_face(), sentence_piece());
        let encode = |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text).unwrap();
        let differing: Vec<String> = golden()
            .into_iter()
            .map(|row| row.text)
            .filter(|text| encode(&hugging_face, text) != encode(&sentence_piece, text))
            .collect();
        assert_eq!(differing, ["<bos>", "a <eos> b", "<pad><unk>"]);
    }

    #[test]
    fn both_files_have_gemmas_bos() {
        assert_eq!(hugging_face().bos, 2);
        assert_eq!(sentence_piece().bos, 2);
    }

    #[test]
    fn a_vocabulary_larger_than_the_embedding_table_is_refused() {
        let path = root().join("tests/data/tokenizer/tokenizer.model");
        assert!(Tokenizer::open(&path, Some(500)).is_ok());
        match Tokenizer::open(&path, Some(499)) {
            Err(CheckpointError::Vocabulary { largest: 499, vocab_size: 499, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn damaged_tokenizers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = fs::read(root().join("tests/data/tokenizer/tokenizer.model")).unwrap();
        let text = fs::read_to_string(root().join("src/checkpoint/synthetic_tokenizer.json")).unwrap();
        let no_bos = text.replace("<bos>", "<begin>");
        let cases: [(&str, &[u8]); 7] = [
            ("empty.model", b""),
            ("cut.model", &bytes[..bytes.len() / 2]),
            ("text.model", b"not a protobuf"),
            ("empty.json", b""),
            ("cut.json", &text.as_bytes()[..text.len() / 2]),
            ("object.json", b"{}"),
            ("no_bos.json", no_bos.as_bytes()),
        ];
        for (name, bytes) in cases {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            assert!(matches!(Tokenizer::open(&path, None), Err(CheckpointError::Tokenizer { .. })), "{name}");
        }
    }
}

//! PaliGemma's tokenizer, from `tokenizer.json` or a SentencePiece `.model`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use tokenizers::Tokenizer as HfTokenizer;

use super::{CheckpointError, files, sentencepiece};

/// Where a checkpoint folder may keep its tokenizer, in the order of search.
const PLACES: [&str; 4] = ["tokenizer/tokenizer.json", "tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model"];

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
            let mut inner = HfTokenizer::from_bytes(&bytes).map_err(|source| unusable(source.to_string()))?;
            // What is cut off is counted here, and padding is not a backend's business.
            inner.with_truncation(None).map_err(|source| unusable(source.to_string()))?.with_padding(None);
            (TokenizerKind::HuggingFace, inner)
        };
        let vocab = inner.get_vocab(true);
        let largest = vocab.values().copied().max().unwrap_or(0);
        if let Some(vocab_size) = vocab_size.filter(|&size| largest as usize >= size) {
            return Err(CheckpointError::Vocabulary { path: path.to_owned(), largest, vocab_size });
        }
        let tokenizer = Self { path: path.to_owned(), kind, size: vocab.len(), inner };
        // Gemma goes wrong in silence without BOS, so a file that does not add it is not this model's.
        let bos = tokenizer.inner.token_to_id("<bos>");
        if bos.is_none() || tokenizer.encode_with_bos("a").map_err(|cause| unusable(cause.to_string()))?.first().copied() != bos {
            return Err(unusable("it does not put <bos> before a text".into()));
        }
        Ok(tokenizer)
    }

    /// Reads text as SentencePiece does: the names of special tokens are ordinary text in it.
    pub fn take_special_tokens_as_text(&mut self) {
        self.inner.set_encode_special_tokens(true);
    }

    pub fn encode_with_bos(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        self.run(text, true)
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        self.run(text, false)
    }

    fn run(&self, text: &str, bos: bool) -> Result<Vec<u32>, CheckpointError> {
        let encoding =
            self.inner.encode_fast(text, bos).map_err(|source| CheckpointError::Encode { reason: source.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }
}

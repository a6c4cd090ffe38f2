//! Instruction text to token ids under the checkpoint family's rules.

use std::path::Path;

use super::{
    CheckpointError, Family,
    tokenizer::{Tokenizer, TokenizerKind},
};
use crate::model::Prompt;

/// A prompt and how much of it did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPrompt {
    pub prompt: Prompt,
    /// Tokens cut off at the end because the model has fewer slots.
    pub dropped: usize,
}

/// Tokenizer and prompt rules of a checkpoint.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    family: Family,
    slots: usize,
}

impl PromptEncoder {
    pub(super) fn new(mut tokenizer: Tokenizer, family: Family, slots: usize) -> Self {
        if family == Family::Openpi {
            tokenizer.take_special_tokens_as_text();
        }
        Self { tokenizer, family, slots }
    }

    /// The ids that the family's own code gives the model: openpi's `PaligemmaTokenizer.tokenize`, LeRobot's
    /// `Pi0NewLineProcessor` and `TokenizerProcessorStep`.
    pub fn encode(&self, instruction: &str) -> Result<EncodedPrompt, CheckpointError> {
        if instruction.trim().is_empty() {
            return Err(CheckpointError::EmptyInstruction);
        }
        let mut ids = match self.family {
            Family::Openpi => {
                let clean = instruction.trim_matches(python_space).replace(['_', '\n'], " ");
                let mut ids = self.tokenizer.encode_with_bos(&clean)?;
                ids.extend(self.tokenizer.encode("\n")?);
                ids
            }
            Family::Lerobot | Family::LerobotLegacy => match instruction.ends_with('\n') {
                true => self.tokenizer.encode_with_bos(instruction)?,
                false => self.tokenizer.encode_with_bos(&format!("{instruction}\n"))?,
            },
        };
        let dropped = ids.len().saturating_sub(self.slots);
        ids.truncate(self.slots);
        Ok(EncodedPrompt { prompt: Prompt { ids }, dropped })
    }

    /// The tokenizer's file.
    pub fn path(&self) -> &Path {
        &self.tokenizer.path
    }

    pub fn kind(&self) -> TokenizerKind {
        self.tokenizer.kind
    }

    /// Number of tokens that the tokenizer knows.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.size
    }
}

/// What Python's `str.strip` strips.
fn python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

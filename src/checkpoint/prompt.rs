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
    pub(super) fn new(tokenizer: Tokenizer, family: Family, slots: usize) -> Self {
        Self { tokenizer, family, slots }
    }

    /// The ids that the family's own code gives the model: openpi's `PaligemmaTokenizer.tokenize`, LeRobot's
    /// `Pi0NewLineProcessor` and `TokenizerProcessorStep`.
    pub fn encode(&self, instruction: &str) -> Result<EncodedPrompt, CheckpointError> {
        if instruction.trim().is_empty() {
            return Err(CheckpointError::EmptyInstruction);
        }
        let mut ids = vec![self.tokenizer.bos];
        match self.family {
            Family::Openpi => {
                let clean = instruction.trim_matches(python_space).replace(['_', '\n'], " ");
                ids.extend(self.tokenizer.encode(&clean)?);
                ids.extend(self.tokenizer.encode("\n")?);
            }
            Family::Lerobot | Family::LerobotLegacy => {
                let newline = if instruction.ends_with('\n') { "" } else { "\n" };
                ids.extend(self.tokenizer.encode(&format!("{instruction}{newline}"))?);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// With the tokenizer of the tests, of which BOS is 2 and the line break 8.
    fn encoder(family: Family, slots: usize) -> PromptEncoder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer/tokenizer.model");
        PromptEncoder::new(Tokenizer::find(Path::new(""), Some(&path), Some(512)).unwrap(), family, slots)
    }

    fn ids(family: Family, instruction: &str) -> Vec<u32> {
        encoder(family, 100).encode(instruction).unwrap().prompt.ids
    }

    #[test]
    fn openpi_cleans_the_instruction_and_ends_it_with_a_line_break() {
        let clean = ids(Family::Openpi, "fold the towel");
        assert_eq!((clean[0], clean[clean.len() - 1]), (2, 8));
        for instruction in ["  fold_the_towel\n", "fold\nthe towel\u{1f}", "\tfold the_towel \n\n"] {
            assert_eq!(ids(Family::Openpi, instruction), clean, "{instruction:?}");
        }
    }

    #[test]
    fn lerobot_only_adds_a_missing_line_break() {
        for family in [Family::Lerobot, Family::LerobotLegacy] {
            let plain = ids(family, "fold the towel");
            assert_eq!(plain, ids(Family::Openpi, "fold the towel"));
            assert_eq!(ids(family, "fold the towel\n"), plain);
            for instruction in ["fold_the_towel", " fold the towel", "fold the towel "] {
                assert_ne!(ids(family, instruction), plain, "{instruction:?}");
            }
            // Two line breaks are one token, which is not the one that ends an ordinary prompt.
            assert_ne!(ids(family, "fold the towel\n\n"), plain);
        }
    }

    #[test]
    fn tokens_that_do_not_fit_are_cut_off_at_the_end_and_counted() {
        let whole = ids(Family::Lerobot, "fold the towel");
        let cut = encoder(Family::Lerobot, whole.len() - 2).encode("fold the towel").unwrap();
        assert_eq!((cut.prompt.ids.as_slice(), cut.dropped), (&whole[..whole.len() - 2], 2));
        let exact = encoder(Family::Lerobot, whole.len()).encode("fold the towel").unwrap();
        assert_eq!((exact.prompt.ids, exact.dropped), (whole, 0));
    }

    #[test]
    fn an_empty_instruction_is_refused() {
        for instruction in ["", " ", "\n", " \t\n "] {
            for family in [Family::Openpi, Family::Lerobot] {
                assert!(matches!(encoder(family, 48).encode(instruction), Err(CheckpointError::EmptyInstruction)));
            }
        }
    }
}

//! Instruction text to token ids under the checkpoint family's rules.

use crate::model::Prompt;

use super::CheckpointError;

/// A prompt and how much of it did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPrompt {
    pub prompt: Prompt,
    /// Tokens cut off at the end because the model has fewer slots.
    pub dropped: usize,
}

/// Tokenizer and prompt rules of a checkpoint.
#[derive(Debug)]
pub struct PromptEncoder {}

impl PromptEncoder {
    pub fn encode(&self, _instruction: &str) -> Result<EncodedPrompt, CheckpointError> {
        todo!("skeleton")
    }
}

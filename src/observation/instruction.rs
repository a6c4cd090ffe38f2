//! Which texts are accepted as an instruction.

/// Longest accepted instruction in bytes. The published model reads 48 tokens, about 200 characters.
pub const MAX_BYTES: usize = 1024;

/// Why an instruction was refused. The instruction before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstructionError {
    #[error("The instruction has {0} bytes, at most {MAX_BYTES} are accepted")]
    TooLong(usize),
    #[error("The instruction is not valid UTF-8 from byte {0} on")]
    NotUtf8(usize),
    #[error("The instruction holds a NUL character")]
    Nul,
    #[error("The instruction is empty. Say what the robot is to do")]
    Empty,
}

/// Checks the bytes of a `std_msgs/String` or of the parameter.
pub fn check_instruction(bytes: &[u8]) -> Result<&str, InstructionError> {
    if bytes.len() > MAX_BYTES {
        return Err(InstructionError::TooLong(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| InstructionError::NotUtf8(error.valid_up_to()))?;
    if text.contains('\0') {
        return Err(InstructionError::Nul);
    }
    if text.trim().is_empty() {
        return Err(InstructionError::Empty);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_any_script_is_taken_as_it_is() {
        for text in ["pick up the cube", " hebe den Würfel auf\n", "立方体を持ち上げる", &"x".repeat(MAX_BYTES)] {
            assert_eq!(check_instruction(text.as_bytes()), Ok(text));
        }
    }

    #[test]
    fn every_refusal_says_why() {
        assert_eq!(check_instruction(&[b'x'; MAX_BYTES + 1]), Err(InstructionError::TooLong(MAX_BYTES + 1)));
        assert_eq!(check_instruction(b"pick \xff up"), Err(InstructionError::NotUtf8(5)));
        assert_eq!(check_instruction(b"pick\0up"), Err(InstructionError::Nul));
        assert_eq!(check_instruction(b""), Err(InstructionError::Empty));
        assert_eq!(check_instruction(b" \n\t"), Err(InstructionError::Empty));
    }
}

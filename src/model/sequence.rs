//! Which row of the sequence stands where and sees what: pad masks, block masks, positions.
//!
//! The rule is openpi's `make_attn_mask`: with `blocks = cumsum(att)`, query `q` sees key `k` when `blocks[k] <= blocks[q]` and both are
//! valid; positions are `cumsum(valid) - 1`.

/// Which (query, key) pairs of an attention may meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Every query sees every key.
    All,
    /// `[queries, keys]`, row-major.
    Allowed { allowed: Vec<bool>, keys: usize },
}

impl Mask {
    /// The mask of queries with `query_blocks` over keys with `key_blocks`; an entry is the block number, or `None` for padding.
    fn from_blocks(query_blocks: &[Option<u32>], key_blocks: &[Option<u32>]) -> Self {
        let allowed: Vec<bool> = query_blocks
            .iter()
            .flat_map(|query| key_blocks.iter().map(move |key| matches!((query, key), (Some(query), Some(key)) if key <= query)))
            .collect();
        if allowed.iter().all(|&seen| seen) { Self::All } else { Self::Allowed { allowed, keys: key_blocks.len() } }
    }

    /// Whether query `q` may see key `k`.
    pub fn allows(&self, q: usize, k: usize) -> bool {
        match self {
            Self::All => true,
            Self::Allowed { allowed, keys } => allowed[q * keys + k],
        }
    }
}

/// Rows of one tower's sequence with what they see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Position of each row for RoPE. Leading padding has -1, which no valid row ever sees.
    pub positions: Vec<i64>,
    pub mask: Mask,
}

/// Prefix and suffix of one inference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Cameras, then prompt; sees itself.
    pub prefix: Rows,
    /// State token, then `horizon` action tokens; keys are the prefix followed by the suffix itself.
    pub suffix: Rows,
}

impl Sequence {
    /// The sequence for prefix rows of which `valid` are real, and a suffix of a state token and `horizon` action tokens.
    pub fn new(valid: &[bool], horizon: usize) -> Self {
        // The whole prefix is one bidirectional block; the state token begins a block and so does the first action.
        let prefix_blocks: Vec<Option<u32>> = valid.iter().map(|&valid| valid.then_some(0)).collect();
        let suffix_blocks: Vec<Option<u32>> = (0..=horizon).map(|row| Some(if row == 0 { 1 } else { 2 })).collect();
        let mut next = -1;
        let prefix_positions = valid
            .iter()
            .map(|&valid| {
                next += i64::from(valid);
                next
            })
            .collect();
        let suffix_positions = (1..=horizon as i64 + 1).map(|row| next + row).collect();
        let keys = [prefix_blocks.as_slice(), &suffix_blocks].concat();
        Self {
            prefix: Rows { positions: prefix_positions, mask: Mask::from_blocks(&prefix_blocks, &prefix_blocks) },
            suffix: Rows { positions: suffix_positions, mask: Mask::from_blocks(&suffix_blocks, &keys) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_continues_after_the_valid_prefix_rows() {
        let sequence = Sequence::new(&[true, false, true], 2);
        assert_eq!(sequence.prefix.positions, [0, 0, 1]);
        assert_eq!(sequence.suffix.positions, [2, 3, 4]);
    }

    #[test]
    fn the_state_token_sees_the_prefix_and_itself_only() {
        let Sequence { suffix, .. } = Sequence::new(&[true, false, true], 2);
        let seen = |q| (0..6).map(|k| suffix.mask.allows(q, k)).collect::<Vec<_>>();
        assert_eq!(seen(0), [true, false, true, true, false, false]);
        assert_eq!(seen(1), [true, false, true, true, true, true]);
        assert_eq!(seen(1), seen(2));
    }

    #[test]
    fn a_prefix_without_padding_needs_no_mask() {
        assert_eq!(Sequence::new(&[true; 5], 3).prefix.mask, Mask::All);
    }
}

//! SentencePiece `.model` files with PaliGemma's settings, as a BPE model of the `tokenizers` library.

use sentencepiece_model::{ModelType, SentencePieceModel, Type};
use tokenizers::{
    AddedToken, Tokenizer,
    models::bpe::{BPE, Vocab},
    normalizers::Replace,
};

/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// Builds the tokenizer. The error says which setting is not PaliGemma's.
pub(super) fn load(bytes: &[u8]) -> Result<Tokenizer, String> {
    let model = SentencePieceModel::from_slice(bytes).map_err(|source| format!("it is not a SentencePiece model: {source}"))?;
    let (trainer, normalizer) = match (model.trainer(), model.normalizer()) {
        (Some(trainer), Some(normalizer)) => (trainer, normalizer),
        _ => return Err("it has no trainer or normalizer settings".into()),
    };
    let gemma = [
        ("model_type is BPE", trainer.model_type() == ModelType::Bpe),
        ("byte_fallback is on", trainer.byte_fallback()),
        ("treat_whitespace_as_suffix is off", !trainer.treat_whitespace_as_suffix()),
        ("add_dummy_prefix is off", !normalizer.add_dummy_prefix()),
        ("remove_extra_whitespaces is off", !normalizer.remove_extra_whitespaces()),
        ("escape_whitespaces is on", normalizer.escape_whitespaces()),
        ("the normalization is the identity", normalizer.precompiled_charsmap().is_empty()),
        ("no piece is of type UNUSED", model.pieces().iter().all(|piece| piece.r#type() != Type::Unused)),
    ];
    if let Some((setting, _)) = gemma.iter().find(|(_, holds)| !holds) {
        return Err(format!("PaliGemma's SentencePiece model is needed, in which {setting}"));
    }
    let vocab: Vocab = (0..).zip(model.pieces()).map(|(id, piece)| (piece.piece().to_owned(), id)).collect();
    if vocab.len() != model.pieces().len() {
        return Err("it has a piece twice".into());
    }
    let unk = usize::try_from(trainer.unk_id()).ok().and_then(|id| model.pieces().get(id)).ok_or("it has no UNK piece")?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges(&model))
        .unk_token(unk.piece().to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(|source| source.to_string())?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_normalizer(Some(Replace::new(" ", SPACE).map_err(|source| source.to_string())?));
    // SentencePiece matches user-defined pieces, longest first, in the normalized text before any merge.
    let user_defined: Vec<AddedToken> = model
        .pieces()
        .iter()
        .filter(|piece| piece.r#type() == Type::UserDefined)
        .map(|piece| AddedToken::from(piece.piece(), false).normalized(true))
        .collect();
    tokenizer.add_tokens(&user_defined);
    Ok(tokenizer)
}

/// Merges in the order of SentencePiece: the highest score of the merged piece first. A piece that can be put together in several
/// ways takes the longer left part first, as in Hugging Face's converter.
fn merges(model: &SentencePieceModel) -> Vec<(String, String)> {
    let normal: std::collections::HashMap<&str, f32> = model
        .pieces()
        .iter()
        .filter(|piece| piece.r#type() == Type::Normal)
        .map(|piece| (piece.piece(), piece.score()))
        .collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for (piece, score) in &normal {
        let splits = piece.char_indices().skip(1).map(|(middle, _)| piece.split_at(middle));
        merges.extend(
            splits
                .filter(|(left, right)| normal.contains_key(left) && normal.contains_key(right))
                .map(|(left, right)| (*score, left, right)),
        );
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.len().cmp(&a.1.len())).then(a.1.cmp(b.1)).then(a.2.cmp(b.2)));
    merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}

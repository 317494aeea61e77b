//! tokenizer.json: text to ids and back.
//!
//! Invariant: nothing is added, cut or padded behind the caller's back; the file's own truncation and padding are
//! switched off. Deliberately absent: training of tokenizers.

use std::path::Path;
use std::sync::Arc;

use super::ModelError;

/// A tokenizer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    special: Arc<Vec<String>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(ModelError::io(path))?;
        let refuse = |e: tokenizers::Error| ModelError::folder(path, e, "fetch the file again");
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(refuse)?;
        inner.with_truncation(None).map_err(refuse)?;
        inner.with_padding(None);
        let special = inner.get_added_tokens_decoder().into_values().filter(|t| t.special).map(|t| t.content);
        let special = Arc::new(special.collect());
        Ok(Self { inner: Arc::new(inner), special })
    }

    /// Ids of a text; special tokens written in it are recognised, none is added.
    pub fn ids(&self, text: &str) -> Result<Vec<i64>, ModelError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| ModelError::text(e, "check that tokenizer.json covers this text"))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Text of ids, special tokens left out.
    pub fn text(&self, ids: &[i64]) -> Result<String, ModelError> {
        let cure = "use ids that this tokenizer made";
        let ids: Result<Vec<u32>, _> = ids.iter().map(|&id| u32::try_from(id)).collect();
        let ids = ids.map_err(|_| ModelError::text("a token id is negative or too large", cure))?;
        self.inner.decode(&ids, true).map_err(|e| ModelError::text(e, cure))
    }

    /// Id of one token by its content.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.inner.token_to_id(token).map(i64::from)
    }

    /// Number of ids in use, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The first special token written in a text, if there is one: text from outside should have none.
    pub fn special_in<'a>(&'a self, text: &str) -> Option<&'a str> {
        self.special.iter().map(String::as_str).find(|token| text.contains(token))
    }
}

//! tokenizer.json: text to ids and back.
//!
//! Invariant: nothing is added, cut or padded behind the caller's back; the file's own truncation and padding are
//! switched off. Any file gives a tokenizer or an error: the library below unwraps on some files and on some texts, so
//! every call into it that a file can make panic is caught here. Deliberately absent: training of tokenizers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{ModelError, files};

/// A tokenizer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    special: Arc<Vec<String>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::from_bytes(path, &files::read(path)?)
    }

    /// Reads the bytes of a `tokenizer.json`; `path` is for messages.
    pub(crate) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let refuse = |what: String| ModelError::folder(path, what, "fetch the file again");
        let steps: Steps = serde_json::from_slice(bytes).map_err(|e| refuse(e.to_string()))?;
        let growth = [&steps.normalizer, &steps.pre_tokenizer, &steps.decoder].map(growth);
        if growth.iter().any(|&times| times > MOST_GROWTH) {
            return Err(refuse(format!("its steps can make a text more than {MOST_GROWTH} times as long")));
        }
        guarded(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            let special =
                inner.get_added_tokens_decoder().into_values().filter(|t| t.special).map(|t| t.content);
            let special = Arc::new(special.collect());
            Ok(Self { inner: Arc::new(inner), special })
        })
        .map_err(refuse)
    }

    /// Ids of a text; special tokens written in it are recognised, none is added.
    pub fn ids(&self, text: &str) -> Result<Vec<i64>, ModelError> {
        let encoding = guarded(|| self.inner.encode_fast(text, false))
            .map_err(|e| ModelError::text(e, "check that tokenizer.json covers this text"))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Text of ids, special tokens left out.
    pub fn text(&self, ids: &[i64]) -> Result<String, ModelError> {
        let cure = "use ids that this tokenizer made";
        let ids: Result<Vec<u32>, _> = ids.iter().map(|&id| u32::try_from(id)).collect();
        let ids = ids.map_err(|_| ModelError::text("a token id is negative or too large", cure))?;
        guarded(|| self.inner.decode(&ids, true)).map_err(|e| ModelError::text(e, cure))
    }

    /// Id of one token by its content.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.inner.token_to_id(token).map(i64::from)
    }

    /// One more than the largest id in use, added tokens included.
    pub fn ids_end(&self) -> i64 {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| i64::from(id) + 1)
    }

    /// The first special token written in a text, if there is one: text from outside should have none.
    pub fn special_in<'a>(&'a self, text: &str) -> Option<&'a str> {
        self.special.iter().map(String::as_str).find(|token| text.contains(token))
    }
}

/// The steps of a tokenizer.json that can make a text longer.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// Times that a text may become as long; what is published stays below 20.
const MOST_GROWTH: u64 = 1 << 10;

/// Times as long, in bytes, as these steps one after another can make a text: forty replacements of `a` by `aa` would
/// fill any memory with one letter.
fn growth(steps: &Value) -> u64 {
    let own = match steps["type"].as_str() {
        Some("Replace") => steps["content"].as_str().map_or(1, |content| content.len() as u64 + 1),
        Some("ByteLevel") => 2,
        // Its table is the file's own; compatibility forms of Unicode are the longest in use, up to 18 letters.
        Some("Precompiled") => 18,
        _ => 1,
    };
    let inner: Box<dyn Iterator<Item = &Value>> = match steps {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => return own,
    };
    inner.map(growth).fold(own, u64::saturating_mul)
}

/// A call into the library, its panics made errors. Nothing is broken by unwinding: the tokenizer is only read, and its
/// caches hold whole entries.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Err(format!("the tokenizer cannot be used as its file describes it ({said})"))
        }
    }
}

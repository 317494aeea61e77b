//! Strings that end a generated text.
//!
//! Invariant: a string is found wherever token boundaries fall in it. Only the end of a text is looked at, so a step
//! costs the same however long the text is.

use std::sync::Arc;

use super::{ModelError, Tokenizer};

/// Stop strings of one tokenizer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stops {
    tokenizer: Tokenizer,
    strings: Arc<[String]>,
    tail: usize,
}

impl Stops {
    /// Errors: an empty string, which would end every text.
    pub fn new(tokenizer: &Tokenizer, strings: &[&str]) -> Result<Self, ModelError> {
        if strings.iter().any(|string| string.is_empty()) {
            return Err(ModelError::text("a stop string is empty", "leave it out"));
        }
        // A token is at least a byte, but for specials, which decode to nothing and end a text themselves.
        let tail = strings.iter().map(|string| string.len()).max().unwrap_or(0) + 4;
        let strings = strings.iter().map(ToString::to_string).collect();
        Ok(Self { tokenizer: tokenizer.clone(), strings, tail })
    }

    /// Whether a stop string is within the last tokens.
    pub fn end(&self, tokens: &[i64]) -> bool {
        let tail = &tokens[tokens.len().saturating_sub(self.tail)..];
        // Ids that are no text cannot complete a string.
        let text = self.tokenizer.text(tail).unwrap_or_default();
        self.strings.iter().any(|string| text.contains(string.as_str()))
    }

    /// A text up to its first stop string.
    pub fn cut<'t>(&self, text: &'t str) -> &'t str {
        let at = self.strings.iter().filter_map(|string| text.find(string.as_str())).min();
        &text[..at.unwrap_or(text.len())]
    }
}

//! Enums as the words that stand in the tables, by way of serde so that both sides share one spelling.

use crate::domain::{Error, Result};
use serde::{Serialize, de::DeserializeOwned, de::IntoDeserializer, de::value::StrDeserializer};

/// The word for `value`.
pub(super) fn of<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("only enums without fields are kept as words, not {other:?}"),
    }
}

/// The value of a word read from a table.
pub(super) fn parse<T: DeserializeOwned>(word: &str) -> Result<T> {
    let from: StrDeserializer<'_, serde::de::value::Error> = word.into_deserializer();
    T::deserialize(from).map_err(Error::internal)
}

/// A Postgres array literal, for columns of arrays in UNNEST, which would flatten arrays of arrays.
pub(super) fn array(items: &[String]) -> String {
    let mut literal = String::from("{");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            literal.push(',');
        }
        literal.push('"');
        for c in item.chars() {
            if matches!(c, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(c);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

#[cfg(test)]
mod tests {
    use crate::domain::{JobKind, RoundState};

    #[test]
    fn words_go_there_and_back_and_unknown_ones_are_errors() {
        assert_eq!(super::of(&JobKind::DeletePool), "DELETE_POOL");
        assert_eq!(super::parse::<RoundState>("LABELLING").unwrap(), RoundState::Labelling);
        assert!(super::parse::<RoundState>("ASLEEP").is_err());
    }

    #[test]
    fn array_literals_quote_what_postgres_would_read_otherwise() {
        assert_eq!(
            super::array(&["a,b".into(), "c\"d\\".into(), "NULL".into()]),
            r#"{"a,b","c\"d\\","NULL"}"#
        );
        assert_eq!(super::array(&[]), "{}");
    }
}

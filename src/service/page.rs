//! Keyset pages: a token is where to go on, never an offset.
//!
//! A token carries a tag of the list it belongs to, so that one from another list is an error and not a surprise.
//! It is opaque to clients and not secret.

use crate::domain::{Error, Result};
use crate::settings::Limits;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

/// Which page is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Items wanted; 0 means `limits.page_size_default`, more than `limits.page_size_max` gives that many.
    pub size: usize,
    /// `Page::next_page_token` of the page before; none for the first.
    pub token: Option<String>,
}

impl PageRequest {
    /// Items to read.
    pub fn limit(&self, limits: &Limits) -> usize {
        let (default, max) = (limits.page_size_default as usize, limits.page_size_max as usize);
        if self.size == 0 { default } else { self.size.min(max) }
    }

    /// The key after which to go on, from a token of the list `tag`.
    pub fn after(&self, tag: &str) -> Result<Option<String>> {
        let Some(token) = self.token.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
        let text = bytes.and_then(|b| String::from_utf8(b).ok());
        let key = text.as_deref().and_then(|t| t.strip_prefix(tag)?.strip_prefix('\n'));
        // Postgres would not even look for a control character.
        let key = key.filter(|key| !key.chars().any(char::is_control)).ok_or_else(|| {
            Error::invalid(
                "page_token",
                "is not a token of this list: pass next_page_token of the page before, with the same arguments",
            )
        })?;
        Ok(Some(key.to_owned()))
    }

    /// As `after`, with the key parsed.
    pub fn after_key<T: std::str::FromStr>(&self, tag: &str) -> Result<Option<T>> {
        let wrong = || Error::invalid("page_token", "is damaged: ask for the first page again");
        self.after(tag)?.map(|key| key.parse().map_err(|_| wrong())).transpose()
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// Where the next page begins; none at the end.
    pub next_page_token: Option<String>,
    /// The list's tag and each item's key, for a page that is cut shorter.
    tag: String,
    keys: Vec<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` items out of `items`, which were read with one more than `limit`.
    pub fn cut(mut items: Vec<T>, limit: usize, tag: &str, key: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let keys = items.iter().map(key).collect();
        let mut page = Self { items, next_page_token: None, tag: tag.to_owned(), keys };
        if more {
            page.next_page_token = page.token();
        }
        page
    }

    /// Keeps the first `count` items (at least one); the token then leads on after them.
    pub fn keep(&mut self, count: usize) {
        let count = count.max(1);
        if count < self.items.len() {
            self.items.truncate(count);
            self.keys.truncate(count);
            self.next_page_token = self.token();
        }
    }

    /// The token that leads on after the last item.
    fn token(&self) -> Option<String> {
        self.keys.last().map(|key| BASE64_URL_SAFE_NO_PAD.encode(format!("{}\n{key}", self.tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_on_in_its_own_list_and_is_refused_in_another() {
        let page = Page::cut(vec![1_i64, 2, 3], 2, "rounds", i64::to_string);
        assert_eq!(page.items, [1, 2]);
        let next = PageRequest { size: 2, token: page.next_page_token };
        assert_eq!(next.after_key::<i64>("rounds").expect("a token"), Some(2));
        assert!(matches!(next.after("labels"), Err(Error::Invalid(_))));
        assert!(Page::cut(vec![1_i64, 2], 2, "rounds", i64::to_string).next_page_token.is_none());
        let forged = BASE64_URL_SAFE_NO_PAD.encode("pools\na\0");
        let forged = PageRequest { size: 2, token: Some(forged) };
        assert!(matches!(forged.after("pools"), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_page_cut_shorter_leads_on_after_what_is_left() {
        let mut page = Page::cut(vec![1_i64, 2, 3], 5, "rounds", i64::to_string);
        assert!(page.next_page_token.is_none());
        page.keep(9);
        assert!(page.next_page_token.is_none());
        page.keep(2);
        let next = PageRequest { size: 2, token: page.next_page_token.clone() };
        assert_eq!((&page.items[..], next.after_key("rounds").expect("a token")), (&[1, 2][..], Some(2_i64)));
        page.keep(0);
        assert_eq!(page.items, [1], "a page without items would lead nowhere");
    }
}

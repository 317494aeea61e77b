//! Page tokens as clients see them: opaque, and good only for the list that gave them.
//!
//! The service's own token is the key to go on after. Here it gets a tag of the whole question (which list, of which
//! parent, under which filter), so that a token used elsewhere is an error and not a page of something else.

use sha2::{Digest as _, Sha256};

use super::convert::Check;
use crate::{
    domain::Violation,
    service::{Page, PageRequest},
};

/// Bytes of an answer beside its items: the next page's token.
const REST: usize = 4 << 10;
/// Bytes that frame an item at most: its tag and its length.
const FRAME: usize = 8;

/// One list's question, and which page of it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paged {
    tag: String,
    /// What the service is asked for.
    pub(super) page: PageRequest,
}

impl Paged {
    /// Reads `page_size` and `page_token` of the list that `question` is about: its name, parent and filters.
    pub(super) fn read(check: &mut Check, question: &[&str], size: i32, token: &str) -> Self {
        let mut hash = Sha256::new();
        for part in question {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let tag: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let inner = match token {
            "" => Ok(None),
            token => match token.split_once('.') {
                Some((of, inner)) if of == tag => Ok(Some(inner.to_owned())),
                _ => Err(Violation::new(
                    "page_token",
                    "is not of this list: pass next_page_token of the page before, with the same parent and filters",
                )),
            },
        };
        let token = check.take(inner);
        let page = PageRequest { size: check.count("page_size", size), token };
        Self { tag, page }
    }

    /// As many items of `page` as fit a message of `limit` bytes, as the wire has them, and the next page's token.
    ///
    /// One item is given whatever its size: a page without any would lead nowhere.
    pub(super) fn fit<T, W: prost::Message>(
        &self,
        mut page: Page<T>,
        limit: usize,
        wire: impl Fn(&T) -> W,
    ) -> (Vec<W>, String) {
        let mut room = limit.saturating_sub(REST);
        let mut fitting = Vec::with_capacity(page.items.len());
        for item in &page.items {
            let one = wire(item);
            let size = one.encoded_len() + FRAME;
            if size > room && !fitting.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            fitting.push(one);
        }
        page.keep(fitting.len());
        (fitting, self.next(page.next_page_token))
    }

    /// The token of the next page as the client gets it; empty at the end.
    pub(super) fn next(&self, token: Option<String>) -> String {
        token.map(|inner| format!("{}.{inner}", self.tag)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Error;

    fn read(question: &[&str], size: i32, token: &str) -> Result<Paged, Error> {
        let mut check = Check::default();
        let paged = Paged::read(&mut check, question, size, token);
        check.done(paged)
    }

    #[test]
    fn a_token_leads_on_under_the_same_question_only() {
        let first = read(&["samples", "pools/a", "1"], 10, "").unwrap();
        assert_eq!((first.page.token.clone(), first.next(None)), (None, String::new()));
        let token = first.next(Some("inner".into()));
        let second = read(&["samples", "pools/a", "1"], 20, &token).unwrap();
        assert_eq!((second.page.size, second.page.token.as_deref()), (20, Some("inner")));
        for other in [["samples", "pools/b", "1"], ["samples", "pools/a", "2"], ["labels", "pools/a", "1"]] {
            assert!(read(&other, 10, &token).is_err(), "{other:?}");
        }
        // Where one part ends and the next begins matters.
        assert!(read(&["samples", "pools/", "a1"], 10, &token).is_err());
    }

    #[test]
    fn a_page_larger_than_a_message_is_cut_and_goes_on_where_it_was_cut() {
        let paged = read(&["samples", "pools/a"], 10, "").unwrap();
        let page = || Page::cut(vec![1_i64, 2, 3], 5, "samples", i64::to_string);
        let wire = |i: &i64| crate::grpc::pb::Sample {
            question: "x".repeat(1000 * *i as usize),
            ..Default::default()
        };
        let (all, token) = paged.fit(page(), 1 << 20, wire);
        assert_eq!((all.len(), token.as_str()), (3, ""));
        let (some, token) = paged.fit(page(), REST + 3500, wire);
        assert_eq!(some.len(), 2);
        let next = read(&["samples", "pools/a"], 10, &token).unwrap();
        assert_eq!(next.page.after_key("samples").unwrap(), Some(2_i64));
        let (one, token) = paged.fit(page(), 10, wire);
        assert_eq!((one.len(), token.is_empty()), (1, false));
    }

    #[test]
    fn a_wrong_size_and_a_wrong_token_come_together() {
        let Err(Error::Invalid(found)) = read(&["pools"], -1, "nonsense") else { panic!("two violations") };
        assert_eq!(found.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), ["page_token", "page_size"]);
    }
}

//! Resource names: `pools/{pool}/samples/{sample}` and their kin, written and read in one place.
//!
//! Reading tells which field was wrong and what it should look like. Deliberately absent: whether the thing exists.

use uuid::Uuid;

use crate::domain::Violation;

pub(super) type Parsed<T> = Result<T, Violation>;

/// `pools/{pool}`.
pub(super) fn pool(pool: &str) -> String {
    format!("pools/{pool}")
}

/// `pools/{pool}/{collection}/{id}`.
pub(super) fn child(pool: &str, collection: &str, id: impl std::fmt::Display) -> String {
    format!("pools/{pool}/{collection}/{id}")
}

/// The same, empty where there is no such thing.
pub(super) fn child_or_empty(pool: &str, collection: &str, id: Option<impl std::fmt::Display>) -> String {
    id.map(|id| child(pool, collection, id)).unwrap_or_default()
}

/// Whether a text is free of control characters, which no name has and Postgres in part refuses.
pub(super) fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// The pool of `pools/{pool}`.
pub(super) fn parse_pool(field: &str, text: &str) -> Parsed<String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        ["pools", pool] if !pool.is_empty() && is_plain(pool) => Ok(pool.to_owned()),
        _ => Err(Violation::new(field, format!("{text:?} is not a pool's name: write pools/{{pool}}"))),
    }
}

/// The pool of `pools/{pool}/metrics`.
pub(super) fn parse_metrics(field: &str, text: &str) -> Parsed<String> {
    let pool = text.strip_suffix("/metrics").map(|name| parse_pool(field, name));
    let shape = "write pools/{pool}/metrics";
    pool.and_then(Result::ok)
        .ok_or_else(|| Violation::new(field, format!("{text:?} names no metrics: {shape}")))
}

/// Pool and id of `pools/{pool}/{collection}/{id}`.
pub(super) fn parse_child(field: &str, text: &str, collection: &str) -> Parsed<(String, String)> {
    match text.split('/').collect::<Vec<_>>()[..] {
        ["pools", pool, kind, id]
            if kind == collection && !pool.is_empty() && !id.is_empty() && is_plain(text) =>
        {
            Ok((pool.to_owned(), id.to_owned()))
        }
        _ => {
            let shape = format!("pools/{{pool}}/{collection}/{{id}}");
            Err(Violation::new(field, format!("{text:?} names none of the {collection}: write {shape}")))
        }
    }
}

/// As `parse_child`, where the id is a number.
pub(super) fn parse_number(field: &str, text: &str, collection: &str) -> Parsed<(String, i64)> {
    let (pool, id) = parse_child(field, text, collection)?;
    let number = id.parse().ok().filter(|n: &i64| *n >= 0);
    number.map(|n| (pool, n)).ok_or_else(|| {
        Violation::new(field, format!("{text:?} should end in a number: {collection} are numbered"))
    })
}

/// As `parse_child`, where the id is a UUID of ours.
pub(super) fn parse_uuid(field: &str, text: &str, collection: &str) -> Parsed<(String, Uuid)> {
    let (pool, id) = parse_child(field, text, collection)?;
    let uuid = Uuid::parse_str(&id);
    uuid.map(|uuid| (pool, uuid)).map_err(|_| {
        Violation::new(
            field,
            format!("{text:?} should end in a UUID: copy the name from the answer that gave it"),
        )
    })
}

/// A token or etag of ours, which are UUIDs.
pub(super) fn parse_token(field: &str, text: &str) -> Parsed<Uuid> {
    let wrong =
        || Violation::new(field, "is not one of this service's: copy it from the answer that gave it");
    Uuid::parse_str(text).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let id = Uuid::now_v7();
        assert_eq!(parse_pool("parent", &pool("a")), Ok("a".into()));
        assert_eq!(
            parse_child("name", &child("a", "samples", "s-1"), "samples"),
            Ok(("a".into(), "s-1".into()))
        );
        assert_eq!(parse_number("name", &child("a", "rounds", 3), "rounds"), Ok(("a".into(), 3)));
        assert_eq!(parse_uuid("name", &child("a", "leases", id), "leases"), Ok(("a".into(), id)));
        assert_eq!(parse_metrics("name", "pools/a/metrics"), Ok("a".into()));
        assert_eq!(child_or_empty("a", "rounds", None::<i64>), "");
    }

    #[test]
    fn a_wrong_name_tells_its_field_and_shape() {
        for text in ["", "pools", "pools/", "pool/a", "pools/a/b", "pools/a\0", "pools/a\n"] {
            let violation = parse_pool("parent", text).expect_err(text);
            assert_eq!(violation.field, "parent");
            assert!(violation.description.contains("pools/{pool}"), "{violation:?}");
        }
        assert!(parse_child("sample", "pools/a/rounds/1", "samples").is_err());
        assert!(parse_child("sample", "pools/a/samples/1\0", "samples").is_err());
        assert!(parse_number("name", "pools/a/rounds/one", "rounds").is_err());
        assert!(parse_number("name", "pools/a/rounds/-1", "rounds").is_err());
        assert!(parse_uuid("name", "pools/a/leases/1", "leases").is_err());
        assert!(parse_metrics("name", "pools/a").is_err());
    }
}

//! Ways to damage JSON and bytes.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// One wound of a JSON value: where, and what with.
#[derive(Debug, Clone)]
pub(super) struct Wound(Index, Kind);

#[derive(Debug, Clone)]
enum Kind {
    Replace(Value),
    Remove,
}

/// One to three wounds.
pub(super) fn wounds() -> impl Strategy<Value = Vec<Wound>> {
    let value = prop::sample::select(values());
    let kind = prop_oneof![4 => value.prop_map(Kind::Replace), 1 => Just(Kind::Remove)];
    prop::collection::vec((any::<Index>(), kind).prop_map(|(at, kind)| Wound(at, kind)), 1..4)
}

/// What nobody expects in a settings file.
pub(super) fn values() -> Vec<Value> {
    let deep = (0..60).fold(json!([]), |inner, _| json!([inner]));
    vec![
        Value::Null,
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1 << 10),
        json!(1 << 20),
        json!(1 << 24),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0.5),
        json!(1e308),
        json!(-1e-308),
        json!(""),
        json!("default"),
        json!("x".repeat(10_000)),
        json!([]),
        json!([1, 2, 3]),
        json!({}),
        json!({"type": "default"}),
        json!(true),
        json!(false),
        deep,
    ]
}

/// The value after the wounds, each at one of the nodes that `open` lets be reached.
pub(super) fn wounded(mut value: Value, wounds: &[Wound], open: fn(&str) -> bool) -> Value {
    for Wound(at, kind) in wounds {
        let mut all = Vec::new();
        nodes(&value, String::new(), open, &mut all);
        let Some(path) = all.get(at.index(all.len().max(1))) else { return value };
        let (parent, key) = path.rsplit_once('/').unwrap_or(("", path));
        match (kind, value.pointer_mut(parent)) {
            (Kind::Replace(new), Some(_)) => {
                if let Some(node) = value.pointer_mut(path) {
                    *node = new.clone();
                }
            }
            (Kind::Remove, Some(Value::Object(map))) => drop(map.remove(key)),
            (Kind::Remove, Some(Value::Array(list))) => drop(list.pop()),
            _ => {}
        }
    }
    value
}

fn nodes(value: &Value, path: String, open: fn(&str) -> bool, all: &mut Vec<String>) {
    if !open(&path) {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                nodes(inner, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), open, all);
            }
        }
        Value::Array(list) => {
            for (at, inner) in list.iter().enumerate() {
                nodes(inner, format!("{path}/{at}"), open, all);
            }
        }
        _ => {}
    }
    all.push(path);
}

/// One wound of bytes.
#[derive(Debug, Clone)]
pub(super) enum Tear {
    Flip(Index, u8),
    Cut(Index),
    Double(Index, usize),
    Put(Index, Vec<u8>),
}

/// One to six of them.
pub(super) fn tears() -> impl Strategy<Value = Vec<Tear>> {
    let one = prop_oneof![
        6 => (any::<Index>(), any::<u8>()).prop_map(|(at, with)| Tear::Flip(at, with)),
        1 => any::<Index>().prop_map(Tear::Cut),
        1 => (any::<Index>(), 1usize..200).prop_map(|(at, length)| Tear::Double(at, length)),
        2 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Tear::Put(at, bytes)),
    ];
    prop::collection::vec(one, 1..7)
}

/// The first `reach` bytes torn, the rest as it was.
pub(super) fn torn(bytes: &[u8], reach: usize, tears: &[Tear]) -> Vec<u8> {
    let (head, tail) = bytes.split_at(reach.min(bytes.len()));
    let mut head = head.to_vec();
    for tear in tears {
        let place = |at: &Index| at.index(head.len().max(1)).min(head.len());
        match tear {
            Tear::Flip(at, with) => {
                let at = place(at);
                if let Some(byte) = head.get_mut(at) {
                    *byte ^= with;
                }
            }
            Tear::Cut(at) => {
                let at = place(at);
                head.truncate(at);
                return head;
            }
            Tear::Double(at, length) => {
                let at = place(at);
                let piece = head[at..(at + length).min(head.len())].to_vec();
                head.splice(at..at, piece);
            }
            Tear::Put(at, new) => {
                let at = place(at);
                let end = (at + new.len()).min(head.len());
                head.splice(at..end, new.iter().copied());
            }
        }
    }
    [head.as_slice(), tail].concat()
}

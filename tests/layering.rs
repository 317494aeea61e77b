//! The arrows between modules point one way, and each outside library stays in the modules that own it.
//!
//! Reads every source file under `src`, without its comments and strings, and looks at the paths it names. `TABLE`
//! is the picture in `src/lib.rs`; a new module must be given its place there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Top-level module, and the modules it may name besides itself. `main`, `app` and `doctor` may name all.
const TABLE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("settings", &[]),
    ("telemetry", &["settings"]),
    ("environment", &[]),
    ("priority", &[]),
    ("acquisition", &["domain"]),
    ("blobs", &["domain", "settings"]),
    ("store", &["domain", "priority", "settings"]),
    ("model", &["domain"]),
    ("training", &["domain", "model"]),
    ("engine", &["domain", "model", "training", "priority", "settings"]),
    ("service", &["domain", "acquisition", "engine", "store", "blobs", "priority", "settings"]),
    ("worker", &["domain", "service", "settings"]),
    ("grpc", &["domain", "service", "settings", "telemetry"]),
    ("http", &["domain", "service", "settings", "telemetry"]),
    // The command line names what its verbs take; health asks the service and speaks gRPC's words.
    ("cli", &["ask", "export", "inspect", "lab"]),
    ("health", &["grpc", "service"]),
    // A question on the command line goes to the engine, past everything that is kept.
    ("ask", &["engine"]),
    // So does a look at a model folder.
    ("inspect", &["engine"]),
    // What was learnt goes from the blob storage to a folder, past the database.
    ("export", &["blobs", "engine"]),
    // Offline: makes worlds and base models, runs experiments by the service's own code, and otherwise is a client of
    // the API.
    ("lab", &["domain", "model", "training", "acquisition", "engine", "grpc", "settings"]),
];

/// Library, and the modules that may name it.
const OWNERS: &[(&str, &[&str])] = &[
    ("tonic", &["grpc", "lab"]),
    ("tonic_health", &["grpc", "lab"]),
    ("tonic_reflection", &["grpc"]),
    ("tonic_types", &["grpc", "lab"]),
    ("tonic_web", &["grpc"]),
    ("prost", &["grpc", "lab"]),
    ("prost_types", &["grpc", "lab"]),
    ("sqlx", &["store"]),
    ("tch", &["model", "training", "engine"]),
    ("torch_sys", &["model", "training", "engine"]),
    ("axum", &["http"]),
    ("object_store", &["blobs"]),
];

/// Libraries that a pure module must not name: they read clocks, files, sockets, or make their own randomness.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "rand::rng",
    "rand::random",
    "reqwest",
    "rustls",
];
const PURE: &[&str] = &["domain", "acquisition"];

#[test]
fn every_module_keeps_to_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    assert!(files.len() > 20, "only {} sources found under {}", files.len(), root.display());
    let mut wrong = Vec::new();
    for path in files {
        let relative = path.strip_prefix(&root).expect("a path under the root").to_owned();
        let text = std::fs::read_to_string(&path).expect("a readable source");
        wrong.extend(violations(&module_of(&relative), &relative.display().to_string(), &text));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// All `.rs` files under `folder` in order, but for those that hold tests only.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `store/leases.rs` and `store.rs` belong to `store`.
fn module_of(relative: &Path) -> String {
    let first = relative.components().next().expect("a file name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// What `text`, a file of `module`, names and may not.
fn violations(module: &str, file: &str, text: &str) -> Vec<String> {
    if matches!(module, "main" | "app" | "doctor" | "lib") {
        return Vec::new();
    }
    let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{file}: module {module} has no place in tests/layering.rs")];
    };
    let mut wrong = BTreeSet::new();
    let depth = file.trim_end_matches("/mod.rs").split('/').count();
    let paths = paths(&code_of(text));
    for (path, line) in &paths {
        let mut parts = path.split("::").peekable();
        let mut first = parts.next().unwrap_or_default();
        let mut climbed = 0;
        while first == "super" {
            climbed += 1;
            first = match parts.peek() {
                Some(&"super") => parts.next().unwrap_or_default(),
                // As many steps up as the file is deep lead to the root of the crate.
                _ if climbed >= depth => "crate",
                _ => "self",
            };
        }
        if first == "crate" || first == "active_vlm" {
            let target = parts.next().unwrap_or_default();
            let known = TABLE.iter().any(|(name, _)| *name == target) || matches!(target, "app" | "main");
            if known && target != module && !allowed.contains(&target) {
                wrong.insert(format!("{file}:{line}: {module} must not use crate::{target}"));
            }
        }
        if let Some((library, owners)) = OWNERS.iter().find(|(library, _)| *library == first)
            && !owners.contains(&module)
        {
            wrong.insert(format!("{file}:{line}: only {owners:?} may use {library}, not {module}"));
        }
        let impure = IMPURE.iter().find(|name| path == *name || path.starts_with(&format!("{name}::")));
        if let Some(name) = impure.filter(|_| PURE.contains(&module)) {
            wrong.insert(format!("{file}:{line}: {module} is pure and must not use {name}"));
        }
    }
    wrong.into_iter().collect()
}

/// `text` with comments, strings and test modules blanked; lines keep their numbers.
///
/// Tests may stand up what they need (a runtime, a temp folder); the arrows are those of the product.
fn code_of(text: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = strip(text);
    let mut from = 0;
    while let Some(start) = code[from..].find(MARK).map(|at| from + at) {
        from = start + MARK.len();
        let mut item = code[from..].trim_start();
        // Other attributes may stand between: `#[path = "..."]`.
        while let Some(rest) = item.strip_prefix("#[").and_then(|rest| rest.split_once(']')) {
            item = rest.1.trim_start();
        }
        let item = item.strip_prefix("pub ").unwrap_or(item);
        if item.starts_with("mod ") {
            let begin = code.len() - item.len();
            let end = begin + item_length(item);
            let blank: String =
                code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            code.replace_range(start..end, &blank);
        }
    }
    code
}

/// The bytes up to the `;` or the matching `}` that ends the item at the start of `code`.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Blanks comments and the contents of literals.
fn strip(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |from: usize, to: usize, out: &mut String| {
        out.extend(
            characters[from..to.min(characters.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
    };
    while i < characters.len() {
        let end = literal_end(&characters, i);
        match end {
            Some(end) => {
                blank(i, end, &mut out);
                i = end;
            }
            None => {
                out.push(characters[i]);
                i += 1;
            }
        }
    }
    out
}

/// Where the comment or literal that begins at `i` ends; none if nothing of the kind begins there.
fn literal_end(text: &[char], i: usize) -> Option<usize> {
    let at = |k: usize| text.get(k).copied().unwrap_or('\0');
    let find = |from: usize, wanted: &str| {
        let wanted: Vec<char> = wanted.chars().collect();
        (from..text.len()).find(|&k| text[k..].starts_with(&wanted)).map_or(text.len(), |k| k + wanted.len())
    };
    let in_word = i > 0 && (text[i - 1].is_alphanumeric() || text[i - 1] == '_');
    match at(i) {
        '/' if at(i + 1) == '/' => Some(find(i, "\n") - usize::from(find(i, "\n") < text.len())),
        '/' if at(i + 1) == '*' => {
            let (mut depth, mut k) = (1, i + 2);
            while k < text.len() && depth > 0 {
                match (at(k), at(k + 1)) {
                    ('/', '*') => (depth, k) = (depth + 1, k + 2),
                    ('*', '/') => (depth, k) = (depth - 1, k + 2),
                    _ => k += 1,
                }
            }
            Some(k)
        }
        'r' if !in_word && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#'))) => {
            let hashes = (i + 1..).take_while(|&k| at(k) == '#').count();
            Some(find(i + 2 + hashes, &format!("\"{}", "#".repeat(hashes))))
        }
        '"' => {
            let mut k = i + 1;
            while k < text.len() && at(k) != '"' {
                k += if at(k) == '\\' { 2 } else { 1 };
            }
            Some(k + 1)
        }
        // A character, not a lifetime.
        '\'' if at(i + 1) == '\\' => Some(find(i + 3, "'")),
        '\'' if at(i + 2) == '\'' => Some(i + 3),
        _ => None,
    }
}

/// Every path that `code` names, with its line: `use` trees are opened, so `use crate::{a, b::C}` gives two.
fn paths(code: &str) -> Vec<(String, usize)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut i = 0;
    let mut line = 1;
    while i < bytes.len() {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if bytes[i] == b'\n' {
            line += 1;
        }
        let starts = word(bytes[i]) && (i == 0 || (!word(bytes[i - 1]) && bytes[i - 1] != b':'));
        if !starts {
            i += 1;
            continue;
        }
        let start = i;
        while i < bytes.len()
            && (word(bytes[i]) || code[i..].starts_with("::") || bytes[i - 1] == b':' && bytes[i] == b':')
        {
            i += 1;
        }
        let path = &code[start..i];
        if !path.contains("::") {
            // `use tch;` and `extern crate tch;` name a library by one word.
            let before = code[..start].trim_end();
            if before.ends_with("use") || before.ends_with("crate") {
                found.push((path.to_owned(), line));
            }
            continue;
        }
        if let Some(prefix) = path.strip_suffix("::")
            && bytes.get(i) == Some(&b'{')
        {
            for branch in branches(&code[i..]) {
                found.push((format!("{prefix}::{branch}"), line));
            }
        }
        found.push((path.trim_end_matches(':').to_owned(), line));
    }
    found
}

/// The first names of the branches of a `use` tree that begins with `{`, deeper ones joined by `::`.
fn branches(tree: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut prefix: Vec<String> = Vec::new();
    let mut name = String::new();
    for c in tree.chars() {
        match c {
            '{' => prefix.push(std::mem::take(&mut name)),
            ',' | '}' => {
                let leaf = name.trim();
                if !leaf.is_empty() {
                    let leaf = leaf.split_whitespace().next().unwrap_or_default();
                    let stem: String = prefix.iter().map(|part| part.trim()).collect();
                    found.push(format!("{stem}{leaf}"));
                }
                name.clear();
                if c == '}' {
                    prefix.pop();
                    if prefix.is_empty() {
                        break;
                    }
                }
            }
            c => name.push(c),
        }
    }
    found
}

#[test]
fn violations_are_caught_in_every_form_a_path_takes() {
    let caught: BTreeMap<&str, (&str, &str)> = [
        ("a plain use", ("store", "use crate::service::Service;")),
        ("a use tree", ("domain", "use crate::{\n    domain::Error,\n    store::Store,\n};")),
        ("a nested tree", ("acquisition", "use crate::{domain::{Arm, Batch}, blobs::Blobs};")),
        ("a path in an expression", ("service", "fn f() { let x = crate::grpc::convert(1); }")),
        ("the crate by its name", ("model", "use active_vlm::engine::Engine;")),
        ("a library", ("service", "use sqlx::PgPool;")),
        ("a library in a type", ("grpc", "fn f(x: &tch::Tensor) {}")),
        ("a library by one word", ("worker", "use axum;")),
        ("a library in a tree", ("store", "use {tonic::Status};")),
        ("an attribute", ("domain", "#[derive(sqlx::FromRow)] struct Row;")),
        ("a clock", ("acquisition", "let now = std::time::Instant::now();")),
        ("a clock in a tree", ("domain", "use std::{fmt, time::SystemTime};")),
        ("a global rng", ("acquisition", "let x = rand::rng();")),
        ("a runtime", ("domain", "use tokio::sync::mpsc;")),
        ("after a literal that looks like a comment", ("domain", "let x = \"//\"; use crate::store::Store;")),
        ("after a lifetime", ("domain", "fn f<'a>(x: &'a str) -> &'a crate::store::Store {}")),
        ("a way round by super", ("domain", "use super::super::store::Store;")),
        ("after a test module", ("domain", "#[cfg(test)]\nmod tests;\nuse crate::store::Store;")),
        ("a module nobody placed", ("helpers", "fn f() {}")),
    ]
    .into();
    for (what, (module, text)) in caught {
        assert!(
            !violations(module, &format!("{module}/file.rs"), text).is_empty(),
            "{what} goes unnoticed: {text}"
        );
    }
}

#[test]
fn what_is_allowed_or_only_mentioned_is_let_be() {
    for (module, text) in [
        ("store", "use crate::domain::{Error, Time};\nuse sqlx::PgPool;"),
        ("service", "use crate::{acquisition, blobs::Blobs, engine::Engine, store::Store};"),
        ("domain", "// crate::store::Store\n/* use tch::Tensor; /* nested */ crate::app::App */"),
        ("domain", "//! See [`crate::store::Store`].\nlet x = \"crate::store::Store\";"),
        ("domain", "let x = r#\"use \"tch::Tensor\"\"#; let quote = '\"'; let y = '\\'';"),
        ("domain", "use std::time::Duration;"),
        ("http", "let x = my_tch::Tensor;"),
        (
            "domain",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    use tokio::runtime::Runtime;\n    mod a {}\n}\n",
        ),
        ("domain", "use super::{Arm, batch::Batch}; use super::store_key;"),
        ("domain", "#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;\nuse crate::domain::Arm;"),
        ("app", "use crate::{grpc, http, worker}; use sqlx::PgPool;"),
    ] {
        assert_eq!(violations(module, &format!("{module}/file.rs"), text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_violation_is_reported_with_its_line() {
    let text = "//! Words.\n\nuse crate::store::Store;\n";
    assert_eq!(
        violations("domain", "domain/file.rs", text),
        ["domain/file.rs:3: domain must not use crate::store"]
    );
}

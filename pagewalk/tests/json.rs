//! What is printed as JSON is documented, and has a version.
//!
//! `docs/json.md` lists every field with its meaning, as the sources have them. After a change:
//! `UPDATE_DOCS=1 cargo test -p pagewalk --test json`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A field: its name, its type as the source has it, what is said about it, and whether its own fields stand in its place.
struct Field {
    name: String,
    kind: String,
    doc: String,
    flatten: bool,
}

/// What commands print: title, file and name of the type, files of the types in it.
const PRINTED: [(&str, &str, &[&str]); 15] = [
    (
        "`run`, `compare`: a list, an element a system",
        "Outcome",
        &[
            "lab/src/outcome.rs",
            "lab/src/segments.rs",
            "lab/src/passthrough.rs",
            "lab/src/containers.rs",
            "lab/src/world/dump.rs",
        ],
    ),
    ("`explain`: `cold` and `warm` of an element", "WalkView", &["lab/src/look/view.rs"]),
    ("`trace info`", "Info", &["trace/src/summary/mod.rs", "trace/src/source.rs"]),
    (
        "`trace stat`",
        "Stat",
        &[
            "trace/src/summary/stat.rs",
            "trace/src/summary/mod.rs",
            "trace/src/summary/reuse.rs",
            "trace/src/source.rs",
        ],
    ),
    ("`trace head`: `rows`", "Row", &["trace/src/summary/mod.rs"]),
    ("`reproduce gups`: `rows`", "Row", &["lab/src/reproduce.rs"]),
    ("`reproduce tlb-curve`: `rows`", "CurvePoint", &["lab/src/reproduce.rs"]),
    ("`reproduce mitosis`, `reproduce vmitosis`: `rows`", "Cell", &["lab/src/figures/run.rs"]),
    (
        "`reproduce ptemagnet`",
        "Report",
        &["lab/src/reproduce/ptemagnet.rs", "lab/src/reproduce/ptemagnet/fault.rs", "lab/src/outcome.rs"],
    ),
    (
        "`reproduce babelfish`: `outcomes` and `larger` are outcomes as of `run`",
        "Report",
        &["lab/src/reproduce/babelfish.rs"],
    ),
    ("`shareable`", "Report", &["lab/src/shareable.rs"]),
    (
        "`reproduce passthrough`: `rows`",
        "Measured",
        &["lab/src/reproduce/passthrough.rs", "lab/src/passthrough.rs"],
    ),
    (
        "`reproduce together`: `rows`",
        "Row",
        &["pagewalk/src/reproduce/together.rs", "lab/src/reproduce/together.rs"],
    ),
    ("`reproduce all`", "Page", &["lab/src/reproduce/all.rs", "lab/src/reproduce/sheet.rs"]),
    ("`reproduce direct-segments`", "Report", &["pagewalk/src/segments.rs", "lab/src/reproduce/segments.rs"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The types of a source file, with the fields of structs and of enums' variants.
fn types(source: &str) -> BTreeMap<String, Vec<Field>> {
    let mut types = BTreeMap::new();
    let (mut open, mut doc, mut flags) = (None, String::new(), String::new());
    for line in source.lines() {
        let text = line.trim();
        let begins = ["pub struct ", "struct ", "pub enum "].iter().find_map(|b| line.strip_prefix(b));
        if let Some(name) = begins.and_then(|rest| rest.strip_suffix(" {")) {
            let name = name.split('<').next().unwrap_or(name);
            open = Some(name.to_string());
            (doc, flags) = (String::new(), String::new());
            types.insert(name.to_string(), Vec::new());
        } else if line == "}" {
            open = None;
        } else if let Some(said) = text.strip_prefix("///") {
            doc += said;
        } else if text.starts_with("#[") {
            flags += text;
        } else {
            let field = text.strip_suffix(',').and_then(|f| f.trim_start_matches("pub ").split_once(": "));
            if let (Some(of), Some((name, kind))) = (&open, field)
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !flags.contains("serde(skip)")
            {
                let flatten = flags.contains("flatten");
                let field =
                    Field { name: name.into(), kind: kind.into(), doc: doc.trim().to_string(), flatten };
                types.get_mut(of).expect("an open type").push(field);
            }
            doc.clear();
            flags.clear();
        }
    }
    types
}

/// All fields below a type: path, type and meaning.
fn fields(of: &str, at: &str, types: &BTreeMap<String, Vec<Field>>, found: &mut Vec<[String; 3]>) {
    for field in &types[of] {
        let words: Vec<&str> = field.kind.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let inner = words.iter().rev().find(|word| types.contains_key(**word) && **word != of);
        let list = field.kind.starts_with("Vec<") || field.kind.starts_with('[');
        let path = format!("{at}{}{}", field.name, if list { "[]" } else { "" });
        if field.flatten {
            fields(inner.expect("a known type"), at, types, found);
            continue;
        }
        let kind =
            match field.kind.trim_start_matches("Option<").trim_start_matches("Vec<").trim_start_matches('[')
            {
                k if k.starts_with("f64") => "number",
                k if k.starts_with('u') || k.starts_with('i') => "whole number",
                k if k.starts_with("bool") => "true or false",
                _ if inner.is_some() => "object",
                k if k.starts_with('(') => "list",
                _ => "text",
            };
        let kind = format!("{kind}{}", if field.kind.starts_with("Option<") { " or null" } else { "" });
        // Once is enough, also for the variants of an enum.
        if !found.iter().any(|[known, ..]| *known == path) {
            found.push([path.clone(), kind, field.doc.clone()]);
        }
        if let Some(inner) = inner {
            fields(inner, &format!("{path}."), types, found);
        }
    }
}

fn documented() -> String {
    let mut text = String::new();
    for (title, of, files) in PRINTED {
        let mut all = BTreeMap::new();
        for file in files.iter().rev() {
            let source = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            all.append(&mut types(&source));
        }
        let mut found = Vec::new();
        fields(of, "", &all, &mut found);
        assert!(!found.is_empty(), "{title}");
        text += &format!("### {title}\n\n| field | type | what it is |\n|---|---|---|\n");
        for [path, kind, doc] in found {
            text += &format!("| `{path}` | {kind} | {} |\n", doc.replace('|', "\\|"));
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_documentation_lists_every_field() {
    let page = root().join("docs/json.md");
    let text = std::fs::read_to_string(&page).expect("docs/json.md");
    let (before, rest) = text.split_once("<!-- fields -->\n").expect("where fields begin");
    let (listed, after) = rest.split_once("<!-- end -->").expect("where fields end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let text = format!("{before}<!-- fields -->\n{}<!-- end -->{after}", documented());
        return std::fs::write(&page, text).expect("to write docs/json.md");
    }
    assert_eq!(listed, documented(), "run `UPDATE_DOCS=1 cargo test -p pagewalk --test json`");
}

fn printed(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_pagewalk"))
        .args(args)
        .args(["--json", "--quiet"])
        .current_dir(root())
        .output()
        .expect("pagewalk");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let path = if value.is_array() { path + "[]" } else { path };
                found.insert(path.clone());
                paths(value, &path, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| paths(value, at, found)),
        _ => {}
    }
}

/// The part of the page about one command.
fn section(title: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/json.md")).expect("docs/json.md");
    let (_, rest) = text.split_once(&format!("### {title}\n")).expect(title);
    let rows =
        rest.lines().skip(1).skip_while(|line| !line.starts_with('|')).take_while(|l| l.starts_with('|'));
    rows.filter_map(|row| row.split('`').nth(1).map(str::to_string)).collect()
}

fn check(title: &str, value: &Value, except: &[&str]) {
    let mut found = BTreeSet::new();
    paths(value, "", &mut found);
    let known = section(title);
    let unknown: Vec<_> =
        found.iter().filter(|path| !known.contains(*path) && !except.contains(&path.as_str())).collect();
    assert!(unknown.is_empty(), "{title}: not documented: {unknown:?}");
    assert!(!found.is_empty());
}

#[test]
fn what_is_printed_is_documented_and_versioned() {
    let some = ["-w", "gups:footprint=16MiB", "-n", "5k", "--warmup", "1k"];
    let with = |args: &[&'static str]| printed(&[args, &some[..]].concat());
    let envelope = ["schema", "kind"];

    let compared = with(&["compare", "native", "nested", "dual-direct", "--dump-tables"]);
    for outcome in compared.as_array().expect("a list") {
        assert!(outcome["schema"].is_u64());
        check(PRINTED[0].0, outcome, &[]);
    }
    let walks = with(&["explain", "native,nested", "0x7ffff6e00000"]);
    for walk in walks.as_array().expect("a list") {
        assert!(walk["schema"].is_u64());
        let step = ["steps[].step"];
        check(PRINTED[1].0, &walk["cold"], &step);
        check(PRINTED[1].0, &walk["warm"], &step);
    }
    let trace = "data/redis-mget.parquet";
    for (args, title) in [
        (&["trace", "info", trace][..], PRINTED[2].0),
        (&["trace", "stat", trace], PRINTED[3].0),
        (&["trace", "head", trace, "-n", "3"], PRINTED[4].0),
    ] {
        let value = printed(args);
        assert!(value["schema"].is_u64() && value["kind"] == args[..2].join(" "), "{args:?}");
        match value.get("rows") {
            Some(rows) => rows.as_array().expect("rows").iter().for_each(|row| check(title, row, &[])),
            None => check(title, &value, &envelope),
        }
    }
    let list = printed(&["list", "systems"]);
    assert!(list["schema"].is_u64() && list["rows"][0]["name"].is_string());
}

//! Fields as the sources have them: types that are written as JSON, field by field, with what is said of each.

use std::collections::BTreeMap;

/// A field of a type.
struct Field {
    name: String,
    kind: String,
    doc: String,
    /// Its own fields stand in its place.
    flatten: bool,
    /// A number that is written as text.
    hex: bool,
}

/// A type, and how it is written.
#[derive(Default)]
pub struct Type {
    fields: Vec<Field>,
    /// An enum, of which only the fields of variants are known here.
    is_enum: bool,
    /// One of its variants as it is.
    untagged: bool,
    /// Written as another type.
    into: Option<String>,
}

fn between<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split('"').next()
}

fn name_of_type(line: &str) -> Option<(&str, bool)> {
    let line =
        ["pub(super) ", "pub(crate) ", "pub "].iter().find_map(|b| line.strip_prefix(b)).unwrap_or(line);
    let rest = line.strip_prefix("struct ").map(|rest| (rest, false));
    let (rest, is_enum) = rest.or_else(|| line.strip_prefix("enum ").map(|rest| (rest, true)))?;
    Some((rest.strip_suffix(" {")?.split('<').next()?, is_enum))
}

/// The types of a source file.
pub fn types(source: &str) -> BTreeMap<String, Type> {
    let mut types: BTreeMap<String, Type> = BTreeMap::new();
    let (mut open, mut doc, mut flags) = (None, String::new(), String::new());
    for line in source.lines() {
        let text = line.trim();
        if let Some((name, is_enum)) = name_of_type(line) {
            open = Some(name.to_string());
            let mut found = Type { is_enum, untagged: flags.contains("untagged"), ..Type::default() };
            found.into = between(&flags, " into = \"").map(str::to_string);
            if let Some(tag) = between(&flags, "(tag = \"") {
                let doc = "Which of several it is; each has some of the fields here.".to_string();
                let (name, kind) = (tag.to_string(), "String".to_string());
                found.fields.push(Field { name, kind, doc, flatten: false, hex: false });
            }
            types.insert(name.to_string(), found);
            (doc, flags) = (String::new(), String::new());
        } else if line == "}" {
            open = None;
        } else if let Some(said) = text.strip_prefix("///") {
            doc += said;
        } else if text.starts_with("#[") {
            flags += text;
        } else {
            let bare = text.trim_start_matches("pub(super) ").trim_start_matches("pub ");
            let field = bare.strip_suffix(',').and_then(|field| field.split_once(": "));
            if let (Some(of), Some((name, kind))) = (&open, field)
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !flags.contains("serde(skip)")
            {
                let field = Field {
                    name: name.into(),
                    kind: kind.into(),
                    doc: doc.trim().to_string(),
                    flatten: flags.contains("flatten"),
                    hex: flags.contains("serialize_with = \"hex"),
                };
                types.get_mut(of).expect("an open type").fields.push(field);
            }
            doc.clear();
            flags.clear();
        }
    }
    types
}

/// What is between the angle brackets of `of<…>`, if it is such a type.
fn inside<'a>(kind: &'a str, of: &str) -> Option<&'a str> {
    kind.strip_prefix(of)?.strip_prefix('<')?.strip_suffix('>')
}

/// A path, its kind and its meaning, for each field below a type.
pub fn fields(of: &str, at: &str, types: &BTreeMap<String, Type>, found: &mut Vec<[String; 3]>) {
    for field in &types[of].fields {
        // Borrowed or boxed is all the same.
        let mut kind = field.kind.trim_start_matches('&').trim_start_matches("'static ");
        let mut path = format!("{at}{}", field.name);
        let optional = inside(kind, "Option");
        kind = optional.unwrap_or(kind);
        if let Some(map) = inside(kind, "BTreeMap").or_else(|| inside(kind, "Map")) {
            path += ".*";
            kind = map.split_once(", ").map_or(map, |(_, value)| value);
        }
        let elements = inside(kind, "Vec").or_else(|| kind.strip_prefix('[')?.split(';').next());
        if let Some(elements) = elements {
            path += "[]";
            kind = elements.trim_end_matches(']');
        }
        let words = kind.split(|c: char| !c.is_ascii_alphanumeric());
        let inner = words.filter(|word| *word != of).filter_map(|word| types.get_key_value(word)).next_back();
        if field.flatten {
            fields(inner.expect("a known type").0, at, types, found);
            continue;
        }
        let mut doc = field.doc.clone();
        let kind = match (inner, kind) {
            _ if field.hex => "text",
            (Some((_, Type { into: Some(into), .. })), _) if into == "String" => "text",
            (Some((_, Type { into: Some(_), fields, .. })), _) => {
                let names: Vec<String> = fields.iter().map(|field| format!("`{}`", field.name)).collect();
                doc += &format!(" Each is a list: {}.", names.join(", "));
                "list"
            }
            (Some((_, Type { untagged: true, .. })), _) => {
                path += ".*";
                "object or text"
            }
            (Some((_, Type { is_enum: true, fields, .. })), _) if fields.is_empty() => "text",
            (Some(_), k) if !k.starts_with('(') => "object",
            (_, k) if k.starts_with("f64") => "number",
            (_, k) if k.starts_with("bool") => "true or false",
            (_, k) if k.starts_with('(') => "list",
            (_, "Value") => "any",
            (_, k) if ["u8", "u16", "u32", "u64", "u128", "usize", "i64"].contains(&k) => "whole number",
            _ => "text",
        };
        assert!(!doc.is_empty(), "{of}: nothing is said of `{path}`");
        let of_kind = format!("{kind}{}", if optional.is_some() { " or null" } else { "" });
        // Once is enough, also for the variants of an enum.
        if !found.iter().any(|[known, ..]| *known == path) {
            found.push([path.clone(), of_kind, doc]);
        }
        if let (Some((name, Type { into: None, untagged: false, .. })), "object" | "list") = (inner, kind) {
            fields(name, &format!("{path}."), types, found);
        }
    }
}

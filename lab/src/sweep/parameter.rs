//! Parameters: `system`, `machine`, `workload` and everything in them by dotted names, and how long a run is.

use crate::names::nearest;
use crate::system::System;
use machine::profile::Profile;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::path::Path;

/// Why a part cannot be: the file is wrong, or the choices in it do not go together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    /// Nothing can be planned before it is mended.
    File(String),
    /// Points with this are refused.
    Choice(String),
}

use Wrong::{Choice, File};

/// Which part of a point a parameter belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Part {
    System,
    Machine,
    Workload,
    Run,
    Seed,
}

/// Parameters of a run.
const RUN: [&str; 3] = ["accesses", "warmup", "verify"];

/// The part that a parameter belongs to.
pub(super) fn part(name: &str) -> Option<Part> {
    match name.split('.').next()? {
        "system" => Some(Part::System),
        "machine" => Some(Part::Machine),
        "workload" => Some(Part::Workload),
        _ if RUN.contains(&name) => Some(Part::Run),
        "seed" | "repetition" if !name.contains('.') => Some(Part::Seed),
        _ => None,
    }
}

/// Refuses parameters that there are not.
pub(super) fn known(name: &str) -> Result<(), String> {
    match part(name) {
        Some(Part::Seed) => {
            Err("seeds stand outside of the tables: `seeds = [1, 2, 3]`, `repetitions = 3`".to_string())
        }
        Some(_) => Ok(()),
        None => {
            let known =
                ["system", "machine", "workload", "accesses", "warmup", "verify", "seeds", "repetitions"];
            let hint = nearest(name, &known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            Err(format!(
                "there is no parameter `{name}`{hint}\n  hint: there are system, machine, workload, accesses, warmup, \
                 verify, and what is in the first three: workload.footprint, machine.cache.llc.kib, system.kernel.pages"
            ))
        }
    }
}

/// Puts `value` at a dotted path of a tree; `what` names the tree.
fn set(tree: &mut Json, what: &str, path: &str, value: &Json) -> Result<(), String> {
    let mut at = tree;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let missing = |known: Vec<&str>| {
            let hint = nearest(part, &known).map(|n| format!("did you mean `{n}`?"));
            let hint = hint.unwrap_or_else(|| format!("there are: {}", known.join(", ")));
            format!("{what}.{path}: there is no `{part}`\n  hint: {hint}")
        };
        at = match at {
            Json::Object(map) if last => {
                // What is not written because it has its default can be set, too: reading the whole decides.
                map.insert(part.to_string(), value.clone());
                return Ok(());
            }
            Json::Object(map) => {
                if !map.contains_key(part) {
                    return Err(missing(map.keys().map(String::as_str).collect()));
                }
                &mut map[part]
            }
            Json::Array(list) => {
                let length = list.len();
                let entry = part.parse::<usize>().ok().and_then(|i| list.get_mut(i));
                let entry = entry.ok_or_else(|| {
                    format!("{what}.{path}: `{part}` is no place of a list of {length}; from 0")
                })?;
                if last {
                    *entry = value.clone();
                    return Ok(());
                }
                entry
            }
            _ => return Err(missing(vec![])),
        };
    }
    Ok(())
}

fn read<T: DeserializeOwned>(tree: Json, what: &str, changes: &[(&str, &Json)]) -> Result<T, String> {
    serde_json::from_value(tree).map_err(|e| {
        let changes: Vec<String> =
            changes.iter().map(|(path, value)| format!("{what}.{path} = {value}")).collect();
        format!("{}: {e}", changes.join(", "))
    })
}

/// How changes stand behind a name.
fn noted(name: &str, changes: &[(&str, &Json)]) -> String {
    if changes.is_empty() {
        return name.to_string();
    }
    let changes: Vec<String> =
        changes.iter().map(|(path, value)| format!("{path}={}", shown(value))).collect();
    format!("{name}{{{}}}", changes.join(","))
}

/// A value as people write it.
pub(super) fn shown(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A system by name, with changes; and what to call it.
pub(super) fn system(name: &str, changes: &[(&str, &Json)]) -> Result<(System, String), Wrong> {
    let mut system = System::parse(name).map_err(|e| File(e.to_string()))?;
    if !changes.is_empty() {
        let mut tree = serde_json::to_value(system).map_err(|e| File(e.to_string()))?;
        for (path, value) in changes {
            set(&mut tree, "system", path, value).map_err(File)?;
        }
        system = read(tree, "system", changes).map_err(File)?;
        system.check().map_err(|why| Choice(format!("{}: {why}", noted(name, changes))))?;
    }
    let shown = system.to_string();
    // Not every choice has a place in a name.
    let whole = System::parse(&shown).is_ok_and(|again| again == system);
    Ok((system, if whole { shown } else { noted(name, changes) }))
}

/// A machine as it stands in its file.
pub(super) fn machine_tree(name: &str, directory: &Path) -> Result<Json, String> {
    let text = if name.ends_with(".toml") || name.contains('/') {
        let path = directory.join(name);
        std::fs::read_to_string(&path)
            .map_err(|e| format!("machine profile {} cannot be read: {e}", path.display()))?
    } else {
        // Names the nearest if there is none.
        Profile::builtin(name).map_err(|e| e.to_string())?;
        Profile::list()
            .find(|(known, _)| *known == name)
            .map(|(_, text)| text.to_string())
            .unwrap_or_default()
    };
    let table: toml::Table = toml::from_str(&text).map_err(|e| format!("machine profile {name}: {e}"))?;
    super::file::json(toml::Value::Table(table))
}

/// A machine with changes, and its tree without remarks.
pub(super) fn machine(
    name: &str,
    mut tree: Json,
    changes: &[(&str, &Json)],
) -> Result<(Profile, Json), Wrong> {
    for (path, value) in changes {
        set(&mut tree, "machine", path, value).map_err(File)?;
    }
    let mut profile: Profile =
        read(tree.clone(), "machine", changes).map_err(|e| File(format!("machine {name}: {e}")))?;
    let wrong = if changes.is_empty() { File } else { Choice };
    profile = profile.checked(&noted(name, changes)).map_err(|e| wrong(e.to_string()))?;
    profile.name = noted(&profile.name, changes);
    without_remarks(&mut tree);
    Ok((profile, tree))
}

/// Drops what does not change a result: titles, sources, trust.
fn without_remarks(tree: &mut Json) {
    match tree {
        Json::Object(map) => {
            for remark in ["source", "trust", "title"] {
                map.remove(remark);
            }
            map.values_mut().for_each(without_remarks);
        }
        Json::Array(list) => list.iter_mut().for_each(without_remarks),
        _ => {}
    }
}

/// A workload's name and parameters as one text.
pub(super) fn workload(name: &str, changes: &[(&str, &Json)]) -> Result<String, Wrong> {
    if name.contains('+') {
        return match changes.first() {
            None => Ok(name.to_string()),
            Some((key, _)) => Err(File(format!(
                "`{name}` is several programs: write their parameters behind each one's name, not as workload.{key}"
            ))),
        };
    }
    let mut parameters = workloads::parse(name).map_err(|e| File(e.to_string()))?;
    for (key, value) in changes {
        parameters.set(key, &shown(value)).map_err(|e| Choice(e.to_string()))?;
    }
    Ok(parameters.spec())
}

/// How long a run is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Length {
    pub(super) accesses: Option<u64>,
    pub(super) warmup: Option<u64>,
    pub(super) verify: bool,
}

/// The length of runs that has these parameters.
pub(super) fn length(changes: &[(&str, &Json)]) -> Result<Length, String> {
    let mut length = Length::default();
    for (name, value) in changes {
        let count = || match value {
            Json::Number(n) => n.as_u64(),
            Json::String(text) => super::range::quantity(text),
            _ => None,
        };
        let wrong = || format!("{name} = {value} is no count; write 500000, \"500k\" or \"2M\"");
        match *name {
            "accesses" => {
                length.accesses = Some(count().filter(|n| *n > 0).ok_or_else(wrong)?);
            }
            "warmup" => length.warmup = Some(count().ok_or_else(wrong)?),
            _ => {
                length.verify =
                    value.as_bool().ok_or_else(|| format!("{name} = {value} is not true or false"))?
            }
        }
    }
    Ok(length)
}

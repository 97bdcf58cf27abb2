//! The file of a sweep, as written.

use super::parameter;
use super::range;
use paging::random::{STEP, mix};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// More values of a list, and more points, are refused: a mistake in a range rather than a plan.
pub const POINTS_MAX: u64 = 10_000_000;

/// Why a file is no sweep.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {reason}", .file.display())]
pub struct SweepError {
    /// The file, or the sweep's directory.
    pub file: PathBuf,
    /// What is wrong where, and what to do.
    pub reason: String,
}

/// Parameters that go along together: row by row, a value for each.
#[derive(Clone, PartialEq, Debug)]
pub struct Axis {
    /// The parameters.
    pub names: Vec<String>,
    /// Their values.
    pub rows: Vec<Vec<Json>>,
}

/// A sweep: what all points have, what is varied, and what is left out.
#[derive(Clone, PartialEq, Debug)]
pub struct Sweep {
    /// Its name, for jobs and reports.
    pub name: String,
    /// The file, for errors.
    pub file: PathBuf,
    /// Where relative paths begin.
    pub directory: PathBuf,
    /// Parameters of all points, unless an axis has them.
    pub base: BTreeMap<String, Json>,
    /// What is varied, each with each; the last is that of seeds.
    pub axes: Vec<Axis>,
    /// Points that have one of the values of every parameter here are left out.
    pub exclude: Vec<BTreeMap<String, Vec<Json>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: Option<String>,
    #[serde(default)]
    base: toml::Table,
    #[serde(default)]
    cross: toml::Table,
    #[serde(default)]
    zip: Vec<toml::Table>,
    #[serde(default)]
    exclude: Vec<toml::Table>,
    seeds: Option<toml::Value>,
    repetitions: Option<u32>,
}

impl Sweep {
    /// Understands a file's text; paths in it begin in `directory`.
    ///
    /// # Errors
    /// If it is no sweep.
    pub fn parse(text: &str, file: &Path, directory: &Path) -> Result<Sweep, SweepError> {
        let fail = |reason: String| SweepError { file: file.to_path_buf(), reason };
        let text: Text = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        let stem = || file.file_stem().map_or("sweep".into(), |stem| stem.to_string_lossy().into_owned());
        let mut sweep = Sweep {
            name: text.name.clone().unwrap_or_else(stem),
            file: file.to_path_buf(),
            directory: directory.to_path_buf(),
            base: BTreeMap::new(),
            axes: Vec::new(),
            exclude: Vec::new(),
        };
        sweep.fill(text).map_err(fail)?;
        Ok(sweep)
    }

    fn fill(&mut self, text: Text) -> Result<(), String> {
        for (name, value) in flat(text.base)? {
            if value.is_array() {
                return Err(format!("[base] {name}: a list is varied; put it under [cross]"));
            }
            self.base.insert(name, value);
        }
        for (name, value) in flat(text.cross)? {
            let rows = range::values(&value).map_err(|why| format!("[cross] {name}: {why}"))?;
            let rows = rows.into_iter().map(|value| vec![value]).collect();
            self.axes.push(Axis { names: vec![name], rows });
        }
        for (at, table) in text.zip.into_iter().enumerate() {
            let place = format!("[[zip]] number {}", at + 1);
            let mut axis = Axis { names: Vec::new(), rows: Vec::new() };
            for (name, value) in flat(table)? {
                let values = range::values(&value).map_err(|why| format!("{place}, {name}: {why}"))?;
                if axis.names.is_empty() {
                    axis.rows = vec![Vec::new(); values.len()];
                }
                if values.len() != axis.rows.len() {
                    return Err(format!(
                        "{place}: {name} has {} values and {} has {}; lists side by side are equally long",
                        values.len(),
                        axis.names[0],
                        axis.rows.len()
                    ));
                }
                axis.rows.iter_mut().zip(values).for_each(|(row, value)| row.push(value));
                axis.names.push(name);
            }
            if axis.names.is_empty() {
                return Err(format!("{place} is empty"));
            }
            self.axes.push(axis);
        }
        let names: Vec<String> = self.axes.iter().flat_map(|axis| axis.names.clone()).collect();
        for name in self.base.keys().chain(&names) {
            parameter::known(name)?;
            if names.iter().filter(|other| *other == name).count() > 1 {
                return Err(format!("{name} is varied twice; list all its values in one place"));
            }
        }
        self.axes.push(seeds(text.seeds, text.repetitions)?);
        for (at, table) in text.exclude.into_iter().enumerate() {
            let place = format!("[[exclude]] number {}", at + 1);
            let mut rule = BTreeMap::new();
            for (name, value) in flat(table)? {
                let values = match value {
                    Json::Array(values) => values,
                    range if range.is_object() => {
                        range::values(&range).map_err(|why| format!("{place}, {name}: {why}"))?
                    }
                    one => vec![one],
                };
                let varied = self.axes.iter().find_map(|axis| {
                    let column = axis.names.iter().position(|other| *other == name)?;
                    Some(axis.rows.iter().map(|row| &row[column]).collect::<Vec<_>>())
                });
                let Some(known) = varied.or_else(|| self.base.get(&name).map(|value| vec![value])) else {
                    return Err(format!("{place}: {name} is not varied here; points have no value of it"));
                };
                if let Some(value) = values.iter().find(|value| !known.contains(value)) {
                    return Err(format!("{place}: no point has {name} = {value}; write it as in the list"));
                }
                rule.insert(name, values);
            }
            if rule.is_empty() {
                return Err(format!("{place} is empty and would leave out everything"));
            }
            self.exclude.push(rule);
        }
        let combinations = self.axes.iter().try_fold(1u64, |n, axis| n.checked_mul(axis.rows.len() as u64));
        match combinations {
            Some(n) if n <= POINTS_MAX => Ok(()),
            _ => Err(format!("more than {POINTS_MAX} combinations; make several sweeps of it")),
        }
    }
}

/// The axis of seeds: each seed as often as it is repeated.
fn seeds(seeds: Option<toml::Value>, repetitions: Option<u32>) -> Result<Axis, String> {
    let seeds = match seeds {
        None => vec![1],
        Some(value) => {
            let json = json(value)?;
            let values = if json.is_number() {
                vec![json]
            } else {
                range::values(&json).map_err(|why| format!("seeds: {why}"))?
            };
            let whole =
                |value: &Json| value.as_u64().ok_or_else(|| format!("seeds: {value} is no whole number"));
            values.iter().map(whole).collect::<Result<_, _>>()?
        }
    };
    let repetitions = repetitions.unwrap_or(1);
    if repetitions == 0 {
        return Err("repetitions = 0: nothing would run; at least 1".to_string());
    }
    if seeds.len() as u64 * u64::from(repetitions) > POINTS_MAX {
        return Err(format!("more than {POINTS_MAX} seeds and repetitions"));
    }
    let rows = seeds.iter().flat_map(|seed| {
        (0..repetitions)
            .map(|repetition| vec![Json::from(repeated(*seed, repetition)), Json::from(repetition)])
    });
    Ok(Axis { names: vec!["seed".into(), "repetition".into()], rows: rows.collect() })
}

/// The seed of a repetition: the first is the seed itself, others are `SplitMix64`'s of it, so that neighbouring seeds do not share them.
fn repeated(seed: u64, repetition: u32) -> u64 {
    if repetition == 0 {
        return seed;
    }
    mix(seed.wrapping_add(u64::from(repetition).wrapping_mul(STEP)))
}

/// Parameters of a table, those of tables in it by dotted names. A table with `from` is a range.
fn flat(table: toml::Table) -> Result<Vec<(String, Json)>, String> {
    fn walk(prefix: &str, table: toml::Table, out: &mut Vec<(String, Json)>) -> Result<(), String> {
        for (key, value) in table {
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) if !inner.contains_key("from") => walk(&name, inner, out)?,
                value => out.push((name, json(value)?)),
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    walk("", table, &mut out)?;
    Ok(out)
}

/// The same value as JSON.
pub(super) fn json(value: toml::Value) -> Result<Json, String> {
    Ok(match value {
        toml::Value::String(text) => Json::from(text),
        toml::Value::Integer(n) => Json::from(n),
        toml::Value::Float(x) => {
            Json::from(serde_json::Number::from_f64(x).ok_or_else(|| format!("{x} is no value"))?)
        }
        toml::Value::Boolean(flag) => Json::from(flag),
        toml::Value::Datetime(when) => return Err(format!("{when} is a date; no parameter is one")),
        toml::Value::Array(values) => {
            Json::from(values.into_iter().map(json).collect::<Result<Vec<_>, _>>()?)
        }
        toml::Value::Table(table) => Json::Object(
            table.into_iter().map(|(key, value)| Ok((key, json(value)?))).collect::<Result<_, String>>()?,
        ),
    })
}

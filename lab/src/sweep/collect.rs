//! From results to one table.

use super::key::Key;
use super::parameter::shown;
use super::plan::{Plan, Point};
use super::statistics::mean;
use super::store::Found;
use crate::results::{self, Kind, Record, TableError, TableWriter, Value};
use rustc_hash::FxHashMap;
use serde_json::Value as Json;
use std::path::Path;
use std::sync::Arc;

/// Columns that get a mean and a confidence interval over the seeds of a configuration.
pub const MEANS: [&str; 6] = [
    "cycles_per_access",
    "elapsed_cycles",
    "walk_share",
    "mean_walk_cycles",
    "references_per_walk",
    "stlb_misses_per_thousand",
];

/// Parameters that the record has already.
const IN_RECORD: [&str; 8] =
    ["system", "machine", "workload", "accesses", "warmup", "verify", "seed", "repetition"];

/// Points between two calls that tell how far it is.
const TOLD: usize = 1000;

/// What was collected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Rows: points with a result.
    pub rows: u64,
    /// Points that failed.
    pub failed: u64,
    /// Points without either.
    pub missing: u64,
}

impl Collected {
    /// How many points have what.
    pub fn count(plan: &Plan, found: &Found) -> Collected {
        let mut counts = Collected::default();
        for point in &plan.points {
            if found.done.contains_key(&point.key) {
                counts.rows += 1;
            } else if found.failed.contains_key(&point.key) {
                counts.failed += 1;
            } else {
                counts.missing += 1;
            }
        }
        counts
    }
}

/// A parameter's column.
struct Varied {
    name: String,
    kind: Kind,
    /// Its place among the parameters.
    at: usize,
}

/// Writes the results of a plan's points as Parquet, in the order of the plan: the columns of a record, and
/// what `docs/sweeps.md` lists. The same results give the same bytes.
///
/// All points are gone through twice; `progress` is told now and then what for, and how many were.
///
/// # Errors
/// If the file cannot be written; one that had the name keeps it.
pub fn collect(
    plan: &Plan,
    found: &Found,
    path: &Path,
    progress: &dyn Fn(&'static str, usize),
) -> Result<Collected, TableError> {
    let told = |what, points: usize| {
        if points.is_multiple_of(TOLD) {
            progress(what, points);
        }
    };
    let counts = Collected::count(plan, found);
    let varied = varied(plan);
    let mut extra: Vec<(String, Kind, String)> = vec![
        ("point".into(), Kind::Text, "the point's key".into()),
        ("repetition".into(), Kind::Whole, "of the seed that was asked for, from 0".into()),
    ];
    extra.extend(varied.iter().map(|v| (v.name.clone(), v.kind, "parameter that is varied".into())));
    extra.push(("group".into(), Kind::Whole, "the same for points that differ in the seed only".into()));
    extra.push(("group_runs".into(), Kind::Whole, "rows of the group".into()));
    for name in MEANS {
        extra.push((format!("{name}_mean"), Kind::Real, format!("of {name} over the group")));
        let half =
            format!("half the width of the 95 % confidence interval of {name}_mean; null for a single row");
        extra.push((format!("{name}_ci95"), Kind::Real, half));
    }
    let columns = results::columns().map(|column| (column.name.to_string(), column.kind));
    let columns = columns.chain(extra.iter().map(|(name, kind, _)| (name.clone(), *kind))).collect();
    let mut keys = results::footer(&extra);
    let count = |name: &str, n: u64| (format!("pagewalk.sweep.{name}"), n.to_string());
    keys.push(("pagewalk.sweep.name".into(), plan.sweep.name.clone()));
    keys.push(("pagewalk.sweep.plan".into(), plan.digest().to_string()));
    keys.extend([
        count("points", plan.points.len() as u64),
        count("failed", counts.failed),
        count("missing", counts.missing),
        count("refused", plan.refused.iter().map(|refused| refused.points).sum()),
        count("excluded", plan.excluded),
    ]);
    let mut table = TableWriter::create(path, columns, keys)?;

    let record = |key: &Key| found.done.get(key).and_then(super::store::Kept::record);
    let groups = groups(plan, &record, &|points| told("means", points));
    let mut names = FxHashMap::<String, Arc<str>>::default();
    for (at, point) in plan.points.iter().enumerate() {
        told("rows", at);
        let Some(record) = record(&point.key) else { continue };
        let group = &groups[&point.group()];
        let parameters: Vec<&Json> = plan.values(point).collect();
        let mut row: Vec<Value> = record.values().to_vec();
        row.push(Value::Text(Arc::from(point.key.to_string())));
        row.push(Value::Whole(point.repetition.into()));
        row.extend(varied.iter().map(|v| value(parameters[v.at], v.kind, &mut names)));
        row.push(Value::Whole(group.number));
        row.push(Value::Whole(group.runs));
        row.extend(group.means.iter().cloned());
        table.push(row)?;
    }
    table.finish()?;
    Ok(counts)
}

/// Points that differ in the seed only.
struct Group {
    number: u64,
    runs: u64,
    means: Vec<Value>,
}

/// The number of a group, and what its rows have in [`MEANS`].
type Rows = (u64, Vec<[Option<f64>; MEANS.len()]>);

fn groups(
    plan: &Plan,
    record: &impl Fn(&Key) -> Option<Record>,
    told: &dyn Fn(usize),
) -> FxHashMap<[u32; 4], Group> {
    let mut members = FxHashMap::<[u32; 4], Rows>::default();
    let mut next = 0;
    for (at, point) in plan.points.iter().enumerate() {
        told(at);
        let (_, numbers) = members.entry(Point::group(point)).or_insert_with(|| {
            next += 1;
            (next - 1, Vec::new())
        });
        if let Some(record) = record(&point.key) {
            numbers.push(MEANS.map(|name| record.number(name)));
        }
    }
    let group = |(key, (number, rows)): ([u32; 4], Rows)| {
        let means = (0..MEANS.len()).flat_map(|at| {
            let numbers: Vec<f64> = rows.iter().filter_map(|row| row[at]).collect();
            if numbers.is_empty() {
                return [Value::Null, Value::Null];
            }
            let (mean, half) = mean(&numbers);
            [Value::Real(mean), half.map_or(Value::Null, Value::Real)]
        });
        (key, Group { number, runs: rows.len() as u64, means: means.collect() })
    };
    members.into_iter().map(group).collect()
}

/// Columns of parameters that are varied and that the record does not have.
fn varied(plan: &Plan) -> Vec<Varied> {
    let mut columns = Vec::new();
    for (at, name) in plan.varied().enumerate() {
        if IN_RECORD.contains(&name) {
            continue;
        }
        let axes = plan.sweep.axes.iter();
        let values: Vec<&Json> = axes
            .filter_map(|axis| axis.names.iter().position(|other| other == name).map(|column| (axis, column)))
            .flat_map(|(axis, column)| axis.rows.iter().map(move |row| &row[column]))
            .collect();
        let kind = if values.iter().all(|value| value.is_u64()) {
            Kind::Whole
        } else if values.iter().all(|value| value.is_number()) {
            Kind::Real
        } else if values.iter().all(|value| value.is_boolean()) {
            Kind::Flag
        } else {
            Kind::Text
        };
        columns.push(Varied { name: name.to_string(), kind, at });
    }
    columns
}

fn value(value: &Json, kind: Kind, names: &mut FxHashMap<String, Arc<str>>) -> Value {
    match kind {
        Kind::Whole => value.as_u64().map_or(Value::Null, Value::Whole),
        Kind::Real => value.as_f64().map_or(Value::Null, Value::Real),
        Kind::Flag => value.as_bool().map_or(Value::Null, Value::Flag),
        Kind::Text => {
            let text = shown(value);
            let shared = names.entry(text).or_insert_with_key(|text| Arc::from(text.as_str()));
            Value::Text(shared.clone())
        }
    }
}

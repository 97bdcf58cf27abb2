//! The report of a sweep: how systems compare over its points, and what each parameter does.

use super::{Chart, Document, Mark, Part, Table, colors_of, rounded};
use lab::results::Record;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A point with a result.
#[derive(Debug, Clone)]
pub struct Row {
    /// The values of the varied parameters, in their order.
    pub parameters: Vec<Value>,
    /// What points that differ in the seed only have the same of.
    pub group: u64,
    /// The result.
    pub record: Record,
}

/// What is shown of each point.
const MEASURES: [(&str, &str); 3] = [
    ("cycles_per_access", "cycles per access"),
    ("walk_share", "share of cycles with a walk in progress"),
    ("stlb_misses_per_thousand", "STLB misses per 1000 accesses"),
];
/// Groups in the table, and dots in a chart: a report of a million points is to stay small.
const ROWS: usize = 1000;
const DOTS: usize = 1500;

/// The report. `parameters` names those that are varied.
pub fn sweep(name: &str, parameters: &[String], rows: &[Row]) -> Document {
    let groups = groups(rows);
    let lead = format!(
        "{} results, {} configurations, {} parameters varied.",
        rows.len(),
        groups.len(),
        parameters.len()
    );
    let mut document = Document::new(format!("Sweep {name}"), lead);
    let mut versions: Vec<String> = rows.iter().filter_map(|r| text(&r.record, "version")).collect();
    versions.sort();
    versions.dedup();
    document.about("model", versions.join(", "));
    document.about("points", rows.len());

    let mut systems: Vec<&str> = groups.iter().map(|g| g.system.as_str()).collect();
    systems.sort_unstable();
    systems.dedup();
    // One system has one colour on the whole page.
    let colors = colors_of(systems);
    let colored = |mut chart: Chart| {
        chart.colors.clone_from(&colors);
        Part::Chart(chart)
    };
    let slow = slowdowns(parameters, &groups);
    document.section(
        "systems",
        "Systems against each other",
        &["Time of each configuration against the first system's on the same machine, workload and parameters: how many \
           configurations are how much slower (above 1) or faster (below 1)."],
        slow.into_iter().map(colored).collect(),
    );
    let mut charts = Vec::new();
    for (at, parameter) in parameters.iter().enumerate() {
        if matches!(parameter.as_str(), "system" | "seed" | "repetition") {
            continue;
        }
        for (measure, title) in MEASURES {
            charts.extend(by_parameter(parameter, at, measure, title, &groups).map(colored));
        }
    }
    document.section(
        "parameters",
        "What each parameter does",
        &["The mean over all configurations with the same value, by system; other parameters vary below it, so means \
           compare only systems that ran with the same ones. Least and most are in the data."],
        charts,
    );
    let scatter = scatter(&groups);
    document.section(
        "configurations",
        "Configurations",
        &["A dot a configuration. The Parquet file has them all; the table has the slowest first."],
        vec![colored(scatter), Part::Table(table(parameters, &groups))],
    );
    document
}

/// Points that differ in the seed only.
struct Group {
    system: String,
    machine: String,
    workload: String,
    parameters: Vec<Value>,
    /// Values of [`MEASURES`], run by run.
    runs: [Vec<f64>; MEASURES.len()],
}

impl Group {
    fn mean(&self, measure: usize) -> f64 {
        let runs = &self.runs[measure];
        runs.iter().sum::<f64>() / runs.len().max(1) as f64
    }
}

fn text(record: &Record, name: &str) -> Option<String> {
    match record.get(name)? {
        lab::results::Value::Text(text) => Some(text.to_string()),
        _ => None,
    }
}

fn groups(rows: &[Row]) -> Vec<Group> {
    let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
    for row in rows {
        let group = groups.entry(row.group).or_insert_with(|| {
            let of = |name| text(&row.record, name).unwrap_or_default();
            Group {
                system: of("system"),
                machine: of("machine"),
                workload: of("workload"),
                parameters: row.parameters.clone(),
                runs: Default::default(),
            }
        });
        for (runs, (name, _)) in group.runs.iter_mut().zip(MEASURES) {
            runs.extend(row.record.number(name));
        }
    }
    groups.into_values().collect()
}

/// Configurations by how long they take against the first system.
fn slowdowns(parameters: &[String], groups: &[Group]) -> Option<Chart> {
    let first = &groups.first()?.system;
    let others = |g: &Group| {
        let all = parameters.iter().zip(&g.parameters);
        let same: Vec<String> =
            all.filter(|(name, _)| *name != "system").map(|(_, v)| v.to_string()).collect();
        (g.machine.clone(), same)
    };
    let base: BTreeMap<_, f64> =
        groups.iter().filter(|g| g.system == *first).map(|g| (others(g), g.mean(0))).collect();
    let mut counted: BTreeMap<(&str, i64), u64> = BTreeMap::new();
    for g in groups.iter().filter(|g| g.system != *first) {
        if let Some(base) = base.get(&others(g)).filter(|base| **base > 0.0) {
            // In steps of 2 %.
            *counted.entry((&g.system, (50.0 * g.mean(0) / base).floor() as i64)).or_default() += 1;
        }
    }
    if counted.is_empty() {
        return None;
    }
    let mut chart = Chart::new(
        Mark::Step,
        "Slow-down against the first system",
        &["slow-down", "configurations", "system"],
    );
    let mut last: Option<(&str, i64)> = None;
    for ((system, step), n) in &counted {
        let at = |step: i64| json!(step as f64 / 50.0);
        // Where there are none, the line is at 0.
        match last {
            Some((same, before)) if same == *system && before + 1 < *step => {
                chart.row(vec![at(before + 1), json!(0), json!(system)]);
            }
            Some((other, before)) if other != *system => {
                chart.row(vec![at(before + 1), json!(0), json!(other)])
            }
            _ => {}
        }
        chart.row(vec![at(*step), json!(n), json!(system)]);
        last = Some((*system, *step));
    }
    if let Some((system, step)) = last {
        chart.row(vec![json!((step + 1) as f64 / 50.0), json!(0), json!(system)]);
    }
    chart.note = format!("Against {first}.");
    Some(chart)
}

/// What a parameter does to a measure, by system; nothing if it has one value only.
fn by_parameter(parameter: &str, at: usize, measure: &str, title: &str, groups: &[Group]) -> Option<Chart> {
    let number = MEASURES.iter().position(|(name, _)| *name == measure)?;
    let numeric = groups.iter().all(|g| g.parameters.get(at).is_some_and(|v| amount(v).is_some()));
    let mut means: BTreeMap<(String, u64, String), Vec<f64>> = BTreeMap::new();
    for g in groups {
        let value = g.parameters.get(at)?;
        let order = amount(value).unwrap_or(0.0).max(0.0).to_bits();
        let shown = value.as_str().map_or(value.to_string(), str::to_string);
        means.entry((g.system.clone(), order, shown)).or_default().push(g.mean(number));
    }
    let values: std::collections::BTreeSet<_> =
        means.keys().map(|(_, order, shown)| (order, shown)).collect();
    if values.len() < 2 {
        return None;
    }
    let columns = match numeric {
        true => ["x", "mean", "system", "value", "least", "most", "configurations"],
        false => ["mean", "value", "system", "x", "least", "most", "configurations"],
    };
    let mark = if numeric { Mark::Line } else { Mark::Dots };
    let mut chart = Chart::new(mark, &format!("{title}, by {parameter}"), &columns);
    chart.labels =
        if numeric { (parameter.to_string(), title.to_string()) } else { (title.to_string(), String::new()) };
    // Sizes are mostly doubled from one to the next.
    let (least, most) = values.iter().fold((f64::MAX, 0.0), |(a, b): (f64, f64), (order, _)| {
        (a.min(f64::from_bits(**order)), b.max(f64::from_bits(**order)))
    });
    chart.log = (numeric && least > 0.0 && most / least >= 16.0, false);
    chart.bytes = numeric && values.iter().all(|(_, shown)| shown.ends_with("iB"));
    for ((system, order, shown), all) in &means {
        let mean = rounded(all.iter().sum::<f64>() / all.len() as f64);
        let end = |f: fn(f64, f64) -> f64| rounded(all.iter().copied().fold(all[0], f));
        let x = json!(f64::from_bits(*order));
        let (x, y, other) = if numeric { (x, mean, json!(shown)) } else { (mean, json!(shown), Value::Null) };
        chart.row(vec![x, y, json!(system), other, end(f64::min), end(f64::max), json!(all.len())]);
    }
    Some(chart)
}

/// A parameter's value as a number: `4GiB`, `0.5`, `8`.
fn amount(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let factor = match &text[digits.len()..] {
                "" => 1.0,
                "k" | "K" => 1e3,
                "M" => 1e6,
                "G" => 1e9,
                "KiB" => 1024.0,
                "MiB" => 1024f64.powi(2),
                "GiB" => 1024f64.powi(3),
                "TiB" => 1024f64.powi(4),
                _ => return None,
            };
            digits.parse::<f64>().ok().map(|n| n * factor)
        }
        _ => None,
    }
}

fn scatter(groups: &[Group]) -> Chart {
    let columns =
        ["share of cycles with a walk", "cycles per access", "system", "machine", "workload", "runs"];
    let mut chart = Chart::new(Mark::Points, "Cycles per access and walks", &columns);
    chart.log = (false, true);
    let step = groups.len().div_ceil(DOTS).max(1);
    if step > 1 {
        chart.note = format!("Every {step}th configuration.");
    }
    for g in groups.iter().step_by(step) {
        chart.row(vec![
            rounded(g.mean(1)),
            rounded(g.mean(0)),
            json!(g.system),
            json!(g.machine),
            json!(g.workload),
            json!(g.runs[0].len()),
        ]);
    }
    chart
}

fn table(parameters: &[String], groups: &[Group]) -> Table {
    let fixed = ["system", "machine", "workload"];
    let extra: Vec<usize> = (0..parameters.len())
        .filter(|at| {
            !fixed.contains(&parameters[*at].as_str())
                && parameters[*at] != "seed"
                && parameters[*at] != "repetition"
        })
        .collect();
    let mut columns: Vec<String> = fixed.map(str::to_string).to_vec();
    columns.extend(extra.iter().map(|at| parameters[*at].clone()));
    columns.extend(["runs".to_string(), "spread, %".to_string()]);
    columns.extend(MEASURES.map(|(_, title)| title.to_string()));
    let mut sorted: Vec<&Group> = groups.iter().collect();
    sorted.sort_by(|a, b| b.mean(0).total_cmp(&a.mean(0)));
    let row = |g: &&Group| {
        let mut row = vec![json!(g.system), json!(g.machine), json!(g.workload)];
        row.extend(extra.iter().map(|at| g.parameters.get(*at).cloned().unwrap_or(Value::Null)));
        let (least, most) = g.runs[0].iter().fold((f64::MAX, 0.0f64), |(a, b), x| (a.min(*x), b.max(*x)));
        row.push(json!(g.runs[0].len()));
        row.push(if most > 0.0 { rounded(100.0 * (most / least - 1.0)) } else { Value::Null });
        row.extend((0..MEASURES.len()).map(|measure| rounded(g.mean(measure))));
        row
    };
    Table {
        title: format!("The {} slowest of {} configurations", sorted.len().min(ROWS), sorted.len()),
        columns,
        rows: sorted.iter().take(ROWS).map(row).collect(),
    }
}

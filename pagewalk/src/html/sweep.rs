//! The report of a sweep: how systems compare over its points, and what each parameter does.

use super::{Chart, Document, Mark, Part, Table, colors_of, rounded};
use lab::results::Record;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

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
/// Systems in charts: more cannot be told apart.
const SYSTEMS: usize = 24;
/// Rows of all charts of parameters together.
const CHARTED: usize = 20_000;

/// The report. `parameters` names those that are varied.
pub fn sweep(name: &str, parameters: &[String], rows: &[Row]) -> Document {
    let mut versions: Vec<String> = rows.iter().filter_map(|r| text(&r.record, "version")).collect();
    versions.sort();
    versions.dedup();
    let mut document = document(name, parameters, &groups(rows), rows.len());
    document.about("model", versions.join(", "));
    document.about("points", rows.len());
    document
}

fn document(name: &str, parameters: &[String], groups: &[Group], points: usize) -> Document {
    let lead =
        format!("{points} results, {} configurations, {} parameters varied.", groups.len(), parameters.len());
    let mut document = Document::new(format!("Sweep {name}"), lead);
    let systems = systems(groups);
    let shown: Vec<&Group> = groups.iter().filter(|g| systems.contains(&g.system.as_str())).collect();
    let left = groups.iter().filter(|g| !systems.contains(&g.system.as_str()));
    let left = left.map(|g| &g.system).collect::<BTreeSet<_>>().len();
    // One system has one colour on the whole page.
    let colors = colors_of(systems.iter().copied());
    let colored = |mut chart: Chart| {
        chart.colors.clone_from(&colors);
        if left > 0 {
            chart.note += &format!(" The {SYSTEMS} fastest systems; the Parquet file has {left} more.");
        }
        Part::Chart(chart)
    };
    let slow = slowdowns(parameters, &shown);
    document.section(
        "systems",
        "Systems against each other",
        &["Time of each configuration against the first system's on the same machine, workload and parameters: how many \
           configurations are how much slower (above 1) or faster (below 1)."],
        slow.into_iter().map(colored).collect(),
    );
    let varied: Vec<(usize, &String)> = parameters
        .iter()
        .enumerate()
        .filter(|(_, name)| !matches!(name.as_str(), "system" | "seed" | "repetition"))
        .collect();
    let most = CHARTED / (varied.len() * MEASURES.len()).max(1) / systems.len().max(1);
    let mut charts = Vec::new();
    for (at, parameter) in varied {
        for (measure, (_, title)) in MEASURES.iter().enumerate() {
            charts.extend(by_parameter((parameter, at), (measure, title), &shown, most.max(2)).map(colored));
        }
    }
    document.section(
        "parameters",
        "What each parameter does",
        &["The mean over all configurations with the same value, by system; other parameters vary below it, so means \
           compare only systems that ran with the same ones. Bars go from least to most, which the data have too."],
        charts,
    );
    let scatter = scatter(&shown);
    document.section(
        "configurations",
        "Configurations",
        &["A dot a configuration. The Parquet file has them all; the table has the slowest first."],
        vec![colored(scatter), Part::Table(table(parameters, groups))],
    );
    document
}

/// The systems that charts show, in alphabetic order: the fastest, should there be many.
fn systems(groups: &[Group]) -> Vec<&str> {
    let mut means: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for g in groups {
        let (sum, n) = means.entry(&g.system).or_default();
        (*sum, *n) = (*sum + g.mean(0), *n + 1);
    }
    let mut all: Vec<(&str, f64)> =
        means.into_iter().map(|(name, (sum, n))| (name, sum / n as f64)).collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    // Others are set against the first.
    let first = groups.first().map(|g| g.system.as_str());
    all.sort_by_key(|(name, _)| Some(*name) != first);
    let mut names: Vec<&str> = all.into_iter().take(SYSTEMS).map(|(name, _)| name).collect();
    names.sort_unstable();
    names
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
fn slowdowns(parameters: &[String], groups: &[&Group]) -> Option<Chart> {
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

/// What a parameter does to a measure, by system, at `most` so many of its values; nothing if it has one value only.
fn by_parameter(
    (parameter, at): (&str, usize),
    (measure, title): (usize, &str),
    groups: &[&Group],
    most: usize,
) -> Option<Chart> {
    let numeric = groups.iter().all(|g| g.parameters.get(at).is_some_and(|v| amount(v).is_some()));
    let mut means: BTreeMap<(String, u64, String), Vec<f64>> = BTreeMap::new();
    for g in groups {
        let value = g.parameters.get(at)?;
        let order = amount(value).unwrap_or(0.0).max(0.0).to_bits();
        let shown = value.as_str().map_or(value.to_string(), str::to_string);
        means.entry((g.system.clone(), order, shown)).or_default().push(g.mean(measure));
    }
    let mut values: BTreeSet<(u64, String)> =
        means.keys().map(|(_, order, shown)| (*order, shown.clone())).collect();
    if values.len() < 2 {
        return None;
    }
    let step = values.len().div_ceil(most);
    values = values.into_iter().step_by(step).collect();
    means.retain(|(_, order, shown), _| values.contains(&(*order, shown.clone())));
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
        (a.min(f64::from_bits(*order)), b.max(f64::from_bits(*order)))
    });
    if step > 1 {
        chart.note = format!("Every {step}th value.");
    }
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

fn scatter(groups: &[&Group]) -> Chart {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_points_fit_in_five_megabytes() {
        // 40 systems, 125 footprints, 20 machines, 10 seeds.
        let (systems, footprints, machines, seeds) = (40, 125, 20, 10);
        let mut groups = Vec::new();
        for system in 0..systems {
            for footprint in 1..=footprints {
                for machine in 0..machines {
                    let cycles = f64::from(system + footprint + machine) / 7.0;
                    groups.push(Group {
                        system: format!("nested-thp-thp+vnuma+mitosis+host-mitosis+number={system}"),
                        machine: format!("broadwell(tlb.stlb.array.0.entries={machine})"),
                        workload: format!("gups:footprint={footprint}MiB"),
                        parameters: vec![
                            json!(system),
                            json!(format!("{footprint}MiB")),
                            json!(machine),
                            json!(1),
                        ],
                        runs: std::array::from_fn(|_| vec![cycles; seeds]),
                    });
                }
            }
        }
        let points = groups.len() * seeds;
        assert_eq!(points, 1_000_000);
        let parameters = ["system", "workload.footprint", "machine", "seed"].map(String::from);
        let page = document("large", &parameters, &groups, points).page().expect("a page");
        assert!(page.len() < 5_000_000, "{} bytes", page.len());
        assert!(page.contains("the Parquet file has 16 more"));
    }
}

//! The report of every number that is held, beside ours.

use super::{Chart, Document, Mark, Part, Table, rounded};
use lab::experiment::SEED;
use lab::reproduce::all::{PAPERS, Page, Table as Sheet};
use lab::reproduce::sheet::{Row, TRUST, Unit, Verdict};
use serde_json::json;

/// Colours of verdicts, and of the two numbers.
const VERDICTS: [&str; 3] = ["#0072b2", "#56b4e9", "#d55e00"];
const NUMBERS: [(&str, &str); 2] = [("published", "#0072b2"), ("here", "#d55e00")];

/// The report. `rules` say how verdicts come about.
pub fn all(page: &Page, rules: &[&str]) -> Document {
    let lead = "What papers published, what came out here, and a verdict on each number.";
    let mut document = super::reproduce::begin("Every number that we hold, beside ours", lead, SEED);
    let columns = ["numbers", "paper", "verdict"];
    let mut verdicts = Chart::new(Mark::Stack, "Numbers by verdict", &columns);
    verdicts.labels.1.clear();
    verdicts.colors = Verdict::ALL.iter().map(|v| v.says().to_string()).zip(VERDICTS).collect();
    for (paper, title) in PAPERS {
        let tables: Vec<&Sheet> = page.tables.iter().filter(|table| table.paper == paper).collect();
        for verdict in Verdict::ALL {
            let n: usize = tables.iter().map(|table| table.count(verdict)).sum();
            if !tables.is_empty() {
                verdicts.row(vec![json!(n), json!(title), json!(verdict.says())]);
            }
        }
    }
    document.section("verdicts", "In short", rules, vec![Part::Chart(verdicts)]);
    for (paper, title) in PAPERS {
        let tables = page.tables.iter().filter(|table| table.paper == paper);
        let said: Vec<String> = tables.clone().map(about).collect();
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        document.section(paper, title, &said, tables.flat_map(parts).collect());
    }
    let named = |title: &str, columns: [&str; 2], rows: &[(&str, &str)]| {
        Part::Table(Table {
            title: title.to_string(),
            columns: columns.map(str::to_string).to_vec(),
            rows: rows.iter().map(|(a, b)| vec![json!(a), json!(b)]).collect(),
        })
    };
    let trust = named("How far to trust a published number", ["tag", "what it is"], &TRUST);
    let left_out = named("Held, and not here", ["what", "why"], &page.left_out);
    document.section("about-numbers", "About the numbers", &[], vec![trust, left_out]);
    document
}

fn name(table: &Sheet) -> String {
    format!("{}: {}", table.figure, table.title)
}

/// Where a table's numbers are from.
fn about(table: &Sheet) -> String {
    format!(
        "{}. Here: {}. More: {}. Why it differs: docs/{}.",
        name(table),
        table.sizes,
        table.command,
        table.page
    )
}

/// Its chart, if its numbers are of one kind, and its rows.
fn parts(table: &Sheet) -> Vec<Part> {
    let mut parts = Vec::new();
    let unit = table.rows.first().map(|row| row.unit);
    if table.rows.len() > 1 && table.rows.iter().all(|row| Some(row.unit) == unit) {
        let columns = ["value", "what", "which", "verdict", "trust"];
        let mut chart = Chart::new(Mark::Dots, &name(table), &columns);
        chart.labels = (label(table.rows[0].unit).to_string(), String::new());
        chart.colors = NUMBERS.map(|(name, color)| (name.to_string(), color)).to_vec();
        for row in &table.rows {
            for ((which, _), value) in NUMBERS.iter().zip([row.paper, row.ours]) {
                let value = rounded(value * scale(row.unit));
                let verdict = json!(row.verdict.says());
                chart.row(vec![value, json!(what(table, row)), json!(which), verdict, json!(row.trust)]);
            }
        }
        parts.push(Part::Chart(chart));
    }
    let row = |row: &Row| {
        let paper = row.text(row.paper);
        let paper = if row.bound { format!("at most {paper}") } else { paper };
        let (ours, off) = (row.text(row.ours), row.difference_text());
        vec![
            json!(row.what),
            json!(paper),
            json!(ours),
            json!(off),
            json!(row.trust),
            json!(row.verdict.says()),
        ]
    };
    parts.push(Part::Table(Table {
        title: name(table),
        columns: ["what", "published", "here", "off", "trust", "verdict"].map(str::to_string).to_vec(),
        rows: table.rows.iter().map(row).collect(),
    }));
    parts
}

/// What a row is of: with its group, where several groups have the same.
fn what(table: &Sheet, row: &Row) -> String {
    let twice = table.rows.iter().filter(|other| other.what == row.what).count() > 1;
    if twice { format!("{}: {}", row.group, row.what) } else { row.what.clone() }
}

fn scale(unit: Unit) -> f64 {
    if matches!(unit, Unit::Change | Unit::Share | Unit::Memory) { 100.0 } else { 1.0 }
}

fn label(unit: Unit) -> &'static str {
    match unit {
        Unit::Ratio => "ratio",
        Unit::Change => "change, percent",
        Unit::Share | Unit::Memory => "percent",
        Unit::Cycles => "cycles",
        Unit::Nanoseconds => "ns",
        Unit::Mean => "mean",
        Unit::Exact => "number",
        Unit::Megabytes => "MB",
    }
}

//! Measured numbers beside ours.

mod all;
mod babelfish;
mod ptemagnet;
mod together;

pub use all::all;
pub use babelfish::babelfish;
pub use ptemagnet::ptemagnet;
pub use together::together;

use crate::cli::Output;
use crate::progress::Bar;
use crate::report::under;
use anyhow::{Result, bail};
use lab::reproduce::{self, CurvePoint, Row, sheet};
use std::fmt::Write;
use std::path::Path;

/// Prints GUPS on the Mitosis machine beside the model.
pub fn gups(html: Option<&Path>, output: Output) -> Result<()> {
    let bar = Bar::new(output.quiet);
    let rows = reproduce::gups(&mut |p| bar.show(p))?;
    bar.end();
    let mut text = format!("{:44}{:>10}{:>10}{:>8}\n", "", "measured", "model", "off");
    for row in &rows {
        let (measured, model) = (value(row, row.measured), value(row, row.model));
        let _ = writeln!(text, "{:44}{measured:>10}{model:>10}{:>+7.0}%", row.what, 100.0 * row.difference());
    }
    if let Some(row) = rows.first() {
        let _ = writeln!(text, "\nmeasured: {}", row.source);
    }
    if let Some(file) = html {
        crate::html::gups(&rows, &text).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print_json_rows("reproduce gups", &rows);
    }
    crate::show(&text)
}

fn value(row: &Row, x: f64) -> String {
    if row.unit == "share" { format!("{:.0} %", 100.0 * x) } else { format!("{x:.0}") }
}

/// Prints the TLB curve of the Zen 4 beside the model.
pub fn curve(columns: &[String], html: Option<&Path>, output: Output) -> Result<()> {
    let known = reproduce::curve_columns();
    if let Some(wrong) = columns.iter().find(|c| !known.contains(&c.as_str())) {
        bail!("the curve has no column `{wrong}`; it has {}", known.join(", "));
    }
    let bar = Bar::new(output.quiet);
    let points = reproduce::curve(columns, &[], reproduce::CURVE_ACCESSES, &mut |p| bar.show(p))?;
    bar.end();
    let names: Vec<&str> =
        known.into_iter().filter(|name| points.iter().any(|p| p.column == *name)).collect();
    let mut text = String::from("ns per access, measured / model\n");
    let _ = write!(text, "{:>10}", "footprint");
    for name in &names {
        let _ = write!(text, "{name:>16}");
    }
    text.push('\n');
    let mut sizes: Vec<u64> = points.iter().map(|p| p.kib).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for kib in sizes {
        let _ = write!(text, "{:>10}", crate::report::bytes(kib * 1024));
        for name in &names {
            let cell = points.iter().find(|p| p.kib == kib && p.column == *name).map_or(String::new(), pair);
            let _ = write!(text, "{cell:>16}");
        }
        text.push('\n');
    }
    if let Some(file) = html {
        crate::html::curve(&points, &text).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print_json_rows("reproduce tlb-curve", &points);
    }
    crate::show(&text)
}

fn pair(point: &CurvePoint) -> String {
    format!("{:.1} / {:.1}", point.measured, point.model)
}

/// What was published, as people read it: `most` is said of bounds.
fn published(row: &sheet::Row, most: &str) -> String {
    let paper = row.text(row.paper);
    if row.bound { format!("{most} {paper}") } else { paper }
}

/// Published numbers beside ours, a line each; with verdicts where they were judged.
fn beside(rows: &[sheet::Row], judged: bool) -> String {
    let (indent, most) = if judged { (" ", "at most") } else { ("", "below") };
    let row = |row: &sheet::Row| {
        let what = format!("{indent}{}", row.what);
        let trust = format!("[{}]", row.trust);
        let verdict = if judged { row.verdict.says() } else { "" };
        vec![
            what,
            published(row, most),
            row.text(row.ours),
            row.difference_text(),
            trust,
            verdict.to_string(),
        ]
    };
    let verdict = if judged { "verdict" } else { "" };
    under(["", "paper", "here", "off", "trust", verdict], rows.iter().map(row), 1..4)
}

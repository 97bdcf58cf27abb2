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
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
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
    crate::print(&text)
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
    crate::print(&text)
}

fn pair(point: &CurvePoint) -> String {
    format!("{:.1} / {:.1}", point.measured, point.model)
}

/// Published numbers beside ours, a line each.
fn beside(rows: &[sheet::Row]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["", "paper", "here", "off", "trust"]);
    for row in rows {
        let paper = if row.bound { format!("below {}", row.text(row.paper)) } else { row.text(row.paper) };
        let ours = row.text(row.ours);
        table.add_row([row.what.clone(), paper, ours, row.difference_text(), format!("[{}]", row.trust)]);
    }
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string().lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

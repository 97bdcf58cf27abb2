//! `pagewalk reproduce together`: pairs of mechanisms.

use crate::cli::Output;
use crate::progress::Bar;
use crate::report::under;
use anyhow::{Result, bail};
use lab::reproduce::together::{self, Met, PAIRS, Pair};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Row {
    /// The pair.
    pair: &'static Pair,
    #[serde(flatten)]
    met: Met,
    /// Whether both save more than either alone.
    pays: bool,
}

/// Runs the pairs and prints what each mechanism saves, and both.
pub fn together(
    pairs: &[String],
    footprint: &str,
    accesses: u64,
    html: Option<&Path>,
    output: Output,
) -> Result<()> {
    let known = PAIRS.map(|pair| pair.name);
    if let Some(wrong) = pairs.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no pair `{wrong}`; there are {}", known.join(", "));
    }
    let mut rows = Vec::new();
    for pair in PAIRS.iter().filter(|pair| pairs.is_empty() || pairs.iter().any(|n| n == pair.name)) {
        let bar = Bar::new(output.quiet);
        bar.what(pair.name);
        let met = together::meet(pair, footprint, accesses, &mut |p| bar.show(p))?;
        bar.end();
        rows.push(Row { pair, pays: met.pays(), met });
    }
    let text: String = rows.iter().map(text).collect();
    if let Some(file) = html {
        let met: Vec<(&Pair, &Met)> = rows.iter().map(|row| (row.pair, &row.met)).collect();
        crate::html::together(&met, &text).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print_json_rows("reproduce together", &rows);
    }
    crate::show(&text)
}

fn text(row: &Row) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let line = |(at, system): (usize, &&str)| {
        let saves = if at == 0 { String::new() } else { percent(row.met.saves[at - 1]) };
        vec![format!("  {system}"), format!("{:.1}", row.met.cycles[at]), percent(row.met.walks[at]), saves]
    };
    let lines = row.pair.systems.iter().enumerate().map(line);
    let verdict = match row.pays {
        true => "Together they save more than either alone",
        false => "Together they save no more than the better one alone",
    };
    format!(
        "{}: {}\n{}\n{}{verdict}; if neither knew of the other it would be {}.\n\n",
        row.pair.name,
        row.pair.title,
        row.pair.workload,
        under(["", "cycles/access", "walks", "saves"], lines, 1..),
        percent(row.met.expected)
    )
}

//! The figures of a paper beside the model.

use crate::cli::{Figures, Output};
use crate::progress::Parts;
use anyhow::{Result, bail};
use lab::figures::{self, Cell, Figure, Options};
use std::fmt::Write;
use std::path::Path;

/// Runs the cells that are asked for and prints them.
pub fn print(all: &[Figure], args: &Figures, html: Option<&Path>, output: Output) -> Result<()> {
    let chosen = chosen(all, args)?;
    let mut cells = Vec::new();
    for figure in &chosen {
        cells.push(run(figure, args, output)?);
    }
    if cells.iter().all(Vec::is_empty) {
        bail!("no figure has such a workload or configuration");
    }
    let mut text = String::new();
    for (figure, cells) in chosen.iter().zip(&cells).filter(|(_, cells)| !cells.is_empty()) {
        text += &table(figure, cells);
    }
    text += &summary(&cells);
    if let Some(file) = html {
        crate::html::figures(&chosen, &cells, &text).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        let cells: Vec<&Cell> = cells.iter().flatten().collect();
        return crate::print_json_rows("reproduce figures", &cells);
    }
    crate::show(&text)
}

fn chosen<'a>(all: &'a [Figure], args: &Figures) -> Result<Vec<&'a Figure>> {
    let names = || all.iter().map(|f| f.names.join(" or ")).collect::<Vec<_>>().join("; ");
    if let Some(wrong) = args.figure.iter().find(|name| !all.iter().any(|f| f.names.contains(&name.as_str())))
    {
        bail!("there is no figure `{wrong}` here; there are {}", names());
    }
    let wanted =
        |f: &&Figure| args.figure.is_empty() || f.names.iter().any(|n| args.figure.iter().any(|w| w == n));
    Ok(all.iter().filter(wanted).collect())
}

fn run(figure: &Figure, args: &Figures, output: Output) -> Result<Vec<Cell>> {
    let bar = Parts::new(output.quiet, &format!("{}: ", figure.names[0]), "cells");
    bar.show(0, figure.measured().count(), "begun");
    let options = Options {
        workloads: &args.workload,
        configs: &args.config,
        divide: args.divide,
        caches: args.caches,
        fewer: args.fewer,
        threads: args.threads,
        ..Options::default()
    };
    let cells = figures::run(figure, &options, &|done, of, name| bar.show(done, of, format!("last {name}")))?;
    bar.end();
    Ok(cells)
}

fn table(figure: &Figure, cells: &[Cell]) -> String {
    let mut text = format!("{}: {}, on {}\n", figure.names.join(", "), figure.title, figure.machine);
    let _ = writeln!(
        text,
        "{:10}{:>6} {:12}{:>9}{:>7}{:>9}{:>7}{:>7}  system",
        "workload", "GiB", "config", "measured", "walk", "model", "walk", "off"
    );
    let share = |walk: Option<f64>| walk.map_or(String::new(), |walk| format!("{:.0}%", 100.0 * walk));
    for cell in cells {
        let _ = writeln!(
            text,
            "{:10}{:>6} {:12}{:>9.2}{:>7}{:>9.2}{:>7}{:>+6.0}%  {}",
            cell.workload,
            cell.mib as f64 / 1024.0,
            cell.config,
            cell.measured,
            share(cell.measured_walk),
            cell.model,
            share(Some(cell.model_walk)),
            100.0 * cell.difference(),
            cell.system,
        );
    }
    let gains: Vec<_> = cells.iter().filter_map(|cell| Some((cell, without(cells, cell)?))).collect();
    if !gains.is_empty() {
        text.push_str("speed-up by the mechanism:\n");
    }
    for (cell, base) in gains {
        let (measured, model) = (base.measured / cell.measured, base.model / cell.model);
        let _ = writeln!(
            text,
            "{:10}{:>6} {:12}{measured:>8.2}x{:>7}{model:>8.2}x{:>7}{:>+6.0}%",
            cell.workload,
            "",
            cell.config,
            "",
            "",
            100.0 * (model / measured - 1.0),
        );
    }
    let _ = writeln!(text, "measured: {}; as shares of the first configuration's runtime\n", figure.source);
    text
}

/// The cell that `cell` is compared with.
fn without<'a>(cells: &'a [Cell], cell: &Cell) -> Option<&'a Cell> {
    let name = cell.without.as_ref()?;
    cells.iter().find(|c| c.workload == cell.workload && c.config == *name)
}

/// Two measured runtimes this near are not told apart: differences of less are noise, by the papers' own words.
const NOISE: f64 = 0.05;

/// How far off, and whether the order is right.
fn summary(figures: &[Vec<Cell>]) -> String {
    let mut off = Vec::new();
    let mut text = String::new();
    let (mut right, mut pairs) = (0, 0);
    for cells in figures {
        off.extend(cells.iter().filter(|c| c.measured != 1.0).map(|c| c.difference().abs()));
        for (i, a) in cells.iter().enumerate() {
            for b in cells[i + 1..].iter().filter(|b| b.workload == a.workload) {
                let (measured, model) = (a.measured / b.measured, a.model / b.model);
                if (measured.ln()).abs() < NOISE {
                    continue;
                }
                pairs += 1;
                if (measured > 1.0) == (model > 1.0) {
                    right += 1;
                } else {
                    let (fast, slow) = if measured < 1.0 { (a, b) } else { (b, a) };
                    let _ = writeln!(
                        text,
                        "  {} {}: measured {} < {}, model {:.3} and {:.3}",
                        a.figure, a.workload, fast.config, slow.config, fast.model, slow.model
                    );
                }
            }
        }
    }
    off.sort_by(f64::total_cmp);
    let median = off.get(off.len() / 2).copied().unwrap_or(0.0);
    let gups: Vec<&Cell> = figures.iter().flatten().filter(|c| c.workload == "gups").collect();
    let worst = gups.iter().map(|c| c.difference().abs()).fold(0.0, f64::max);
    let mut head = format!(
        "{} cells: off by {:.0} % in the median; of {pairs} pairs of configurations whose runtimes differ by more \
         than {:.0} %, {right} are in the right order\n",
        off.len(),
        100.0 * median,
        100.0 * NOISE
    );
    if !gups.is_empty() {
        let _ = writeln!(head, "GUPS: off by {:.0} % at most", 100.0 * worst);
    }
    if !text.is_empty() {
        head += "in the wrong order:\n";
    }
    head + &text
}

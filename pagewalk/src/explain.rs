//! One walk drawn step by step.

use crate::cli::Output;
use crate::inputs::Input;
use anyhow::{Context, Result, anyhow};
use lab::experiment::{self, Experiment};
use lab::world::{Plan, World};
use machine::explain::{Explained, What};
use machine::input::{Block, More};
use machine::metrics::Served;
use paging::{Dim, Va};
use std::fmt::Write;

/// Runs the warm-up, then walks for `address` cold and warm, and prints both.
pub fn explain(experiment: &Experiment, input: &Input, address: &str, output: Output) -> Result<()> {
    let digits = address.trim_start_matches("0x");
    let radix = if digits.len() == address.len() { 10 } else { 16 };
    let raw = u64::from_str_radix(&digits.replace('_', ""), radix)
        .map_err(|_| anyhow!("`{address}` is no address; write it decimal or as 0x…"))?;
    let va = Va::new(raw);
    let system = experiment.systems[0];
    anyhow::ensure!(
        va.is_canonical(system.kernel.levels),
        "{address} is not canonical: with {} levels, addresses have {} bits",
        system.kernel.levels,
        12 + 9 * system.kernel.levels
    );
    let mut source = input.open(experiment.seed)?;
    let mut setup = source.setup()?;
    let placing = experiment.layout.as_ref().map(|layout| layout.give(&mut setup));
    let plan = Plan { placing, ..experiment::plan(experiment, system, &setup)? };
    let mut world = World::new(plan, &setup)?;
    let (mut block, mut seen) = (Block::new(), 0);
    while seen < experiment.warmup {
        let more = source.fill(&mut block)?;
        seen += block.accesses.len() as u64;
        world.run(&block)?;
        if more == More::No {
            break;
        }
    }
    let regions: Vec<String> = setup
        .processes
        .iter()
        .flat_map(|p| &p.regions)
        .map(|r| format!("  {:#x}..{:#x}  {}", r.start.raw(), r.start.raw() + r.len, r.name))
        .collect();
    let context = || format!("{address} under {system}; mapped are\n{}", regions.join("\n"));
    let cold = world.explain(0, va, true).with_context(context)?;
    let warm = world.explain(0, va, false).with_context(context)?;
    if output.json {
        let json = serde_json::json!({
            "schema": lab::outcome::SCHEMA,
            "system": system.to_string(),
            "address": address,
            "cold": json(&cold),
            "warm": json(&warm),
        });
        return crate::print(&(serde_json::to_string_pretty(&json)? + "\n"));
    }
    let mut text = format!("{system}: the walk for {raw:#x}, after {seen} accesses of {}\n", setup.name);
    for (walk, what) in [(&cold, "with empty page-walk caches"), (&warm, "again, with what that left behind")]
    {
        let _ = write!(text, "\n{what}: {} references, {} cycles\n", walk.references(), walk.cycles());
        text += &grid(walk, system.is_virtual() && system.translation == lab::system::Translation::Nested);
        text += &steps(walk);
    }
    crate::print(&text)
}

/// The grid: a row a guest level, a column a host level; each cell where the
/// reference was served, or why it was not made.
fn grid(walk: &Explained, two: bool) -> String {
    let top = walk
        .steps
        .iter()
        .map(|s| match s.what {
            What::Reference { cell, .. } => cell.guest.max(cell.host),
            What::WalkCache { from, .. } => from,
            _ => 1,
        })
        .max()
        .unwrap_or(4);
    let mut text = String::new();
    if !two {
        return text;
    }
    let _ = write!(text, "\n  {:<12}", "");
    for host in (1..=top).rev() {
        let _ = write!(text, "{:>8}", format!("host L{host}"));
    }
    let _ = writeln!(text, "{:>8}", "guest");
    for guest in (0..=top).rev() {
        let name = if guest == 0 { "data page".to_string() } else { format!("guest L{guest}") };
        let _ = write!(text, "  {name:<12}");
        for host in (1..=top).rev() {
            let _ = write!(text, "{:>8}", cell(walk, guest, host));
        }
        let _ = writeln!(text, "{:>8}", if guest == 0 { String::new() } else { cell(walk, guest, 0) });
    }
    text += "  (where each was served; PWC, nTLB: not made, known to that cache; .: no such level)\n";
    text
}

fn cell(walk: &Explained, guest: u8, host: u8) -> String {
    for step in &walk.steps {
        match step.what {
            What::Reference { cell, served, .. } if cell.guest == guest && cell.host == host => {
                return served.name().to_string();
            }
            What::NestedTlb { row, .. } if row == guest && host > 0 => return "nTLB".to_string(),
            What::WalkCache { dim: Dim::Host, row, down_to, from }
                if row == guest && host >= down_to && host <= from =>
            {
                return "PWC".to_string();
            }
            // A guest table that is known is known with its host frame.
            What::WalkCache { dim: Dim::Guest, down_to, from, .. }
                if guest >= down_to && guest <= from || guest + 1 == down_to && host > 0 && guest > 0 =>
            {
                return "PWC".to_string();
            }
            _ => {}
        }
    }
    ".".to_string()
}

fn steps(walk: &Explained) -> String {
    let mut text = String::from("\n");
    for (n, step) in walk.steps.iter().enumerate() {
        let what = match step.what {
            What::Reference { cell, at, node, served } => {
                let entry = match (cell.guest, cell.host) {
                    (level, 0) => format!("entry of the process's level-{level} table"),
                    (0, level) => format!("entry of the VM's level-{level} table, for the data page"),
                    (row, level) => {
                        format!("entry of the VM's level-{level} table, for the process's level-{row} table")
                    }
                };
                let place = match served {
                    Served::Local | Served::Remote => format!("{} memory, node {}", served.name(), node.0),
                    _ => served.name().to_string(),
                };
                format!("load {:#014x}  {entry}  from {place}", at.raw())
            }
            What::WalkCache { dim, down_to, from, .. } => {
                let table = if dim == Dim::Guest { "process's" } else { "VM's" };
                format!("page-walk cache knows the {table} path: levels {from} to {down_to} are skipped")
            }
            What::NestedTlb { gpa, row } => {
                let of =
                    if row == 0 { "the data page".to_string() } else { format!("the level-{row} table") };
                format!("nested TLB knows gPA {:#x} of {of}: its host walk is skipped", gpa.raw())
            }
            What::Check(check) => format!("check {check:?}"),
        };
        let _ = writeln!(text, "  {:>2}. {:>5} cycles  {what}", n + 1, step.cycles);
    }
    if let Ok(leaf) = walk.end {
        let _ = writeln!(
            text,
            "      page of {} at host frame {:#x}{}",
            leaf.size,
            leaf.frame.number(),
            if leaf.rights.write() { ", writable" } else { ", read-only" }
        );
    }
    text
}

fn json(walk: &Explained) -> serde_json::Value {
    let steps: Vec<_> = walk
        .steps
        .iter()
        .map(|step| match step.what {
            What::Reference { cell, at, node, served } => serde_json::json!({
                "step": "reference", "guest": cell.guest, "host": cell.host, "hpa": at.raw(),
                "node": node.0, "served": served.name(), "cycles": step.cycles,
            }),
            What::WalkCache { dim, row, down_to, from } => serde_json::json!({
                "step": "walk-cache", "host_dimension": dim == Dim::Host, "row": row,
                "skipped_from": from, "skipped_to": down_to, "cycles": step.cycles,
            }),
            What::NestedTlb { row, gpa } => serde_json::json!({
                "step": "nested-tlb", "row": row, "gpa": gpa.raw(), "cycles": step.cycles,
            }),
            What::Check(check) => serde_json::json!({
                "step": "check", "check": format!("{check:?}"), "cycles": step.cycles,
            }),
        })
        .collect();
    serde_json::json!({ "references": walk.references(), "cycles": walk.cycles(), "steps": steps })
}

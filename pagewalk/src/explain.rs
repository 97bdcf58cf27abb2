//! One walk drawn step by step.

use crate::cli::Output;
use crate::html::{self, Asked};
use crate::inputs::Input;
use crate::progress::Bar;
use crate::terminal;
use anyhow::{Context, Result, anyhow};
use lab::System;
use lab::experiment::{self, Experiment, Progress};
use lab::look::{StepView, WalkView};
use lab::world::{Plan, World};
use machine::explain::{Explained, What};
use machine::input::{Block, More, Setup};
use paging::{Dim, Va};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// What is printed of a system.
#[derive(Serialize)]
struct Walks {
    /// Version of this shape.
    schema: u32,
    /// The system's name.
    system: String,
    /// The machine profile's name.
    machine: String,
    /// The workload or trace.
    workload: String,
    /// Seed of everything random.
    seed: u64,
    /// Accesses before the walks.
    warmup: u64,
    /// Whose address it is.
    process: u16,
    /// The address.
    address: String,
    /// The walk with empty page-walk caches.
    cold: WalkView,
    /// The walk again, with what that left behind.
    warm: WalkView,
}

/// Runs the warm-up under each system, then walks for `address` cold and warm, and prints both.
pub fn explain(
    experiment: &Experiment,
    input: &Input,
    (process, address): (u16, &str),
    html: Option<&Path>,
    output: Output,
) -> Result<()> {
    if let Some(file) = html {
        crate::writable(file)?;
    }
    let digits = address.trim_start_matches("0x");
    let radix = if digits.len() == address.len() { 10 } else { 16 };
    let raw = u64::from_str_radix(&digits.replace('_', ""), radix)
        .map_err(|_| anyhow!("`{address}` is no address; write it decimal or as 0x…"))?;
    let va = Va::new(raw);
    let mut texts = Vec::new();
    let mut documents = Vec::new();
    let mut views = Vec::new();
    let (mut workload, mut accesses) = (String::new(), 0);
    for system in &experiment.systems {
        anyhow::ensure!(
            va.is_canonical(system.kernel.levels),
            "{address} is not canonical: with {} levels, addresses have {} bits",
            system.kernel.levels,
            12 + 9 * system.kernel.levels
        );
        let (mut world, setup, seen) = warmed(experiment, *system, input, output)?;
        let context = || {
            let regions: Vec<String> = setup
                .processes
                .iter()
                .flat_map(|p| &p.regions)
                .map(|r| format!("  {:#x}..{:#x}  {}", r.start.raw(), r.start.raw() + r.len, r.name))
                .collect();
            format!("{address} under {system}; mapped are\n{}", regions.join("\n"))
        };
        if html.is_some() {
            // Before the walks below, which leave something in the caches.
            let mut places = world.places(PAGES / experiment.systems.len());
            let page = (process, Va::new(va.page() << 12));
            places.retain(|place| *place != page);
            places.push(page);
            views.push((system.to_string(), world.view(&places, seen)));
            (workload, accesses) = (setup.name.clone(), seen);
        }
        let cold = world.explain(process, va, true).with_context(context)?;
        let warm = world.explain(process, va, false).with_context(context)?;
        documents.push(Walks {
            schema: SCHEMA,
            system: system.to_string(),
            machine: experiment.profile.name.clone(),
            workload: setup.name.clone(),
            seed: experiment.seed,
            warmup: seen,
            process,
            address: format!("{raw:#x}"),
            cold: world.walk_view(&cold),
            warm: world.walk_view(&warm),
        });
        let mut text = format!("{system}: the walk for {raw:#x}, after {seen} accesses of {}\n", setup.name);
        for (walk, what) in
            [(&cold, "with empty page-walk caches"), (&warm, "again, with what that left behind")]
        {
            let _ = write!(text, "\n{what}: {} references, {} cycles\n", walk.references(), walk.cycles());
            text +=
                &grid(walk, system.is_virtual() && system.translation == lab::system::Translation::Nested);
            text += &steps(walk, &world.walk_view(walk));
        }
        texts.push(text);
    }
    if let Some(file) = html {
        let asked = Asked { workload: &workload, accesses, process, va: raw };
        html::explain(experiment, &views, &asked).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print(&(serde_json::to_string_pretty(&documents)? + "\n"));
    }
    crate::show(&terminal::beside(&texts, terminal::width(&std::io::stdout())))
}

/// Other pages in the explorer, over all systems.
const PAGES: usize = 600;
/// Version of the shape of what `explain --json` prints.
const SCHEMA: u32 = 2;

/// A world after the warm-up, what it began from, and how many accesses it has seen.
fn warmed(
    experiment: &Experiment,
    system: System,
    input: &Input,
    output: Output,
) -> Result<(World, Setup, u64)> {
    let mut source = input.open(experiment.seed)?;
    let mut setup = source.setup()?;
    let placing = experiment.layout.as_ref().map(|layout| layout.give(&mut setup));
    let plan = Plan { placing, ..experiment::plan(experiment, system, &setup)? };
    let bar = Bar::new(output.quiet);
    let mut world = World::new(plan, &setup)?;
    let (mut block, mut seen) = (Block::new(), 0);
    while seen < experiment.warmup {
        let more = source.fill(&mut block)?;
        seen += block.accesses.len() as u64;
        world.run(&block)?;
        let _ = bar.show(Progress { accesses: seen, total: Some(experiment.warmup), misses: 0 });
        if more == More::No {
            break;
        }
    }
    bar.end();
    Ok((world, setup, seen))
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

fn steps(walk: &Explained, view: &WalkView) -> String {
    let mut text = String::from("\n");
    for (n, step) in view.steps.iter().enumerate() {
        let (cycles, what) = match step {
            StepView::Reference { guest, host, hpa, gpa, node, served, entry, cycles } => {
                let table = match (guest, host) {
                    (level, 0) => format!("process's level {level}"),
                    (0, level) => format!("VM's level {level}, for the data page"),
                    (row, level) => format!("VM's level {level}, for the process's level {row}"),
                };
                let gpa = gpa.filter(|_| *host == 0).map_or(String::new(), |gpa| format!(", gPA {gpa:#x}"));
                let what = format!(
                    "load {hpa:#014x}  {table}: entry {} of frame {:#x}{gpa}, node {node}, from {served}; {}",
                    (hpa & 4095) / 8,
                    hpa >> 12,
                    bits(entry.0, (*guest).max(*host) > 1)
                );
                (cycles, what)
            }
            StepView::Side { guest, hpa, node, served, cycles } => {
                let of = match guest {
                    0 => "the data page's frame".to_string(),
                    level => format!("the frame of the process's level-{level} table"),
                };
                (cycles, format!("load {hpa:#014x}  tag of {of}, node {node}, from {served}"))
            }
            StepView::WalkCache { host_dimension, skipped_from, skipped_to, cycles, .. } => {
                let table = if *host_dimension { "VM's" } else { "process's" };
                let what = format!(
                    "page-walk cache knows the {table} path: levels {skipped_from} to {skipped_to} are skipped"
                );
                (cycles, what)
            }
            StepView::NestedTlb { gpa, row, cycles } => {
                let of =
                    if *row == 0 { "the data page".to_string() } else { format!("the level-{row} table") };
                (cycles, format!("nested TLB knows gPA {gpa:#x} of {of}: its host walk is skipped"))
            }
            StepView::Check { check, cycles } => (cycles, format!("check {check}")),
        };
        let _ = writeln!(text, "  {:>2}. {cycles:>5} cycles  {what}", n + 1);
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

/// An entry as people write it: where it points, and its flags.
fn bits(entry: u64, inner: bool) -> String {
    const FLAGS: [(u32, &str); 7] = [(0, "P"), (1, "W"), (2, "U"), (5, "A"), (6, "D"), (7, "PS"), (63, "NX")];
    let set = |(bit, name): &(u32, &str)| entry >> bit & 1 == 1 && (*name != "PS" || inner);
    let flags: Vec<&str> = FLAGS.iter().filter(|flag| set(flag)).map(|(_, name)| *name).collect();
    format!("→ {:#x} {}", entry >> 12 & 0xff_ffff_ffff, flags.join(" "))
}

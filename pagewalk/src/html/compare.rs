//! The report of systems that ran on the same accesses.

use super::{Chart, Document, Mark, Part, Table, maps, rounded};
use crate::report::thousands;
use lab::experiment::Experiment;
use lab::look::Sight;
use lab::outcome::{CellCounts, Outcome, ServedCounts};
use serde_json::{Value, json};

/// Colours of what cycles go to; told apart by colour-blind readers (Okabe and Ito, 2008).
const PARTS: [(&str, &str); 11] = [
    ("program, L1 TLB hits", "#a8a8a8"),
    ("STLB hits", "#56b4e9"),
    ("walks: process's table", "#0072b2"),
    ("walks: VM's table", "#d55e00"),
    ("walks: caches and checks", "#cc79a7"),
    ("page faults", "#009e73"),
    ("exits and hypervisor", "#f0e442"),
    ("system calls", "#8c6d31"),
    ("TLB shootdowns", "var(--ink)"),
    ("other kernel work", "#e69f00"),
    ("", ""),
];

/// Colours of where a reference was served: blue for caches, orange for memory.
const SERVED: [(&str, &str); 7] = [
    ("PWC", "#e4e4e4"),
    ("nTLB", "#c4c4c4"),
    ("L1", "#c6dff0"),
    ("L2", "#6fb1dd"),
    ("LLC", "#0b63a3"),
    ("local", "#f0a030"),
    ("remote", "#c0440a"),
];

fn served(counts: &ServedCounts) -> [u64; 7] {
    let c = counts;
    [c.pwc, c.ntlb, c.l1, c.l2, c.llc, c.local, c.remote]
}

fn colors(list: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    list.iter().filter(|(name, _)| !name.is_empty()).map(|(name, color)| (name.to_string(), *color)).collect()
}

/// Cycles by what they went to, per access, in the order of [`PARTS`].
///
/// Walks overlap with each other: the cycles with a walk in progress are shared out to what all walks did.
fn cycles(o: &Outcome) -> Vec<(&'static str, f64)> {
    let per = |cycles: f64| cycles / o.accesses.max(1) as f64;
    let t = &o.translation;
    let overlap = if t.walk_pending == 0 { 0.0 } else { t.walk_active as f64 / t.walk_pending as f64 };
    let (guest, host) = (t.guest_references as f64 * overlap, t.host_references as f64 * overlap);
    let rest = (t.walk_active as f64 - guest - host).max(0.0);
    let by = &o.software.cycles_by;
    let left = (o.cycles as f64 - t.walk_active as f64 - o.software.cycles as f64).max(0.0);
    let stlb = (t.stlb_hits as f64).min(left);
    let values = [left - stlb, stlb, guest, host, rest]
        .into_iter()
        .chain([by.faults, by.exits, by.calls, by.shootdowns, by.other].map(|n| n as f64));
    PARTS.iter().map(|(name, _)| *name).zip(values.map(per)).collect()
}

/// The report.
pub fn compare(experiment: &Experiment, seen: &[(Outcome, Sight)], lead: Option<String>) -> Document {
    let outcomes: Vec<&Outcome> = seen.iter().map(|(outcome, _)| outcome).collect();
    let Some(base) = outcomes.first().copied() else { return Document::new(String::new(), String::new()) };
    let title = match outcomes.as_slice() {
        [one] => format!("{} under {}", one.workload, one.system),
        all => format!("{} under {} systems", base.workload, all.len()),
    };
    let mut document = Document::new(title, lead.unwrap_or_default());
    document.about("workload", &base.workload);
    document.about("machine", format!("{} ({})", base.machine, experiment.profile.title));
    document.about(
        "accesses",
        format!("{} counted, after {} of warm-up", thousands(base.accesses), thousands(base.warmup)),
    );
    document.about("seed", base.seed);
    document.about("schema", base.schema);
    if let Some(checked) = base.verified {
        document.about(
            "oracle",
            format!("checked {} accesses under each system and found no mismatch", thousands(checked)),
        );
    }

    let many = outcomes.len() > 1;
    let mut parts = vec![Part::Chart(stacked(&outcomes))];
    parts.push(Part::Chart(inside(&outcomes)));
    document.section(
        "cycles",
        "Where the cycles go",
        &[
            "An access that hits the first-level TLB pays nothing for its translation. Walks overlap with each other and \
             with the program: here the cycles with at least one walk in progress are shared out to what the walks \
             did. STLB hits count as if nothing hid them.",
        ],
        parts,
    );
    if many {
        document.section(
            "savings",
            "What each system saves and costs",
            &["Against the first system, on the same accesses. Left of 0 is saved, right of 0 is paid."],
            vec![Part::Chart(savings(&outcomes)), Part::Table(costs(&outcomes))],
        );
    }
    document.section(
        "time",
        "Over time",
        &["Each point is an interval of the run; the data of each chart has all that was counted in it."],
        over_time(seen),
    );
    document.section(
        "walks",
        "Walks",
        &["How long walks took, and where their references were served."],
        vec![
            Part::Chart(latency(&outcomes)),
            Part::Chart(references(&outcomes)),
            Part::Table(percentiles(&outcomes)),
        ],
    );
    let grids: Vec<Value> = outcomes.iter().filter(|o| o.walks.completed > 0).map(|o| grid(o)).collect();
    if !grids.is_empty() {
        document.section(
            "grid",
            "The average walk",
            &[
                "Rows are the levels of the process's table, columns those of the VM's table; the last row translates \
                 the data page. Each place: cycles per walk, all walks together.",
            ],
            vec![Part::Grids(json!({ "systems": grids, "colors": SERVED }))],
        );
    }
    let views: Vec<_> =
        seen.iter().filter_map(|(o, sight)| Some((o.system.as_str(), sight.view.as_ref()?))).collect();
    if let Some(explorer) = maps::explorer(&views, None) {
        document.section(
            "explorer",
            "Follow a walk",
            &[
                "Pages of this run, with the walks that the machine would make for them at its end. Type an address or \
                 click one of the marks; the page that is nearest is shown.",
            ],
            vec![Part::Explorer(explorer)],
        );
    }
    document.section(
        "memory",
        "Maps of memory",
        &["Drawn from the bits of the tables as they were at the end of the run."],
        maps::memory(seen),
    );
    document.section("numbers", "Numbers", &[], vec![Part::Table(numbers(&outcomes))]);
    document.section(
        "configuration",
        "Configuration",
        &["What ran, exactly. Every number of the machine has its source beside it."],
        configuration(experiment),
    );
    document
}

pub(super) fn stacked(outcomes: &[&Outcome]) -> Chart {
    let mut chart = Chart::new(Mark::Stack, "Cycles per access", &["cycles per access", "system", "part"]);
    chart.colors = colors(&PARTS);
    for o in outcomes {
        for (part, cycles) in cycles(o).into_iter().filter(|(_, cycles)| *cycles > 0.0) {
            chart.row(vec![rounded(cycles), json!(o.system), json!(part)]);
        }
    }
    chart
}

/// The table and level of a place of the grid, as rows name it.
fn level(cell: &CellCounts) -> String {
    match (cell.guest, cell.host) {
        (guest, 0) => format!("process, level {guest}"),
        (_, host) => format!("VM, level {host}"),
    }
}

pub(super) fn inside(outcomes: &[&Outcome]) -> Chart {
    let columns = ["cycles per access", "table and level", "served by", "system", "references per access"];
    let mut chart = Chart::new(Mark::Stack, "Inside the walks: each dimension and level", &columns);
    chart.note = "Cycles of references, those of overlapping walks added up.".to_string();
    chart.facet = Some("system");
    chart.colors = colors(&SERVED[2..]);
    for o in outcomes {
        let mut sums: std::collections::BTreeMap<(bool, u8), [(u64, u64); 7]> =
            std::collections::BTreeMap::new();
        for cell in &o.walks.grid {
            let key = (cell.host > 0, 6 - if cell.host > 0 { cell.host } else { cell.guest });
            let sum = sums.entry(key).or_default();
            for (i, (cycles, n)) in served(&cell.cycles).into_iter().zip(served(&cell.served)).enumerate() {
                sum[i] = (sum[i].0 + cycles, sum[i].1 + n);
            }
        }
        let each = |n: u64| rounded(n as f64 / o.accesses.max(1) as f64);
        for ((host, reversed), sum) in sums {
            let name = format!("{}, level {}", if host { "VM" } else { "process" }, 6 - reversed);
            for ((by, _), (cycles, n)) in SERVED.iter().zip(sum).skip(2).filter(|(_, (_, n))| *n > 0) {
                chart.row(vec![each(cycles), json!(name), json!(by), json!(o.system), each(n)]);
            }
        }
    }
    chart
}

fn savings(outcomes: &[&Outcome]) -> Chart {
    let columns = ["cycles per access more", "system", "part"];
    let mut chart =
        Chart::new(Mark::Stack, "Cycles per access, more or less than under the first system", &columns);
    chart.colors = colors(&PARTS);
    let Some((base, others)) = outcomes.split_first() else { return chart };
    let of_base = cycles(base);
    for o in others {
        for ((part, here), (_, there)) in cycles(o).into_iter().zip(&of_base) {
            if (here - there).abs() > 1e-9 {
                chart.row(vec![rounded(here - there), json!(o.system), json!(part)]);
            }
        }
    }
    chart
}

fn costs(outcomes: &[&Outcome]) -> Table {
    let columns = [
        "system",
        "time, against the first",
        "page tables, KiB",
        "frames used, MiB",
        "frames kept for later, KiB",
        "page faults",
        "cycles per fault",
        "exits",
        "shootdowns",
        "calls of the allocator",
    ];
    let mut table = Table {
        title: "What it costs".to_string(),
        columns: columns.iter().map(ToString::to_string).collect(),
        rows: Vec::new(),
    };
    for o in outcomes {
        let s = &o.software;
        table.rows.push(vec![
            json!(o.system),
            json!(format!("{:.3}", o.slowdown(outcomes[0]))),
            json!(o.tables.total() >> 10),
            json!(s.frames >> 8),
            json!(s.reserved << 2),
            json!(s.page_faults),
            if s.page_faults == 0 {
                Value::Null
            } else {
                rounded(s.cycles_by.faults as f64 / s.page_faults as f64)
            },
            json!(s.exits),
            json!(s.shootdowns),
            json!(s.allocations),
        ]);
    }
    table
}

fn over_time(seen: &[(Outcome, Sight)]) -> Vec<Part> {
    if seen.iter().all(|(_, sight)| sight.series.points.len() < 2) {
        return Vec::new();
    }
    let charts = [
        ("STLB misses per 1000 accesses", false),
        ("Mean cycles of a walk", false),
        ("Cycles per access", false),
        ("Kernel and hypervisor, cycles per access", true),
    ];
    let mut parts = Vec::new();
    for (name, only_if_any) in charts {
        let columns =
            ["accesses", "value", "system", "L1 misses", "STLB misses", "walks", "p50", "p90", "p99"];
        let columns: Vec<&'static str> = columns.into_iter().chain(["faults", "exits", "cycles"]).collect();
        let mut chart = Chart::new(Mark::Line, name, &columns);
        chart.labels = ("accesses counted".to_string(), name.to_string());
        let mut any = false;
        for (outcome, sight) in seen {
            for p in &sight.series.points {
                let c = &p.counts;
                let per = |n: u64, of: u64| if of == 0 { f64::NAN } else { n as f64 / of as f64 };
                let value = match name {
                    "STLB misses per 1000 accesses" => 1000.0 * per(c.stlb_misses, c.accesses),
                    "Mean cycles of a walk" => per(c.walk_pending, c.walks),
                    "Cycles per access" => per(c.cycles, c.accesses),
                    _ => per(c.software, c.accesses),
                };
                any |= value > 0.0;
                let rest = [c.l1_misses, c.stlb_misses, c.walks, p.latency_p50, p.latency_p90, p.latency_p99];
                let rest = rest.into_iter().chain([c.faults, c.exits, c.cycles]).map(Value::from);
                chart.row(
                    [json!(p.until), rounded(value), json!(outcome.system)].into_iter().chain(rest).collect(),
                );
            }
        }
        if any || !only_if_any {
            parts.push(Part::Chart(chart));
        }
    }
    parts
}

fn latency(outcomes: &[&Outcome]) -> Chart {
    let columns = ["cycles", "share of walks", "system", "below", "walks"];
    let mut chart = Chart::new(Mark::Step, "Walks by how long they took", &columns);
    chart.labels = ("cycles of a walk".to_string(), "share of walks".to_string());
    chart.log = (true, false);
    for o in outcomes {
        let total: u64 = o.walks.latency.iter().map(|b| b.walks).sum();
        let mut next = None;
        for b in &o.walks.latency {
            // Where there are none, the line is at 0.
            if let Some(empty) = next.filter(|next| *next < b.from) {
                chart.row(vec![json!(empty), json!(0), json!(o.system), json!(b.from), json!(0)]);
            }
            let share = rounded(b.walks as f64 / total.max(1) as f64);
            chart.row(vec![json!(b.from.max(1)), share, json!(o.system), json!(b.below), json!(b.walks)]);
            next = Some(b.below);
        }
        if let Some(end) = next {
            chart.row(vec![json!(end), json!(0), json!(o.system), json!(end), json!(0)]);
        }
    }
    chart
}

fn references(outcomes: &[&Outcome]) -> Chart {
    let mut chart =
        Chart::new(Mark::Stack, "References of a walk", &["references per walk", "system", "served by"]);
    chart.note = "PWC and nTLB: references that were not made, thanks to those caches.".to_string();
    chart.colors = colors(&SERVED);
    for o in outcomes {
        for ((by, _), n) in SERVED.iter().zip(served(&o.walks.total)).rev().filter(|(_, n)| *n > 0) {
            chart.row(vec![rounded(n as f64 / o.walks.completed.max(1) as f64), json!(o.system), json!(by)]);
        }
    }
    chart
}

fn percentiles(outcomes: &[&Outcome]) -> Table {
    let columns = [
        "system",
        "walks",
        "mean cycles",
        "half within",
        "90 % within",
        "99 % within",
        "STLB misses per 1000",
    ];
    Table {
        title: "Walk latency".to_string(),
        columns: columns.iter().map(ToString::to_string).collect(),
        rows: outcomes
            .iter()
            .map(|o| {
                let w = &o.walks;
                vec![
                    json!(o.system),
                    json!(w.completed),
                    rounded(o.translation.mean_walk),
                    json!(w.latency_p50),
                    json!(w.latency_p90),
                    json!(w.latency_p99),
                    rounded(o.tlb.stlb_per_thousand),
                ]
            })
            .collect(),
    }
}

/// The average walk of a system.
fn grid(o: &Outcome) -> Value {
    let walks = o.walks.completed.max(1) as f64;
    let cell = |cell: &CellCounts| {
        let by = served(&cell.served).map(|n| rounded(n as f64 / walks));
        let cycles: u64 = served(&cell.cycles).iter().sum();
        json!({
            "guest": cell.guest, "host": cell.host, "name": level(cell),
            "cycles": rounded(cycles as f64 / walks), "served": by,
        })
    };
    json!({ "system": o.system, "cells": o.walks.grid.iter().map(cell).collect::<Vec<_>>() })
}

fn numbers(outcomes: &[&Outcome]) -> Table {
    let mut table =
        Table { title: "All systems".to_string(), columns: vec![String::new()], rows: Vec::new() };
    table.columns.extend(outcomes.iter().map(|o| o.system.clone()));
    type Get = fn(&Outcome) -> Value;
    let rows: [(&str, Get); 22] = [
        ("cycles per access", |o| rounded(o.cycles_per_access())),
        ("instructions", |o| json!(o.instructions)),
        ("cycles", |o| json!(o.cycles)),
        ("cycles of the slowest core", |o| json!(o.elapsed_cycles)),
        ("translation, share of cycles", |o| rounded(o.translation.share)),
        ("cycles with a walk in progress", |o| json!(o.translation.walk_active)),
        ("cycles of all walks", |o| json!(o.translation.walk_pending)),
        ("L1 TLB misses", |o| json!(o.tlb.l1_misses)),
        ("STLB misses", |o| json!(o.tlb.stlb_misses)),
        ("STLB hits on another space's entry", |o| json!(o.tlb.shared_hits)),
        ("walks that ended in a leaf", |o| json!(o.walks.completed)),
        ("walks that ended in a fault", |o| json!(o.walks.faulted)),
        ("walks to set D", |o| json!(o.walks.for_dirty)),
        ("references per walk", |o| rounded(o.walks.references_per_walk)),
        ("page faults, counted", |o| json!(o.software.page_faults)),
        ("page faults since the start", |o| json!(o.software.page_faults_in_all)),
        ("exits, counted", |o| json!(o.software.exits)),
        ("exits since the start", |o| json!(o.software.exits_in_all)),
        ("pages copied on a write", |o| json!(o.software.cow_copies)),
        ("page tables of processes, bytes", |o| json!(o.tables.processes)),
        ("page tables of VMs, bytes", |o| json!(o.tables.vms)),
        ("shadow tables, bytes", |o| json!(o.tables.shadow)),
    ];
    for (name, get) in rows {
        table.rows.push(std::iter::once(json!(name)).chain(outcomes.iter().map(|o| get(o))).collect());
    }
    table
}

pub(super) fn configuration(experiment: &Experiment) -> Vec<Part> {
    let facts = experiment.profile.facts();
    let rows = facts
        .iter()
        .map(|f| vec![json!(f.key), json!(f.numbers), json!(f.source), json!(format!("{:?}", f.trust))]);
    let machine = Table {
        title: format!("Machine {}", experiment.profile.name),
        columns: ["part", "value", "source", "trust"].map(str::to_string).to_vec(),
        rows: rows.collect(),
    };
    let mut parts = vec![Part::Table(machine)];
    for system in &experiment.systems {
        let text = serde_json::to_string_pretty(system).unwrap_or_default();
        parts.push(Part::Verbatim { title: format!("System {system}"), text });
    }
    parts
}

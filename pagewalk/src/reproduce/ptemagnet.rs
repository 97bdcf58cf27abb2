//! `pagewalk reproduce ptemagnet`: the paper's numbers beside ours.

use crate::cli::{Output, PteMagnetArgs};
use crate::progress::Bar;
use crate::report::{thousands, under};
use anyhow::Result;
use lab::reproduce::ptemagnet::{self, Choice, Company, Limit, Measured, Pair, Report};
use std::fmt::Write;
use std::path::Path;

/// Runs it and prints it.
pub fn ptemagnet(args: &PteMagnetArgs, html: Option<&Path>, output: Output) -> Result<()> {
    let choice = Choice {
        benchmarks: args.benchmarks.clone(),
        footprint: args.footprint.clone(),
        others: None,
        accesses: args.accesses,
        warmup: args.warmup,
        seed: args.seed,
        verify: args.verify,
    };
    let bar = Bar::new(output.quiet);
    let report = ptemagnet::run(&choice, &mut |p| bar.show(p))?;
    bar.end();
    if let Some(file) = html {
        crate::html::ptemagnet(&report, choice.seed, &text(&report, &choice)).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        return crate::print_json("reproduce ptemagnet", &report);
    }
    crate::show(&text(&report, &choice))
}

/// The change from `a` to `b`, in percent.
fn change(a: f64, b: f64) -> String {
    if a == 0.0 { "-".to_string() } else { format!("{:+.1}%", 100.0 * (b / a - 1.0)) }
}

fn text(report: &Report, choice: &Choice) -> String {
    let mut text = format!(
        "PTEMagnet (ASPLOS 2021) on {}\nGraphs of {}, {} accesses of each benchmark counted after {} of warm-up; \
         other programs on cores of their own.\n\n",
        report.machine,
        choice.footprint,
        thousands(choice.accesses),
        thousands(choice.warmup)
    );
    text += &benchmarks(&report.pairs);
    text += "\nlines: cache lines of host entries per cache line of guest entries, 1 to 8, without and with \
             reservations. The rest is\nthe change that reservations make: cycles with a walk in progress, cycles of \
             references to the VM's table, leaf entries\nof that table served by memory, execution time, blocks handed \
             out by the guest's allocator; kept: the most frames that\nwere reserved and not used, as a share of what \
             the programs fill.\n";
    text.push('\n');
    text += &super::beside(&ptemagnet::published(&report.pairs), false);
    text += &fault(report);
    text += &limits(&report.limits);
    if choice.verify {
        text += "\nThe oracle checked every access of every program and found no mismatch.\n";
    }
    text
}

fn benchmarks(pairs: &[Pair]) -> String {
    let head = ["", "", "lines", "", "walk", "host", "host PTEs", "time", "allocator", "kept"];
    let second = ["", "", "without", "with", "cycles", "cycles", "from memory", "", "calls", ""];
    let row = |Pair { benchmark, company, without, with }: &Pair| {
        let of = |get: fn(&Measured) -> u64| change(get(without) as f64, get(with) as f64);
        vec![
            if *company == Company::Alone { benchmark.clone() } else { String::new() },
            company.name().to_string(),
            format!("{:.2}", without.lines.mean),
            format!("{:.2}", with.lines.mean),
            of(|m| m.walk_cycles),
            of(|m| m.host_cycles),
            of(|m| m.host_from_memory),
            of(|m| m.cycles),
            of(|m| m.allocations),
            format!("{:.2}%", 100.0 * kept(with)),
        ]
    };
    let rows = [second.map(String::from).to_vec()].into_iter().chain(pairs.iter().map(row));
    under(head, rows, 2..)
}

/// The most frames kept unused, as a share of the pages that the programs fill.
fn kept(with: &Measured) -> f64 {
    with.reserved_peak as f64 / with.pages.max(1) as f64
}

fn fault(report: &Report) -> String {
    let f = report.fault;
    format!(
        "\nOur own fault path, by this machine's clock (first touch of a page, best of several runs):\n  \
         {:.0} ns without, {:.0} ns with reservations ({}); with 4 KiB zeroed for each page {:.0} and {:.0} ns \
         ({}).\n  Paper: -0.5% [F:KW], of a program that touches a large array. Allocator calls for 1000 pages: {:.0} \
         and {:.0}.\n",
        f.buddy,
        f.ptemagnet,
        change(f.buddy, f.ptemagnet),
        f.buddy_zeroing,
        f.ptemagnet_zeroing,
        change(f.buddy_zeroing, f.ptemagnet_zeroing),
        f.buddy_calls,
        f.ptemagnet_calls,
    )
}

fn limits(limits: &[Limit]) -> String {
    let mut text = String::from("\nWhere it does not help, without and with reservations:\n");
    for Limit { what, pair } in limits {
        let each = |get: &dyn Fn(&Measured) -> f64| (get(&pair.without), get(&pair.with));
        let lines = each(&|m| m.lines.mean);
        let lines = match pair.without.lines.huge {
            0 => format!("lines {:.2} and {:.2}", lines.0, lines.1),
            _ => "huge pages, whose host entries are neighbours anyway".to_string(),
        };
        let walk = each(&|m| m.walk_cycles as f64 / m.walks.max(1) as f64);
        let host = each(&|m| m.host_cycles as f64 / m.walks.max(1) as f64);
        let _ = writeln!(
            text,
            "  {}, {what}:\n    {lines}; {} and {} walks, of {:.0} and {:.0} cycles ({}), {:.0} and {:.0} in the VM's table",
            pair.benchmark,
            thousands(pair.without.walks),
            thousands(pair.with.walks),
            walk.0,
            walk.1,
            change(walk.0, walk.1),
            host.0,
            host.1,
        );
    }
    text
}

//! `reproduce direct-segments`: the paper's questions, its answers, and ours.

use crate::cli::Output;
use crate::progress::Bar;
use anyhow::{Result, bail};
use lab::reproduce::segments::{self, BAD, BadFrames, Ballooning, CLASSES, ClassReport, FILTERS};
use std::fmt::Write;
use std::path::Path;

/// What is printed.
#[derive(serde::Serialize)]
struct Report {
    /// A class of programs each.
    classes: Vec<ClassReport>,
    /// What comes out over all classes.
    averages: segments::Averages,
    /// Segments in memory with faulty frames.
    bad_frames: Vec<BadFrames>,
    /// Segments of memory that was in pieces.
    ballooning: Vec<Ballooning>,
}

/// Runs and prints it, class by class.
pub fn direct_segments(names: &[String], footprint: &str, html: Option<&Path>, output: Output) -> Result<()> {
    let known = CLASSES.map(|class| class.name);
    let parts = ["bad-frames", "ballooning"];
    let is_known = |name: &&String| known.iter().chain(&parts).any(|k| k.starts_with(name.as_str()));
    if let Some(wrong) = names.iter().find(|name| !is_known(name)) {
        bail!("there is no class `{wrong}`; there are {}, {}", known.join(", "), parts.join(", "));
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| name.starts_with(n.as_str()));
    let bar = Bar::new(output.quiet);
    let mut all = String::new();
    let mut say = |text: String| {
        all += &text;
        if output.json { Ok(()) } else { crate::show(&text) }
    };
    say(INTRODUCTION.to_string())?;
    let mut classes = Vec::new();
    for class in CLASSES.into_iter().filter(|class| wanted(class.name)) {
        bar.what(class.name);
        let report = segments::class(class, footprint, &[], segments::ACCESSES, &mut |p| bar.show(p))?;
        say(class_text(&report))?;
        classes.push(report);
    }
    let averages = segments::averages(&classes);
    if !classes.is_empty() {
        say(averages_text(&averages, classes.len()))?;
    }
    let mut bad_frames = Vec::new();
    if wanted("bad-frames") {
        bar.what("bad frames");
        bad_frames =
            segments::bad_frames(footprint, &FILTERS, &BAD, segments::ACCESSES, &mut |p| bar.show(p))?;
        say(bad_text(&bad_frames))?;
    }
    let mut ballooning = Vec::new();
    if wanted("ballooning") {
        bar.what("self-ballooning");
        ballooning = segments::ballooning(footprint)?;
        say(balloon_text(&ballooning, footprint))?;
    }
    bar.end();
    if let Some(file) = html {
        crate::html::segments(&classes, &all).write(file)?;
        crate::said(file, output);
    }
    if output.json {
        let report = Report { classes, averages, bad_frames, ballooning };
        return crate::print_json("reproduce direct-segments", &report);
    }
    Ok(())
}

const INTRODUCTION: &str = "\
Efficient Memory Virtualization (Gandhi, Basu, Hill, Swift; MICRO 2014) on its machine, sandy-bridge-en.
Overhead: cycles more than those of the fastest system, of which next to nothing is translation.
Linear: the paper's model, from our counts of misses and cycles per miss. Paper: with how far to trust the
number (docs/direct-segments.md); most of its table is not known to us.
";

fn percent(x: f64) -> String {
    if x.abs() < 0.1 { format!("{:.1} %", 100.0 * x) } else { format!("{:.0} %", 100.0 * x) }
}

fn class_text(report: &ClassReport) -> String {
    let mut text = format!(
        "\n{} ({}): {:.1} cycles per access at best\n{:>8}  {:22}{:>9}{:>9}{:>9}{:>8}{:>9}{:>8}{:>8}\n",
        report.class.name,
        report.workload,
        report.ideal,
        "",
        "",
        "overhead",
        "linear",
        "paper",
        "off",
        "misses/k",
        "walk",
        "refs"
    );
    for row in &report.rows {
        let linear = row.linear.map_or(String::new(), percent);
        let (paper, off) = match row.paper {
            Some((value, tag)) => (
                format!("{} {tag}", percent(value)),
                format!("{:+.0} %", 100.0 * (row.overhead / value - 1.0)),
            ),
            None => (String::new(), String::new()),
        };
        let _ = writeln!(
            text,
            "{:>8}  {:22}{:>9}{linear:>9}{paper:>12}{off:>8}{:>9.2}{:>8.0}{:>8.2}",
            row.label,
            row.system,
            percent(row.overhead),
            row.misses,
            row.walk,
            row.references
        );
    }
    for (label, why) in &report.refused {
        let _ = writeln!(text, "{label:>8}  {why}");
    }
    text
}

fn averages_text(a: &segments::Averages, count: usize) -> String {
    format!(
        "\nover {count} classes{:>44}{:>9}\n\
         4K+4K over 4K, geometric mean of overheads{:>20}{:>14}\n\
         VMM Direct against native, mean{:>31}{:>14}\n\
         Dual Direct, big memory, mean overhead{:>24}{:>14}\n",
        "ours",
        "paper",
        format!("{:.1}x", a.virtualisation),
        "3.6x [M-m]",
        format!("{:+.1} %", 100.0 * a.vmm_direct),
        "+2 % [F:abs]",
        percent(a.dual_direct),
        "~0 % [F:abs]"
    )
}

fn bad_text(rows: &[BadFrames]) -> String {
    let mut text = format!(
        "\nfaulty frames in random places, GUPS (paper: 16 cost about 0.06 % [M-l], well below 0.5 % [M-m])\n\
         {:14}{:>8}{:>8}{:>12}{:>11}{:>17}{:>12}  {}\n",
        "", "filter", "faulty", "slow-down", "mapping", "false positives", "escapes/k", "how pages left"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:14}{:>8}{:>8}{:>12}{:>11}{:>17}{:>12.3}  {}",
            row.system,
            row.filter,
            row.bad,
            format!("{:+.2} %", 100.0 * row.slowdown),
            format!("{:+.2} %", 100.0 * row.mapping),
            format!("{:.3} %", 100.0 * row.false_positives),
            row.escapes,
            row.departures
        );
    }
    text + "mapping: exits that map false positives when they are first touched, each once; not in the slow-down.\n"
}

fn balloon_text(rows: &[Ballooning], footprint: &str) -> String {
    let mut text = format!(
        "\nself-ballooning for a primary region of {footprint}, by fragmentation of the guest's memory\n\
         {:>10}  {:16}{:>14}{:>18}{:>16}\n",
        "level", "mode", "ballooned", "guest segment", "VMM segment"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:>10.2}  {:16}{:>14}{:>18}{:>16}{}",
            row.fragmentation,
            row.mode,
            crate::report::bytes(row.ballooned * 4096),
            format!("{:.0} ms", row.guest_ms),
            format!("{:.0} ms", row.vmm_ms),
            row.refused.as_ref().map(|why| format!("  {why}")).unwrap_or_default()
        );
    }
    text + "Times are of the model: faults, copies, zeroing and hypercalls; a hot-add's own page structures are not charged.\n"
}

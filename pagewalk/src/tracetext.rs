//! What is in a trace, as a person reads it.

use crate::report::{bytes, thousands};
use std::fmt::Write;
use trace::summary::{Info, Stat};

/// Rows of the footprint that are shown.
const ROWS: usize = 16;

/// `pagewalk trace info`.
pub fn info(info: &Info) -> String {
    let mut text = format!("{}\n", info.path);
    let packed = match info.facts.compression.to_string().as_str() {
        "none" => String::new(),
        packed => format!(", {packed}"),
    };
    line(&mut text, "format", &format!("{}{packed}", info.facts.format));
    line(&mut text, "size", &format!("{} bytes", thousands(info.bytes)));
    if let Some(command) = &info.facts.command {
        line(&mut text, "command", command);
    }
    let accesses = info.counted.as_ref().map(|c| c.accesses).or(info.accesses);
    let accesses = match accesses {
        Some(n) => format!("{}, {:.2} bytes each", thousands(n), info.bytes as f64 / n.max(1) as f64),
        None => "not told by the format; without --quick they are counted".to_string(),
    };
    line(&mut text, "accesses", &accesses);
    match &info.counted {
        Some(c) => {
            let (threads, processes) = (thousands(c.threads as u64), c.processes);
            line(&mut text, "threads", &format!("{threads} in {processes} process{}", plural(processes)));
            line(&mut text, "pages", &format!("{} of 4 KiB ({})", thousands(c.pages), bytes(c.pages * 4096)));
        }
        None => line(&mut text, "threads", &format!("{} at the start", info.threads)),
    }
    for process in info.processes.iter().filter(|p| p.regions > 0) {
        let mapped = bytes(process.mapped_bytes);
        line(&mut text, "mapped", &format!("{}: {} regions, {mapped}", process.name, process.regions));
    }
    for note in &info.facts.notes {
        line(&mut text, "note", note);
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<13}{value}");
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "es" }
}

fn share(part: u64, all: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64)
}

/// `pagewalk trace stat`.
pub fn stat(stat: &Stat) -> String {
    let mut text = info(&stat.info);
    let kinds = &stat.kinds;
    let mut mix = Vec::new();
    let all = [
        ("reads", kinds.reads),
        ("writes", kinds.writes),
        ("modifies", kinds.modifies),
        ("fetches", kinds.fetches),
    ];
    for (name, n) in all {
        if n > 0 {
            mix.push(format!("{} {name} ({})", thousands(n), share(n, stat.accesses)));
        }
    }
    line(&mut text, "mix", &mix.join(", "));
    line(&mut text, "instructions", &thousands(stat.instructions));
    let [small, large, huge] = stat.pages;
    line(
        &mut text,
        "larger pages",
        &format!("{} of 2 MiB, {} of 1 GiB hold those {}", large, huge, thousands(small as u64)),
    );
    if stat.pages_are_capped {
        line(&mut text, "note", "too many pages to tell all apart: pages and reuse are lower bounds");
    }
    if stat.threads.len() > 1 {
        text += "\naccesses by thread\n";
        for (index, thread) in stat.threads.iter().enumerate().take(64) {
            let n = thousands(thread.accesses);
            let _ = writeln!(text, "  {index:>6}  {n:>16}  {:>7}", share(thread.accesses, stat.accesses));
        }
    }
    text += "\nfootprint over time\n";
    let _ = writeln!(text, "  {:>16}  {:>12}  of 4 KiB", "accesses", "pages");
    let most = stat.footprint.last().map_or(1, |p| p.pages).max(1);
    let step = stat.footprint.len().div_ceil(ROWS).max(1);
    for point in stat.footprint.iter().rev().step_by(step).collect::<Vec<_>>().into_iter().rev() {
        let (accesses, pages) = (thousands(point.accesses), thousands(point.pages as u64));
        let _ = writeln!(text, "  {accesses:>16}  {pages:>12}  {}", "#".repeat(point.pages * 40 / most));
    }
    text += "\npage reuse: other pages since the page was touched last\n";
    histogram(&mut text, &stat.reuse_distance, stat.accesses, |bin| match bin {
        0 => "0".to_string(),
        1 => "1".to_string(),
        bin => format!("{} to {}", thousands(1 << (bin - 1)), thousands((1 << bin) - 1)),
    });
    let first = stat.accesses - stat.reuse_distance.iter().sum::<u64>();
    let _ = writeln!(
        text,
        "  {:>24}  {:>16}  {:>7}",
        "first touch",
        thousands(first),
        share(first, stat.accesses)
    );
    text += "\npages by how often they are touched\n";
    histogram(&mut text, &stat.touches, small as u64, |bin| match bin {
        0 => "once".to_string(),
        bin => format!("{} to {}", thousands(1 << bin), thousands((2 << bin) - 1)),
    });
    text
}

fn histogram(text: &mut String, counts: &[u64], all: u64, name: impl Fn(usize) -> String) {
    for (bin, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let _ = writeln!(text, "  {:>24}  {:>16}  {:>7}", name(bin), thousands(n), share(n, all));
    }
}

//! Walks in time, for Perfetto: its JSON import ("Trace Event Format"), which ui.perfetto.dev opens.
//!
//! A process is a system, a thread a walker of a core; a slice is a walk, and the slices below it are its steps.
//! A microsecond of the timeline is a cycle: viewers count in whole nanoseconds, in which steps of a few cycles
//! would vanish, or overlap, and slices that overlap are dropped.

use anyhow::{Context, Result};
use lab::Outcome;
use lab::look::Sight;
use machine::explain::{Recorded, Step, What};
use machine::timing::TICKS;
use serde_json::{Value, json};
use std::path::Path;

/// Writes the recorded walks.
pub fn write(seen: &[(Outcome, Sight)], file: &Path) -> Result<()> {
    let mut events = Vec::new();
    let mut event = |event: Value| events.push(event.to_string());
    for (index, (outcome, sight)) in seen.iter().enumerate() {
        let pid = index + 1;
        event(json!({ "ph": "M", "pid": pid, "name": "process_name", "args": { "name": outcome.system } }));
        let at = json!({ "sort_index": index });
        event(json!({ "ph": "M", "pid": pid, "name": "process_sort_index", "args": at }));
        let unit = format!("1 us is 1 cycle of {} MHz", sight.mhz);
        event(json!({ "ph": "M", "pid": pid, "name": "process_labels", "args": { "labels": unit } }));
        for (core, walks) in sight.walks.iter().enumerate() {
            // A core's clock tells nothing about another's before they meet: each begins at 0.
            let begin = walks.iter().map(|walk| walk.start).min().unwrap_or(0);
            let walkers = walks.iter().map(|walk| walk.walker + 1).max().unwrap_or(0);
            for walker in 0..walkers {
                let name = format!("core {core}, walker {walker}");
                let tid = thread(pid, core, walker);
                let named = json!({ "name": name });
                event(json!({ "ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": named }));
                let at = json!({ "sort_index": tid });
                event(json!({ "ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": at }));
            }
            for walk in walks {
                for slice in slices(walk, begin, pid, thread(pid, core, walk.walker)) {
                    event(slice);
                }
            }
        }
    }
    let text = format!("{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n{}\n]}}\n", events.join(",\n"));
    crate::write_whole(file, text.as_bytes())
        .with_context(|| format!("cannot write the timeline `{}`", file.display()))
}

/// Different in all processes, and from their numbers: Perfetto knows threads by this alone, and takes one that has its
/// process's number for the main thread.
fn thread(pid: usize, core: usize, walker: usize) -> usize {
    (pid << 16) + core * 16 + walker + 1
}

fn slices(walk: &Recorded, begin: u64, pid: usize, tid: usize) -> Vec<Value> {
    let mut at = (walk.start - begin) / TICKS;
    let slice = |at: u64, cycles: u64, name: String, args: Value| json!({ "ph": "X", "cat": "walk", "pid": pid, "tid": tid, "ts": at, "dur": cycles, "name": name, "args": args });
    let all = &walk.walk;
    let end = match all.end {
        Ok(leaf) => format!("page of {} at frame {:#x}", leaf.size, leaf.frame.number()),
        Err(fault) => format!("fault: {fault:?}"),
    };
    let what = match walk.intent {
        i if i.fetch => "fetch",
        i if i.write => "write",
        _ => "read",
    };
    let args = json!({
        "va": format!("{:#x}", walk.va.raw()), "for": what, "cycles": all.cycles(),
        "references": all.references(), "end": end,
    });
    let mut slices = vec![slice(at, all.cycles(), format!("{:#x}", walk.va.page() << 12), args)];
    for step in &all.steps {
        let (name, args) = described(step);
        slices.push(slice(at, step.cycles, name, args));
        at += step.cycles;
    }
    slices
}

fn described(step: &Step) -> (String, Value) {
    let cycles = step.cycles;
    match step.what {
        What::Reference { cell, at, node, served, .. } => {
            let table = match (cell.guest, cell.host) {
                (level, 0) => format!("process L{level}"),
                (0, level) => format!("VM L{level} for data"),
                (row, level) => format!("VM L{level} for process L{row}"),
            };
            let args = json!({
                "hpa": format!("{:#x}", at.raw()), "node": node.0, "served": served.name(), "cycles": cycles,
            });
            (format!("{table}: {}", served.name()), args)
        }
        What::Side { at, node, served, .. } => {
            let args = json!({
                "hpa": format!("{:#x}", at.raw()), "node": node.0, "served": served.name(), "cycles": cycles,
            });
            (format!("tag: {}", served.name()), args)
        }
        What::WalkCache { from, down_to, .. } => {
            (format!("PWC skips L{from} to L{down_to}"), json!({ "cycles": cycles }))
        }
        What::NestedTlb { row, gpa } => {
            let args = json!({ "gpa": format!("{:#x}", gpa.raw()), "row": row, "cycles": cycles });
            ("nTLB".to_string(), args)
        }
        What::Check(check) => (format!("check {check:?}"), json!({ "cycles": cycles })),
    }
}

//! Walks and maps of memory for the report: what was seen at the end of a run, made small.

use super::Part;
use lab::Outcome;
use lab::look::{PageView, Sight, StepView, View, WalkView};
use lab::world::TableDump;
use machine::metrics::Served;
use serde_json::{Value, json};

/// The walk explorer's data, by system; `None` if no page was looked at. It begins with the page of `first`.
pub fn explorer(views: &[(&str, &View)], first: Option<(u16, u64)>) -> Option<Value> {
    if views.iter().all(|(_, view)| view.pages.is_empty()) {
        return None;
    }
    let regions: Vec<Value> = views
        .first()?
        .1
        .regions
        .iter()
        .map(|r| json!([r.process, format!("{:x}", r.start), format!("{:x}", r.end), r.name]))
        .collect();
    let systems: Vec<Value> = views
        .iter()
        .map(|(name, view)| json!({ "name": name, "pages": view.pages.iter().map(page).collect::<Vec<_>>() }))
        .collect();
    let first = first.map(|(process, va)| json!([process, format!("{va:x}")]));
    Some(json!({
        "regions": regions, "systems": systems, "served": Served::ALL.map(Served::name), "first": first,
    }))
}

fn page(p: &PageView) -> Value {
    json!([
        p.process,
        format!("{:x}", p.va),
        p.bytes,
        format!("{:x}", p.frame),
        p.node,
        u8::from(p.writable),
        p.in_tlb.unwrap_or(0),
        walk(&p.warm),
        walk(&p.cold),
    ])
}

/// A walk; its steps as lists, the first element of which tells what they are.
fn walk(w: &WalkView) -> Value {
    let step = |step: &StepView| match step {
        StepView::Reference { guest, host, hpa, gpa, node, served, entry, cycles } => {
            let by = Served::ALL.iter().position(|s| s.name() == *served);
            let gpa = gpa.map(|gpa| format!("{gpa:x}"));
            json!([0, guest, host, format!("{hpa:x}"), gpa, node, by, cycles, format!("{:x}", entry.0)])
        }
        StepView::Side { guest, hpa, node, served, cycles } => {
            let of = if *guest == 0 { "data page".to_string() } else { format!("L{guest} table") };
            json!([3, format!("tag of the {of} at {hpa:x}, node {node}, from {served}"), cycles])
        }
        StepView::WalkCache { host_dimension, row, skipped_from, skipped_to, cycles } => {
            json!([1, u8::from(*host_dimension), row, skipped_from, skipped_to, cycles])
        }
        StepView::NestedTlb { row, gpa, cycles } => json!([2, row, format!("{gpa:x}"), cycles]),
        StepView::Check { check, cycles } => json!([3, check, cycles]),
    };
    json!([w.cycles, w.references, w.steps.iter().map(step).collect::<Vec<_>>()])
}

/// Whether tables or data are on more than one node: otherwise there is nothing to see.
fn several_nodes(dump: &TableDump) -> bool {
    let nodes = dump.walkers.len();
    let used = |node: &usize| {
        dump.tables.iter().any(|level| level.sockets[*node].pages > 0)
            || dump.data.iter().any(|data| data.pages[*node] > 0)
    };
    (0..nodes).filter(used).count() > 1
}

/// Maps that a run has something to draw in.
pub fn memory(seen: &[(Outcome, Sight)]) -> Vec<Part> {
    let mut parts = Vec::new();
    let views: Vec<_> = seen.iter().filter_map(|(o, sight)| Some((o, sight.view.as_ref()?))).collect();
    let lines: Vec<Value> = views
        .iter()
        // Behind a VMM's segment, next to no page has a host entry.
        .filter(|(_, view)| view.lines.iter().flat_map(|line| line.entries).flatten().count() > 8)
        .map(|(o, view)| {
            let mean = o.host_lines.map(|lines| lines.mean);
            let lines: Vec<Value> = view
                .lines
                .iter()
                .map(|line| {
                    let entry = |e: &lab::look::HostEntry| {
                        json!([format!("{:x}", e.gfn), format!("{:x}", e.hfn), format!("{:x}", e.at)])
                    };
                    let entries: Vec<_> = line.entries.iter().map(|e| e.as_ref().map(entry)).collect();
                    json!([format!("{:x}", line.va), entries])
                })
                .collect();
            json!({ "name": o.system, "mean": mean, "lines": lines })
        })
        .collect();
    if !lines.is_empty() {
        parts.push(Part::Lines(json!({ "systems": lines })));
    }
    // Systems that use one node stand beside those that use more.
    let apart = views.iter().any(|(_, view)| view.tables.iter().any(several_nodes));
    let nodes: Vec<Value> = views
        .iter()
        .filter(|_| apart)
        .map(|(o, view)| json!({ "name": o.system, "dumps": view.tables }))
        .collect();
    if !nodes.is_empty() {
        parts.push(Part::Nodes(json!({ "systems": nodes })));
    }
    let sharing = views.iter().any(|(_, view)| view.leaf_tables.uses > view.leaf_tables.frames);
    let shared: Vec<Value> = views
        .iter()
        .filter(|(_, view)| sharing && view.leaf_tables.processes.len() > 1)
        .map(|(o, view)| {
            let t = &view.leaf_tables;
            let hex = |(at, frames): &(u64, Vec<Option<u64>>)| {
                let frames: Vec<_> = frames.iter().map(|f| f.map(|f| format!("{f:x}"))).collect();
                json!([format!("{at:x}"), frames])
            };
            let tables: Vec<Value> = t.tables.iter().map(hex).collect();
            json!({
                "name": o.system, "processes": t.processes, "uses": t.uses, "frames": t.frames, "tables": tables,
            })
        })
        .collect();
    if !shared.is_empty() {
        parts.push(Part::Shared(json!({ "systems": shared })));
    }
    let segments: Vec<Value> = views
        .iter()
        .filter(|(_, view)| !view.segments.is_empty())
        .map(|(o, view)| json!({ "name": o.system, "segments": view.segments, "outcome": o.segments }))
        .collect();
    if !segments.is_empty() {
        parts.push(Part::Segments(json!({ "systems": segments })));
    }
    parts
}

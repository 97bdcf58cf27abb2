//! The timeline of walks, field by field, against the "Trace Event Format" (Google, 2016), which Perfetto imports.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

fn timeline() -> Value {
    let file = std::env::temp_dir().join(format!("pagewalk-{}-timeline.json", std::process::id()));
    let out = Command::new(env!("CARGO_BIN_EXE_pagewalk"))
        .args([
            "compare",
            "native",
            "nested",
            "passthrough",
            "dual-direct",
            "-q",
            "-n",
            "5k",
            "--warmup",
            "1k",
        ])
        .args(["-w", "gups:footprint=16MiB,threads=2", "--perfetto-walks", "50", "--perfetto"])
        .arg(&file)
        .output()
        .expect("pagewalk");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read_to_string(&file).expect("a timeline");
    let _ = std::fs::remove_file(&file);
    serde_json::from_str(&text).expect("JSON")
}

/// A process or thread id: positive, and of 32 bits, as an operating system's is.
fn id(event: &Map<String, Value>, name: &str) -> u64 {
    let id = event.get(name).and_then(Value::as_u64).unwrap_or_else(|| panic!("{name} of {event:?}"));
    assert!(id > 0 && i32::try_from(id).is_ok(), "{event:?}");
    id
}

fn text<'a>(event: &'a Map<String, Value>, name: &str) -> &'a str {
    let text = event.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("{name} of {event:?}"));
    assert!(!text.is_empty(), "{event:?}");
    text
}

fn only(event: &Map<String, Value>, known: &[&str]) {
    let unknown: Vec<_> = event.keys().filter(|key| !known.contains(&key.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?} in {event:?}");
}

#[test]
fn the_timeline_keeps_the_rules_of_its_format() {
    let timeline = timeline();
    // "JSON Object Format": `traceEvents` must be there; `displayTimeUnit` is "ms" or "ns".
    only(timeline.as_object().expect("an object"), &["traceEvents", "displayTimeUnit"]);
    assert!(["ms", "ns"].contains(&timeline["displayTimeUnit"].as_str().expect("a unit")));
    let mut processes = BTreeMap::new();
    let mut threads = BTreeMap::new();
    let mut slices: BTreeMap<(u64, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for event in timeline["traceEvents"].as_array().expect("events") {
        let event = event.as_object().expect("an object");
        let (pid, name) = (id(event, "pid"), text(event, "name"));
        let args = event["args"].as_object().expect("args");
        match text(event, "ph") {
            // "Metadata Events": which, of what, and the argument that each must have.
            "M" => {
                only(event, &["ph", "pid", "tid", "name", "args"]);
                match name {
                    "process_name" => {
                        let known = processes.insert(pid, text(args, "name").to_string());
                        assert!(known.is_none(), "two names of {pid}");
                    }
                    "thread_name" => {
                        let of = (pid, id(event, "tid"));
                        assert!(threads.insert(of, text(args, "name").to_string()).is_none(), "{of:?}");
                    }
                    "process_labels" => assert!(text(args, "labels").contains("1 us is 1 cycle")),
                    "process_sort_index" => assert!(args["sort_index"].is_u64()),
                    "thread_sort_index" => {
                        assert!(args["sort_index"].is_u64());
                        id(event, "tid");
                    }
                    other => panic!("no metadata event is called {other}"),
                }
            }
            // "Complete Events": `ts` and `dur` in microseconds.
            "X" => {
                only(event, &["ph", "cat", "pid", "tid", "ts", "dur", "name", "args"]);
                assert_eq!(text(event, "cat"), "walk");
                let (ts, dur) = (event["ts"].as_u64().expect("ts"), event["dur"].as_u64().expect("dur"));
                assert!(args.contains_key("cycles") && args["cycles"] == dur, "{event:?}");
                slices.entry((pid, id(event, "tid"))).or_default().push((ts, ts + dur));
            }
            other => panic!("no event of phase {other} is written"),
        }
    }
    let names: Vec<&str> = processes.values().map(String::as_str).collect();
    assert_eq!(names, ["native", "nested", "passthrough", "dual-direct"], "in the order that was asked for");
    // Perfetto's tables know a thread by its number alone, and take one that has its process's for the main thread.
    let numbers: BTreeSet<u64> = threads.keys().map(|(_, tid)| *tid).collect();
    assert_eq!(numbers.len(), threads.len(), "{threads:?}");
    assert!(numbers.iter().all(|tid| !processes.contains_key(tid)), "{numbers:?}");
    assert!(slices.len() > 3, "walks of several walkers");
    for (of, slices) in slices {
        assert!(processes.contains_key(&of.0) && threads.contains_key(&of), "{of:?} has no name");
        // Slices of a thread are within each other or apart; Perfetto drops what is neither.
        let mut open: Vec<u64> = Vec::new();
        let mut before = 0;
        for (from, to) in slices {
            assert!(from >= before, "{of:?}: in the order of time");
            before = from;
            while open.last().is_some_and(|end| *end <= from) {
                open.pop();
            }
            assert!(
                open.last().is_none_or(|end| to <= *end),
                "{of:?}: {from} to {to} in one that ends before"
            );
            open.push(to);
        }
    }
}

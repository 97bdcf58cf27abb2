//! Translation Pass-Through under the oracle, with its switches and with what it goes together with; and the
//! schemes that it must beat.

use lab::System;
use lab::experiment::{self, Experiment};
use machine::explain::What;
use machine::input::{Block, More};
use machine::profile::Profile;
use paging::{Check, Va};
use std::ops::ControlFlow;

fn experiment(systems: &[&str], machine: &str, warmup: u64, accesses: u64) -> Experiment {
    Experiment {
        warmup,
        accesses: Some(accesses),
        seed: 7,
        verify: true,
        ..Experiment::new(
            Profile::builtin(machine).unwrap(),
            systems.iter().map(|s| System::parse(s).unwrap()),
        )
    }
}

fn run(systems: &[&str], workload: &str, warmup: u64, accesses: u64) -> Vec<lab::Outcome> {
    let experiment = experiment(systems, "haswell-ex", warmup, accesses);
    let mut source = workloads::build(workload, 7).unwrap();
    experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap()
}

const SYSTEMS: [&str; 26] = [
    "shadow",
    "shadow-thp-thp+trap-each",
    "agile",
    "agile-thp-4k",
    "agile-thp-thp+5level",
    "agile+vnuma+numa-balancing+host-mitosis",
    "passthrough",
    "passthrough+twin-free",
    "passthrough-4k-thp+twin-free+host-numa-balancing",
    "passthrough+vnuma+spread+mitosis+twin-free",
    "passthrough+spread+mitosis=no-p+twin-free",
    "passthrough+vnuma+spread+mitosis=lazy+twin-free",
    "passthrough+vnuma+spread+mitosis=auto+twin-free",
    "passthrough+vnuma+spread+numa-balancing+vmitosis+twin-free",
    "passthrough-thp-4k",
    "passthrough-4k-thp",
    "passthrough-thp-thp",
    "passthrough+5level",
    "passthrough+no-table-check+fast-entry",
    "passthrough+overlapped-check",
    "passthrough-thp-4k+frag=0.5+host-frag=0.5",
    "passthrough+vnuma+numa-balancing+host-mitosis",
    "passthrough+host-numa-balancing+host-placement=interleave",
    "passthrough+ptemagnet",
    "passthrough+enlightened=0",
    "passthrough+enlightened=1",
];

#[test]
fn every_workload_passes_the_oracle() {
    for workload in workloads::list() {
        for o in run(&["passthrough-thp-4k"], workload.name, 0, 10_000) {
            assert!(o.verified >= Some(10_000), "{} under {}", workload.name, o.system);
        }
    }
}

#[test]
fn every_combination_passes_the_oracle() {
    // One that forks, maps and unmaps; one that grows; one that only reads and writes.
    for workload in ["churn", "growkv", "zipf:footprint=64MiB"] {
        for o in run(&SYSTEMS, workload, 5_000, 15_000) {
            assert!(o.verified >= Some(15_000), "{workload} under {}", o.system);
            let Some(passed) = o.passthrough else { continue };
            assert_eq!(passed.entered > 0, o.system != "passthrough+enlightened=0", "{}", o.system);
        }
    }
}

/// In pass-through the walks of a replicated table stay on the node, but for the tags of remote frames.
#[test]
fn tables_that_name_host_frames_can_be_on_every_node() {
    let systems = ["passthrough+vnuma+spread+twin-free", "passthrough+vnuma+spread+mitosis+twin-free"];
    for workload in ["turmoil:footprint=16MiB,period=40,processes=3", "gups:footprint=1GiB,threads=4"] {
        let [one, copies] = &run(&systems, workload, 0, 30_000)[..] else { unreachable!("two systems") };
        assert!(one.verified >= Some(30_000) && copies.verified >= Some(30_000), "{workload}");
        if workload.starts_with("gups") {
            let remote = |o: &lab::Outcome| o.walks.total.remote as f64;
            assert!(remote(copies) < 0.8 * remote(one), "{} of {}", remote(copies), remote(one));
        }
    }
}

#[test]
fn a_vm_that_migrates_live_falls_back_and_returns() {
    let systems = ["passthrough+live-migration", "passthrough-thp-thp+live-migration"];
    for o in run(&systems, "zipf:footprint=64MiB", 0, 5 << 20) {
        let passed = o.passthrough.expect("it is passed through");
        assert!(passed.suspended >= 2 && passed.revoked > 1000, "{passed:?}");
    }
}

#[test]
fn a_walk_has_one_dimension_and_a_check_for_each_frame() {
    for (name, checks) in [("passthrough", 5), ("passthrough+no-table-check", 1)] {
        let system = System::parse(name).unwrap();
        let mut source = workloads::build("gups:footprint=64MiB", 7).unwrap();
        let setup = source.setup().unwrap();
        let experiment = experiment(&[name], "haswell-ex", 0, 0);
        let mut world = experiment::world(&experiment, system, &setup).unwrap();
        let mut block = Block::new();
        assert_eq!(source.fill(&mut block).unwrap(), More::Yes);
        world.run(&block).unwrap();
        assert_eq!(world.check_passthrough(), Some(Ok(())));
        let va: Va = setup.processes[0].regions[0].start;
        let walk = world.explain(0, va, true).unwrap();
        let tables = walk.steps.iter().filter(|s| matches!(s.what, What::Reference { .. })).count();
        let tags = walk.steps.iter().filter(|s| matches!(s.what, What::Side { .. })).count();
        let compared = walk.steps.iter().filter(|s| s.what == What::Check(Check::FrameTag)).count();
        assert_eq!((tables, tags, compared), (4, checks, checks), "{:?}", walk.steps);
    }
}

#[test]
fn tags_that_are_looked_up_beside_the_loads_take_less_time_and_no_fewer_references() {
    let systems = ["native", "passthrough+fast-entry+overlapped-check", "passthrough+fast-entry"];
    let [native, overlapped, serial] = &run(&systems, "gups:footprint=128MiB", 300_000, 50_000)[..] else {
        panic!("three")
    };
    assert_eq!(overlapped.walks.checks, serial.walks.checks);
    assert_eq!(overlapped.walks.references_per_walk, serial.walks.references_per_walk);
    let cycles = [native, overlapped, serial].map(lab::outcome::Outcome::cycles_per_access);
    assert!(cycles.is_sorted(), "{cycles:?}");
    assert!(cycles[1] < cycles[2] * 0.95, "{cycles:?}");
}

#[test]
fn memory_is_what_was_promised() {
    let o = run(&["passthrough"], "gups:footprint=1GiB", 0, 1000).remove(0);
    let p = o.passthrough.expect("it is passed through");
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole as f64;
    assert!((percent(p.array_bytes, p.guest_bytes) - 0.195).abs() < 0.01, "{p:?}");
    assert!((percent(p.twin_bytes, p.mapped_bytes) - 0.2).abs() < 0.02, "{p:?}");
    assert!((percent(p.tag_bytes, p.host_bytes) - 0.39).abs() < 0.01, "{p:?}");
}

/// A huge page passes whole where the host's page is as large; else the twin has a table of the largest that do.
#[test]
fn huge_pages_pass_where_the_host_has_them() {
    let cases = [
        ("passthrough-4k-1g", "1g", 0),
        ("passthrough-4k-2m", "1g", 1),
        ("passthrough", "1g", 1 + 512),
        ("passthrough-4k-2m", "2m", 0),
        ("passthrough", "2m", 512),
    ];
    for (system, pages, splinters) in cases {
        let o = run(&[system], &format!("gups:footprint=1GiB,advice={pages}"), 0, 10_000).remove(0);
        assert!(o.verified >= Some(10_000), "{system}, {pages}");
        let tables = o.passthrough.map(|p| p.splinter_bytes / 4096);
        assert_eq!(tables, Some(splinters), "{system}, {pages}");
    }
}

#[test]
fn exits_are_counted_by_what_they_were_for() {
    let systems = [
        "nested",
        "shadow",
        "shadow+trap-each",
        "passthrough",
        "passthrough+fast-entry",
        "passthrough+live-migration",
    ];
    let outcomes = run(&systems, "turmoil:footprint=16MiB,period=40", 0, 30_000);
    for o in &outcomes {
        let sum: u64 = o.software.exits_by.named().iter().map(|(_, exits)| exits).sum();
        assert_eq!(sum, o.software.exits, "{}", o.system);
        assert!(o.software.exits_by.vm_table > 0, "{}", o.system);
    }
    let by: Vec<_> = outcomes.iter().map(|o| o.software.exits_by).collect();
    let [nested, unsync, each, passed, fast, _] = by[..] else { unreachable!("six systems") };
    assert_eq!(nested.vm_table, outcomes[0].software.exits);
    assert!(unsync.shadow_faults > 0 && unsync.root_loads > 0 && unsync.invalidations > 0);
    assert!(0 < unsync.table_stores && unsync.table_stores < each.table_stores, "{unsync:?} {each:?}");
    assert!(passed.mode_changes > 0 && passed.tag_faults > 0 && fast.mode_changes == 0);
    assert_eq!(outcomes[3].passthrough.map(|p| p.tag_faults), Some(passed.tag_faults));
}

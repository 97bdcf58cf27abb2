//! Flattened page tables in whole systems: exact counts, and the oracle in every composition that there is.

use lab::System;
use lab::experiment::{self, Experiment};
use machine::input::Source;
use machine::profile::Profile;
use paging::Va;
use std::ops::ControlFlow;

fn experiment(systems: &[&str], accesses: u64) -> Experiment {
    let mut profile = Profile::builtin("sandy-bridge-en").unwrap();
    profile.topology.gib_per_socket = 5;
    Experiment {
        warmup: 0,
        accesses: Some(accesses),
        seed: 7,
        verify: true,
        ..Experiment::new(profile, systems.iter().map(|s| System::parse(s).unwrap()))
    }
}

/// Levels of the references of a walk with empty caches, those of the host's dimension as 10 + level.
fn cold(system: &str) -> Vec<u8> {
    let mut source = workloads::build("gups:footprint=64MiB", 1).unwrap();
    let setup = source.setup().unwrap();
    let mut experiment = experiment(&[], 0);
    // Nothing beside the walker remembers anything.
    experiment.profile.walk_cache.clear();
    experiment.profile.nested_tlb = None;
    let mut world = experiment::world(&experiment, System::parse(system).unwrap(), &setup).unwrap();
    let largest = setup.processes[0].regions.iter().max_by_key(|region| region.len).unwrap();
    // Not at its crooked end.
    let va = Va::new(largest.start.raw() + largest.len / 2);
    let walk = world.explain(0, va, true).unwrap();
    let level = |step: &machine::explain::Step| match step.what {
        machine::explain::What::Reference { cell, .. } if cell.host > 0 => Some(10 + cell.host),
        machine::explain::What::Reference { cell, .. } => Some(cell.guest),
        _ => None,
    };
    walk.steps.iter().filter_map(level).collect()
}

#[test]
fn a_cold_walk_takes_2_3_8_references() {
    assert_eq!(cold("native"), [4, 3, 2, 1]);
    assert_eq!(cold("native+flattened"), [3, 1]);
    assert_eq!(cold("native+5level+flattened"), [5, 3, 1]);
    assert_eq!(cold("native-thp"), [4, 3, 2]);
    assert_eq!(cold("native-thp+flattened"), [3, 2]);
    assert_eq!(cold("shadow+host-flattened"), [3, 1]);
    assert_eq!(cold("nested").len(), 24);
    assert_eq!(cold("nested+flattened").len(), 14);
    assert_eq!(cold("nested+host-flattened").len(), 14);
    assert_eq!(cold("nested+flattened+host-flattened"), [13, 11, 3, 13, 11, 1, 13, 11]);
    // No block is free: levels stay as they are.
    assert_eq!(cold("native+frag=1+flattened"), [4, 3, 2, 1]);
}

#[test]
fn the_oracle_finds_nothing_in_any_composition() {
    let systems = [
        "native+flattened",
        "native-thp+flattened",
        "native+5level+frag=0.9+flattened",
        "native+placement=interleave+flattened",
        "native-thp+numa-balancing+flattened",
        "native+ptemagnet+flattened",
        "direct-segment-thp+flattened",
        "nested+flattened",
        "nested-4k-thp+host-flattened",
        "nested-thp-thp+flattened+host-flattened",
        "nested-thp-4k+5level+ptemagnet+flattened+host-flattened",
        "nested+babelfish+host-flattened",
        "shadow-thp-thp+host-flattened",
        "passthrough+host-flattened",
        "passthrough+live-migration+host-flattened",
        "vmm-direct+flattened+host-flattened",
        "guest-direct+host-flattened",
        "dual-direct+promote+flattened+host-flattened",
    ];
    for system in systems {
        for workload in
            ["turmoil:footprint=16MiB,processes=2,period=40", "turmoil:footprint=64MiB,threads=2,period=300"]
        {
            let name = format!("{system}+swap=64");
            let mut source: Box<dyn Source + Send> = workloads::build(workload, 7).unwrap();
            let experiment = experiment(&[&name], 6_000);
            let outcomes = experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(()));
            let outcomes = outcomes.unwrap_or_else(|error| panic!("{name} under {workload}: {error}"));
            assert!(outcomes[0].verified >= Some(6_000), "{name}");
        }
    }
}

#[test]
fn fewer_references_are_left_for_a_program_that_misses() {
    let mut source = workloads::build("gups:footprint=512MiB", 7).unwrap();
    let systems = ["nested", "nested+flattened+host-flattened"];
    let experiment = Experiment { warmup: 50_000, ..experiment(&systems, 50_000) };
    let outcomes = experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap();
    let (nested, flattened) = (&outcomes[0].walks, &outcomes[1].walks);
    assert_eq!(nested.completed, flattened.completed);
    let (before, after) = (nested.references_per_walk, flattened.references_per_walk);
    assert!(after > 1.0 && after < 0.75 * before, "{before} and {after}");
}

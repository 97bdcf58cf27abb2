//! Worlds under the oracle: what is right passes, and a planted bug is found.

use lab::System;
use lab::experiment::{self, Experiment, ExperimentError};
use lab::world::{World, WorldError};
use machine::input::*;
use machine::profile::Profile;
use paging::Va;
use std::ops::ControlFlow;

fn experiment(systems: &[&str], accesses: u64) -> Experiment {
    Experiment {
        warmup: accesses / 4,
        accesses: Some(accesses),
        seed: 7,
        verify: true,
        ..Experiment::new(
            Profile::builtin("haswell-ex").unwrap(),
            systems.iter().map(|s| System::parse(s).unwrap()),
        )
    }
}

fn run(experiment: &Experiment, source: &mut dyn Source) -> Result<Vec<lab::Outcome>, ExperimentError> {
    experiment::run(experiment, source, &mut |_| ControlFlow::Continue(()))
}

const SYSTEMS: [&str; 8] = [
    "native",
    "native-thp",
    "nested",
    "nested-thp-4k",
    "nested-4k-thp",
    "nested-thp-thp",
    "native+ptemagnet",
    "nested-thp-4k+ptemagnet=16",
];

#[test]
fn every_workload_passes_the_oracle_under_every_system() {
    for workload in workloads::list() {
        let mut source = workloads::build(workload.name, 7).unwrap();
        let outcomes = run(&experiment(&SYSTEMS, 20_000), &mut *source).unwrap();
        for o in &outcomes {
            assert_eq!(o.accesses, 20_000, "{} under {}", workload.name, o.system);
            assert!(o.verified >= Some(25_000), "{} under {}", workload.name, o.system);
        }
    }
}

/// A script: blocks given by hand.
struct Script {
    regions: Vec<Region>,
    blocks: std::collections::VecDeque<Block>,
}

impl Source for Script {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        Ok(Setup {
            more_threads: false,
            name: "script".to_string(),
            processes: vec![ProcessSetup { regions: self.regions.clone(), ..ProcessSetup::default() }],
            threads: vec![ThreadSetup { process: 0 }, ThreadSetup { process: 0 }],
            accesses: None,
        })
    }
    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        if let Some(next) = self.blocks.pop_front() {
            *block = next;
        }
        Ok(if self.blocks.is_empty() { More::No } else { More::Yes })
    }
}

const HEAP: u64 = 0x5555_0000_0000;

fn touch(pages: std::ops::Range<u64>, kind: Kind, thread: u16) -> Vec<Access> {
    pages.map(|p| Access::new(HEAP + p * 4096, kind, thread, 4)).collect()
}

fn block(accesses: Vec<Access>, events: Vec<Event>) -> Block {
    Block { accesses, events }
}

fn script(blocks: Vec<Block>) -> Script {
    Script {
        regions: vec![Region::anonymous("heap", HEAP, 64 << 20, Populate::OnDemand)],
        blocks: blocks.into(),
    }
}

/// Writes pages, throws them away, and reads them again: they must be zeroes.
fn discards() -> Script {
    let discard = Event::Discard { process: 0, start: Va::new(HEAP), len: 64 * 4096 };
    script(vec![
        block(touch(0..64, Kind::Write, 0), vec![]),
        block(touch(0..64, Kind::Read, 1), vec![discard]),
        block(touch(0..64, Kind::Read, 1), vec![]),
        block(touch(0..64, Kind::Read, 0), vec![]),
    ])
}

#[test]
fn discarded_pages_read_as_zeroes() {
    run(&experiment(&SYSTEMS, 1 << 30), &mut discards()).unwrap();
}

#[test]
fn a_forgotten_shootdown_is_found() {
    for system in ["native", "nested"] {
        let experiment = experiment(&[system], 1 << 30);
        let mut source = discards();
        let setup = source.setup().unwrap();
        let mut plan = experiment::plan(&experiment, experiment.systems[0], &setup).unwrap();
        plan.lose_shootdowns = true;
        let mut world = World::new(plan, &setup).unwrap();
        let mut found = None;
        let mut block = Block::new();
        while found.is_none() && source.fill(&mut block).unwrap() == More::Yes {
            found = world.run(&block).err();
        }
        let found = found.or_else(|| world.run(&block).err());
        match found {
            Some(WorldError::Mismatch(m)) => {
                assert_eq!(m.expected, Some(0), "the page must read as zeroes");
                assert!(m.va >= Va::new(HEAP) && m.va < Va::new(HEAP + 64 * 4096), "{m}");
            }
            other => panic!("{system}: the stale translation was not found: {other:?}"),
        }
    }
}

#[test]
fn fork_unmap_and_exit_pass_the_oracle() {
    let with = |thread, mut accesses: Vec<Access>| {
        accesses.iter_mut().for_each(|a| a.thread = thread);
        accesses
    };
    let child = 2;
    for system in SYSTEMS {
        let mut source = script(vec![
            block(
                touch(0..1024, Kind::Write, 0),
                vec![Event::Fork { parent: 0, child: 1 }, Event::Spawn { thread: child, process: 1 }],
            ),
            block(touch(0..700, Kind::Write, 0), vec![]),
            block(with(child, touch(0..1024, Kind::Read, 0)), vec![]),
            block(with(child, touch(300..900, Kind::Write, 0)), vec![]),
            block(
                touch(0..1024, Kind::Read, 1),
                vec![Event::Unmap { process: 0, start: Va::new(HEAP + 512 * 4096), len: 256 * 4096 }],
            ),
            block(with(child, touch(0..1024, Kind::Modify, 0)), vec![Event::Exit { process: 1 }]),
            block(touch(0..512, Kind::Modify, 0), vec![]),
        ]);
        let outcomes = run(&experiment(&[system], 1 << 30), &mut source).unwrap();
        assert_eq!(outcomes[0].verified, Some(1024 + 700 + 1024 + 600 + 1024 + 1024 + 512), "{system}");
    }
}

#[test]
fn an_access_to_what_was_unmapped_ends_the_run_with_its_address() {
    let unmap = Event::Unmap { process: 0, start: Va::new(HEAP), len: 4096 };
    let mut source = script(vec![
        block(touch(0..4, Kind::Write, 0), vec![unmap]),
        block(touch(0..1, Kind::Read, 0), vec![]),
    ]);
    let error = run(&experiment(&["native"], 1 << 30), &mut source).unwrap_err().to_string();
    assert!(error.contains("0x555500000000") && error.contains("nothing is mapped there"), "{error}");
}

#[test]
fn the_outcome_does_not_depend_on_threads() {
    let outcome = |threads| {
        let mut experiment = experiment(&["native", "nested", "nested-thp-thp"], 60_000);
        experiment.threads = threads;
        let mut source = workloads::build("zipf:footprint=256MiB", 3).unwrap();
        run(&experiment, &mut *source).unwrap()
    };
    let one = outcome(1);
    assert_eq!(one, outcome(2));
    assert_eq!(one, outcome(3));
}

#[test]
fn counting_begins_exactly_after_the_warm_up() {
    for warmup in [0, 1, 255, 256, 1000] {
        let mut experiment = experiment(&["native"], 5_000);
        experiment.warmup = warmup;
        let mut source = workloads::build("gups:footprint=64MiB", 3).unwrap();
        let outcomes = run(&experiment, &mut *source).unwrap();
        assert_eq!((outcomes[0].warmup, outcomes[0].accesses), (warmup, 5_000));
    }
}

#[test]
fn a_footprint_larger_than_the_machine_is_refused() {
    let mut source = workloads::build("gups:footprint=1TiB", 3).unwrap();
    let error = run(&experiment(&["native"], 1000), &mut *source).unwrap_err().to_string();
    assert!(error.contains("1024 GiB") && error.contains("haswell-ex"), "{error}");
}

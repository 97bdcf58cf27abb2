//! A real process's layout in the place of the model's choices.

use lab::experiment::{self, Experiment};
use lab::layout::RealLayout;
use lab::system::System;
use lab::world::{Plan, World, WorldError};
use machine::explain::Explained;
use machine::input::{
    Access, Block, Event, Kind, More, Populate, ProcessSetup, Region, Setup, Source, SourceError, ThreadSetup,
};
use machine::profile::Profile;
use paging::{PageSize, Va};
use std::sync::Arc;
use trace::capture::{Advice, Line, Mapping, Mode, Run, Snapshot};

const BASE: u64 = 0x7f00_0000_0000;

fn run(page: u64, pages: u64, size_log2: u8, frame: Option<u64>, node: Option<u16>) -> Run {
    Run { page, pages, size_log2, frame, node }
}

/// 16 MiB of anonymous memory with these pages.
fn snapshot(runs: Vec<Run>, on_nodes: Vec<(u16, u64)>) -> Snapshot {
    let line = Line {
        start: BASE,
        end: BASE + (16 << 20),
        mode: Mode { permissions: machine::input::Permissions::READ_WRITE, shared: false },
        offset: 0,
        inode: 0,
        name: String::new(),
    };
    let mapping = Mapping { line, advice: Advice::None, on_nodes, runs };
    Snapshot {
        version: 1,
        pid: 7,
        program: "/bin/p".into(),
        nodes: 2,
        mappings: vec![mapping],
        ..Snapshot::default()
    }
}

fn experiment(system: &str, snapshot: &Snapshot) -> Experiment {
    Experiment {
        warmup: 0,
        accesses: None,
        verify: true,
        layout: Some(Arc::new(RealLayout::new(snapshot))),
        threads: 1,
        ..Experiment::new(Profile::builtin("haswell-ex").unwrap(), [System::parse(system).unwrap()])
    }
}

fn setup(regions: Vec<Region>) -> Setup {
    Setup {
        more_threads: false,
        name: "test".into(),
        processes: vec![ProcessSetup { name: "p".into(), regions, group: None, implicit_regions: true }],
        threads: vec![ThreadSetup { process: 0 }],
        accesses: None,
    }
}

fn built(experiment: &Experiment, mut setup: Setup) -> Result<World, WorldError> {
    let placing = experiment.layout.as_ref().map(|layout| layout.give(&mut setup));
    let plan = experiment::plan(experiment, experiment.systems[0], &setup).unwrap();
    World::new(Plan { placing, ..plan }, &setup)
}

fn world(system: &str, snapshot: &Snapshot, setup: Setup) -> World {
    built(&experiment(system, snapshot), setup).unwrap()
}

fn walk(world: &mut World, page: u64) -> Explained {
    world.explain(0, Va::new(BASE + page * 4096), false).unwrap()
}

/// Size and host frame of a page.
fn leaf(world: &mut World, page: u64) -> (PageSize, u64) {
    let leaf = walk(world, page).end.unwrap();
    (leaf.size, leaf.frame.number())
}

fn node(frame: u64) -> usize {
    let layout = Profile::builtin("haswell-ex").unwrap().layout();
    layout.nodes.iter().position(|n| n.frames.iter().any(|r| r.contains(&frame))).unwrap()
}

/// Two blocks that follow each other in memory and one that does not, a huge page, and what is not in memory.
fn mixed() -> Vec<Run> {
    vec![
        // Pages 0 to 3 at the end of one block and the beginning of the next.
        run(0, 4, 12, Some(1000 * 512 + 510), Some(0)),
        run(4, 1, 12, Some(7000 * 512 + 33), Some(0)),
        run(9, 2, 12, Some(1000 * 512 + 100), Some(0)),
        run(1024, 512, 21, Some(2000 * 512), Some(1)),
        run(2048, 1, 12, Some(9000 * 512 + 5), Some(3)),
    ]
}

#[test]
fn an_input_without_regions_starts_from_the_layout() {
    let mut world = world("native", &snapshot(mixed(), vec![]), setup(vec![]));
    assert_eq!(world.placed().unwrap().placed, 4 + 1 + 2 + 512 + 1);
    assert_eq!(world.placed().unwrap().elsewhere, 0);
    let (size, first) = leaf(&mut world, 0);
    assert_eq!((size, first % 512), (PageSize::Size4K, 510));
    assert_eq!([1, 2, 3].map(|p| leaf(&mut world, p).1), [first + 1, first + 2, first + 3], "contiguous");
    assert_eq!(leaf(&mut world, 4).1 % 512, 33);
    assert_ne!(leaf(&mut world, 4).1 / 512, first / 512, "another block");
    assert_eq!(leaf(&mut world, 9).1, first / 512 * 512 + 100, "the same block as page 0");
    assert_eq!(leaf(&mut world, 1024).0, PageSize::Size2M, "huge, though the system has small pages");
    assert_eq!(world.stats().0.minor_faults, 4 + 1 + 2 + 1 + 1, "nothing else was filled");
}

#[test]
fn nodes_are_the_layouts() {
    let mut world = world("native", &snapshot(mixed(), vec![]), setup(vec![]));
    // Four nodes in the model.
    assert_eq!([0, 1024, 2048].map(|p| node(leaf(&mut world, p).1)), [0, 1, 3]);
    let mut world = self::world(
        "native",
        &snapshot(vec![run(0, 10, 12, None, None)], vec![(2, 4), (1, 6)]),
        setup(vec![]),
    );
    let nodes: Vec<usize> = (0..10).map(|p| node(leaf(&mut world, p).1)).collect();
    assert_eq!(nodes, [2, 2, 2, 2, 1, 1, 1, 1, 1, 1], "dealt in the order of addresses");
    assert_eq!(world.placed().unwrap().elsewhere, 10, "no frame was known");
}

#[test]
fn small_pages_stay_small_where_the_system_has_huge_ones() {
    let mut world = world("native-thp", &snapshot(mixed(), vec![]), setup(vec![]));
    assert_eq!(leaf(&mut world, 5).0, PageSize::Size4K, "its block has small pages");
    assert_eq!(
        leaf(&mut world, 3072).0,
        PageSize::Size2M,
        "as the system would: the layout has nothing there"
    );
}

#[test]
fn in_a_vm_it_is_the_guests() {
    for system in ["nested", "shadow"] {
        let world = world(system, &snapshot(mixed(), vec![]), setup(vec![]));
        assert_eq!(world.placed().unwrap().placed, 520, "{system}");
        assert_eq!(world.placed().unwrap().elsewhere, 0, "{system}");
    }
}

/// Accesses to pages, and events.
struct Script(Vec<Block>);

impl Source for Script {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        Ok(setup(vec![Region::anonymous("a", BASE, 16 << 20, Populate::OnDemand)]))
    }
    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        *block = self.0.remove(0);
        Ok(if self.0.is_empty() { More::No } else { More::Yes })
    }
}

fn stores(pages: &[u64]) -> Block {
    let access = |&page: &u64| Access::new(BASE + page * 4096, Kind::Write, 0, 1);
    Block { accesses: pages.iter().map(access).collect(), events: vec![] }
}

#[test]
fn a_page_that_comes_again_has_its_frame_again() {
    for system in ["native", "native-thp", "nested", "shadow"] {
        let start = Va::new(BASE);
        // A child holds the frames for a while longer.
        let round = |child| {
            let mut block = stores(&[0, 1, 2, 9, 1024, 1500, 3000]);
            block.events = vec![
                Event::Fork { parent: 0, child },
                Event::Discard { process: 0, start, len: 16 << 20 },
                Event::Exit { process: child },
            ];
            block
        };
        let mut script = Script((1..4).map(round).collect());
        let experiment = experiment(system, &snapshot(mixed(), vec![]));
        let outcome =
            &experiment::run(&experiment, &mut script, &mut |_| std::ops::ControlFlow::Continue(())).unwrap()
                [0];
        let layout = outcome.layout.unwrap();
        assert_eq!(layout.placed, 3 * (4 + 512), "{system}");
        let other = if system == "native-thp" { 512 } else { 1 };
        assert_eq!(layout.elsewhere, 3 * other, "{system}");
        assert_eq!(outcome.verified, Some(21));
    }
}

#[test]
fn a_child_writes_to_frames_of_its_own() {
    let mut fork = stores(&[0, 1]);
    fork.events = vec![Event::Fork { parent: 0, child: 1 }, Event::Spawn { thread: 1, process: 1 }];
    let mut child = stores(&[0, 1]);
    child.accesses.iter_mut().for_each(|a| a.thread = 1);
    let mut script = Script(vec![fork, child, stores(&[0, 1])]);
    let experiment = experiment("native", &snapshot(mixed(), vec![]));
    let outcome =
        &experiment::run(&experiment, &mut script, &mut |_| std::ops::ControlFlow::Continue(())).unwrap()[0];
    assert_eq!(outcome.verified, Some(6));
    assert_eq!(outcome.layout.unwrap().placed, 2);
}

#[test]
fn a_machine_without_room_says_so() {
    let runs = (0..2000).map(|i| run(i, 1, 12, Some(i * 5000), Some(0))).collect();
    let mut snapshot = snapshot(runs, vec![]);
    snapshot.mappings[0].line.end = BASE + (64 << 20);
    let mut profile = Profile::builtin("haswell-ex").unwrap();
    profile.topology.gib_per_socket = 1;
    let experiment = Experiment { profile, ..experiment("native", &snapshot) };
    let error = built(&experiment, setup(vec![])).unwrap_err().to_string();
    assert!(error.contains("2000 blocks of 2 MiB") && error.contains("larger machine"), "{error}");
}

//! Direct segments in whole systems: exact counts, the oracle in every mode, bad
//! frames, fragmentation, promotion.

use lab::System;
use lab::experiment::{self, Experiment};
use lab::world::{World, WorldError};
use machine::explain::What;
use machine::input::*;
use machine::profile::Profile;
use paging::{Check, Va};
use std::ops::ControlFlow;

/// The machine of the papers with less memory, so that tests are quick.
fn profile() -> Profile {
    let mut profile = Profile::builtin("sandy-bridge-en").unwrap();
    profile.topology.gib_per_socket = 5;
    profile
}

fn experiment(systems: &[&str], accesses: u64) -> Experiment {
    Experiment {
        warmup: accesses / 4,
        accesses: Some(accesses),
        seed: 7,
        verify: true,
        ..Experiment::new(profile(), systems.iter().map(|s| System::parse(s).unwrap()))
    }
}

fn run(systems: &[&str], accesses: u64, workload: &str) -> Vec<lab::Outcome> {
    let mut source = workloads::build(workload, 7).unwrap();
    experiment::run(&experiment(systems, accesses), &mut *source, &mut |_| ControlFlow::Continue(())).unwrap()
}

const MODES: [&str; 8] = [
    "direct-segment",
    "direct-segment-thp",
    "vmm-direct",
    "vmm-direct-thp",
    "guest-direct",
    "guest-direct-4k-thp",
    "dual-direct",
    "dual-direct-thp-thp",
];

#[test]
fn a_cold_miss_takes_24_4_4_0_references_and_0_5_1_1_checks() {
    let counts = |system: &str| {
        let mut source = workloads::build("gups:footprint=64MiB", 1).unwrap();
        let setup = source.setup().unwrap();
        let mut experiment = experiment(&[], 0);
        // Nothing beside the walker remembers anything.
        experiment.profile.walk_cache.clear();
        experiment.profile.nested_tlb = None;
        let mut world = experiment::world(&experiment, System::parse(system).unwrap(), &setup).unwrap();
        let region = &setup.processes[0].regions[0];
        let explained = world.explain(0, Va::new(region.start.raw() + 4096 * 1234), true).unwrap();
        let references = explained.steps.iter().filter(|s| matches!(s.what, What::Reference { .. })).count();
        let checks: Vec<Check> = explained
            .steps
            .iter()
            .filter_map(|s| if let What::Check(check) = s.what { Some(check) } else { None })
            .collect();
        (references, checks)
    };
    assert_eq!(counts("native"), (4, vec![]));
    assert_eq!(counts("nested"), (24, vec![]));
    assert_eq!(counts("vmm-direct"), (4, vec![Check::VmmSegment; 5]));
    assert_eq!(counts("guest-direct"), (4, vec![Check::GuestSegment]));
    assert_eq!(counts("dual-direct"), (0, vec![Check::Direct]));
    assert_eq!(counts("direct-segment"), (0, vec![Check::Direct]));
    // Huge pages in the guest: three levels, and a check for each table and the page.
    assert_eq!(counts("vmm-direct-thp"), (3, vec![Check::VmmSegment; 4]));
    assert_eq!(counts("guest-direct-4k-thp"), (3, vec![Check::GuestSegment]));
    // Before promotion, as any VM.
    assert_eq!(counts("dual-direct+promote"), (24, vec![]));
}

#[test]
fn workloads_pass_the_oracle_in_every_mode() {
    for workload in ["gups:footprint=128MiB", "mcf", "churn", "kv", "growkv", "gcc"] {
        for o in run(&MODES, 20_000, workload) {
            assert!(o.verified >= Some(25_000), "{workload} under {}", o.system);
        }
    }
}

#[test]
fn a_segment_answers_what_walks_would() {
    let outcomes =
        run(&["nested", "vmm-direct", "guest-direct", "dual-direct"], 100_000, "gups:footprint=256MiB");
    let [nested, vmm, guest, dual] = outcomes.as_slice() else { panic!("four systems") };
    // One TLB: it misses as often whatever is behind it.
    assert_eq!(nested.tlb.stlb_misses, vmm.tlb.stlb_misses);
    assert_eq!(nested.tlb.stlb_misses, guest.tlb.stlb_misses);
    assert_eq!((dual.walks.completed, dual.tlb.stlb_misses), (0, 0));
    assert_eq!(dual.walks.direct_hits, dual.tlb.l1_misses);
    assert!(nested.walks.references_per_walk > vmm.walks.references_per_walk);
    assert_eq!(guest.walks.checks[0], guest.walks.completed);
    let modes: Vec<_> = outcomes[1..].iter().map(|o| o.segments.as_ref().unwrap().mode.as_str()).collect();
    assert_eq!(modes, ["VMM Direct", "Guest Direct", "Dual Direct"]);
    assert!(dual.software.page_faults_in_all == 0 && dual.tables.total() < nested.tables.total());
}

#[test]
fn bad_frames_escape_and_everything_else_stays() {
    let systems =
        ["vmm-direct+bad=64", "vmm-direct-thp+bad=16", "dual-direct+bad=64", "direct-segment+bad=64"];
    for o in run(&systems, 200_000, "gups:footprint=256MiB") {
        let segments = o.segments.as_ref().unwrap();
        let bad = if o.system.ends_with("64") { 64 } else { 16 };
        assert_eq!(segments.escaped, bad, "{}: {}", o.system, segments.departures);
        assert!(segments.departures.contains("faulty frame"), "{}", segments.departures);
        assert!(o.walks.checks[Check::EscapeFilter as usize] > 0, "{}: false positives", o.system);
        assert!((0.0..0.25).contains(&segments.false_positives), "{}", segments.false_positives);
    }
    // Where there is no filter to speak of, the segment becomes shorter instead.
    let o = &run(&["direct-segment+bad=8+filter=8"], 20_000, "gups:footprint=256MiB")[0];
    let segments = o.segments.as_ref().unwrap();
    assert!(segments.departures.contains("shorter"), "{}", segments.departures);
}

#[test]
fn a_fragmented_guest_balloons_and_a_fragmented_host_compacts() {
    let systems = ["guest-direct+frag=1", "guest-direct+frag=0.75", "vmm-direct+host-frag=1"];
    let outcomes = run(&systems, 20_000, "gups:footprint=256MiB");
    let of = |index: usize| outcomes[index].segments.as_ref().unwrap();
    assert_eq!(of(0).mode, "Guest Direct");
    assert_eq!(of(1).mode, "Guest Direct");
    for outcome in [of(0), of(1)] {
        let ballooned: u64 = outcome.steps.iter().map(|step| step.ballooned).sum();
        assert!(ballooned >= 65536, "{:?}", outcome.steps);
    }
    assert_eq!(of(2).mode, "VMM Direct");
    assert!(of(2).steps[0].compacted > 0, "{:?}", of(2).steps);
    assert!(of(2).gap_closed > 100_000, "nearly 3 GiB lay below the gap");
}

#[test]
fn a_vm_is_promoted_while_it_runs() {
    let systems = ["dual-direct+promote", "dual-direct+promote+frag=1", "direct-segment+promote"];
    let n = 3 << 20;
    let outcomes = run(&systems, n, "gups:footprint=64MiB");
    for o in &outcomes {
        let segments = o.segments.as_ref().unwrap();
        let mode = if o.system.starts_with("dual") { "Dual Direct" } else { "direct segment" };
        assert_eq!(segments.mode, mode, "{}: {:?}", o.system, segments.steps);
        assert!(segments.steps.iter().all(|step| step.accesses > 0));
        assert!(segments.steps.iter().any(|step| step.copied > 0), "{:?}", segments.steps);
        assert!(o.walks.direct_hits > n / 2, "{}", o.system);
        assert_eq!(o.verified, Some(n + n / 4));
    }
}

/// A script: blocks given by hand.
struct Script(std::collections::VecDeque<Block>);

const HEAP: u64 = 0x5555_0000_0000;

impl Source for Script {
    fn setup(&mut self) -> Result<Setup, SourceError> {
        let regions = vec![Region::anonymous("heap", HEAP, 64 << 20, Populate::OnDemand)];
        Ok(Setup {
            more_threads: false,
            name: "script".to_string(),
            processes: vec![ProcessSetup { regions, ..ProcessSetup::default() }],
            threads: vec![ThreadSetup { process: 0 }, ThreadSetup { process: 0 }],
            accesses: None,
        })
    }
    fn fill(&mut self, block: &mut Block) -> Result<More, SourceError> {
        block.clear();
        if let Some(next) = self.0.pop_front() {
            *block = next;
        }
        Ok(if self.0.is_empty() { More::No } else { More::Yes })
    }
}

fn touch(pages: std::ops::Range<u64>, kind: Kind, thread: u16) -> Vec<Access> {
    pages.map(|p| Access::new(HEAP + p * 4096, kind, thread, 4)).collect()
}

fn block(accesses: Vec<Access>, events: Vec<Event>) -> Block {
    Block { accesses, events }
}

#[test]
fn fork_discard_protect_and_unmap_pass_the_oracle() {
    let script = || {
        let discard = Event::Discard { process: 0, start: Va::new(HEAP), len: 64 * 4096 };
        let read_only = Permissions { read: true, write: false, execute: false };
        let (start, len) = (Va::new(HEAP + 100 * 4096), 3 * 4096);
        let protect = Event::Protect { process: 0, start, len, permissions: read_only };
        let unmap = Event::Unmap { process: 0, start: Va::new(HEAP + 512 * 4096), len: 256 * 4096 };
        Script(
            vec![
                block(touch(0..1024, Kind::Write, 0), vec![discard]),
                block(touch(0..1024, Kind::Modify, 1), vec![protect]),
                block(touch(0..1024, Kind::Read, 1), vec![unmap]),
                block(
                    touch(0..512, Kind::Read, 1),
                    vec![Event::Fork { parent: 0, child: 1 }, Event::Spawn { thread: 2, process: 1 }],
                ),
                block(touch(0..90, Kind::Write, 0), vec![]),
                block(touch(0..512, Kind::Read, 2), vec![]),
                block(touch(200..400, Kind::Write, 2), vec![]),
                block(touch(0..512, Kind::Read, 0), vec![Event::Exit { process: 1 }]),
                block(touch(0..90, Kind::Modify, 1), vec![]),
            ]
            .into(),
        )
    };
    for system in MODES {
        let outcomes = experiment::run(&experiment(&[system], 1 << 30), &mut script(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let o = &outcomes[0];
        assert!(o.verified > Some(4000), "{system}");
        if system.starts_with("dual") || system.starts_with("direct") {
            let text = &o.segments.as_ref().unwrap().departures;
            for reason in ["protected", "unmapped", "copy-on-write"] {
                assert!(text.contains(reason), "{system}: {text}");
            }
        }
    }
}

#[test]
fn a_forgotten_shootdown_is_found() {
    // The VMM's segment moves pages under a running guest: what TLBs hold must go.
    let experiment = experiment(&["vmm-direct+promote"], 1 << 30);
    let mut source = workloads::build("gups:footprint=16MiB", 7).unwrap();
    let setup = source.setup().unwrap();
    let mut plan = experiment::plan(&experiment, experiment.systems[0], &setup).unwrap();
    plan.lose_shootdowns = true;
    let mut world = World::new(plan, &setup).unwrap();
    let mut block = Block::new();
    let found = (0..9000).find_map(|_| {
        source.fill(&mut block).unwrap();
        world.run(&block).err()
    });
    assert!(matches!(found, Some(WorldError::Mismatch(_))), "{found:?}");
}

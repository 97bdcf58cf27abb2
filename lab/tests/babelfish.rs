//! Containers that share translations, under the oracle: whatever members of a group map, write, fork,
//! protect, unmap and leave, everyone sees its own pages and nobody else's.

use lab::System;
use lab::experiment::{self, Experiment};
use lab::world::World;
use lab::{Outcome, containers::SharingCounts};
use machine::input::*;
use machine::profile::Profile;
use paging::{NodeId, Va};
use proptest::prelude::*;
use std::ops::ControlFlow;

const SYSTEMS: [&str; 16] = [
    "native+babelfish",
    "native+babelfish+aslr=software",
    "native+babelfish+aslr=software+share-l1",
    "native+babelfish=tables",
    "native+babelfish=tlb",
    "native+babelfish=no-mask",
    "native+babelfish=no-mask+aslr=software+share-l1",
    "native+babelfish=tlb-no-mask",
    "native-thp+babelfish",
    "native-2m+babelfish",
    "native-1g+babelfish",
    "native+5level+babelfish",
    "native+mitosis+babelfish",
    "nested+babelfish",
    "nested-thp-thp+babelfish=no-mask",
    "nested-thp-4k+babelfish=tlb+aslr=software+share-l1",
];

fn experiment(system: &str) -> Experiment {
    Experiment {
        warmup: 0,
        accesses: None,
        seed: 7,
        verify: true,
        threads: 1,
        ..Experiment::new(Profile::builtin("haswell-ex").unwrap(), [System::parse(system).unwrap()])
    }
}

/// Regions of an image: slots of 2 MiB, of which each has 64 pages, so that some share a leaf table
/// (slots 0 and 1, 2 and 3) and others do not. The last is a GiB, for huge pages.
const SLOTS: usize = 8;
const PAGES: u64 = 64;
/// Cores, each on a node of its own.
const CORES: usize = 3;

fn start(slot: usize) -> u64 {
    if slot == SLOTS - 1 {
        return 0x5556_0000_0000;
    }
    0x5555_0000_0000 + (slot as u64 / 2) * (2 << 20) + (slot as u64 % 2) * PAGES * 4096
}

fn len(slot: usize) -> u64 {
    if slot == SLOTS - 1 { 1 << 30 } else { PAGES * 4096 }
}

fn region(slot: usize) -> Region {
    let file = |name: &str| name.to_string();
    let backing = match slot {
        0 => Backing::PrivateFile { file: file("binary"), offset: 0 },
        1 => Backing::PrivateFile { file: file("binary"), offset: PAGES * 4096 },
        2 => Backing::PrivateFile { file: file("library"), offset: 0 },
        3 => Backing::SharedFile { file: file("records"), offset: 0 },
        4 => Backing::SharedFile { file: file("records"), offset: PAGES * 4096 },
        5 => Backing::SharedAnonymous,
        _ => Backing::Anonymous,
    };
    let write = slot != 0;
    Region {
        name: format!("slot {slot}"),
        start: Va::new(start(slot)),
        len: len(slot),
        backing,
        permissions: Permissions { read: true, write, execute: !write },
        advice: HugeAdvice::None,
        populate: Populate::OnDemand,
    }
}

fn image(group: Option<u16>) -> ProcessSetup {
    ProcessSetup {
        name: "image".to_string(),
        regions: (0..SLOTS).map(region).collect(),
        group,
        implicit_regions: false,
    }
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Touch { who: usize, slot: usize, first: u64, pages: u64, kind: u8 },
    Fork(usize),
    Exec(usize),
    Exit(usize),
    Unmap(usize, usize),
    Map(usize, usize),
    Protect(usize, usize, bool),
    Discard(usize, usize),
    Move(usize, u8),
    Reclaim(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let (who, slot) = (0usize..16, 0..SLOTS);
    prop_oneof![
        20 => (who.clone(), slot.clone(), 0..PAGES, 1..24u64, 0..3u8).prop_map(
            |(who, slot, first, pages, kind)| Action::Touch { who, slot, first, pages, kind }
        ),
        3 => who.clone().prop_map(Action::Fork),
        1 => who.clone().prop_map(Action::Exec),
        1 => who.clone().prop_map(Action::Exit),
        2 => (who.clone(), slot.clone()).prop_map(|(w, s)| Action::Unmap(w, s)),
        2 => (who.clone(), slot.clone()).prop_map(|(w, s)| Action::Map(w, s)),
        2 => (who.clone(), slot.clone(), any::<bool>()).prop_map(|(w, s, on)| Action::Protect(w, s, on)),
        1 => (who.clone(), slot).prop_map(|(w, s)| Action::Discard(w, s)),
        2 => (who, 0..CORES as u8).prop_map(|(w, node)| Action::Move(w, node)),
        1 => (1..200u64).prop_map(Action::Reclaim),
    ]
}

fn touch(who: usize, slot: usize, pages: u64, kind: u8) -> Action {
    Action::Touch { who, slot, first: 0, pages, kind }
}

/// What the test knows of a process: the rights of its slots, none where nothing is mapped.
type Rights = [Option<Permissions>; SLOTS];

/// The system at work, and how far processes and threads are numbered. Process `i` has thread `i`.
struct Script {
    world: World,
    processes: Vec<Option<Rights>>,
}

fn all() -> Rights {
    std::array::from_fn(|slot| Some(region(slot).permissions))
}

impl Script {
    fn new(system: &str) -> Script {
        let groups = [Some(1), Some(1), Some(1), Some(2), Some(2), None];
        let setup = Setup {
            more_threads: false,
            name: "containers".to_string(),
            processes: groups.map(image).to_vec(),
            threads: (0..groups.len() as u16).map(|process| ThreadSetup { process }).collect(),
            accesses: None,
        };
        let experiment = experiment(system);
        let mut plan = experiment::plan(&experiment, experiment.systems[0], &setup).unwrap();
        plan.cores = (0..CORES as u8).map(NodeId).collect();
        let world = World::new(plan, &setup).unwrap();
        Script { world, processes: vec![Some(all()); groups.len()] }
    }

    fn alive(&self, who: usize) -> Option<usize> {
        let alive: Vec<usize> =
            (0..self.processes.len()).filter(|at| self.processes[*at].is_some()).collect();
        alive.get(who % alive.len().max(1)).copied()
    }

    fn run(&mut self, accesses: Vec<Access>, events: Vec<Event>) {
        self.world.run(&Block { accesses, events }).unwrap();
    }

    fn act(&mut self, action: Action) {
        if let Action::Reclaim(pages) = action {
            return self.run(vec![], vec![Event::Reclaim { pages, of_host: false }]);
        }
        let (Action::Touch { who, .. }
        | Action::Fork(who)
        | Action::Move(who, _)
        | Action::Exec(who)
        | Action::Exit(who)
        | Action::Unmap(who, _)
        | Action::Map(who, _)
        | Action::Protect(who, ..)
        | Action::Discard(who, _)) = action
        else {
            return;
        };
        let Some(at) = self.alive(who) else { return };
        let process = at as u16;
        let mut rights = self.processes[at].unwrap();
        let range = |slot| (Va::new(start(slot)), len(slot));
        let event = match action {
            Action::Touch { slot, first, pages, kind, .. } => {
                let Some(may) = rights[slot] else { return };
                let kind = match kind {
                    1 if may.write => Kind::Write,
                    2 if may.execute => Kind::Fetch,
                    _ => Kind::Read,
                };
                let touch = |page| Access::new(start(slot) + page * 4096 + 8 * (page % 7), kind, process, 3);
                let pages = first..(first + pages).min(PAGES);
                return self.run(pages.map(touch).collect(), vec![]);
            }
            Action::Fork(_) if self.processes.len() < 40 => {
                let child = self.processes.len() as u16;
                self.processes.push(Some(rights));
                let spawn = Event::Spawn { thread: child, process: child };
                return self.run(vec![], vec![Event::Fork { parent: process, child }, spawn]);
            }
            Action::Fork(_) | Action::Reclaim(_) => return,
            Action::Move(_, node) => Event::MoveThread { thread: process, node },
            Action::Exec(_) => {
                rights = all();
                Event::Exec { process, image: image(None) }
            }
            Action::Exit(_) => {
                self.processes[at] = None;
                return self.run(vec![], vec![Event::Exit { process }]);
            }
            Action::Unmap(_, slot) => {
                rights[slot] = None;
                let (start, len) = range(slot);
                Event::Unmap { process, start, len }
            }
            Action::Map(_, slot) => {
                rights[slot] = Some(region(slot).permissions);
                Event::Map { process, region: region(slot) }
            }
            Action::Protect(_, slot, write) => {
                if rights[slot].is_none() {
                    return;
                }
                let permissions = Permissions { read: true, write, execute: !write };
                rights[slot] = Some(permissions);
                let (start, len) = range(slot);
                Event::Protect { process, start, len, permissions }
            }
            Action::Discard(_, slot) => {
                if rights[slot].is_none() {
                    return;
                }
                let (start, len) = range(slot);
                Event::Discard { process, start, len }
            }
        };
        self.processes[at] = Some(rights);
        self.run(vec![], vec![event]);
    }

    /// Actions from the beginning to the end.
    fn play(system: &str, actions: impl IntoIterator<Item = Action>) {
        let mut script = Script::new(system);
        actions.into_iter().for_each(|action| script.act(action));
        script.end();
    }

    /// Everyone reads everything that it may, then ends; every frame of a table comes back.
    fn end(mut self) {
        for slot in 0..SLOTS {
            for who in 0..self.processes.len() {
                if self.processes[who].is_some_and(|rights| rights[slot].is_some()) {
                    let touch = |page| Access::new(start(slot) + page * 4096, Kind::Read, who as u16, 1);
                    self.run((0..PAGES).map(touch).collect(), vec![]);
                }
            }
        }
        for process in 0..self.processes.len() as u16 {
            if self.processes[usize::from(process)].is_some() {
                self.run(vec![], vec![Event::Exit { process }]);
            }
        }
        let sharing = self.world.sharing().unwrap();
        assert_eq!((sharing.shared_tables, sharing.links, sharing.mask_pages), (0, 0, 0), "left behind");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_members_do_everyone_sees_its_own_pages(
        system in 0..SYSTEMS.len(),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        Script::play(SYSTEMS[system], actions);
    }
}

/// A fixed script under every system, so that none is left out by chance.
#[test]
fn fork_write_unmap_and_exec_pass_under_every_system() {
    for system in SYSTEMS {
        let touch = |who, slot, kind| touch(who, slot, 24, kind);
        let all_read = (0..SLOTS).flat_map(|slot| (0..6).map(move |who| touch(who, slot, 0)));
        let rest = [
            touch(0, 1, 1),
            touch(1, 2, 1),
            Action::Fork(0),
            touch(6, 6, 1),
            touch(0, 6, 1),
            touch(6, 1, 1),
            touch(2, 1, 0),
            Action::Unmap(2, 2),
            Action::Map(2, 2),
            touch(2, 2, 0),
            Action::Protect(1, 1, false),
            touch(1, 1, 0),
            Action::Discard(0, 6),
            Action::Move(0, 1),
            touch(0, 1, 0),
            touch(0, 2, 0),
            Action::Reclaim(400),
            touch(1, 0, 0),
            touch(2, 2, 0),
            touch(0, 0, 0),
            Action::Exec(1),
            Action::Exit(0),
        ];
        Script::play(system, all_read.chain(rest));
    }
}

/// Entries that may stay where a process did not run must not serve it when it comes there.
#[test]
fn who_comes_to_another_core_finds_its_own_pages() {
    for system in ["native+babelfish", "native+babelfish+aslr=software+share-l1", "nested+babelfish"] {
        let touch = |who, kind| touch(who, 1, 8, kind);
        let actions = [touch(1, 0), touch(0, 0), touch(0, 1), Action::Move(0, 1), touch(0, 0), touch(1, 0)];
        Script::play(system, actions);
    }
}

/// What one member's kernel path takes out of a shared table is in nobody's first-level TLB, wherever each lies.
#[test]
fn what_leaves_a_shared_table_leaves_every_layout() {
    for system in ["native+babelfish", "native+babelfish+aslr=software", "nested+babelfish"] {
        let mut script = Script::new(system);
        (0..3).for_each(|who| script.act(touch(who, 3, 8, 0)));
        // Were the table each member's own (as beside shared memory that is), each would flush its own layout for itself.
        let sharing = script.world.sharing().unwrap();
        assert_eq!((sharing.shared_tables, sharing.links), (1, 3), "{system}");
        let cached = |script: &mut Script| {
            let at = |page: u64| (0..3).map(move |who| (who, Va::new(start(3) + page * 4096)));
            let all = (0..8).flat_map(at);
            all.filter(|(who, va)| script.world.in_tlb(*who, *va).is_some()).count()
        };
        assert_eq!(cached(&mut script), 24, "{system}");
        // Few at a time, so that pages are named and not all is flushed; the first pass only takes accessed bits.
        (0..100).for_each(|_| script.act(Action::Reclaim(8)));
        assert_eq!(cached(&mut script), 0, "{system}");
        (0..3).for_each(|who| script.act(touch(who, 3, 8, 0)));
        script.end();
    }
}

/// Containers of a workload under systems, with the oracle.
fn containers(spec: &str, systems: &[&str], accesses: u64) -> Vec<Outcome> {
    let experiment = Experiment {
        systems: systems.iter().map(|name| System::parse(name).unwrap()).collect(),
        profile: Profile::builtin("babelfish-sim").unwrap(),
        accesses: Some(accesses),
        threads: 0,
        ..experiment(systems[0])
    };
    let mut source = workloads::build(spec, 5).unwrap();
    lab::experiment::run(&experiment, &mut *source, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn sharing(outcome: &Outcome) -> SharingCounts {
    outcome.sharing.expect("a system with BabelFish")
}

#[test]
fn each_part_of_babelfish_shares_what_it_should() {
    let systems = [
        "native",
        "native+babelfish",
        "native+babelfish=tables",
        "native+babelfish=tlb",
        "native+babelfish=no-mask",
    ];
    let outcomes =
        containers("mongodb:containers=6,cores=2,quantum=50000,dataset=16MiB", &systems, 3_000_000);
    let [none, full, tables, tlb, no_mask] = outcomes.as_slice() else { panic!("five systems") };
    let faults = |outcome: &Outcome| outcome.software.page_faults_in_all;
    assert_eq!(none.sharing, None);
    assert_eq!(none.tlb.shared_hits, 0);
    // Tables save faults and memory, TLB entries misses; each by itself.
    assert!(sharing(full).tables_linked > 0 && full.tlb.shared_hits > 0);
    assert!(sharing(tables).tables_linked > 0 && tables.tlb.shared_hits == 0);
    assert!(sharing(tlb).tables_linked == 0 && tlb.tlb.shared_hits > 0);
    assert!(
        faults(full) < faults(none) && faults(tables) < faults(none),
        "{} {}",
        faults(full),
        faults(none)
    );
    // (An access that another's TLB entry serves takes no fault either.)
    assert!(faults(tables) < faults(tlb) && faults(tlb) <= faults(none));
    assert!(full.tables.total() < none.tables.total() && tlb.tables.total() >= none.tables.total());
    assert!(full.tlb.stlb_misses < tables.tlb.stlb_misses && tlb.tlb.stlb_misses < none.tlb.stlb_misses);
    assert_eq!((sharing(no_mask).mask_pages, sharing(no_mask).bits_set), (0, 0), "the TLB has no mask");
    // Requests, and start-ups of all six.
    let requests = none.requests.unwrap();
    assert!(requests.requests > 500 && requests.starts_in_all == 6, "{requests:?}");
    assert!(requests.mean > 0.0 && requests.median <= requests.tail && requests.tail <= requests.p99);
    let shareable = none.shareable.unwrap();
    assert!(shareable.shareable > shareable.entries / 5 && shareable.distinct < shareable.entries);
}

/// Members that lie elsewhere than their group have other sets of the first-level TLBs.
#[test]
fn layouts_of_their_own_change_the_first_level() {
    let systems =
        ["native+babelfish", "native+babelfish+aslr=software", "native-thp+babelfish", "nested+babelfish"];
    let outcomes =
        containers("mongodb:containers=6,cores=2,quantum=50000,dataset=16MiB", &systems, 1_000_000);
    let misses: Vec<u64> = outcomes.iter().map(|outcome| outcome.tlb.l1_misses).collect();
    assert_ne!(misses[0], misses[1]);
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.verified == outcomes[0].verified && outcome.tlb.shared_hits > 0)
    );
}

#[test]
fn functions_come_and_go_forked_or_not() {
    for start in ["fork", "exec"] {
        let spec = format!("functions:containers=4,cores=2,quantum=100000,input=64KiB,start={start}");
        for outcome in containers(&spec, &["native", "native+babelfish", "nested+babelfish"], 2_000_000) {
            let requests = outcome.requests.unwrap();
            assert!(
                requests.starts > 10 && requests.requests > 10,
                "{start}, {}: {requests:?}",
                outcome.system
            );
            // Docker's daemon forks, too.
            assert!(outcome.sharing.is_none_or(|s| s.tables_adopted > 0), "{start}");
        }
    }
}

/// What is shared is the table that holds the leaves: a level-2 table for each GiB of 2 MiB pages, one level-3 table for
/// all 1 GiB pages.
#[test]
fn forks_have_one_table_of_large_pages() {
    let adopted = |system: &str, state: &str| {
        let spec = format!("functions:start=fork,containers=4,cores=2,invocations=1000000,state={state}");
        sharing(&containers(&spec, &[system], 700_000)[0]).tables_adopted
    };
    let cases = [
        ("native+babelfish", "64MiB", 32),
        ("native-2m+babelfish", "64MiB", 1),
        ("native-2m+babelfish", "2GiB", 2),
        ("native-1g+babelfish", "2GiB", 1),
        ("nested-2m-2m+babelfish", "1GiB", 1),
        ("nested-1g-1g+babelfish", "1GiB", 1),
    ];
    for (system, state, tables) in cases {
        assert_eq!(adopted(system, state) - adopted(system, "0"), 4 * tables, "{system}, {state}");
    }
}

#[test]
fn large_pages_are_hit_by_all_and_faulted_by_none() {
    let spec = "functions:start=fork,containers=6,cores=2,quantum=20000,state=1GiB";
    for (none, shared) in [("native-2m", "native-2m+babelfish"), ("native-1g", "native-1g+babelfish")] {
        let outcomes = containers(spec, &[none, shared], 1_500_000);
        let [none, shared] = outcomes.as_slice() else { panic!("two systems") };
        assert!(shared.tlb.shared_hits > 500, "{}: {}", shared.system, shared.tlb.shared_hits);
        assert!(shared.tlb.stlb_misses < none.tlb.stlb_misses && shared.tables.total() < none.tables.total());
        assert!(shared.software.page_faults_in_all < none.software.page_faults_in_all);
    }
}

/// A mask has 32 bits. With more containers that write, a set falls back to private translations.
#[test]
fn more_writers_than_bits_pass_the_oracle() {
    let spec = "httpd:containers=40,cores=2,quantum=20000,dataset=1MiB,start=fork";
    let outcomes = containers(spec, &["native+babelfish", "nested+babelfish"], 2_000_000);
    for outcome in &outcomes {
        assert!(sharing(outcome).sets_unshared > 0, "{}: {:?}", outcome.system, outcome.sharing);
        assert!(outcome.tlb.shared_hits > 0);
    }
}

/// A group is one user's and one application's.
#[test]
fn a_process_of_another_program_is_refused_in_a_group() {
    let other = ProcessSetup { name: "other".to_string(), ..image(Some(1)) };
    let setup = Setup {
        processes: vec![image(Some(1)), other],
        threads: vec![ThreadSetup { process: 0 }],
        ..Setup::default()
    };
    let experiment = experiment("native+babelfish");
    let plan = experiment::plan(&experiment, experiment.systems[0], &setup).unwrap();
    let error = World::new(plan, &setup).unwrap_err().to_string();
    assert!(error.contains("creating process other") && error.contains("a group of its own"), "{error}");
}

//! Mitosis: every CPU runs on its node's replica; what the walkers set in the replicas is
//! folded; replication is switched off and on under running programs; tables follow their data.

use super::bits;
use crate::guest;
use crate::machine::{BOOT, Machine, create, expect, fill, finish, map_memory, run_beside, run_here, with};
use crate::physical::DirectMap;
use crate::program::{Program, Series};
use crate::say;
use alloc::boxed::Box;
use alloc::vec::Vec;
use mechanisms::mitosis::Replicated;
use os::{ProcessId, ProcessSpec, SpaceInfo, Tables};
use paging::frames::{CpuId, NodeSet};
use paging::{Flags, GuestPhys, Hfn, NodeId, TableOps, Va, Virt};

const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 1200;

/// Mitosis for every table.
#[derive(Debug)]
pub struct Replicas {
    /// On these nodes from the start.
    pub nodes: NodeSet,
    /// Single copies follow the data (vMitosis).
    pub follow: bool,
}

impl Replicas {
    fn ops(&self) -> Replicated<paging::HostPhys> {
        let ops = Replicated::new(self.nodes);
        if self.follow { ops.following() } else { ops }
    }
}

impl Tables<DirectMap> for Replicas {
    fn process(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, DirectMap>> {
        Box::new(self.ops())
    }
    fn vm(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<GuestPhys, DirectMap>> {
        Box::new(self.ops())
    }
    fn shadow(&mut self, _info: &SpaceInfo) -> Box<dyn TableOps<Virt, DirectMap>> {
        Box::new(self.ops())
    }
}

/// Runs it.
pub fn run(machine: &Machine) {
    let nodes = NodeSet::first(machine.layout.nodes.len());
    machine.start_with(
        machine.config(),
        Box::new(paging::FromBuddy),
        Box::new(Replicas { nodes, follow: false }),
    );
    let cpus = machine.all_cpus();
    let pid = create(ProcessSpec::default());
    map_memory(pid, HEAP, PAGES);
    let part = PAGES / cpus.len() as u64;
    for &cpu in &cpus {
        let first = u64::from(cpu.0) * part;
        fill(cpu, pid, Series::pages(HEAP + first * 4096, part, 1 + first));
    }
    cpus.iter().for_each(|&cpu| expect(cpu, pid, Series::pages(HEAP, PAGES, 1)));
    on_own_replicas(machine, pid, nodes);
    let pages = agree(machine, pid, nodes);
    say!("each CPU walks its node's replica; {} replicas of {pages} leaves agree", nodes.len());

    fold(machine, pid, &cpus);
    live(machine, pid, nodes, &cpus);
    with(BOOT, |kernel, hw| kernel.exit(hw, BOOT, pid)).expect("an exit");
    let hw = finish();
    say!("{} roots loaded, {} shootdowns", hw.counts.loads, hw.counts.shootdowns);

    // Each page that moves is a shootdown, and waking a virtual CPU takes long under emulation.
    if !guest::is_guest() {
        migrate(machine);
    }
}

/// The root that each CPU has loaded is its node's, and leads to that node's pages only.
fn on_own_replicas(machine: &Machine, pid: ProcessId, nodes: NodeSet) {
    with(BOOT, |kernel, hw| {
        let space = kernel.process(pid).expect("alive").space();
        for (cpu, &node) in machine.cpus.iter().enumerate() {
            let root = space.table().hardware_root(node);
            assert_eq!(hw.running[cpu], Some((space.id(), root)), "CPU {cpu} runs on node {node}'s root");
        }
        for node in nodes.iter() {
            let root = space.table().hardware_root(node);
            assert_eq!(kernel.pool().node_of(root), node, "the root for node {node}");
            for at in bits::entries(kernel.mem(), root, 4).iter().filter(|at| at.entry.is_table(at.level)) {
                let table: Hfn = at.entry.frame();
                assert_eq!(
                    kernel.pool().node_of(table),
                    node,
                    "level {} table for {:#x}",
                    at.level - 1,
                    at.va
                );
            }
        }
    });
}

/// All replicas map what the first maps. Returns how many leaves.
fn agree(machine: &Machine, pid: ProcessId, nodes: NodeSet) -> usize {
    with(BOOT, |kernel, _| {
        let table = kernel.process(pid).expect("alive").space().table();
        let leaves = |node: NodeId| -> Vec<(u64, u8, u64)> {
            let all = bits::entries(kernel.mem(), table.hardware_root(node), 4);
            let leaves = all.iter().filter(|at| !at.entry.is_table(at.level));
            let bits = Flags::ACCESSED | Flags::DIRTY;
            let mut leaves: Vec<_> =
                leaves.map(|at| (at.va, at.level, at.entry.without(bits).bits())).collect();
            leaves.sort_unstable();
            leaves
        };
        let first = leaves(machine.cpus[0]);
        for node in nodes.iter() {
            for (a, b) in first.iter().zip(leaves(node)) {
                assert_eq!(*a, b, "node {node}'s replica differs at {:#x}", a.0);
            }
            assert_eq!(first.len(), leaves(node).len(), "node {node}'s replica has another number of leaves");
        }
        first.len()
    })
}

/// Each CPU loads and stores pages of its own choice; the bits are set in the replica
/// that it walks and nowhere else, and software sees them all.
fn fold(machine: &Machine, pid: ProcessId, cpus: &[CpuId]) {
    with(BOOT, |kernel, _| {
        let table = kernel.process(pid).expect("alive").space().table();
        for (node, _) in machine.cpu_of_each_node() {
            bits::forget_use(kernel.mem(), table.hardware_root(node), 4);
        }
        bits::flush_all(BOOT, cpus.len());
    });
    // CPU n loads every page that n+2 divides and stores to every one that n+5 divides.
    let (loads, stores) = (|cpu: CpuId| u64::from(cpu.0) + 2, |cpu: CpuId| u64::from(cpu.0) + 5);
    for &cpu in cpus {
        let read = Series {
            count: PAGES.div_ceil(loads(cpu)),
            stride: 4096 * loads(cpu),
            ..Series::pages(HEAP, 0, 1)
        };
        expect(cpu, pid, Series { step: loads(cpu), ..read });
        let count = PAGES.div_ceil(stores(cpu));
        fill(
            cpu,
            pid,
            Series { count, stride: 4096 * stores(cpu), step: 0, ..Series::pages(HEAP + 8, 0, 7) },
        );
    }
    let mut both = 0;
    with(BOOT, |kernel, _| {
        for page in 0..PAGES {
            let va = HEAP + page * 4096;
            let (mut any_a, mut any_d) = (false, false);
            for (node, _) in machine.cpu_of_each_node() {
                let of_node = || cpus.iter().filter(|cpu| machine.cpus[cpu.index()] == node);
                let d = of_node().any(|&cpu| page % stores(cpu) == 0);
                let a = d || of_node().any(|&cpu| page % loads(cpu) == 0);
                let root = kernel.process(pid).expect("alive").space().table().hardware_root(node);
                let at = bits::leaf(kernel.mem(), root, 4, va).expect("it is mapped");
                let found = (at.entry.has(Flags::ACCESSED), at.entry.has(Flags::DIRTY));
                assert_eq!(found, (a, d), "A and D that hardware set in node {node}'s replica for {va:#x}");
                (any_a, any_d) = (any_a || a, any_d || d);
            }
            let entry = kernel.entry_of(pid, Va::new(va)).expect("alive").entry;
            let seen = (entry.has(Flags::ACCESSED), entry.has(Flags::DIRTY));
            assert_eq!(seen, (any_a, any_d), "A and D that software sees for {va:#x}");
            both += u64::from(any_d);
        }
    });
    say!("accessed and dirty of {PAGES} pages ({both} dirty) are where the walkers set them, and folded");
}

/// Switched off and on while all CPUs store.
fn live(machine: &Machine, pid: ProcessId, nodes: NodeSet, cpus: &[CpuId]) {
    let mut rounds = 0;
    for round in 0..6u64 {
        let add = Program::Add(Series { stride: 4096, ..Series::pages(HEAP + 16, PAGES, 1) });
        let tasks: Vec<_> = cpus[1..].iter().map(|&cpu| run_beside(cpu, pid, add)).collect();
        let wanted = if round % 2 == 0 { NodeSet::default() } else { nodes };
        let got = with(BOOT, |kernel, hw| kernel.replicate_tables(hw, BOOT, pid, wanted)).expect("replicas");
        assert_eq!(got, wanted, "the nodes with replicas");
        run_here(BOOT, pid, &add).unwrap_or_else(|killed| panic!("an addition: {killed}"));
        for task in tasks {
            task.join(BOOT).unwrap_or_else(|killed| panic!("an addition: {killed}"));
        }
        rounds = round + 1;
        let sum = rounds * cpus.len() as u64;
        cpus.iter().for_each(|&cpu| {
            expect(cpu, pid, Series { step: 0, ..Series::pages(HEAP + 16, PAGES, sum) });
        });
        if wanted.is_empty() {
            let one = with(BOOT, |kernel, _| {
                let table = kernel.process(pid).expect("alive").space().table();
                nodes.iter().all(|node| table.hardware_root(node) == table.root())
            });
            assert!(one, "without replicas all CPUs walk the same table");
        } else {
            on_own_replicas(machine, pid, nodes);
            agree(machine, pid, nodes);
        }
    }
    say!("replication switched {rounds} times under running programs; no store was lost");
}

/// vMitosis's other half: data moves to a node, and its single tables follow.
fn migrate(machine: &Machine) {
    let tables = Replicas { nodes: NodeSet::default(), follow: true };
    machine.start_with(machine.config(), Box::new(paging::FromBuddy), Box::new(tables));
    let pid = create(ProcessSpec::default());
    map_memory(pid, HEAP, PAGES);
    fill(BOOT, pid, Series::pages(HEAP, PAGES, 1));
    let last = CpuId(machine.cpus.len() as u16 - 1);
    let to = machine.cpus[last.index()];
    expect(last, pid, Series::pages(HEAP, PAGES, 1));
    let (pages, moved) = with(BOOT, |kernel, hw| {
        let pages = kernel.migrate(hw, BOOT, pid, Va::new(HEAP), PAGES * 4096, to).expect("a migration");
        (pages, kernel.rebalance_tables(hw, BOOT, pid).expect("a process"))
    });
    assert_eq!(pages, PAGES, "all pages move to node {to}");
    assert!(moved > 0, "tables follow");
    expect(last, pid, Series::pages(HEAP, PAGES, 1));
    expect(BOOT, pid, Series::pages(HEAP, PAGES, 1));
    with(BOOT, |kernel, _| {
        let table = kernel.process(pid).expect("alive").space().table();
        for at in bits::entries(kernel.mem(), table.root(), 4) {
            let inner = at.entry.is_table(at.level);
            let frame: Hfn = at.entry.frame();
            if at.va >= HEAP && (at.level == 1 || (inner && at.level == 2)) {
                assert_eq!(
                    kernel.pool().node_of(frame),
                    to,
                    "what the level-{} entry for {:#x} points to",
                    at.level,
                    at.va
                );
            }
        }
    });
    finish();
    say!("{pages} pages moved to node {to}, and {moved} tables after them");
}

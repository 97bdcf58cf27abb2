//! vMitosis: the nested table of a VM on every node, each virtual CPU on its node's; switched
//! off and on while the guest runs. Then a guest that replicates its own tables on top of that.

use super::bits;
use super::guest::nodes;
use super::mitosis::Replicas;
use crate::guest::{self, Call};
use crate::hardware::NESTED;
use crate::machine::{BOOT, Machine, create, expect, fill, finish, map_memory, run_beside, run_here, with};
use crate::program::{Program, Series};
use crate::say;
use crate::vm::{Guest, nothing};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use os::{ProcessSpec, VmSpec};
use paging::Flags;
use paging::frames::{CpuId, NodeSet};

const HEAP: u64 = 0x7000_0000_0000;
const PAGES: u64 = 600;
const ROUNDS: u64 = 6;

/// The host.
pub fn run(machine: &Machine) {
    let all = NodeSet::first(machine.layout.nodes.len());
    let tables = Replicas { nodes: all, follow: false };
    machine.start_with(machine.config(), Box::new(paging::FromBuddy), Box::new(tables));
    let guest = Guest::new(machine, VmSpec::default(), &nodes(machine), "scenario=additions");
    guest.run(switch);
    guest.end();
    // Tables of both dimensions on each node: the guest replicates its own, the host the VM's.
    let guest = Guest::new(machine, VmSpec::default(), &nodes(machine), "scenario=mitosis");
    guest.run(nothing);
    guest.end();
    let hw = finish();
    say!("the VM's table was on each node and on one in turn; {} shootdowns", hw.counts.shootdowns);
}

/// The guest is in round `round`, and its CPUs are at work.
fn switch(guest: &Guest, cpu: CpuId, round: u64, _: u64) -> u64 {
    with(cpu, |kernel, hw| {
        let all = kernel.pool().nodes();
        let wanted = if round.is_multiple_of(2) { all } else { NodeSet::default() };
        let got = kernel.replicate_vm_tables(hw, cpu, guest.vm, wanted).expect("replicas of the VM's table");
        assert_eq!(got, wanted, "the nodes with replicas");
        let table = kernel.vm(guest.vm).expect("the VM").space().table();
        for &of in &guest.cpus {
            let node = kernel.config().cpus[of.index()];
            let root = table.hardware_root(node);
            let loaded = NESTED[of.index()].load(Ordering::Acquire);
            assert_eq!(loaded, root.base().raw(), "CPU {} enters the guest on node {node}'s root", of.0);
            if wanted.is_empty() {
                assert_eq!(root, table.root(), "there is one table");
                continue;
            }
            for at in bits::entries(kernel.mem(), root, 4) {
                assert_eq!(
                    kernel.pool().node_of(at.slot.table),
                    node,
                    "the level-{} table for {:#x}",
                    at.level,
                    at.va
                );
            }
        }
        if !wanted.is_empty() {
            let leaves = |node| -> Vec<(u64, u64)> {
                let all = bits::entries(kernel.mem(), table.hardware_root(node), 4);
                let bits = Flags::ACCESSED | Flags::DIRTY;
                let mut leaves: Vec<_> = all
                    .iter()
                    .filter(|at| at.entry.is_leaf(at.level))
                    .map(|at| (at.va, at.entry.without(bits).bits()))
                    .collect();
                leaves.sort_unstable();
                leaves
            };
            let nodes: Vec<_> = wanted.iter().collect();
            assert!(nodes.iter().all(|&node| leaves(node) == leaves(nodes[0])), "the replicas agree");
        }
    });
    0
}

/// The guest: all CPUs add to all pages, round by round.
pub fn additions(machine: &Machine) {
    machine.start();
    let cpus = machine.all_cpus();
    let pid = create(ProcessSpec::default());
    map_memory(pid, HEAP, PAGES * ROUNDS);
    for round in 0..ROUNDS {
        // Pages that were there, and new ones: nested faults go on while tables are switched.
        let pages = PAGES * (round + 1);
        fill(
            BOOT,
            pid,
            Series {
                step: 0,
                ..Series::pages(HEAP + round * PAGES * 4096, PAGES, round * cpus.len() as u64)
            },
        );
        let add = Program::Add(Series { step: 0, ..Series::pages(HEAP, pages, 1) });
        let tasks: Vec<_> = cpus[1..].iter().map(|&cpu| run_beside(cpu, pid, add)).collect();
        guest::call(Call::Tell, round, 0);
        run_here(BOOT, pid, &add).unwrap_or_else(|killed| panic!("an addition: {killed}"));
        for task in tasks {
            task.join(BOOT).unwrap_or_else(|killed| panic!("an addition: {killed}"));
        }
        let sum = (round + 1) * cpus.len() as u64;
        cpus.iter().for_each(|&cpu| expect(cpu, pid, Series { step: 0, ..Series::pages(HEAP, pages, sum) }));
    }
    finish();
    say!("{ROUNDS} rounds of additions by {} CPUs: none was lost", cpus.len());
}

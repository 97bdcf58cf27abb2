//! This kernel as its own guest: the life of processes once more, on a guest's tables
//! under nested ones.

use super::bits;
use crate::machine::{BOOT, Machine, finish, with};
use crate::say;
use crate::vm::{Guest, Node, nothing};
use alloc::collections::BTreeSet;
use alloc::vec;
use os::{Policy, VmSpec};
use paging::frames::CpuId;
use paging::{Flags, Hfn};

/// Two nodes of 120 MiB with a CPU each, on the host's first and last CPU.
pub fn nodes(machine: &Machine) -> [Node; 2] {
    let last = CpuId(machine.cpus.len() as u16 - 1);
    [Node { memory: 0..128 << 20, cpus: vec![BOOT] }, Node { memory: 128 << 20..256 << 20, cpus: vec![last] }]
}

/// Runs it.
pub fn run(machine: &Machine) {
    machine.start();
    let guest = Guest::new(
        machine,
        VmSpec { policy: Policy::FirstTouch, ..VmSpec::default() },
        &nodes(machine),
        "scenario=life",
    );
    guest.run(nothing);
    with(BOOT, |kernel, _| {
        let space = kernel.vm(guest.vm).expect("the VM").space();
        let (table, stats) = (space.table(), space.stats());
        let leaves = bits::entries(kernel.mem(), table.root(), table.levels());
        let leaves = leaves.iter().filter(|at| at.entry.is_leaf(at.level));
        let (mut pages, mut used, mut stored, mut frames) = (0, 0, 0, BTreeSet::new());
        for at in leaves {
            let frame: Hfn = at.entry.frame();
            // Only the frame of zeroes is mapped more than once.
            let alone = frames.insert(frame) || frame == kernel.zero_frame();
            assert!(alone, "{frame:?} is mapped twice, at {:#x} too", at.va);
            pages += 1;
            used += u64::from(at.entry.has(Flags::ACCESSED));
            stored += u64::from(at.entry.has(Flags::DIRTY));
        }
        say!("{} exits; {pages} nested leaves, {used} accessed, {stored} dirty", stats.exits);
        assert!(stats.exits > 0 && stored > 0, "the guest ran on the nested table");
    });
    guest.end();
    finish();
}

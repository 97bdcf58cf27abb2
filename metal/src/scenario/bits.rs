//! Table bits as hardware left them, past all software.

use crate::physical::DirectMap;
use crate::smp::{self, Request};
use alloc::vec::Vec;
use paging::frames::CpuId;
use paging::{ENTRIES, Entry, Flags, Hfn, Slot, TableMemory};

/// An entry of a table: where, at which level, for which address, and what.
pub struct At {
    pub slot: Slot<paging::HostPhys>,
    pub level: u8,
    pub va: u64,
    pub entry: Entry,
}

/// All entries that are used from `root` down, parents before children.
pub fn entries(mem: &DirectMap, root: Hfn, levels: u8) -> Vec<At> {
    let mut found = Vec::new();
    let mut todo = alloc::vec![(root, levels, 0u64)];
    while let Some((table, level, base)) = todo.pop() {
        for index in 0..ENTRIES {
            let slot = Slot::new(table, index);
            let entry = mem.load(slot);
            if entry.is_empty() {
                continue;
            }
            let va = base | (index as u64) << (3 + 9 * u32::from(level));
            if entry.is_table(level) {
                todo.push((entry.frame(), level - 1, va));
            }
            found.push(At { slot, level, va, entry });
        }
    }
    found
}

/// The leaf for `va` from `root` down, if there is one.
pub fn leaf(mem: &DirectMap, root: Hfn, levels: u8, va: u64) -> Option<At> {
    let (mut table, mut level) = (root, levels);
    loop {
        let slot = Slot::new(table, (va >> (3 + 9 * u32::from(level))) as usize);
        let entry = mem.load(slot);
        if entry.is_leaf(level) {
            return Some(At { slot, level, va, entry });
        }
        if !entry.is_table(level) {
            return None;
        }
        table = entry.frame();
        level -= 1;
    }
}

/// Clears accessed and dirty in the leaves of `root`, as if no walker had been there.
pub fn forget_use(mem: &DirectMap, root: Hfn, levels: u8) {
    for at in entries(mem, root, levels).iter().filter(|at| at.entry.is_leaf(at.level)) {
        mem.modify(at.slot, Flags::NONE, Flags::ACCESSED | Flags::DIRTY);
    }
}

/// Has every CPU forget everything that it cached.
pub fn flush_all(own: CpuId, cpus: usize) {
    (0..cpus as u16).for_each(|cpu| smp::ask(own, CpuId(cpu), Request::All));
}

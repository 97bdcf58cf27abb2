//! Neighbours of a page that was just filled into a shadow table.
//!
//! A page that the guest has used, and whose translation is known, needs no exit of its own. KVM fills the aligned group of 8
//! around the one that faulted (`PTE_PREFETCH_NUM`), where the guest's entries are present and accessed; so does
//! shadow paging here. Agile paging shadows a table again that the guest left alone for an interval: all of it is filled at
//! the first fault.

use super::calls::Leaf;
use super::guest::GuestWalk;
use super::{ShadowFault, Trapping};
use crate::error::MmError;
use crate::hypervisor::VmId;
use crate::kernel::{Cx, Kernel};
use paging::{Flags, Found, GuestPhys, PageSize, Slot, TableMemory};

/// Entries of a leaf table.
const ENTRIES: usize = 512;
/// Entries on a cache line.
const LINE: usize = 8;

impl<M: TableMemory> Kernel<M> {
    /// Fills what surrounds the 4 KiB page that `walk` led to. Nothing is backed, and no bit is set, for it.
    pub(super) fn fill_around<G>(
        &mut self,
        cx: &mut Cx<'_, M::Space>,
        id: VmId,
        guest: &G,
        fault: &ShadowFault,
        walk: &GuestWalk,
    ) -> Result<(), MmError>
    where
        G: TableMemory<Space = GuestPhys>,
    {
        self.with_shadow(id, |core, vm, shadow| {
            let around = if shadow.log.trapping() == Trapping::Agile { ENTRIES } else { LINE };
            let Some(space) = shadow.table(fault.root) else { return };
            let leaf = core.lookup(space, cx.cpu, fault.va);
            if leaf.level != 1 {
                return;
            }
            // The guest's entries; those of the shadow table are counted as they are written.
            core.work.pass_lines[core.node(cx.cpu).index()] += (around / LINE) as u32;
            let (index, page) = (leaf.slot.index, fault.va.align_down(PageSize::Size2M).page());
            let first = index & !(around - 1);
            let mut behind = None;
            for other in first..first + around {
                let slot = Slot::new(leaf.slot.table, other);
                let Some(mut walk) = walk.neighbour(guest, other).filter(|_| core.mem.load(slot).0 == 0)
                else {
                    continue;
                };
                // Neighbours are mostly behind one leaf table of the VM's.
                let of = walk.frame.number() >> 9;
                let host = match behind {
                    Some((same, table)) if same == of => {
                        let slot = Slot::new(table, walk.frame.number() as usize % ENTRIES);
                        let entry = core.env(cx.cpu, |env| vm.space.table.ops().read(env, slot, 1));
                        Found { slot, level: 1, entry }
                    }
                    _ => core.lookup(&vm.space, cx.cpu, walk.frame.base()),
                };
                behind = (host.level == 1).then_some((of, host.slot.table));
                if !host.entry.is_leaf(host.level) || !host.entry.has(Flags::ACCESSED) {
                    continue;
                }
                // The first store since the VM's own table was cleaned is a fault, so that the hypervisor sees it.
                walk.dirty &= host.entry.has(Flags::DIRTY);
                let Leaf { entry, size: PageSize::Size4K, gfn } = Leaf::of(shadow, &walk, &host) else {
                    continue;
                };
                let Some(space) = shadow.use_root(fault.root) else { return };
                core.env(cx.cpu, |env| space.table.ops().write(env, slot, 1, entry));
                shadow.remember(fault.root, gfn.number(), page + other as u64);
            }
        })
    }
}
